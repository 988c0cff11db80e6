//! Changes to input: of any bytes, and of JSON in places where it has a meaning.

use std::ops::Range;

use crate::rng::Rng;

/// No mutated input is longer than this.
const BYTES_MAX: usize = 64 << 10;

/// Changes bytes in one place: flips, cuts, repeats or moves some, or takes some of another input.
pub fn bytes(input: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let at = rng.below(input.len() as u64 + 1) as usize;
    let end = (at + 1 + rng.below(16) as usize).min(input.len());
    match rng.below(7) {
        0 | 1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        2 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = rng.pick_of(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'\\', b'\n']);
            }
        }
        3 => input.truncate(at),
        4 => drop(input.drain(at..end)),
        5 => {
            let part = input[at..end].to_vec().repeat(1 + rng.below(20) as usize);
            insert(input, at, &part);
        }
        _ => {
            let from = rng.below(other.len() as u64 + 1) as usize;
            let to = (from + rng.below(64) as usize).min(other.len());
            insert(input, at, &other[from..to]);
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, part: &[u8]) {
    if input.len() + part.len() <= BYTES_MAX {
        input.splice(at..at, part.iter().copied());
    }
}

/// Values at which something ends.
const VALUES: &[&str] = &[
    "0",
    "-0",
    "1",
    "-1",
    "1.0",
    "1e0",
    "10E-1",
    "0.1e-400",
    "1e400",
    "-1e400",
    "1e9999999999999999999999",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "0.10000000000000000000000000001",
    "00",
    "+1",
    ".5",
    "null",
    "true",
    "false",
    "{}",
    "[]",
    "\"\"",
    "\"0\"",
    "\"00\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\\ud83d\\ude00\"",
    "\"\\u0061\"",
    "\"\\/\"",
    "\"\\x\"",
    "\"9999-12-31T23:59:59.999999999Z\"",
    "\"9999-12-31T23:59:59-23:59\"",
    "\"0000-01-01T00:00:00+23:59\"",
    "\"0000-01-01T00:00:00Z\"",
    "\"2016-12-31T23:59:60.5Z\"",
    "\"2026-11-23t10:00:00.1234567z\"",
    "\"2026-11-23 10:00:00Z\"",
    "\"\u{feff}\"",
];

/// Changes JSON in one place: a value, a member that comes again, or how deep it nests.
pub fn json(input: &mut Vec<u8>, rng: &mut Rng) {
    let tokens = tokens(input);
    if tokens.is_empty() {
        return;
    }
    let mut index = rng.below(tokens.len() as u64) as usize;
    let kind = rng.below(6);
    let is_name = input.get(tokens[index].end) == Some(&b':');
    if kind != 0 && is_name && index + 1 < tokens.len() && !rng.one_in(8) {
        // Names that are changed are nearly always refused.
        index += 1;
    }
    let token = tokens[index].clone();
    match kind {
        1..=3 => {
            let value = rng.pick(VALUES);
            input.splice(token, value.bytes());
        }
        // The member or item comes again, as it is or with another value.
        0 => {
            let end = end_of_value(input, &tokens, index);
            let mut again = input[token.start..end].to_vec();
            if rng.one_in(2) {
                let value = token.len().min(again.len());
                again.splice(value.., format!(":{}", rng.pick(VALUES)).into_bytes());
            }
            again.insert(0, b',');
            insert(input, end, &again);
        }
        _ => {
            let levels = rng.pick_of(&[1, 2, 60, 61, 62, 63, 64, 65, 127, 128, 129, 5_000]);
            let (open, close) = rng.pick_of(&[("[", "]"), ("{\"a\":", "}")]);
            let inner = input[token.clone()].to_vec();
            let (open, close) = (open.repeat(levels), close.repeat(levels));
            input.splice(token, [open.as_bytes(), &inner, close.as_bytes()].concat());
        }
    }
}

/// Where texts, numbers and words are.
fn tokens(input: &[u8]) -> Vec<Range<usize>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < input.len() {
        let start = at;
        if input[at] == b'"' {
            at += 1;
            while at < input.len() && input[at] != b'"' {
                at += if input[at] == b'\\' { 2 } else { 1 };
            }
            at = (at + 1).min(input.len());
        } else {
            let within = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
            at += input[at..].iter().take_while(|byte| within(byte)).count();
            if at == start {
                at += 1;
                continue;
            }
        }
        tokens.push(start..at);
    }
    tokens
}

/// The end of a token; of a member, where the token is a name.
fn end_of_value(input: &[u8], tokens: &[Range<usize>], index: usize) -> usize {
    let end = tokens[index].end;
    if input.get(end) != Some(&b':') {
        return end;
    }
    let mut depth = 0;
    for (at, byte) in input.iter().enumerate().skip(end) {
        if tokens.iter().any(|token| token.contains(&at)) {
            continue;
        }
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 => return at,
            _ => {}
        }
    }
    input.len()
}
