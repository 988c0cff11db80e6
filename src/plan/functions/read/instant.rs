//! Dates, times of day, zones.

use datafusion_common::{Result, exec_datafusion_err, exec_err};

use super::{invalid, is_space};
use crate::model::interval::clock;
use crate::plan::functions::calendar::{self, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND};
use crate::plan::functions::zone;

/// A date and a time, and the offset or the zone that was written beside them.
struct Instant {
    days: i64,
    /// Microseconds since midnight; a day's length at most.
    time: i64,
    /// Whether a time was written.
    timed: bool,
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

/// Microseconds since midnight; a date before it and an offset behind it are ignored.
pub fn time(text: &str) -> Result<i64> {
    let lower = text.trim_matches(is_space).to_ascii_lowercase();
    if lower == "allballs" {
        return Ok(0);
    }
    let after = lower.trim_start_matches(|c: char| c.is_ascii_digit());
    let dated = after.starts_with(['-', '/']) && after.len() < lower.len();
    let on_a_day = if dated { lower } else { format!("2000-01-01 {lower}") };
    match instant(&on_a_day, "time") {
        Ok(Instant { time, timed: true, zone, .. })
            if dated || !matches!(zone, Some(Zone::Named(_))) =>
        {
            Ok(time)
        }
        Err(error) if error.message().contains("out of range") => {
            exec_err!("date/time field value out of range: \"{text}\"")
        }
        _ => invalid("time", text),
    }
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
struct InstantParts {
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
        return Ok(Instant { days: 0, time: 0, timed: false, zone: None });
    }
    let mut parts = InstantParts::default();
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
    Ok(Instant { days, time, timed: parts.time.is_some(), zone: parts.zone })
}

fn two_digit_year(year: i64) -> i64 {
    if year < 70 { year + 2000 } else { year + 1900 }
}

/// The day that the parts of a date name.
fn days_of(parts: &InstantParts) -> Option<i64> {
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
