//! Functions of texts and byte strings.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use datafusion_common::{Result, exec_err};
use datafusion_expr::planner::{ExprPlanner, PlannerResult};
use datafusion_expr::{Expr, ScalarUDF};

use super::limits::check_bytes;
use super::row::{CallRow, Overload, Type, Value, function, function_of_nulls, overload};
use super::{read, regex_calls};

use Type::{BigInt, Boolean, Bytes, Int, Text, Texts};

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

const BIT_LENGTH: &[Overload] = &[
    overload(&[Bytes], Int, |row| Ok(Value::Int(row.bytes(0).len() as i64 * 8))),
    overload(&[Text], Int, |row| Ok(Value::Int(row.text(0).len() as i64 * 8))),
];
const BIT_COUNT: &[Overload] = &[overload(&[Bytes], BigInt, |row| {
    Ok(Value::Int(row.bytes(0).iter().map(|byte| i64::from(byte.count_ones())).sum()))
})];
const BTRIM: &[Overload] =
    &[overload(&[Bytes, Bytes], Bytes, |row| Ok(trim(row.bytes(0), row.bytes(1), true, true)))];
const LTRIM: &[Overload] =
    &[overload(&[Bytes, Bytes], Bytes, |row| Ok(trim(row.bytes(0), row.bytes(1), true, false)))];
const RTRIM: &[Overload] =
    &[overload(&[Bytes, Bytes], Bytes, |row| Ok(trim(row.bytes(0), row.bytes(1), false, true)))];
const SUBSTR: &[Overload] = &[
    overload(&[Bytes, Int], Bytes, |row| {
        Ok(Value::Bytes(part(row.bytes(0), row.int(1), None)?.to_vec()))
    }),
    overload(&[Bytes, Int, Int], Bytes, |row| {
        Ok(Value::Bytes(part(row.bytes(0), row.int(1), Some(row.int(2)))?.to_vec()))
    }),
];
const OVERLAY: &[Overload] = &[
    overload(&[Bytes, Bytes, Int], Bytes, |row| overlaid(row, row.bytes(1).len() as i64)),
    overload(&[Bytes, Bytes, Int, Int], Bytes, |row| overlaid(row, row.int(3))),
];
const POSITION: &[Overload] = &[overload(&[Bytes, Bytes], Int, |row| {
    let (all, part) = (row.bytes(0), row.bytes(1));
    if part.is_empty() {
        return Ok(Value::Int(1));
    }
    let at = all.windows(part.len()).position(|window| window == part);
    Ok(Value::Int(at.map_or(0, |at| at as i64 + 1)))
})];
const GET_BYTE: &[Overload] = &[overload(&[Bytes, Int], Int, |row| {
    let at = index(row.int(1), row.bytes(0).len())?;
    Ok(Value::Int(row.bytes(0)[at].into()))
})];
const SET_BYTE: &[Overload] = &[overload(&[Bytes, Int, Int], Bytes, |row| {
    let mut bytes = row.bytes(0).to_vec();
    let at = index(row.int(1), bytes.len())?;
    bytes[at] = row.int(2) as u8;
    Ok(Value::Bytes(bytes))
})];
const GET_BIT: &[Overload] = &[overload(&[Bytes, BigInt], Int, |row| {
    let at = index(row.int(1), row.bytes(0).len() * 8)?;
    Ok(Value::Int((row.bytes(0)[at / 8] >> (at % 8) & 1).into()))
})];
const SET_BIT: &[Overload] = &[overload(&[Bytes, BigInt, Int], Bytes, |row| {
    let mut bytes = row.bytes(0).to_vec();
    let at = index(row.int(1), bytes.len() * 8)?;
    match row.int(2) {
        0 => bytes[at / 8] &= !(1 << (at % 8)),
        1 => bytes[at / 8] |= 1 << (at % 8),
        _ => return exec_err!("new bit must be 0 or 1"),
    }
    Ok(Value::Bytes(bytes))
})];
const QUOTE_IDENT: &[Overload] = &[overload(&[Text], Text, |row| text(quoted_name(row.text(0))))];
const STRING_TO_TABLE: &[Overload] = &[
    overload(&[Text, Text], Texts, |row| split(row, None)),
    overload(&[Text, Text, Text], Texts, |row| split(row, (!row.is_null(2)).then(|| row.text(2)))),
];
const PARSE_IDENT: &[Overload] = &[
    overload(&[Text], Texts, |row| parsed_name(row.text(0), true)),
    overload(&[Text, Boolean], Texts, |row| parsed_name(row.text(0), row.int(1) != 0)),
];
const UNISTR: &[Overload] = &[overload(&[Text], Text, |row| text(unescaped(row.text(0))?))];

const REPLACE: &[Overload] = &[overload(&[Text, Text, Text], Text, |row| {
    let (given, from, to) = (row.text(0), row.text(1), row.text(2));
    if from.is_empty() {
        return text(given.to_string());
    }
    let growth = to.len().saturating_sub(from.len());
    if growth > 0 {
        let added = given.matches(from).count().saturating_mul(growth);
        check_bytes(given.len().saturating_add(added))?;
    }
    text(given.replace(from, to))
})];

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
        function("replace", &[], REPLACE, None),
        function("bit_length", &[], BIT_LENGTH, None),
        function("bit_count", &[], BIT_COUNT, None),
        function("get_byte", &[], GET_BYTE, None),
        function("set_byte", &[], SET_BYTE, None),
        function("get_bit", &[], GET_BIT, None),
        function("set_bit", &[], SET_BIT, None),
        function("quote_ident", &[], QUOTE_IDENT, None),
        function_of_nulls("string_to_table", STRING_TO_TABLE),
        function("parse_ident", &[], PARSE_IDENT, None),
        function("unistr", &[], UNISTR, None),
        function("gcd", &[], GCD, None),
        function("lcm", &[], LCM, None),
    ]
}

/// `position(a IN b)`, `substring(a FROM b)` and `overlay(a PLACING b FROM c)`.
#[derive(Debug)]
pub struct Calls;

impl ExprPlanner for Calls {
    fn plan_position(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(beside(datafusion_functions::unicode::strpos()).call(args)))
    }

    fn plan_substring(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        // FROM a text is FROM a regular expression.
        let is_text =
            |expr: &Expr| matches!(expr, Expr::Literal(value, _) if value.data_type().is_string());
        if let [_, pattern] = args.as_slice()
            && is_text(pattern)
        {
            return Ok(PlannerResult::Planned(regex_calls::substring().call(args)));
        }
        Ok(PlannerResult::Planned(beside(datafusion_functions::unicode::substr()).call(args)))
    }

    fn plan_overlay(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(beside(datafusion_functions::core::overlay()).call(args)))
    }
}

/// The function for byte strings, and the inner one for texts.
pub fn beside(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match inner.name() {
        "octet_length" => function("octet_length", &[], BYTES, Some(inner)),
        "btrim" => function("btrim", &["trim"], BTRIM, Some(inner)),
        "ltrim" => function("ltrim", &[], LTRIM, Some(inner)),
        "rtrim" => function("rtrim", &[], RTRIM, Some(inner)),
        "substr" => function("substr", &["substring"], SUBSTR, Some(inner)),
        "overlay" => function("overlay", &[], OVERLAY, Some(inner)),
        "strpos" => function("strpos", &["instr", "position"], POSITION, Some(inner)),
        _ => inner,
    }
}

fn text(text: String) -> Result<Value> {
    Ok(Value::Text(text))
}

/// The lower case of a character, as the C library has it: a character without a single counterpart stays.
pub fn lower(c: char) -> char {
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

fn initcap(row: &CallRow<'_>) -> Result<Value> {
    let mut inside = false;
    let fit = |c: char| {
        let fitted = if inside { lower(c) } else { upper(c) };
        inside = c.is_alphanumeric();
        fitted
    };
    text(row.text(0).chars().map(fit).collect())
}

fn chr(row: &CallRow<'_>) -> Result<Value> {
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
    check_bytes(length)?;
    check_bytes(given.len() + (length - have) / fill.chars().count().max(1) * fill.len())?;
    let filling = fill.chars().cycle().take(length - have);
    text(match left {
        true => filling.chain(given.chars()).collect(),
        false => given.chars().chain(filling).collect(),
    })
}

fn right(row: &CallRow<'_>) -> Result<Value> {
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

fn repeat(row: &CallRow<'_>) -> Result<Value> {
    let (given, n) = (row.text(0), usize::try_from(row.int(1)).unwrap_or(0));
    check_bytes(given.len().saturating_mul(n))?;
    text(given.repeat(n))
}

/// The characters of a line of base64, as MIME has it.
const LINE: usize = 76;

fn encode(row: &CallRow<'_>) -> Result<Value> {
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

fn decode(row: &CallRow<'_>) -> Result<Value> {
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

/// Without the bytes of a set at its ends.
fn trim(all: &[u8], set: &[u8], start: bool, end: bool) -> Value {
    let mut rest = all;
    while let (true, Some((first, behind))) = (start, rest.split_first()) {
        if !set.contains(first) {
            break;
        }
        rest = behind;
    }
    while let (true, Some((last, before))) = (end, rest.split_last()) {
        if !set.contains(last) {
            break;
        }
        rest = before;
    }
    Value::Bytes(rest.to_vec())
}

/// The bytes from a place, counted from 1, which may lie before the first one.
fn part(all: &[u8], from: i64, length: Option<i64>) -> Result<&[u8]> {
    let end = match length {
        Some(length) if length < 0 => return exec_err!("negative substring length not allowed"),
        Some(length) => from.saturating_add(length),
        None => i64::MAX,
    };
    let place = |at: i64| (at.max(1) - 1).min(all.len() as i64) as usize;
    Ok(&all[place(from)..place(end).max(place(from))])
}

fn overlaid(row: &CallRow<'_>, length: i64) -> Result<Value> {
    let (all, with, from) = (row.bytes(0), row.bytes(1), row.int(2));
    if from <= 0 {
        return exec_err!("negative substring length not allowed");
    }
    let mut out = part(all, 1, Some(from - 1))?.to_vec();
    out.extend_from_slice(with);
    out.extend_from_slice(part(all, from.saturating_add(length), None)?);
    check_bytes(out.len())?;
    Ok(Value::Bytes(out))
}

fn index(at: i64, length: usize) -> Result<usize> {
    match usize::try_from(at).ok().filter(|at| *at < length) {
        Some(at) => Ok(at),
        None => exec_err!("index {at} out of valid range, 0..{}", length as i64 - 1),
    }
}

/// Words that are no names unless they are quoted.
const RESERVED: &str = " all analyse analyze and any array as asc asymmetric both case cast check collate column \
    constraint create current_catalog current_date current_role current_time current_timestamp current_user default \
    deferrable desc distinct do else end except false fetch for foreign from grant group having in initially \
    intersect into lateral leading limit localtime localtimestamp not null offset on only or order placing primary \
    references returning select session_user some symmetric table then to trailing true union unique user using \
    variadic when where window with authorization binary collation concurrently cross current_schema freeze full \
    ilike inner is isnull join left like natural notnull outer overlaps right similar tablesample verbose between \
    bigint bit boolean char character coalesce dec decimal exists extract float greatest grouping inout int integer \
    interval least national nchar none normalize nullif numeric out overlay position precision real row setof \
    smallint substring time timestamp treat trim values varchar xmlattributes xmlconcat xmlelement xmlexists \
    xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable ";

/// A name as SQL reads it back.
pub fn quoted_name(name: &str) -> String {
    let plain =
        |(n, c): (usize, char)| c.is_ascii_lowercase() || c == '_' || (n > 0 && c.is_ascii_digit());
    let safe = !name.is_empty() && name.chars().enumerate().all(plain);
    if safe && !RESERVED.contains(&format!(" {name} ")) {
        return name.to_string();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL reads it back.
pub fn quoted_literal(text: &str) -> String {
    let escape = if text.contains('\\') { "E" } else { "" };
    format!("{escape}'{}'", text.replace('\'', "''").replace('\\', "\\\\"))
}

/// The parts between delimiters, without one each character; what is like `null` is NULL.
fn split(row: &CallRow<'_>, null: Option<&str>) -> Result<Value> {
    if row.is_null(0) {
        return Ok(Value::Null);
    }
    let given = row.text(0);
    let parts: Vec<String> = match (given, row.is_null(1)) {
        ("", _) => Vec::new(),
        (given, true) => given.chars().map(String::from).collect(),
        (given, false) if row.text(1).is_empty() => vec![given.to_string()],
        (given, false) => given.split(row.text(1)).map(str::to_string).collect(),
    };
    let part = |part: String| (null != Some(part.as_str())).then_some(part);
    Ok(Value::Texts(parts.into_iter().map(part).collect()))
}

/// The parts of a name with points between them.
fn parsed_name(name: &str, strict: bool) -> Result<Value> {
    let invalid = || exec_err!("string is not a valid identifier: \"{name}\"");
    let is_space = |c: char| c.is_ascii_whitespace() || c == '\u{b}';
    let begins = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    let mut parts = Vec::new();
    let mut rest = name.trim_start_matches(is_space);
    let mut after_dot = false;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut part = String::new();
            let mut inner = quoted;
            loop {
                let Some(end) = inner.find('"') else { return invalid() };
                part.push_str(&inner[..end]);
                inner = &inner[end + 1..];
                match inner.strip_prefix('"') {
                    Some(more) => {
                        part.push('"');
                        inner = more;
                    }
                    None => break,
                }
            }
            if part.is_empty() {
                return invalid();
            }
            parts.push(Some(part));
            rest = inner;
        } else if rest.starts_with(begins) {
            let end = rest
                .find(|c: char| !(begins(c) || c.is_ascii_digit() || c == '$'))
                .unwrap_or(rest.len());
            parts.push(Some(rest[..end].to_ascii_lowercase()));
            rest = &rest[end..];
        } else if after_dot || parts.is_empty() {
            return invalid();
        }
        rest = rest.trim_start_matches(is_space);
        match rest.strip_prefix('.') {
            Some(behind) => {
                after_dot = true;
                rest = behind.trim_start_matches(is_space);
            }
            None if rest.is_empty() || !strict => break,
            None => return invalid(),
        }
    }
    Ok(Value::Texts(parts))
}

/// With the characters that `\XXXX`, `\+XXXXXX`, `\uXXXX` and `\UXXXXXXXX` stand for.
fn unescaped(given: &str) -> Result<String> {
    let invalid = || exec_err!("invalid Unicode escape");
    let mut out = String::new();
    let mut rest = given;
    let mut high: Option<u32> = None;
    while let Some(at) = rest.find('\\') {
        if at > 0 && high.is_some() {
            return exec_err!("invalid Unicode surrogate pair");
        }
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix('\\') {
            if high.is_some() {
                return exec_err!("invalid Unicode surrogate pair");
            }
            out.push('\\');
            rest = behind;
            continue;
        }
        let (skip, digits) = match rest.as_bytes().first() {
            Some(b'+') => (1, 6),
            Some(b'u') => (1, 4),
            Some(b'U') => (1, 8),
            _ => (0, 4),
        };
        let Some(hex) = rest.get(skip..skip + digits) else { return invalid() };
        if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return invalid();
        }
        let Ok(code) = u32::from_str_radix(hex, 16) else { return invalid() };
        rest = &rest[skip + digits..];
        match (high.take(), code) {
            (None, 0xd800..0xdc00) => high = Some(code),
            (Some(first), 0xdc00..0xe000) => {
                let code = 0x10000 + ((first - 0xd800) << 10) + (code - 0xdc00);
                out.extend(char::from_u32(code));
            }
            (None, code) => match char::from_u32(code) {
                Some(c) if c != '\0' => out.push(c),
                _ => return exec_err!("invalid Unicode code point"),
            },
            _ => return exec_err!("invalid Unicode surrogate pair"),
        }
    }
    if high.is_some() {
        return exec_err!("invalid Unicode surrogate pair");
    }
    out.push_str(rest);
    Ok(out)
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
