//! Functions of dates, times and intervals.

use std::sync::Arc;

use arrow::datatypes::IntervalMonthDayNano;
use datafusion_common::{Result, exec_err, plan_err};
use datafusion_expr::planner::{ExprPlanner, PlannerResult};
use datafusion_expr::{Expr, ScalarUDF};

use super::calendar::{
    self, JULIAN_EPOCH, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND,
};
use super::row::{CallRow, Overload, Type, Value, function, overload};
use super::{parse_time, zone};

use Type::{BigInt, Date, Double, Int, Interval, Text, Time, Timestamp, TimestampTz};

const DATE_PART: &[Overload] = &[
    overload(&[Text, Timestamp], Double, |row| of_time(&field(row, false)?, row.int(1))),
    overload(&[Text, TimestampTz], Double, |row| of_time(&field(row, true)?, row.int(1))),
    overload(&[Text, Date], Double, |row| {
        let field = field(row, false)?;
        if is_of_day(&field) {
            return Ok(Value::Double(0.0));
        }
        of_time(&field, row.int(1) * MICROS_PER_DAY)
    }),
    overload(&[Text, Interval], Double, |row| {
        of_interval(&field(row, false)?, row.interval(1), row.text(0))
    }),
    overload(&[Text, Time], Double, of_clock),
];

const DATE_TRUNC: &[Overload] = &[
    overload(&[Text, Timestamp], Timestamp, |row| {
        Ok(Value::Int(truncated(&field(row, false)?, row.int(1), row.text(0))?))
    }),
    overload(&[Text, TimestampTz], TimestampTz, |row| {
        Ok(Value::Int(truncated(&field(row, false)?, row.int(1), row.text(0))?))
    }),
    overload(&[Text, Interval], Interval, |row| {
        truncated_interval(&field(row, false)?, row.interval(1), row.text(0))
    }),
    overload(&[Text, TimestampTz, Text], TimestampTz, |row| {
        let local = zone::to_local(row.int(1), row.text(2))?;
        let unit = field(row, false)?;
        // A unit of less than a day keeps the offset of UTC, also where the local time comes twice.
        if is_of_day(&unit) {
            return Ok(Value::Int(row.int(1) - (local - truncated(&unit, local, row.text(0))?)));
        }
        let begin = truncated(&field(row, false)?, local, row.text(0))?;
        Ok(Value::Int(zone::to_utc(begin, row.text(2))?))
    }),
];

const DATE_PLUS: &[Overload] =
    &[overload(&[Date, BigInt], Date, |row| Ok(Value::Int(row.int(0).saturating_add(row.int(1)))))];
const DATE_MINUS: &[Overload] = &[
    overload(&[Date, Date], Int, |row| Ok(Value::Int(row.int(0) - row.int(1)))),
    overload(&[Date, BigInt], Date, |row| Ok(Value::Int(row.int(0).saturating_sub(row.int(1))))),
];

/// A day so many days later.
pub fn date_plus(date: Expr, days: Expr) -> Expr {
    function("date_plus", &[], DATE_PLUS, None).call(vec![date, days])
}

/// The days between two, or a day so many days earlier.
pub fn date_minus(date: Expr, other: Expr) -> Expr {
    function("date_minus", &[], DATE_MINUS, None).call(vec![date, other])
}

const TIME_PLUS: &[Overload] = &[
    overload(&[Date, Time], Timestamp, |row| {
        Ok(Value::Int(row.int(0).saturating_mul(MICROS_PER_DAY).saturating_add(row.int(1))))
    }),
    overload(&[Time, Interval], Time, |row| Ok(moved(row.int(0), row.interval(1).nanoseconds))),
];
const TIME_MINUS: &[Overload] = &[
    overload(&[Time, Interval], Time, |row| {
        Ok(moved(row.int(0), row.interval(1).nanoseconds.saturating_neg()))
    }),
    overload(&[Time, Time], Interval, |row| {
        Ok(Value::Interval(IntervalMonthDayNano::new(0, 0, (row.int(0) - row.int(1)) * 1000)))
    }),
];

/// A time of day on a date, or later by an interval, over midnight as well.
pub fn time_plus(one: Expr, other: Expr) -> Expr {
    function("time_plus", &[], TIME_PLUS, None).call(vec![one, other])
}

/// A time of day earlier by an interval, or the interval since another one.
pub fn time_minus(time: Expr, other: Expr) -> Expr {
    function("time_minus", &[], TIME_MINUS, None).call(vec![time, other])
}

fn moved(time: i64, nanoseconds: i64) -> Value {
    Value::Int((time + nanoseconds / 1000).rem_euclid(MICROS_PER_DAY))
}

const MAKE_TIME: &[Overload] = &[overload(&[Int, Int, Double], Time, |row| {
    Ok(Value::Int(clock(row.int(0), row.int(1), row.double(2))?))
})];

const DATE_BIN: &[Overload] = &[
    overload(&[Interval, Timestamp, Timestamp], Timestamp, date_bin),
    // Ours: without an origin bins begin at 1970.
    overload(&[Interval, Timestamp], Timestamp, date_bin),
    overload(&[Interval, TimestampTz], TimestampTz, date_bin),
    overload(&[Interval, TimestampTz, TimestampTz], TimestampTz, date_bin),
];

const TIMEZONE: &[Overload] = &[
    overload(&[Text, TimestampTz], Timestamp, |row| {
        Ok(Value::Int(zone::to_local(row.int(1), row.text(0))?))
    }),
    overload(&[Text, Timestamp], TimestampTz, |row| {
        Ok(Value::Int(zone::to_utc(row.int(1), row.text(0))?))
    }),
    overload(&[Interval, TimestampTz], Timestamp, |row| {
        Ok(Value::Int(row.int(1) + offset(row.interval(0))?))
    }),
    overload(&[Interval, Timestamp], TimestampTz, |row| {
        Ok(Value::Int(row.int(1) - offset(row.interval(0))?))
    }),
];

const MAKE_DATE: &[Overload] = &[overload(&[Int, Int, Int], Date, |row| {
    Ok(Value::Int(date(row.int(0), row.int(1), row.int(2))?))
})];

const MAKE_TIMESTAMP: &[Overload] =
    &[overload(&[Int, Int, Int, Int, Int, Double], Timestamp, |row| Ok(Value::Int(instant(row)?)))];

const MAKE_TIMESTAMPTZ: &[Overload] = &[
    overload(&[Int, Int, Int, Int, Int, Double], TimestampTz, |row| Ok(Value::Int(instant(row)?))),
    overload(&[Int, Int, Int, Int, Int, Double, Text], TimestampTz, |row| {
        Ok(Value::Int(zone::to_utc(instant(row)?, row.text(6))?))
    }),
];

const TO_TIMESTAMP: &[Overload] = &[
    overload(&[Double], TimestampTz, to_timestamp),
    overload(&[Text, Text], TimestampTz, |row| {
        Ok(Value::Int(parse_time::instant(row.text(0), row.text(1))?))
    }),
];

const AGE: &[Overload] = &[
    overload(&[Timestamp, Timestamp], Interval, |row| age(row.int(0), row.int(1))),
    overload(&[TimestampTz, TimestampTz], Interval, |row| age(row.int(0), row.int(1))),
];

const ISFINITE: &[Overload] = &[
    overload(&[Date], Type::Boolean, |_| Ok(Value::Boolean(true))),
    overload(&[Timestamp], Type::Boolean, |_| Ok(Value::Boolean(true))),
    overload(&[TimestampTz], Type::Boolean, |_| Ok(Value::Boolean(true))),
    overload(&[Interval], Type::Boolean, |_| Ok(Value::Boolean(true))),
];

const MAKE_INTERVAL: &[Overload] = &[
    overload(&[Int], Interval, make_interval),
    overload(&[Int, Int], Interval, make_interval),
    overload(&[Int, Int, Int], Interval, make_interval),
    overload(&[Int, Int, Int, Int], Interval, make_interval),
    overload(&[Int, Int, Int, Int, Int], Interval, make_interval),
    overload(&[Int, Int, Int, Int, Int, Int], Interval, make_interval),
    overload(&[Int, Int, Int, Int, Int, Int, Double], Interval, make_interval),
];

const JUSTIFY_DAYS: &[Overload] =
    &[overload(&[Interval], Interval, |row| justified(row.interval(0), true, false))];
const JUSTIFY_HOURS: &[Overload] =
    &[overload(&[Interval], Interval, |row| justified(row.interval(0), false, true))];
const JUSTIFY_INTERVAL: &[Overload] =
    &[overload(&[Interval], Interval, |row| justified(row.interval(0), true, true))];

// `extract` gives a decimal: whole, or with the digits that the field has.

const EXTRACT_WHOLE: &[Overload] = &extract::<0>();
const EXTRACT_MILLIS: &[Overload] = &extract::<3>();
const EXTRACT_MICROS: &[Overload] = &extract::<6>();

const fn extract<const SCALE: i8>() -> [Overload; 5] {
    [
        overload(&[Text, Timestamp], Type::Decimal(SCALE), |row| {
            exact(&field(row, false)?, row.int(1), SCALE)
        }),
        overload(&[Text, TimestampTz], Type::Decimal(SCALE), |row| {
            exact(&field(row, true)?, row.int(1), SCALE)
        }),
        overload(&[Text, Date], Type::Decimal(SCALE), |row| {
            let field = field(row, false)?;
            if is_of_day(&field) {
                return unknown(row.text(0));
            }
            unscaled(of_time(&field, row.int(1) * MICROS_PER_DAY)?, SCALE)
        }),
        overload(&[Text, Interval], Type::Decimal(SCALE), |row| {
            unscaled(of_interval(&field(row, false)?, row.interval(1), row.text(0))?, SCALE)
        }),
        overload(&[Text, Time], Type::Decimal(SCALE), |row| unscaled(of_clock(row)?, SCALE)),
    ]
}

fn is_of_day(field: &Field) -> bool {
    matches!(
        field,
        Field::Hour | Field::Minute | Field::Second | Field::Millisecond | Field::Microsecond
    )
}

/// A part of a time as a number of a decimal's last digit.
fn exact(field: &Field, micros: i64, scale: i8) -> Result<Value> {
    match (field, scale) {
        // No float has all digits of these.
        (Field::Epoch, 6) => Ok(Value::Int(micros)),
        (field, scale) => unscaled(of_time(field, micros)?, scale),
    }
}

/// A number as one of a decimal's last digit.
fn unscaled(value: Value, scale: i8) -> Result<Value> {
    let Value::Double(value) = value else { return Ok(value) };
    let unit = 10_f64.powi(i32::from(scale));
    Ok(Value::Int((value * unit).round_ties_even() as i64))
}

/// `extract(field FROM time)`, the digits of whose result the field decides.
#[derive(Debug)]
pub struct Extract;

impl ExprPlanner for Extract {
    fn plan_extract(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        let word = match args.first() {
            Some(Expr::Literal(value, _)) => value.to_string().to_ascii_lowercase(),
            _ => return Ok(PlannerResult::Original(args)),
        };
        let of = match word.as_str() {
            "second" | "seconds" | "epoch" => function("extract_micros", &[], EXTRACT_MICROS, None),
            "millisecond" | "milliseconds" => function("extract_millis", &[], EXTRACT_MILLIS, None),
            "julian" => {
                return plan_err!(
                    "extract(julian FROM …) is not supported: date_part('julian', …) is"
                );
            }
            _ => function("extract", &[], EXTRACT_WHOLE, None),
        };
        Ok(PlannerResult::Planned(of.call(args)))
    }
}

/// The functions, in the place of DataFusion's where it has them.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    vec![
        function("date_part", &["datepart"], DATE_PART, None),
        function("date_trunc", &["datetrunc"], DATE_TRUNC, None),
        function("date_bin", &[], DATE_BIN, None),
        function("timezone", &[], TIMEZONE, None),
        function("make_date", &[], MAKE_DATE, None),
        function("make_time", &[], MAKE_TIME, None),
        function("make_timestamp", &[], MAKE_TIMESTAMP, None),
        function("make_timestamptz", &[], MAKE_TIMESTAMPTZ, None),
        function("to_timestamp", &[], TO_TIMESTAMP, None),
        function("age", &[], AGE, None),
        function("make_interval", &[], MAKE_INTERVAL, None),
        function("isfinite", &[], ISFINITE, None),
        function("justify_days", &[], JUSTIFY_DAYS, None),
        function("justify_hours", &[], JUSTIFY_HOURS, None),
        function("justify_interval", &[], JUSTIFY_INTERVAL, None),
    ]
}

/// A part of a time.
enum Field {
    Millennium,
    Century,
    Decade,
    Year,
    IsoYear,
    Quarter,
    Month,
    Week,
    Day,
    DayOfWeek,
    IsoDayOfWeek,
    DayOfYear,
    Hour,
    Minute,
    Second,
    Millisecond,
    Microsecond,
    Epoch,
    Julian,
    /// The zone's offset, which is UTC's.
    Zone,
}

fn field(row: &CallRow<'_>, zoned: bool) -> Result<Field> {
    let word = row.text(0).to_ascii_lowercase();
    Ok(match word.as_str() {
        "millennium" | "millennia" | "mil" | "mils" => Field::Millennium,
        "century" | "centuries" | "cent" | "c" => Field::Century,
        "decade" | "decades" | "dec" | "decs" => Field::Decade,
        "year" | "years" | "yr" | "yrs" | "y" => Field::Year,
        "isoyear" => Field::IsoYear,
        "quarter" | "qtr" => Field::Quarter,
        "month" | "months" | "mon" | "mons" => Field::Month,
        "week" | "weeks" | "w" => Field::Week,
        "day" | "days" | "d" => Field::Day,
        "dow" => Field::DayOfWeek,
        "isodow" => Field::IsoDayOfWeek,
        "doy" => Field::DayOfYear,
        "hour" | "hours" | "hr" | "hrs" | "h" => Field::Hour,
        "minute" | "minutes" | "min" | "mins" | "m" => Field::Minute,
        "second" | "seconds" | "sec" | "secs" | "s" => Field::Second,
        "millisecond" | "milliseconds" | "msec" | "msecs" | "ms" => Field::Millisecond,
        "microsecond" | "microseconds" | "usec" | "usecs" | "us" => Field::Microsecond,
        "epoch" => Field::Epoch,
        "julian" | "j" => Field::Julian,
        "timezone" | "timezone_hour" | "timezone_minute" if zoned => Field::Zone,
        _ => return unknown(&word),
    })
}

fn unknown<T>(word: &str) -> Result<T> {
    exec_err!("unit \"{word}\" not recognized or not supported for this type")
}

/// A year's group of so many, counted from 1 with no group 0.
fn group(year: i64, of: i64) -> i64 {
    if year > 0 { (year + of - 1) / of } else { -((of - 1 - (year - 1)) / of) }
}

fn of_time(field: &Field, micros: i64) -> Result<Value> {
    let days = micros.div_euclid(MICROS_PER_DAY);
    let time = micros.rem_euclid(MICROS_PER_DAY);
    let (year, month, day) = calendar::civil(days);
    let seconds = (time % MICROS_PER_MINUTE) as f64;
    let whole = match field {
        Field::Second => return Ok(Value::Double(seconds / 1e6)),
        Field::Millisecond => return Ok(Value::Double(seconds / 1e3)),
        Field::Microsecond => return Ok(Value::Double(seconds)),
        Field::Epoch => return Ok(Value::Double(micros as f64 / 1e6)),
        Field::Julian => {
            let day = (days + JULIAN_EPOCH) as f64;
            return Ok(Value::Double(day + time as f64 / MICROS_PER_DAY as f64));
        }
        Field::Millennium => group(year, 1000),
        Field::Century => group(year, 100),
        Field::Decade => year.div_euclid(10),
        Field::Year => {
            if year > 0 {
                year
            } else {
                year - 1
            }
        }
        Field::IsoYear => {
            let year = calendar::iso_week(days).0;
            if year > 0 { year } else { year - 1 }
        }
        Field::Quarter => (month - 1) / 3 + 1,
        Field::Month => month,
        Field::Week => calendar::iso_week(days).1,
        Field::Day => day,
        Field::DayOfWeek => calendar::weekday(days),
        Field::IsoDayOfWeek => (calendar::weekday(days) + 6) % 7 + 1,
        Field::DayOfYear => calendar::day_of_year(days),
        Field::Hour => time / MICROS_PER_HOUR,
        Field::Minute => time / MICROS_PER_MINUTE % 60,
        Field::Zone => 0,
    };
    Ok(Value::Double(whole as f64))
}

/// A part of a time of day, the second argument.
fn of_clock(row: &CallRow<'_>) -> Result<Value> {
    let (field, time) = (field(row, false)?, row.int(1));
    match field {
        // The end of the day is 24:00.
        Field::Hour => Ok(Value::Double((time / MICROS_PER_HOUR) as f64)),
        Field::Epoch => Ok(Value::Double(time as f64 / 1e6)),
        field if is_of_day(&field) => of_time(&field, time),
        _ => unknown(row.text(0)),
    }
}

fn of_interval(field: &Field, value: IntervalMonthDayNano, word: &str) -> Result<Value> {
    let micros = value.nanoseconds / 1000;
    let years = i64::from(value.months / 12);
    let months = i64::from(value.months % 12);
    let seconds = (micros % MICROS_PER_MINUTE) as f64;
    let whole = match field {
        Field::Second => return Ok(Value::Double(seconds / 1e6)),
        Field::Millisecond => return Ok(Value::Double(seconds / 1e3)),
        Field::Microsecond => return Ok(Value::Double(seconds)),
        Field::Epoch => {
            // A year has 365.25 days, a month of what is left 30.
            let days = years as f64 * 365.25 + (months * 30 + i64::from(value.days)) as f64;
            return Ok(Value::Double(micros as f64 / 1e6 + days * 86_400.0));
        }
        Field::Millennium => years / 1000,
        Field::Century => years / 100,
        Field::Decade => years / 10,
        Field::Year => years,
        Field::Quarter => months / 3 + 1,
        Field::Month => months,
        Field::Day => i64::from(value.days),
        Field::Hour => micros / MICROS_PER_HOUR,
        Field::Minute => micros / MICROS_PER_MINUTE % 60,
        _ => return unknown(word),
    };
    Ok(Value::Double(whole as f64))
}

fn truncated(field: &Field, micros: i64, word: &str) -> Result<i64> {
    let days = micros.div_euclid(MICROS_PER_DAY);
    let (year, month, _) = calendar::civil(days);
    let floor = |unit: i64| Ok(micros.div_euclid(unit) * unit);
    let begin = |year: i64, month: i64| Ok(calendar::days(year, month, 1) * MICROS_PER_DAY);
    match field {
        Field::Microsecond => Ok(micros),
        Field::Millisecond => floor(1000),
        Field::Second => floor(MICROS_PER_SECOND),
        Field::Minute => floor(MICROS_PER_MINUTE),
        Field::Hour => floor(MICROS_PER_HOUR),
        Field::Day => floor(MICROS_PER_DAY),
        Field::Week => Ok((days - (calendar::weekday(days) + 6) % 7) * MICROS_PER_DAY),
        Field::Month => begin(year, month),
        Field::Quarter => begin(year, (month - 1) / 3 * 3 + 1),
        Field::Year => begin(year, 1),
        Field::Decade => begin(year.div_euclid(10) * 10, 1),
        Field::Century => begin((year - 1).div_euclid(100) * 100 + 1, 1),
        Field::Millennium => begin((year - 1).div_euclid(1000) * 1000 + 1, 1),
        _ => unknown(word),
    }
}

fn truncated_interval(field: &Field, value: IntervalMonthDayNano, word: &str) -> Result<Value> {
    let micros = value.nanoseconds / 1000;
    let months = |of: i32| IntervalMonthDayNano::new(value.months / of * of, 0, 0);
    let time = |unit: i64| {
        IntervalMonthDayNano::new(value.months, value.days, micros / unit * unit * 1000)
    };
    Ok(Value::Interval(match field {
        Field::Millennium => months(12_000),
        Field::Century => months(1_200),
        Field::Decade => months(120),
        Field::Year => months(12),
        Field::Quarter => months(3),
        Field::Month => months(1),
        Field::Day => IntervalMonthDayNano::new(value.months, value.days, 0),
        Field::Hour => time(MICROS_PER_HOUR),
        Field::Minute => time(MICROS_PER_MINUTE),
        Field::Second => time(MICROS_PER_SECOND),
        Field::Millisecond => time(1000),
        Field::Microsecond => time(1),
        _ => return unknown(word),
    }))
}

fn date_bin(row: &CallRow<'_>) -> Result<Value> {
    let stride = row.interval(0);
    if stride.months != 0 {
        return exec_err!("timestamps cannot be binned into intervals containing months or years");
    }
    let stride = i64::from(stride.days) * MICROS_PER_DAY + stride.nanoseconds / 1000;
    if stride <= 0 {
        return exec_err!("stride must be greater than zero");
    }
    let (time, origin) = (row.int(1), row.int_or(2, 0));
    // Towards the origin first, then one back where the time is before it.
    let since = time - origin;
    let mut whole = since - since % stride;
    if since < 0 && since % stride != 0 {
        whole -= stride;
    }
    Ok(Value::Int(origin + whole))
}

/// Microseconds east of Greenwich.
fn offset(value: IntervalMonthDayNano) -> Result<i64> {
    if value.months != 0 || value.days != 0 {
        return exec_err!("interval time zone must not include months or days");
    }
    Ok(value.nanoseconds / 1000)
}

/// The day of a date; a negative year is one BC.
fn date(year: i64, month: i64, day: i64) -> Result<i64> {
    let number = if year < 0 { year + 1 } else { year };
    let valid = year != 0
        && (1..=12).contains(&month)
        && (1..=calendar::days_of_month(number, month)).contains(&day)
        && year < 5_874_898;
    match valid {
        true => Ok(calendar::days(number, month, day)),
        false => exec_err!("date field value out of range: {year}-{month:02}-{day:02}"),
    }
}

fn instant(row: &CallRow<'_>) -> Result<i64> {
    let days = date(row.int(0), row.int(1), row.int(2))?;
    Ok(days * MICROS_PER_DAY + clock(row.int(3), row.int(4), row.double(5))?)
}

fn clock(hour: i64, minute: i64, second: f64) -> Result<i64> {
    // The end of the day is 24:00:00, and a minute may end with 60 seconds.
    let micros = (second * 1e6).round_ties_even();
    let time = hour.saturating_mul(MICROS_PER_HOUR).saturating_add(minute * MICROS_PER_MINUTE);
    let valid = (0..=24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..=60e6).contains(&micros)
        && time + micros as i64 <= MICROS_PER_DAY;
    match valid {
        true => Ok(time + micros as i64),
        false => exec_err!("time field value out of range: {hour}:{minute:02}:{second}"),
    }
}

fn to_timestamp(row: &CallRow<'_>) -> Result<Value> {
    let seconds = row.double(0);
    // From 4714 BC to the year 294276.
    if !(-210_866_803_200.0..9_224_318_016_000.0).contains(&seconds) {
        return exec_err!("timestamp out of range: \"{seconds}\"");
    }
    Ok(Value::Int((seconds * 1e6).round_ties_even() as i64))
}

/// Years, months, weeks, days, hours, minutes and seconds.
fn make_interval(row: &CallRow<'_>) -> Result<Value> {
    let part = |n: usize| row.int_or(n, 0);
    let seconds = if row.len() > 6 { row.double(6) } else { 0.0 };
    let (months, days) = (part(0) * 12 + part(1), part(2) * 7 + part(3));
    let micros = i128::from(part(4)) * i128::from(MICROS_PER_HOUR)
        + i128::from(part(5)) * i128::from(MICROS_PER_MINUTE)
        + (seconds * 1e6).round_ties_even() as i128;
    let nanos = i64::try_from(micros * 1000);
    match (i32::try_from(months), i32::try_from(days), nanos) {
        (Ok(months), Ok(days), Ok(nanos)) if seconds.is_finite() => {
            Ok(Value::Interval(IntervalMonthDayNano::new(months, days, nanos)))
        }
        _ => exec_err!("interval out of range"),
    }
}

/// The difference in years, months, days and time, with the months of the earlier one.
fn age(later: i64, earlier: i64) -> Result<Value> {
    let negative = later < earlier;
    let parts = |micros: i64| {
        let (year, month, day) = calendar::civil(micros.div_euclid(MICROS_PER_DAY));
        (year * 12 + month - 1, day, micros.rem_euclid(MICROS_PER_DAY))
    };
    let (to, from) = (parts(later), parts(earlier));
    let (mut months, mut days, mut time) = (to.0 - from.0, to.1 - from.1, to.2 - from.2);
    if negative {
        (months, days, time) = (-months, -days, -time);
    }
    if time < 0 {
        time += MICROS_PER_DAY;
        days -= 1;
    }
    while days < 0 {
        let at = if negative { to.0 } else { from.0 };
        days += calendar::days_of_month(at.div_euclid(12), at.rem_euclid(12) + 1);
        months -= 1;
    }
    let sign = if negative { -1 } else { 1 };
    let value =
        IntervalMonthDayNano::new((months * sign) as i32, (days * sign) as i32, time * sign * 1000);
    Ok(Value::Interval(value))
}

/// Whole days of the time as days, whole months of 30 days as months, with one sign.
fn justified(value: IntervalMonthDayNano, to_months: bool, to_days: bool) -> Result<Value> {
    let (mut months, mut days) = (i64::from(value.months), i64::from(value.days));
    let mut micros = value.nanoseconds / 1000;
    if to_days {
        // Days that would pass the month's sign go to months first.
        if to_months && ((days > 0 && micros > 0) || (days < 0 && micros < 0)) {
            months += days / 30;
            days %= 30;
        }
        days += micros / MICROS_PER_DAY;
        micros %= MICROS_PER_DAY;
    }
    if to_months {
        months += days / 30;
        days %= 30;
        if months > 0 && (days < 0 || (to_days && days == 0 && micros < 0)) {
            (months, days) = (months - 1, days + 30);
        } else if months < 0 && (days > 0 || (to_days && days == 0 && micros > 0)) {
            (months, days) = (months + 1, days - 30);
        }
    }
    if to_days {
        if days > 0 && micros < 0 {
            (days, micros) = (days - 1, micros + MICROS_PER_DAY);
        } else if days < 0 && micros > 0 {
            (days, micros) = (days + 1, micros - MICROS_PER_DAY);
        }
    }
    match (i32::try_from(months), i32::try_from(days)) {
        (Ok(months), Ok(days)) => {
            Ok(Value::Interval(IntervalMonthDayNano::new(months, days, micros * 1000)))
        }
        _ => exec_err!("interval out of range"),
    }
}
