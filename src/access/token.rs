//! Tokens: 256 random bits as text. Only their hash is kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Marks a text as a token of Heliostat's, for those who search for leaked secrets.
const PREFIX: &str = "hst_";
/// Random bytes in a token.
const RANDOM_BYTES: usize = 32;

/// A new token. It is shown once, and cannot be had from its hash.
pub fn new() -> Result<String, getrandom::Error> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)))
}

/// The SHA-256 of a token, in hexadecimal. 256 random bits need no salt and no slow hash.
pub fn hash(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_have_256_bits() {
        let (a, b) = (new().unwrap(), new().unwrap());
        assert_ne!(a, b);
        let random = URL_SAFE_NO_PAD.decode(a.strip_prefix(PREFIX).unwrap()).unwrap();
        assert_eq!(random.len(), 32);
    }

    #[test]
    fn the_hash_is_sha_256() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash("abc"), expected);
    }
}
