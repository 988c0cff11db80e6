//! JSON on one line behind its checksum, for files that are written as a whole: XXH3 in 16 hex digits, a
//! blank, the JSON, a line's end.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// The bytes in front of the JSON.
const PREFIX_BYTES: usize = 17;

/// The line of a value.
pub fn seal(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_string(value)?;
    Ok(format!("{:016x} {json}\n", xxh3_64(json.as_bytes())).into_bytes())
}

/// The JSON of a line; `None` if the checksum is another one, or something is missing.
pub fn open(bytes: &[u8]) -> Option<&[u8]> {
    let (checksum, rest) = bytes.split_at_checked(PREFIX_BYTES)?;
    let json = rest.strip_suffix(b"\n")?;
    (checksum == format!("{:016x} ", xxh3_64(json)).as_bytes()).then_some(json)
}

/// The member `format` of a file's JSON, which every version of the file has, whatever else it has.
pub fn format(json: &[u8]) -> serde_json::Result<u32> {
    #[derive(Deserialize)]
    struct OfFormat {
        format: u32,
    }
    serde_json::from_slice(json).map(|OfFormat { format }| format)
}
