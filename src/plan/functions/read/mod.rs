//! Text as values, as PostgreSQL reads it: with DateStyle ISO (month before day where both are numbers) and the
//! time zone UTC. The errors are its messages.

mod instant;

use arrow::datatypes::{IntervalMonthDayNano, i256};
use datafusion_common::{Result, exec_datafusion_err, exec_err};

pub use instant::{date, offset, time, timestamp, timestamptz};

use crate::model::interval::{self, is_space};

fn invalid<T>(type_name: &str, text: &str) -> Result<T> {
    exec_err!("invalid input syntax for type {type_name}: \"{text}\"")
}

pub fn interval(text: &str) -> Result<IntervalMonthDayNano> {
    interval::read(text).map_or_else(|| invalid("interval", text), Ok)
}

/// The unscaled number of a decimal, rounded half away from zero to `scale` digits behind the point.
pub fn decimal(text: &str, precision: u8, scale: i8) -> Result<i256> {
    let trimmed = text.trim_matches(is_space);
    let (mantissa, exponent) = match trimmed.find(['e', 'E']) {
        Some(at) => match trimmed[at + 1..].parse::<i32>() {
            Ok(exponent) => (&trimmed[..at], exponent),
            Err(_) => return invalid("numeric", text),
        },
        None => (trimmed, 0),
    };
    let (negative, digits) = match mantissa.as_bytes().first() {
        Some(b'-') => (true, &mantissa[1..]),
        Some(b'+') => (false, &mantissa[1..]),
        _ => (false, mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    if all.is_empty() || !all.iter().all(u8::is_ascii_digit) {
        return invalid("numeric", text);
    }
    let overflow = || exec_datafusion_err!("numeric field overflow: \"{text}\"");
    // Number of digits before the end of the number.
    let keep = i64::from(exponent) + i64::from(scale) + whole.len() as i64;
    let mut value = i256::ZERO;
    let ten = i256::from_i128(10);
    let limit = ten.checked_pow(u32::from(precision)).ok_or_else(overflow)?;
    let mut push = |digit: u8| -> Result<()> {
        value = value
            .checked_mul(ten)
            .and_then(|v| v.checked_add(i256::from_i128(i128::from(digit))))
            .filter(|v| *v < limit)
            .ok_or_else(overflow)?;
        Ok(())
    };
    for digit in all.iter().take(keep.clamp(0, all.len() as i64) as usize) {
        push(digit - b'0')?;
    }
    if all.iter().any(|digit| *digit != b'0') {
        for _ in all.len() as i64..keep {
            push(0)?;
        }
    }
    let next = if keep >= 0 { all.get(keep as usize) } else { None };
    if next.is_some_and(|digit| *digit >= b'5') {
        value = value.checked_add(i256::ONE).filter(|v| *v < limit).ok_or_else(overflow)?;
    }
    if negative { value.checked_neg().ok_or_else(overflow) } else { Ok(value) }
}

pub fn double(text: &str) -> Result<f64> {
    let value = match float(text, "double precision")? {
        Read::Value(value) => value,
        Read::Number(number) => {
            let value: f64 = number.parse().or_else(|_| invalid("double precision", text))?;
            let lost = value == 0.0 && has_digit_but_zero(number);
            if value.is_infinite() || lost {
                return exec_err!("\"{text}\" is out of range for type double precision");
            }
            value
        }
    };
    Ok(value)
}

pub fn real(text: &str) -> Result<f32> {
    match float(text, "real")? {
        Read::Value(value) => Ok(value as f32),
        Read::Number(number) => {
            let value: f32 = number.parse().or_else(|_| invalid("real", text))?;
            if value.is_infinite() || (value == 0.0 && has_digit_but_zero(number)) {
                return exec_err!("\"{text}\" is out of range for type real");
            }
            Ok(value)
        }
    }
}

enum Read<'a> {
    Value(f64),
    Number(&'a str),
}

fn has_digit_but_zero(number: &str) -> bool {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    mantissa.bytes().any(|b| (b'1'..=b'9').contains(&b))
}

fn float<'a>(text: &'a str, type_name: &str) -> Result<Read<'a>> {
    let trimmed = text.trim_matches(is_space);
    let lower = trimmed.to_ascii_lowercase();
    let (sign, bare) = match lower.as_bytes().first() {
        Some(b'-') => (-1.0, &lower[1..]),
        Some(b'+') => (1.0, &lower[1..]),
        _ => (1.0, lower.as_str()),
    };
    match bare {
        "nan" => return Ok(Read::Value(f64::NAN)),
        "inf" | "infinity" => return Ok(Read::Value(sign * f64::INFINITY)),
        _ => {}
    }
    if let Some(hex) = bare.strip_prefix("0x") {
        return match i64::from_str_radix(hex, 16) {
            Ok(value) => Ok(Read::Value(sign * value as f64)),
            Err(_) => invalid(type_name, text),
        };
    }
    let is_number = |b: u8| b.is_ascii_digit() || b"+-.e".contains(&b);
    if bare.is_empty() || !bare.bytes().all(is_number) {
        return invalid(type_name, text);
    }
    Ok(Read::Number(trimmed))
}

pub fn boolean(text: &str) -> Result<bool> {
    let word = text.trim_matches(is_space).to_ascii_lowercase();
    let starts = |full: &str, least: usize| word.len() >= least && full.starts_with(&word);
    if starts("true", 1) || starts("yes", 1) || word == "on" || word == "1" {
        return Ok(true);
    }
    if starts("false", 1) || starts("no", 1) || starts("off", 2) || word == "0" {
        return Ok(false);
    }
    invalid("boolean", text)
}

pub fn bytes(text: &str) -> Result<Vec<u8>> {
    if let Some(hex) = text.strip_prefix("\\x") {
        let mut out = Vec::new();
        let digit = |c: char| {
            c.to_digit(16).ok_or_else(|| exec_datafusion_err!("invalid hexadecimal digit: \"{c}\""))
        };
        // White space may stand between bytes only.
        let mut rest = hex.chars().peekable();
        while let Some(first) = rest.next() {
            if is_space(first) {
                continue;
            }
            let Some(second) = rest.next() else {
                return exec_err!("invalid hexadecimal data: odd number of digits");
            };
            out.push((digit(first)? * 16 + digit(second)?) as u8);
        }
        return Ok(out);
    }
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'\\' {
            out.push(*first);
            rest = tail;
            continue;
        }
        match tail {
            [b'\\', ..] => {
                out.push(b'\\');
                rest = &tail[1..];
            }
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = &tail[3..];
            }
            _ => return invalid("bytea", text),
        }
    }
    Ok(out)
}

/// The canonical text of a UUID.
pub fn uuid(text: &str) -> Result<String> {
    let inner = match text.strip_prefix('{') {
        Some(inner) => match inner.strip_suffix('}') {
            Some(inner) => inner,
            None => return invalid("uuid", text),
        },
        None => text,
    };
    let mut digits = String::new();
    let mut may_split = false;
    for c in inner.chars() {
        match c {
            // A hyphen may follow each group of four digits.
            '-' if may_split && digits.len() < 32 => may_split = false,
            c if c.is_ascii_hexdigit() => {
                digits.push(c.to_ascii_lowercase());
                may_split = digits.len().is_multiple_of(4);
            }
            _ => return invalid("uuid", text),
        }
    }
    if digits.len() != 32 {
        return invalid("uuid", text);
    }
    let d = &digits;
    Ok(format!("{}-{}-{}-{}-{}", &d[..8], &d[8..12], &d[12..16], &d[16..20], &d[20..]))
}

/// The elements of an array of one dimension; `None` is NULL.
pub fn array(text: &str) -> Result<Vec<Option<String>>> {
    let malformed = || exec_err!("malformed array literal: \"{text}\"");
    let trimmed = text.trim_matches(is_space);
    let Some(inner) = trimmed.strip_prefix('{').and_then(|t| t.strip_suffix('}')) else {
        return malformed();
    };
    if inner.trim_matches(is_space).is_empty() {
        return Ok(Vec::new());
    }
    let mut items = Vec::new();
    let mut chars = inner.chars().peekable();
    loop {
        while chars.next_if(|c| is_space(*c)).is_some() {}
        let mut item = String::new();
        let mut kept = 0;
        let mut quoted = false;
        if chars.next_if_eq(&'"').is_some() {
            quoted = true;
            loop {
                match chars.next() {
                    Some('"') => break,
                    Some('\\') => item.push(chars.next().unwrap_or('\\')),
                    Some(c) => item.push(c),
                    None => return malformed(),
                }
            }
            while chars.next_if(|c| is_space(*c)).is_some() {}
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                match c {
                    '{' | '}' => {
                        return exec_err!(
                            "arrays of several dimensions are not supported: \"{text}\""
                        );
                    }
                    '"' => return malformed(),
                    '\\' => {
                        item.extend(chars.next());
                        quoted = true;
                        kept = item.len();
                    }
                    c => {
                        item.push(c);
                        if !is_space(c) {
                            kept = item.len();
                        }
                    }
                }
            }
            item.truncate(kept);
            if item.is_empty() && !quoted {
                return malformed();
            }
        }
        let is_null = !quoted && item.eq_ignore_ascii_case("null");
        items.push((!is_null).then_some(item));
        match chars.next() {
            None => return Ok(items),
            Some(',') => {}
            Some(_) => return malformed(),
        }
    }
}
