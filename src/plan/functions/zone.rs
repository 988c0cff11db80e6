//! Time zones by name, and how local times and instants follow from each other.

use arrow::array::timezone::Tz;
use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeZone};
use datafusion_common::{Result, exec_datafusion_err, exec_err};

use super::calendar::MICROS_PER_SECOND;

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

fn naive(micros: i64) -> Result<NaiveDateTime> {
    match DateTime::from_timestamp_micros(micros) {
        Some(instant) => Ok(instant.naive_utc()),
        None => exec_err!("timestamp out of range"),
    }
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
