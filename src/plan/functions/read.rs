//! Text as values, as PostgreSQL reads it: with DateStyle ISO (month before day where both are numbers) and the
//! time zone UTC. The errors are its messages.

use arrow::datatypes::{IntervalMonthDayNano, i256};
use datafusion_common::{Result, exec_datafusion_err, exec_err};

use super::calendar::{
    self, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND,
};
use super::zone;

fn invalid<T>(type_name: &str, text: &str) -> Result<T> {
    exec_err!("invalid input syntax for type {type_name}: \"{text}\"")
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}')
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
    // How many of the digits stand before the end of the number.
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

/// A date and a time, and the offset or the zone that was written beside them.
struct Instant {
    days: i64,
    /// Microseconds since midnight; a day's length at most.
    time: i64,
    zone: Option<Zone>,
}

enum Zone {
    /// Seconds east of Greenwich.
    Offset(i64),
    Named(String),
}

pub fn date(text: &str) -> Result<i32> {
    let instant = instant(text, "date")?;
    i32::try_from(instant.days).or_else(|_| exec_err!("date out of range: \"{text}\""))
}

/// Microseconds since the epoch; what is written of a zone is ignored.
pub fn timestamp(text: &str) -> Result<i64> {
    let instant = instant(text, "timestamp")?;
    micros(instant.days, instant.time, text)
}

/// Microseconds since the epoch; without a zone it is UTC.
pub fn timestamptz(text: &str) -> Result<i64> {
    let instant = instant(text, "timestamp with time zone")?;
    let local = micros(instant.days, instant.time, text)?;
    match instant.zone {
        None => Ok(local),
        Some(Zone::Offset(seconds)) => Ok(local - seconds * MICROS_PER_SECOND),
        Some(Zone::Named(name)) => zone::to_utc(local, &name),
    }
}

fn micros(days: i64, time: i64, text: &str) -> Result<i64> {
    days.checked_mul(MICROS_PER_DAY)
        .and_then(|micros| micros.checked_add(time))
        .ok_or_else(|| exec_datafusion_err!("timestamp out of range: \"{text}\""))
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const MONTH_NAMES: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const DAYS: [&str; 16] = [
    "sun",
    "mon",
    "tue",
    "tues",
    "wed",
    "weds",
    "thu",
    "thur",
    "thurs",
    "fri",
    "sat",
    "sunday",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
];

/// A month by its name.
fn month(word: &str) -> Option<i64> {
    let at = MONTHS.iter().position(|m| *m == word);
    let at = at.or_else(|| MONTH_NAMES.iter().position(|m| *m == word));
    at.or((word == "sept").then_some(8)).map(|at| at as i64 + 1)
}

#[derive(Clone, Copy)]
enum Half {
    Am,
    Pm,
}

#[derive(Default)]
struct Parts {
    /// Numbers that stand for year, month or day, in their order, with the digits they have.
    numbers: Vec<(i64, usize)>,
    month: Option<i64>,
    days: Option<i64>,
    time: Option<i64>,
    half: Option<Half>,
    before_christ: bool,
    zone: Option<Zone>,
}

fn instant(text: &str, type_name: &str) -> Result<Instant> {
    let bad = || invalid::<Instant>(type_name, text);
    let out_of_range = || exec_err!("date/time field value out of range: \"{text}\"");
    let lower = text.trim_matches(is_space).to_ascii_lowercase();
    if lower == "epoch" {
        return Ok(Instant { days: 0, time: 0, zone: None });
    }
    let mut parts = Parts::default();
    let mut rest = lower.as_str();
    while !rest.is_empty() {
        let first = rest.chars().next().unwrap_or(' ');
        if is_space(first) || first == ',' {
            rest = &rest[first.len_utf8()..];
            continue;
        }
        if first.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (digits, tail) = rest.split_at(end);
            let next = tail.chars().next();
            match next {
                Some(':') => {
                    let end = rest
                        .find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.')
                        .unwrap_or(rest.len());
                    if parts.time.is_some() {
                        return bad();
                    }
                    match clock(&rest[..end]) {
                        Some(time) => parts.time = Some(time),
                        None if rest[..end].split(':').all(|p| p.parse::<f64>().is_ok()) => {
                            return out_of_range();
                        }
                        None => return bad(),
                    }
                    rest = &rest[end..];
                }
                Some(separator @ ('-' | '/' | '.'))
                    if parts.numbers.is_empty() && parts.days.is_none() =>
                {
                    let is_part = |c: char| c.is_ascii_alphanumeric() || c == separator;
                    let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                    // The time may follow a T at once.
                    let date = &rest[..end];
                    let date = match date.find('t') {
                        Some(at) if date[at + 1..].starts_with(|c: char| c.is_ascii_digit()) => {
                            &date[..at]
                        }
                        _ => date,
                    };
                    let fields: Vec<&str> = date.split(separator).collect();
                    match fields.as_slice() {
                        // Year and day of the year.
                        [year, day] if separator == '.' && day.len() == 3 => {
                            let (Ok(year), Ok(day)) = (year.parse(), day.parse::<i64>()) else {
                                return bad();
                            };
                            parts.days = Some(calendar::days(year, 1, 1) + day - 1);
                        }
                        [_, _, _] => {
                            for field in &fields {
                                if let Ok(number) = field.parse::<i64>() {
                                    parts.numbers.push((number, field.len()));
                                } else if let (Some(month), None) = (month(field), parts.month) {
                                    parts.month = Some(month);
                                } else {
                                    return bad();
                                }
                            }
                        }
                        _ => return bad(),
                    }
                    rest = &rest[date.len()..];
                    if let Some(time) = rest.strip_prefix('t') {
                        rest = time;
                    }
                }
                _ => {
                    let Ok(number) = digits.parse::<i64>() else { return bad() };
                    let have_date = parts.numbers.len() + usize::from(parts.month.is_some()) >= 3
                        || parts.days.is_some();
                    match digits.len() {
                        8 if !have_date => {
                            parts.numbers = vec![
                                (number / 10_000, 4),
                                (number / 100 % 100, 2),
                                (number % 100, 2),
                            ];
                        }
                        6 if have_date && parts.time.is_none() => {
                            let (h, m, s) = (number / 10_000, number / 100 % 100, number % 100);
                            let text = format!("{h}:{m}:{s}");
                            match clock(&text) {
                                Some(time) => parts.time = Some(time),
                                None => return out_of_range(),
                            }
                        }
                        6 if !have_date && parts.numbers.is_empty() => {
                            parts.numbers = vec![
                                (number / 10_000, 2),
                                (number / 100 % 100, 2),
                                (number % 100, 2),
                            ];
                            // Year first, as in ISO 8601.
                            parts.numbers[0] = (two_digit_year(number / 10_000), 4);
                        }
                        4 if have_date && parts.time.is_none() => {
                            match clock(&format!("{}:{}", number / 100, number % 100)) {
                                Some(time) => parts.time = Some(time),
                                None => return out_of_range(),
                            }
                        }
                        _ if !have_date => parts.numbers.push((number, digits.len())),
                        _ => return bad(),
                    }
                    rest = tail;
                    if let Some(time) = rest.strip_prefix('t')
                        && time.starts_with(|c: char| c.is_ascii_digit())
                    {
                        rest = time;
                    }
                }
            }
            continue;
        }
        if matches!(first, '+' | '-') {
            let end = rest[1..].find(|c: char| !c.is_ascii_digit() && c != ':');
            let end = end.map_or(rest.len(), |at| at + 1);
            let Some(offset) = offset(&rest[..end]) else { return bad() };
            if parts.zone.is_some() || parts.time.is_none() {
                return bad();
            }
            parts.zone = Some(Zone::Offset(offset));
            rest = &rest[end..];
            continue;
        }
        if !first.is_ascii_alphabetic() {
            return bad();
        }
        let is_name = |c: char| c.is_ascii_alphabetic() || c == '/' || c == '_';
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        if word == "j" && parts.numbers.is_empty() && parts.days.is_none() {
            let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
            let Ok(julian) = tail[..end].parse::<i64>() else { return bad() };
            parts.days = Some(julian - calendar::JULIAN_EPOCH);
            rest = &tail[end..];
            continue;
        }
        rest = tail;
        match word {
            "am" => parts.half = Some(Half::Am),
            "pm" => parts.half = Some(Half::Pm),
            "ad" => {}
            "bc" => parts.before_christ = true,
            "z" | "utc" | "gmt" | "zulu" => parts.zone = Some(Zone::Offset(0)),
            "t" | "at" | "on" => {}
            word if month(word).is_some() && parts.month.is_none() => parts.month = month(word),
            word if DAYS.contains(&word) || word == "friday" || word == "saturday" => {}
            word if word.contains('/') && parts.time.is_some() => {
                parts.zone = Some(Zone::Named(word.to_string()));
            }
            _ => return bad(),
        }
    }
    let Some(days) = days_of(&parts) else {
        return if parts.numbers.is_empty() && parts.days.is_none() {
            bad()
        } else {
            out_of_range()
        };
    };
    let time = match (parts.time, parts.half) {
        (time, None) => time.unwrap_or(0),
        (Some(time), Some(half)) => {
            let hour = time / MICROS_PER_HOUR;
            match half {
                _ if hour > 12 => return out_of_range(),
                Half::Am if hour == 12 => time - 12 * MICROS_PER_HOUR,
                Half::Pm if hour != 12 => time + 12 * MICROS_PER_HOUR,
                _ => time,
            }
        }
        (None, Some(_)) => return bad(),
    };
    Ok(Instant { days, time, zone: parts.zone })
}

fn two_digit_year(year: i64) -> i64 {
    if year < 70 { year + 2000 } else { year + 1900 }
}

/// The day that the parts of a date name.
fn days_of(parts: &Parts) -> Option<i64> {
    if let Some(days) = parts.days {
        return parts.numbers.is_empty().then_some(days);
    }
    let numbers = parts.numbers.as_slice();
    let (year, month, day) = match (parts.month, numbers) {
        (Some(month), [first, second]) => {
            // A year has more than two digits, or cannot be a day.
            if first.1 > 2 || first.0 > 31 {
                (*first, month, second.0)
            } else {
                (*second, month, first.0)
            }
        }
        (None, [first, second, third]) => {
            if first.1 > 2 {
                (*first, second.0, third.0)
            } else {
                (*third, first.0, second.0)
            }
        }
        _ => return None,
    };
    let (year, digits) = year;
    let year = match (digits <= 2, parts.before_christ) {
        (_, true) => 1 - year,
        (true, false) => two_digit_year(year),
        (false, false) if year > 0 => year,
        _ => return None,
    };
    let valid =
        (1..=12).contains(&month) && (1..=calendar::days_of_month(year, month)).contains(&day);
    valid.then(|| calendar::days(year, month, day))
}

/// Microseconds since midnight of `h:mm[:ss[.fff]]`.
fn clock(text: &str) -> Option<i64> {
    let mut fields = text.split(':');
    let hour: i64 = fields.next()?.parse().ok()?;
    let minute: i64 = fields.next()?.parse().ok()?;
    let seconds = fields.next().unwrap_or("0");
    if fields.next().is_some() {
        return None;
    }
    let second = seconds_of(seconds)?;
    let time = hour * MICROS_PER_HOUR + minute * MICROS_PER_MINUTE + second;
    // A leap second is the next minute's first, and 24:00 the end of the day.
    let valid = hour <= 24 && minute < 60 && second <= MICROS_PER_MINUTE;
    (valid && time <= MICROS_PER_DAY).then_some(time)
}

/// Microseconds of seconds with a fraction, which is rounded.
fn seconds_of(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: f64 = format!("0.{fraction}0").parse().ok()?;
    Some(whole * MICROS_PER_SECOND + (fraction * 1e6).round_ties_even() as i64)
}

/// Seconds east of Greenwich of `+hh[[:]mm[:ss]]`.
pub fn offset(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let fields: Vec<&str> = match digits.contains(':') {
        true => digits.split(':').collect(),
        false if digits.len() > 2 => {
            let (hours, minutes) = digits.split_at(digits.len() - 2);
            vec![hours, minutes]
        }
        false => vec![digits],
    };
    let mut seconds = 0;
    for (field, unit) in fields.iter().zip([3600, 60, 1]) {
        seconds += field.parse::<i64>().ok()? * unit;
    }
    (fields.len() <= 3 && seconds < 16 * 3600).then_some(sign * seconds)
}

/// What an interval is made of while it is read.
#[derive(Default)]
struct Span {
    months: i64,
    days: i64,
    micros: f64,
    whole_micros: i64,
}

impl Span {
    /// Adds so many of a unit; what is left of a month counts as days, of a day as time.
    fn add(&mut self, whole: i64, fraction: f64, unit: &str) -> Option<()> {
        let months = |per: i64| Some((whole.checked_mul(per)?, fraction * per as f64));
        let (months, days) = match unit {
            "millennium" => (months(12_000)?, None),
            "century" => (months(1_200)?, None),
            "decade" => (months(120)?, None),
            "year" => (months(12)?, None),
            "month" => {
                self.months = self.months.checked_add(whole)?;
                self.add_days(0, fraction * 30.0)?;
                return Some(());
            }
            "week" => ((0, 0.0), Some((whole.checked_mul(7)?, fraction * 7.0))),
            "day" => ((0, 0.0), Some((whole, fraction))),
            _ => {
                let per = match unit {
                    "hour" => MICROS_PER_HOUR,
                    "minute" => MICROS_PER_MINUTE,
                    "second" => MICROS_PER_SECOND,
                    "millisecond" => 1000,
                    "microsecond" => 1,
                    _ => return None,
                };
                self.whole_micros = self.whole_micros.checked_add(whole.checked_mul(per)?)?;
                self.micros += fraction * per as f64;
                return Some(());
            }
        };
        self.months = self.months.checked_add(months.0)?;
        self.months = self.months.checked_add(months.1.round_ties_even() as i64)?;
        if let Some((whole, fraction)) = days {
            self.add_days(whole, fraction)?;
        }
        Some(())
    }

    fn add_days(&mut self, whole: i64, fraction: f64) -> Option<()> {
        self.days = self.days.checked_add(whole)?.checked_add(fraction.trunc() as i64)?;
        self.micros += fraction.fract() * MICROS_PER_DAY as f64;
        Some(())
    }

    fn finish(self, negative: bool) -> Option<IntervalMonthDayNano> {
        let sign = if negative { -1 } else { 1 };
        let micros = self.whole_micros.checked_add(self.micros.round_ties_even() as i64)?;
        Some(IntervalMonthDayNano::new(
            i32::try_from(self.months * sign).ok()?,
            i32::try_from(self.days * sign).ok()?,
            (micros * sign).checked_mul(1000)?,
        ))
    }
}

fn unit(word: &str) -> Option<&'static str> {
    Some(match word {
        "millennium" | "millennia" | "mil" | "mils" | "millenniums" => "millennium",
        "century" | "centuries" | "cent" | "c" => "century",
        "decade" | "decades" | "dec" | "decs" => "decade",
        "year" | "years" | "yr" | "yrs" | "y" => "year",
        "month" | "months" | "mon" | "mons" => "month",
        "week" | "weeks" | "w" => "week",
        "day" | "days" | "d" => "day",
        "hour" | "hours" | "hr" | "hrs" | "h" => "hour",
        "minute" | "minutes" | "min" | "mins" | "m" => "minute",
        "second" | "seconds" | "sec" | "secs" | "s" => "second",
        "millisecond" | "milliseconds" | "msec" | "msecs" | "ms" | "millisecon" => "millisecond",
        "microsecond" | "microseconds" | "usec" | "usecs" | "us" => "microsecond",
        _ => return None,
    })
}

pub fn interval(text: &str) -> Result<IntervalMonthDayNano> {
    let lower = text.trim_matches(is_space).to_ascii_lowercase();
    let read = match lower.strip_prefix('p') {
        Some(iso) => iso_interval(iso),
        None => verbose_interval(&lower),
    };
    match read {
        Some(value) => Ok(value),
        None => invalid("interval", text),
    }
}

/// A number with its fraction, and what follows it.
fn number(text: &str) -> Option<(i64, f64, bool, &str)> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
    let (number, rest) = digits.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.is_empty() || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: f64 = format!("0.{fraction}0").parse().ok()?;
    let sign = if negative { -1 } else { 1 };
    Some((whole * sign, fraction * sign as f64, negative, rest))
}

fn verbose_interval(text: &str) -> Option<IntervalMonthDayNano> {
    let mut span = Span::default();
    let mut rest = text.strip_prefix('@').unwrap_or(text).trim_start();
    let mut ago = false;
    let mut any = false;
    while !rest.is_empty() {
        if rest == "ago" && any {
            ago = true;
            break;
        }
        let (whole, fraction, negative, tail) = number(rest)?;
        if let Some(after) = tail.strip_prefix(':') {
            // h:mm[:ss[.f]], or mm:ss.f with a fraction.
            let end = after
                .find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.')
                .unwrap_or(after.len());
            let fields: Vec<&str> = after[..end].split(':').collect();
            let sign = if negative { -1 } else { 1 };
            let (hours, minutes, seconds) = match fields.as_slice() {
                [minutes, seconds] => (whole.abs(), minutes.parse::<i64>().ok()?, *seconds),
                [seconds] if seconds.contains('.') => (0, whole.abs(), *seconds),
                [minutes] => (whole.abs(), minutes.parse().ok()?, "0"),
                _ => return None,
            };
            let micros = seconds_of(seconds)?;
            if minutes >= 60 || micros > MICROS_PER_MINUTE {
                return None;
            }
            let time = hours
                .checked_mul(MICROS_PER_HOUR)?
                .checked_add(minutes * MICROS_PER_MINUTE + micros)?;
            span.whole_micros = span.whole_micros.checked_add(time * sign)?;
            rest = &after[end..];
        } else if let Some(months) =
            tail.strip_prefix('-').filter(|t| t.starts_with(|c: char| c.is_ascii_digit()))
        {
            // years-months
            let end = months.find(|c: char| !c.is_ascii_digit()).unwrap_or(months.len());
            let months_number: i64 = months[..end].parse().ok()?;
            let sign = if negative { -1 } else { 1 };
            span.months = span.months.checked_add(whole.checked_mul(12)? + sign * months_number)?;
            rest = &months[end..];
        } else {
            let tail = tail.trim_start_matches(is_space);
            let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let word = &tail[..end];
            if word.is_empty() {
                // Days before a time, seconds at the end.
                let name = if tail.is_empty() { "second" } else { "day" };
                if name == "day" && !tail.contains(':') {
                    return None;
                }
                span.add(whole, fraction, name)?;
            } else {
                span.add(whole, fraction, unit(word)?)?;
            }
            rest = &tail[end..];
        }
        any = true;
        rest = rest.trim_start_matches(|c| is_space(c) || c == ',');
    }
    if any { span.finish(ago) } else { None }
}

fn iso_interval(text: &str) -> Option<IntervalMonthDayNano> {
    let mut span = Span::default();
    let mut rest = text;
    let mut time = false;
    let mut any = false;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('t') {
            (time, rest) = (true, tail);
            continue;
        }
        let (whole, fraction, _, tail) = number(rest)?;
        // The alternative format: years-months-days and h:m:s.
        if !time && tail.starts_with('-') {
            let date: Vec<&str> = rest.split('t').next()?.split('-').collect();
            let [years, months, days] = date.as_slice() else { return None };
            span.add(years.parse().ok()?, 0.0, "year")?;
            span.add(months.parse().ok()?, 0.0, "month")?;
            span.add(days.parse().ok()?, 0.0, "day")?;
            rest = &rest[rest.find('t').unwrap_or(rest.len())..];
            any = true;
            continue;
        }
        if time && tail.starts_with(':') {
            let fields: Vec<&str> = rest.split(':').collect();
            for (field, unit) in fields.iter().zip(["hour", "minute", "second"]) {
                let (whole, fraction, _, rest) = number(field)?;
                if !rest.is_empty() {
                    return None;
                }
                span.add(whole, fraction, unit)?;
            }
            return span.finish(false);
        }
        let unit = match (tail.chars().next()?, time) {
            ('y', false) => "year",
            ('m', false) => "month",
            ('w', false) => "week",
            ('d', false) => "day",
            ('h', true) => "hour",
            ('m', true) => "minute",
            ('s', true) => "second",
            _ => return None,
        };
        span.add(whole, fraction, unit)?;
        rest = &tail[1..];
        any = true;
    }
    if any { span.finish(false) } else { None }
}
