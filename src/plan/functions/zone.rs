//! Time zones by name, and how local times and instants follow from each other.

use arrow::array::timezone::Tz;
use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeZone};
use datafusion_common::{Result, exec_datafusion_err, exec_err};

use super::calendar::{self, MICROS_PER_DAY, MICROS_PER_SECOND};

/// A zone by its name, in any case. Without a slash only those of no summer time are taken, since PostgreSQL
/// reads `CET` as an offset.
fn named(name: &str) -> Result<Option<Tz>> {
    if ["utc", "gmt", "z", "zulu"].contains(&name.to_ascii_lowercase().as_str()) {
        return Ok(None);
    }
    // A sign is POSIX's, whose offsets count west; it is read in `offset`.
    let unknown = || exec_datafusion_err!("time zone \"{name}\" not recognized");
    if !name.contains('/') || name.starts_with(['+', '-']) {
        return Err(unknown());
    }
    let proper: String = {
        let mut begins = true;
        let fit = |c: char| {
            let c = if begins { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            begins = matches!(c, '/' | '_' | '-');
            c
        };
        name.chars().map(fit).collect()
    };
    name.parse::<Tz>().or_else(|_| proper.parse::<Tz>()).map(Some).map_err(|_| unknown())
}

/// Seconds east of Greenwich that a POSIX name stands for: there `+02:30` is west.
fn posix(name: &str) -> Option<i64> {
    name.starts_with(['+', '-']).then(|| super::read::offset(name).map(|east| -east))?
}

/// The years that the zones' rules are known for; a later one is like an earlier one whose days are the same.
const YEARS_KNOWN: i64 = 2099;

/// The same time of a year that begins with the same weekday, where the zones' rules are known.
fn known(micros: i64) -> i64 {
    let days = micros.div_euclid(MICROS_PER_DAY);
    let year = calendar::civil(days).0;
    if year <= YEARS_KNOWN {
        return micros;
    }
    let begin = |year: i64| calendar::days(year, 1, 1);
    let alike = |other: &i64| {
        calendar::weekday(begin(*other)) == calendar::weekday(begin(year))
            && begin(other + 1) - begin(*other) == begin(year + 1) - begin(year)
    };
    let other = (YEARS_KNOWN - 27..=YEARS_KNOWN).find(alike).unwrap_or(YEARS_KNOWN);
    micros - (begin(year) - begin(other)) * MICROS_PER_DAY
}

fn naive(micros: i64) -> Result<NaiveDateTime> {
    match DateTime::from_timestamp_micros(known(micros)) {
        Some(instant) => Ok(instant.naive_utc()),
        None => exec_err!("timestamp out of range"),
    }
}

/// The local time at this instant.
pub fn to_local(micros: i64, name: &str) -> Result<i64> {
    if let Some(east) = posix(name) {
        return Ok(micros + east * MICROS_PER_SECOND);
    }
    let Some(zone) = named(name)? else { return Ok(micros) };
    let offset = zone.offset_from_utc_datetime(&naive(micros)?).fix().local_minus_utc();
    Ok(micros + i64::from(offset) * MICROS_PER_SECOND)
}

/// The instant of this local time. One that summer time skips is read with the offset before it; of two the
/// later one counts.
pub fn to_utc(micros: i64, name: &str) -> Result<i64> {
    if let Some(east) = posix(name) {
        return Ok(micros - east * MICROS_PER_SECOND);
    }
    let Some(zone) = named(name)? else { return Ok(micros) };
    let local = naive(micros)?;
    let offset = match zone.offset_from_local_datetime(&local) {
        LocalResult::Single(offset) => offset.fix(),
        LocalResult::Ambiguous(_, late) => late.fix(),
        LocalResult::None => {
            let before = local - chrono::Duration::hours(24);
            match zone.offset_from_local_datetime(&before) {
                LocalResult::Single(offset) | LocalResult::Ambiguous(_, offset) => offset.fix(),
                LocalResult::None => return exec_err!("timestamp out of range"),
            }
        }
    };
    Ok(micros - i64::from(offset.local_minus_utc()) * MICROS_PER_SECOND)
}
