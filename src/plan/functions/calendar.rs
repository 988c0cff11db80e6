//! The proleptic Gregorian calendar, in days and microseconds since 1970-01-01.

use arrow::datatypes::IntervalMonthDayNano;
use datafusion_common::{Result, exec_err};

pub use crate::model::interval::{
    MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND,
};

/// The Julian day of 1970-01-01.
pub const JULIAN_EPOCH: i64 = 2_440_588;

/// Year (0 is 1 BC), month and day of a day.
///
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
pub fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The day of a year, month and day, which need not be in their ranges' usual bounds but for the month.
///
/// The same source, `days_from_civil`.
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

pub fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

fn is_leap(year: i64) -> bool {
    year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0)
}

/// The year as it is written: 1 BC is 0.
pub fn year_of_era(year: i64) -> i64 {
    if year <= 0 { 1 - year } else { year }
}

/// 0 is Sunday.
pub fn weekday(days: i64) -> i64 {
    (days + 4).rem_euclid(7)
}

pub fn day_of_year(days: i64) -> i64 {
    days - self::days(civil(days).0, 1, 1) + 1
}

/// The year and week of ISO 8601.
pub fn iso_week(days: i64) -> (i64, i64) {
    // The Thursday of the week decides.
    let thursday = days - (weekday(days) + 6) % 7 + 3;
    let year = civil(thursday).0;
    (year, (thursday - self::days(year, 1, 1)) / 7 + 1)
}

/// An instant so much later: months first, of which a day that is not there becomes the last one; then days, then
/// time.
pub fn plus(micros: i64, by: IntervalMonthDayNano) -> Result<i64> {
    let (day, time) = (micros.div_euclid(MICROS_PER_DAY), micros.rem_euclid(MICROS_PER_DAY));
    let (year, month, date) = civil(day);
    let months = year * 12 + month - 1 + i64::from(by.months);
    let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
    let day = days(year, month, date.min(days_of_month(year, month))) + i64::from(by.days);
    let micros = day
        .checked_mul(MICROS_PER_DAY)
        .and_then(|micros| micros.checked_add(time))
        .and_then(|micros| micros.checked_add(by.nanoseconds / 1000));
    match micros {
        Some(micros) => Ok(micros),
        None => exec_err!("timestamp out of range"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_inverse() {
        for day in (-800_000..3_000_000).step_by(997) {
            let (year, month, date) = civil(day);
            assert_eq!(days(year, month, date), day);
        }
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(weekday(0), 4);
        assert_eq!(iso_week(days(2021, 1, 3)), (2020, 53));
    }
}
