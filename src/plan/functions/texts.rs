//! Functions of texts and byte strings.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use datafusion_common::{Result, exec_err};
use datafusion_expr::ScalarUDF;

use super::read;
use super::row::{BYTES_MAX, Overload, Row, Type, Value, function, overload};

use Type::{BigInt, Bytes, Int, Text};

const BYTES: &[Overload] =
    &[overload(&[Bytes], Int, |row| Ok(Value::Int(row.bytes(0).len() as i64)))];
const CHARS: &[Overload] = &[
    overload(&[Bytes], Int, |row| Ok(Value::Int(row.bytes(0).len() as i64))),
    overload(&[Text], Int, |row| Ok(Value::Int(row.text(0).chars().count() as i64))),
];
const CHR: &[Overload] = &[overload(&[Int], Text, chr)];
const LOWER: &[Overload] =
    &[overload(&[Text], Text, |row| text(row.text(0).chars().map(lower).collect()))];
const UPPER: &[Overload] =
    &[overload(&[Text], Text, |row| text(row.text(0).chars().map(upper).collect()))];
const INITCAP: &[Overload] = &[overload(&[Text], Text, initcap)];
const LPAD: &[Overload] = &[
    overload(&[Text, Int], Text, |row| pad(row.text(0), row.int(1), " ", true)),
    overload(&[Text, Int, Text], Text, |row| pad(row.text(0), row.int(1), row.text(2), true)),
];
const RPAD: &[Overload] = &[
    overload(&[Text, Int], Text, |row| pad(row.text(0), row.int(1), " ", false)),
    overload(&[Text, Int, Text], Text, |row| pad(row.text(0), row.int(1), row.text(2), false)),
];
const RIGHT: &[Overload] = &[overload(&[Text, Int], Text, right)];
const REPEAT: &[Overload] = &[overload(&[Text, Int], Text, repeat)];
const ENCODE: &[Overload] = &[overload(&[Bytes, Text], Text, encode)];
const DECODE: &[Overload] = &[overload(&[Text, Text], Bytes, decode)];
const TO_HEX: &[Overload] = &[
    overload(&[Int], Text, |row| text(format!("{:x}", row.int(0) as i32))),
    overload(&[BigInt], Text, |row| text(format!("{:x}", row.int(0)))),
];
const GCD: &[Overload] = &[
    overload(&[Int, Int], Int, |row| gcd(row.int(0), row.int(1)).map(Value::Int)),
    overload(&[BigInt, BigInt], BigInt, |row| gcd(row.int(0), row.int(1)).map(Value::Int)),
];
const LCM: &[Overload] = &[
    overload(&[Int, Int], Int, |row| lcm(row.int(0), row.int(1)).map(Value::Int)),
    overload(&[BigInt, BigInt], BigInt, |row| lcm(row.int(0), row.int(1)).map(Value::Int)),
];

/// The functions in the place of DataFusion's.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    vec![
        function("character_length", &["length", "char_length"], CHARS, None),
        function("chr", &[], CHR, None),
        function("lower", &[], LOWER, None),
        function("upper", &[], UPPER, None),
        function("initcap", &[], INITCAP, None),
        function("lpad", &[], LPAD, None),
        function("rpad", &[], RPAD, None),
        function("right", &[], RIGHT, None),
        function("repeat", &[], REPEAT, None),
        function("encode", &[], ENCODE, None),
        function("decode", &[], DECODE, None),
        function("to_hex", &[], TO_HEX, None),
        function("gcd", &[], GCD, None),
        function("lcm", &[], LCM, None),
    ]
}

/// The function for byte strings, and the inner one for texts.
pub fn beside(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match inner.name() {
        "octet_length" => function("octet_length", &[], BYTES, Some(inner)),
        _ => inner,
    }
}

fn text(text: String) -> Result<Value> {
    Ok(Value::Text(text))
}

/// One character for one, as the C library has it: what has no single counterpart stays.
fn lower(c: char) -> char {
    let mut all = c.to_lowercase();
    match (all.next(), all.next()) {
        (Some(one), None) => one,
        // The dotted capital I.
        (Some(one), Some('\u{307}')) => one,
        _ => c,
    }
}

fn upper(c: char) -> char {
    let mut all = c.to_uppercase();
    match (all.next(), all.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

fn initcap(row: &Row<'_>) -> Result<Value> {
    let mut inside = false;
    let fit = |c: char| {
        let fitted = if inside { lower(c) } else { upper(c) };
        inside = c.is_alphanumeric();
        fitted
    };
    text(row.text(0).chars().map(fit).collect())
}

fn chr(row: &Row<'_>) -> Result<Value> {
    match row.int(0) {
        0 => exec_err!("null character not permitted"),
        code if code < 0 => exec_err!("character number must be positive"),
        code => match u32::try_from(code).ok().and_then(char::from_u32) {
            Some(c) => text(c.to_string()),
            None => exec_err!("requested character not valid for encoding: {code}"),
        },
    }
}

/// To so many characters, cut at the end, filled on one side.
fn pad(given: &str, length: i64, fill: &str, left: bool) -> Result<Value> {
    let length = usize::try_from(length).unwrap_or(0);
    let have = given.chars().count();
    if have >= length {
        return text(given.chars().take(length).collect());
    }
    if fill.is_empty() {
        return text(given.to_string());
    }
    if length > BYTES_MAX {
        return exec_err!("a text has {BYTES_MAX} bytes at most");
    }
    let filling = fill.chars().cycle().take(length - have);
    text(match left {
        true => filling.chain(given.chars()).collect(),
        false => given.chars().chain(filling).collect(),
    })
}

fn right(row: &Row<'_>) -> Result<Value> {
    let (given, n) = (row.text(0), row.int(1));
    let have = given.chars().count() as i64;
    // The least number has no counterpart: PostgreSQL then skips nothing.
    let skip = match n {
        n if n == i64::from(i32::MIN) => 0,
        n if n < 0 => -n,
        n => have - n,
    };
    text(given.chars().skip(skip.max(0) as usize).collect())
}

fn repeat(row: &Row<'_>) -> Result<Value> {
    let (given, n) = (row.text(0), usize::try_from(row.int(1)).unwrap_or(0));
    if given.len().saturating_mul(n) > BYTES_MAX {
        return exec_err!("a text has {BYTES_MAX} bytes at most");
    }
    text(given.repeat(n))
}

/// The characters of a line of base64, as MIME has it.
const LINE: usize = 76;

fn encode(row: &Row<'_>) -> Result<Value> {
    let bytes = row.bytes(0);
    match row.text(1).to_ascii_lowercase().as_str() {
        "hex" => text(bytes.iter().map(|b| format!("{b:02x}")).collect()),
        "base64" => {
            let all = STANDARD.encode(bytes);
            let lines: Vec<&str> =
                (0..all.len()).step_by(LINE).map(|at| &all[at..all.len().min(at + LINE)]).collect();
            text(lines.join("\n"))
        }
        "escape" => text(
            bytes
                .iter()
                .map(|b| match b {
                    b'\\' => "\\\\".to_string(),
                    0 | 128.. => format!("\\{b:03o}"),
                    b => char::from(*b).to_string(),
                })
                .collect(),
        ),
        other => exec_err!("unrecognized encoding: \"{other}\""),
    }
}

fn decode(row: &Row<'_>) -> Result<Value> {
    let given = row.text(0);
    let bytes = match row.text(1).to_ascii_lowercase().as_str() {
        "hex" => {
            if given.starts_with("\\x") {
                return exec_err!("invalid hexadecimal digit: \"\\\"");
            }
            read::bytes(&format!("\\x{given}"))?
        }
        "base64" => {
            let bare: String = given.chars().filter(|c| !" \t\n\r".contains(*c)).collect();
            match STANDARD.decode(&bare) {
                Ok(bytes) => bytes,
                Err(_) => return exec_err!("invalid base64: \"{given}\""),
            }
        }
        "escape" => {
            // The text of bytea without its form in hexadecimal digits.
            let plain = given
                .strip_prefix("\\x")
                .map_or(Ok(given), |_| exec_err!("invalid input syntax for type bytea"));
            read::bytes(plain?)?
        }
        other => return exec_err!("unrecognized encoding: \"{other}\""),
    };
    Ok(Value::Bytes(bytes))
}

fn gcd(a: i64, b: i64) -> Result<i64> {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    match i64::try_from(a) {
        Ok(value) => Ok(value),
        Err(_) => exec_err!("bigint out of range"),
    }
}

fn lcm(a: i64, b: i64) -> Result<i64> {
    if a == 0 || b == 0 {
        return Ok(0);
    }
    let value = (a / gcd(a, b)?).checked_mul(b).and_then(i64::checked_abs);
    value.map_or_else(|| exec_err!("bigint out of range"), Ok)
}
