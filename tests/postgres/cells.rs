//! Cells as both sides have them, and when they are equal.
//!
//! * Text, booleans, integers, dates, times, bytes, UUIDs and JSON: the same text as PostgreSQL writes.
//! * Floats: at most [`ULPS_MAX`] apart, since libraries round transcendental functions differently.
//!   Aggregates are compared with exact sums (`exact.rs`), since PostgreSQL's own are rounded after each
//!   addition: at most [`AGGREGATE_ULPS_MAX`] apart.
//! * NUMERIC: NaN, infinities and numbers of more digits than a column here has are errors, as are
//!   intervals with more than 292 years of time. A column here has one scale, PostgreSQL's numbers each have their own. Both are rounded to the
//!   smaller of the two scales, half away from zero, and must then be equal.
//! * Infinite timestamps are errors: no column holds them.
//! * Intervals that ordered-set aggregates choose: equal as intervals are, since either of two equal ones may be chosen.
//! * An array: its elements, by the rule of their type.

use super::ulps::ulps;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Float32Type, Float64Type, Int64Type, IntervalMonthDayNano,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimeUnit,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::Datelike;
use heliostat::internals::model::SqlType;

/// Most that floats may differ, in units in the last place.
const ULPS_MAX: u64 = 4;
/// The same of aggregates, whose last steps take several roundings.
const AGGREGATE_ULPS_MAX: u64 = 8;

const DAYS_OF_400_YEARS: i64 = 146_097;

/// The digits before the point that a DECIMAL surely has room for.
const DIGITS_MAX: usize = 28;

/// The hours that an interval has room for, in nanoseconds of 64 bits.
const HOURS_MAX: u64 = 2_562_046;

/// The result of an expression for a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Null,
    Text(String),
    Error,
}

impl Cell {
    pub fn show(&self) -> String {
        match self {
            Cell::Null => "NULL".to_string(),
            Cell::Text(text) => format!("{text:?}"),
            Cell::Error => "error".to_string(),
        }
    }
}

/// The values of a column, written as PostgreSQL writes them.
pub fn texts(column: &ArrayRef, sql_type: &SqlType) -> Vec<Cell> {
    (0..column.len())
        .map(|row| match column.is_null(row) {
            true => Cell::Null,
            false => Cell::Text(text(column, row, sql_type)),
        })
        .collect()
}

pub fn text(column: &ArrayRef, row: usize, sql_type: &SqlType) -> String {
    match sql_type {
        SqlType::Array(item) => {
            let items = column.as_list::<i32>().value(row);
            let items: Vec<String> = (0..items.len())
                .map(|at| match items.is_null(at) {
                    true => "NULL".to_string(),
                    false => element(&text(&items, at, &item.sql_type), &item.sql_type),
                })
                .collect();
            format!("{{{}}}", items.join(","))
        }
        SqlType::Struct(fields) => {
            let members = column.as_struct().columns().iter().zip(fields);
            let members: Vec<String> = members
                .map(|(member, field)| match member.is_null(row) {
                    true => String::new(),
                    false => element(&text(member, row, &field.sql_type), &SqlType::Text),
                })
                .collect();
            format!("({})", members.join(","))
        }
        SqlType::Bytea => {
            let bytes = arrow::compute::cast(column, &DataType::Binary).unwrap();
            let hex: String =
                bytes.as_binary::<i32>().value(row).iter().map(|b| format!("{b:02x}")).collect();
            format!("\\x{hex}")
        }
        SqlType::Timestamp { with_time_zone, .. } => {
            let DataType::Timestamp(unit, _) = column.data_type() else {
                panic!("a timestamp of type {}", column.data_type())
            };
            let per_second = match unit {
                TimeUnit::Second => 1,
                TimeUnit::Millisecond => 1_000,
                TimeUnit::Microsecond => 1_000_000,
                TimeUnit::Nanosecond => 1_000_000_000,
            };
            let count = arrow::compute::cast(column, &DataType::Int64).unwrap();
            timestamp(count.as_primitive::<Int64Type>().value(row), per_second, *with_time_zone)
        }
        SqlType::Date => {
            let days = column.as_primitive::<Date32Type>().value(row);
            // Years of 400 are alike, and the calendar here ends before PostgreSQL's.
            let cycles = i64::from(days).div_euclid(DAYS_OF_400_YEARS);
            let within = i64::from(days).rem_euclid(DAYS_OF_400_YEARS);
            let date = chrono::NaiveDate::default() + chrono::Duration::days(within);
            let (day, before_christ) = day(date, cycles * 400);
            day + before_christ
        }
        SqlType::Time => clock(column.as_primitive::<Time64MicrosecondType>().value(row)),
        SqlType::Interval => interval(column.as_primitive::<IntervalMonthDayNanoType>().value(row)),
        SqlType::Real => format!("{:?}", column.as_primitive::<Float32Type>().value(row)),
        SqlType::Double => format!("{:?}", column.as_primitive::<Float64Type>().value(row)),
        _ => {
            let options = FormatOptions::default();
            ArrayFormatter::try_new(column, &options).unwrap().value(row).to_string()
        }
    }
}

fn clock(micros: i64) -> String {
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}{}", seconds % 60, fraction.trim_end_matches('0'))
}

fn interval(value: IntervalMonthDayNano) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut negative = false;
    for (count, unit) in
        [(value.months / 12, "year"), (value.months % 12, "mon"), (value.days, "day")]
    {
        if count != 0 {
            let sign = if negative && count > 0 { "+" } else { "" };
            parts.push(format!("{sign}{count} {unit}{}", if count == 1 { "" } else { "s" }));
            negative = count < 0;
        }
    }
    let micros = value.nanoseconds / 1000;
    if micros != 0 || parts.is_empty() {
        let positive = if negative { "+" } else { "" };
        let sign = if micros < 0 { "-" } else { positive };
        parts.push(format!("{sign}{}", clock(micros.abs())));
    }
    parts.join(" ")
}

/// An array's element, in quotes where PostgreSQL needs them.
fn element(text: &str, sql_type: &SqlType) -> String {
    let special = |c: char| "{},\"\\".contains(c) || c.is_ascii_whitespace();
    let plain = !text.is_empty() && !text.contains(special) && !text.eq_ignore_ascii_case("null");
    if plain || matches!(sql_type, SqlType::Array(_)) {
        return text.to_string();
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn timestamp(count: i64, per_second: i64, zone: bool) -> String {
    let seconds = count.div_euclid(per_second);
    let instant = chrono::DateTime::from_timestamp(seconds, 0).expect("it is in range");
    let (day, before_christ) = day(instant.date_naive(), 0);
    let mut text = format!("{day} {}", instant.format("%H:%M:%S"));
    let nanoseconds = count.rem_euclid(per_second) * (1_000_000_000 / per_second);
    if nanoseconds != 0 {
        text.push_str(format!(".{nanoseconds:09}").trim_end_matches('0'));
    }
    if zone {
        text.push_str("+00");
    }
    text + before_christ
}

/// A day, and what follows it before the year 1.
fn day(date: chrono::NaiveDate, years: i64) -> (String, &'static str) {
    let year = i64::from(date.year()) + years;
    let (year, before_christ) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    (format!("{year:04}-{}", date.format("%m-%d")), before_christ)
}

/// Whether our cell is PostgreSQL's.
pub fn equal(ours: &Cell, theirs: &Cell, result: &str, aggregate: bool) -> bool {
    match (ours, theirs) {
        (Cell::Text(a), Cell::Text(b)) => equal_texts(a, b, result, aggregate),
        // Heliostat fails where its column cannot hold PostgreSQL's value.
        (Cell::Error, Cell::Text(b)) => match result {
            "numeric" => !is_held(b),
            "interval" => hours(b) > HOURS_MAX,
            "timestamp with time zone" => b.ends_with("infinity"),
            _ => false,
        },
        (a, b) => a == b,
    }
}

/// The hours of an interval's text.
fn hours(interval: &str) -> u64 {
    let time = interval.rsplit(' ').next().unwrap_or_default();
    let hours = time.split(':').next().unwrap_or_default();
    hours.trim_start_matches(['-', '+']).parse().unwrap_or(0)
}

/// Whether a DECIMAL has this value.
fn is_held(number: &str) -> bool {
    let whole = number.split('.').next().unwrap_or_default();
    number.bytes().any(|b| b.is_ascii_digit()) && whole.len() <= DIGITS_MAX
}

fn equal_texts(a: &str, b: &str, result: &str, aggregate: bool) -> bool {
    if a == b {
        return true;
    }
    if let Some(item) = result.strip_suffix("[]") {
        let split = |text: &str| -> Option<Vec<String>> {
            let inner = text.strip_prefix('{')?.strip_suffix('}')?;
            Some(inner.split(',').map(str::to_string).collect())
        };
        let (Some(a), Some(b)) = (split(a), split(b)) else { return false };
        let same = |(a, b): (&String, &String)| equal_texts(a, b, item, aggregate);
        return item != "text" && a.len() == b.len() && a.iter().zip(&b).all(same);
    }
    match result {
        "numeric" => match (rounded(a, scale(b)), rounded(b, scale(a))) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        },
        "double precision" | "real" => {
            let (Some(x), Some(y)) = (float(a), float(b)) else { return false };
            let near = |limit: f64| (x - y).abs() <= limit * x.abs().max(y.abs());
            match (x == y || (x.is_nan() && y.is_nan()), aggregate, result) {
                (true, _, _) => true,
                (_, _, "real") => near(f64::from(f32::EPSILON)),
                (_, true, _) => ulps(x, y) <= AGGREGATE_ULPS_MAX,
                _ => ulps(x, y) <= ULPS_MAX,
            }
        }
        "interval" if aggregate => length(a) == length(b),
        _ => false,
    }
}

/// An interval's length in microseconds: a month has 30 days.
fn length(interval: &str) -> Option<i128> {
    let mut total = 0_i128;
    let mut words = interval.split(' ').peekable();
    while let Some(word) = words.next() {
        if let Some((hours, rest)) = word.split_once(':') {
            let (minutes, seconds) = rest.split_once(':')?;
            let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
            let micros: i128 = format!("{fraction:0<6}").parse().ok()?;
            let sign = if hours.starts_with('-') { -1 } else { 1 };
            let hours: i128 = hours.trim_start_matches(['-', '+']).parse().ok()?;
            let seconds =
                hours * 3600 + minutes.parse::<i128>().ok()? * 60 + whole.parse::<i128>().ok()?;
            total += sign * (seconds * 1_000_000 + micros);
            continue;
        }
        let days = match words.next()?.trim_end_matches('s') {
            "year" => 360,
            "mon" => 30,
            _ => 1,
        };
        total += word.parse::<i128>().ok()? * days * 86_400_000_000;
    }
    Some(total)
}

fn float(text: &str) -> Option<f64> {
    match text {
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        other => other.parse().ok(),
    }
}

fn scale(number: &str) -> usize {
    number.split_once('.').map_or(0, |(_, fraction)| fraction.len())
}

/// A number's text with at most this many digits behind the point, half away from zero, without zeros that
/// mean nothing.
fn rounded(number: &str, scale: usize) -> Option<String> {
    let (negative, digits) = match number.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !whole.chars().chain(fraction.chars()).all(|c| c.is_ascii_digit()) {
        return None;
    }
    let kept = &fraction[..fraction.len().min(scale)];
    let up = fraction.as_bytes().get(scale).is_some_and(|digit| *digit >= b'5');
    let mut all: Vec<u8> = format!("0{whole}{kept}").into_bytes();
    if up {
        for digit in all.iter_mut().rev() {
            match *digit {
                b'9' => *digit = b'0',
                _ => {
                    *digit += 1;
                    break;
                }
            }
        }
    }
    let all = String::from_utf8(all).ok()?;
    let (whole, fraction) = all.split_at(all.len() - kept.len());
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let sign = if negative && !(whole.is_empty() && fraction.is_empty()) { "-" } else { "" };
    Some(format!("{sign}{whole}.{fraction}"))
}
