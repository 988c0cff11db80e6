//! Numbers and bytes as few bytes: the form in which state is kept.
//!
//! Whole numbers are written seven bits at a time, the lowest first; the eighth bit says that more
//! follow (LEB128). Signed ones are first folded so that small ones stay small (zigzag).

/// Appends a number: one byte if it is below 128, ten at most.
#[inline]
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number off the front.
#[inline]
pub fn take(from: &mut &[u8]) -> u64 {
    // Most have one byte.
    if let Some((byte, rest)) = from.split_first()
        && *byte < 0x80
    {
        *from = rest;
        return u64::from(*byte);
    }
    take_longer(from)
}

fn take_longer(from: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    while let Some((byte, rest)) = from.split_first() {
        *from = rest;
        value |= u64::from(byte & 0x7f) << (shift & 63);
        if *byte < 0x80 {
            break;
        }
        shift += 7;
    }
    value
}

/// Appends a signed number: one byte if it is from -64 to 63, ten at most.
#[inline]
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Takes a signed number off the front.
#[inline]
pub fn take_signed(from: &mut &[u8]) -> i64 {
    let folded = take(from);
    (folded >> 1) as i64 ^ -((folded & 1) as i64)
}

/// Appends a signed number of 128 bits: one byte if it is from -64 to 63, 19 at most.
#[inline]
pub fn put_wide(out: &mut Vec<u8>, value: i128) {
    let mut folded = ((value << 1) ^ (value >> 127)) as u128;
    while folded > u128::from(u64::MAX) {
        out.push(folded as u8 | 0x80);
        folded >>= 7;
    }
    put(out, folded as u64);
}

/// Takes a signed number of 128 bits off the front.
#[inline]
pub fn take_wide(from: &mut &[u8]) -> i128 {
    // Most have one byte.
    if let Some((byte, rest)) = from.split_first()
        && *byte < 0x80
    {
        *from = rest;
        return i128::from(*byte >> 1) ^ -i128::from(*byte & 1);
    }
    let (mut folded, mut shift) = (0_u128, 0);
    while let Some((byte, rest)) = from.split_first() {
        *from = rest;
        folded |= u128::from(byte & 0x7f) << (shift & 127);
        if *byte < 0x80 {
            break;
        }
        shift += 7;
    }
    (folded >> 1) as i128 ^ -((folded & 1) as i128)
}

/// Appends bytes behind their number.
#[inline]
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends what `write` appends behind the number of its bytes.
#[inline]
pub fn put_counted<T>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    // Mostly the number has one byte.
    let start = out.len();
    out.push(0);
    let written = write(out);
    let end = out.len();
    let len = end - start - 1;
    if len < 0x80 {
        out[start] = len as u8;
    } else {
        put(out, len as u64);
        let digits = out.len() - end;
        let mut number = [0; 10];
        number[..digits].copy_from_slice(&out[end..]);
        out.pop();
        out.copy_within(start + 1..end, start + digits);
        out[start..start + digits].copy_from_slice(&number[..digits]);
    }
    written
}

/// Takes bytes that stand behind their number off the front.
#[inline]
pub fn take_bytes<'a>(from: &mut &'a [u8]) -> &'a [u8] {
    let len = (take(from) as usize).min(from.len());
    let (bytes, rest) = from.split_at(len);
    *from = rest;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_values_are_read_back_and_use_all_bytes() {
        let numbers = [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX];
        let signed = [0, -1, 63, -64, 64, i64::MIN, i64::MAX];
        let least = i128::from(i64::MIN);
        let wide = [0, -1, 63, 64, least, least - 1, -2 * least, i128::MIN, i128::MAX];
        let mut out = Vec::new();
        numbers.iter().for_each(|n| put(&mut out, *n));
        signed.iter().for_each(|n| put_signed(&mut out, *n));
        wide.iter().for_each(|n| put_wide(&mut out, *n));
        put_bytes(&mut out, b"abc");
        put_bytes(&mut out, b"");
        let long = [7; 20_000];
        for len in [0, 127, 128, 20_000] {
            put_counted(&mut out, |out| out.extend_from_slice(&long[..len]));
        }
        let mut from = &out[..];
        assert_eq!(numbers.map(|_| take(&mut from)), numbers);
        assert_eq!(signed.map(|_| take_signed(&mut from)), signed);
        assert_eq!(wide.map(|_| take_wide(&mut from)), wide);
        assert_eq!((take_bytes(&mut from), take_bytes(&mut from)), (&b"abc"[..], &b""[..]));
        for len in [0, 127, 128, 20_000] {
            assert_eq!(take_bytes(&mut from), &long[..len]);
        }
        assert!(from.is_empty());
    }

    #[test]
    fn small_numbers_take_one_byte() {
        let mut out = Vec::new();
        put(&mut out, 127);
        put_signed(&mut out, -64);
        put_wide(&mut out, 63);
        assert_eq!(out.len(), 3);
    }

    #[test]
    fn truncated_bytes_are_read_as_far_as_they_go() {
        let mut from = &[0xff, 0xff][..];
        assert_eq!(take(&mut from), 0x3fff);
        let mut from = &[9, 1, 2][..];
        assert_eq!(take_bytes(&mut from), [1, 2]);
        assert_eq!(take(&mut from), 0);
    }
}
