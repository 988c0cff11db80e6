//! Changes that a view's table lacks, as they are in a file.
//!
//! ```text
//! each: length of the key, key, length of the value, value, difference; numbers are little-endian, lengths
//! have 4 bytes and differences 8
//! ```

use crate::model::row::Row;
use crate::model::view::Update;

/// The bytes of changes.
pub(super) fn encode(changes: &[Update]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Update { key, value, diff } in changes {
        for part in [key, value] {
            // A row is far shorter than 4 GiB: each of its values has a limit.
            bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(&diff.to_le_bytes());
    }
    bytes
}

/// The changes of such bytes; `None` if they end in the middle of one.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Vec<Update>> {
    let mut changes = Vec::new();
    while !bytes.is_empty() {
        let (key, value) = (take_row(&mut bytes)?, take_row(&mut bytes)?);
        let diff = i64::from_le_bytes(take(&mut bytes)?);
        changes.push(Update { key, value, diff });
    }
    Some(changes)
}

fn take_row(bytes: &mut &[u8]) -> Option<Row> {
    let len = usize::try_from(u32::from_le_bytes(take(bytes)?)).ok()?;
    let (row, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(Row::from_slice(row))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_they_were_written() {
        let change = |key: &[u8], value: &[u8], diff| Update {
            key: Row::from_slice(key),
            value: Row::from_slice(value),
            diff,
        };
        let changes =
            vec![change(b"k", b"", -1), change(b"", &[7; 1000], i64::MAX), change(b"", b"", 2)];
        let bytes = encode(&changes);
        assert_eq!(decode(&bytes), Some(changes));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode(&[]), Some(Vec::new()));
    }
}
