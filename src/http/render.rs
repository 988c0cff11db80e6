//! Rows in Arrow → JSON objects.

use std::io::Write;

use arrow::array::{Array, ArrowPrimitiveType, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, DecimalType, Field, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType, IntervalUnit,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Duration, NaiveDate, SecondsFormat, Utc};
use serde_json::value::RawValue;

use crate::model::interval;
use crate::model::schema::{SqlField, SqlType};

/// How values are written where JSON leaves a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenderOptions {
    /// 64-bit integers as text, for readers whose numbers are doubles.
    pub int64_as_text: bool,
}

/// Appends the rows of a batch as JSON objects with commas between them; `first` says whether one
/// has been written before, and is kept up to date.
pub fn write_rows(
    batch: &RecordBatch,
    options: RenderOptions,
    first: &mut bool,
    out: &mut Vec<u8>,
) {
    let schema = batch.schema();
    for row in 0..batch.num_rows() {
        if !std::mem::take(first) {
            out.push(b',');
        }
        let columns = schema.fields().iter().map(|f| f.as_ref()).zip(batch.columns());
        write_object(columns.map(|(f, a)| (f, a.as_ref())), row, options, out);
    }
}

fn write_object<'a>(
    members: impl Iterator<Item = (&'a Field, &'a dyn Array)>,
    row: usize,
    options: RenderOptions,
    out: &mut Vec<u8>,
) {
    out.push(b'{');
    for (i, (field, array)) in members.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_text(field.name(), out);
        out.push(b':');
        write_value(field, array, row, options, out);
    }
    out.push(b'}');
}

fn write_value(
    field: &Field,
    array: &dyn Array,
    row: usize,
    options: RenderOptions,
    out: &mut Vec<u8>,
) {
    if array.is_null(row) {
        return out.extend_from_slice(b"null");
    }
    match field.data_type() {
        DataType::Boolean => write_plain(array.as_boolean().value(row), out),
        DataType::Int8 => write_plain(value::<Int8Type>(array, row), out),
        DataType::Int16 => write_plain(value::<Int16Type>(array, row), out),
        DataType::Int32 => write_plain(value::<Int32Type>(array, row), out),
        DataType::UInt8 => write_plain(value::<UInt8Type>(array, row), out),
        DataType::UInt16 => write_plain(value::<UInt16Type>(array, row), out),
        DataType::UInt32 => write_plain(value::<UInt32Type>(array, row), out),
        DataType::Int64 => write_int64(value::<Int64Type>(array, row), options, out),
        DataType::UInt64 => write_int64(value::<UInt64Type>(array, row), options, out),
        DataType::Float32 => {
            let float = value::<Float32Type>(array, row);
            write_float(float, float.is_nan(), float.is_infinite(), float > 0.0, out);
        }
        DataType::Float64 => {
            let float = value::<Float64Type>(array, row);
            write_float(float, float.is_nan(), float.is_infinite(), float > 0.0, out);
        }
        DataType::Decimal128(precision, scale) => {
            let decimal = value::<Decimal128Type>(array, row);
            write_text(&Decimal128Type::format_decimal(decimal, *precision, *scale), out);
        }
        DataType::Decimal256(precision, scale) => {
            let decimal = value::<Decimal256Type>(array, row);
            write_text(&Decimal256Type::format_decimal(decimal, *precision, *scale), out);
        }
        DataType::Utf8 => write_sql_text(field, array.as_string::<i32>().value(row), out),
        DataType::LargeUtf8 => write_sql_text(field, array.as_string::<i64>().value(row), out),
        DataType::Utf8View => write_sql_text(field, array.as_string_view().value(row), out),
        DataType::Binary => write_text(&BASE64.encode(array.as_binary::<i32>().value(row)), out),
        DataType::Date32 => write_date(value::<Date32Type>(array, row), out),
        DataType::Timestamp(unit, _) => {
            write_timestamp(field, timestamp(array, *unit, row), out);
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            write_text(&interval::clock_text(value::<Time64MicrosecondType>(array, row)), out);
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            write_text(&interval::iso(value::<IntervalMonthDayNanoType>(array, row)), out);
        }
        DataType::List(item) => {
            let items = array.as_list::<i32>().value(row);
            write_list(item, items.as_ref(), options, out);
        }
        DataType::Struct(_) => write_struct(array.as_struct(), row, options, out),
        _ => write_display(array, row, out),
    }
}

fn value<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> T::Native {
    array.as_primitive::<T>().value(row)
}

/// Writing to memory cannot fail.
fn write_plain(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    let _ = write!(out, "{value}");
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(&mut *out, text);
}

fn write_int64(value: impl std::fmt::Display, options: RenderOptions, out: &mut Vec<u8>) {
    let quote: &[u8] = if options.int64_as_text { b"\"" } else { b"" };
    out.extend_from_slice(quote);
    write_plain(value, out);
    out.extend_from_slice(quote);
}

/// JSON has no numbers for these three.
fn write_float(
    float: impl serde::Serialize,
    nan: bool,
    infinite: bool,
    positive: bool,
    out: &mut Vec<u8>,
) {
    match (nan, infinite, positive) {
        (true, _, _) => out.extend_from_slice(b"\"NaN\""),
        (_, true, true) => out.extend_from_slice(b"\"Infinity\""),
        (_, true, false) => out.extend_from_slice(b"\"-Infinity\""),
        _ => _ = serde_json::to_writer(&mut *out, &float),
    }
}

/// TEXT and UUID are text; JSON stands for itself.
fn write_sql_text(field: &Field, text: &str, out: &mut Vec<u8>) {
    let is_json = SqlField::from_arrow(field).is_ok_and(|f| f.sql_type == SqlType::Json);
    if is_json && serde_json::from_str::<&RawValue>(text).is_ok() {
        out.extend_from_slice(text.as_bytes());
    } else {
        write_text(text, out);
    }
}

fn write_date(days: i32, out: &mut Vec<u8>) {
    match NaiveDate::from_epoch_days(days) {
        Some(date) => write_text(&date.to_string(), out),
        None => write_plain(days, out),
    }
}

/// A time in RFC 3339, given in microseconds since the Unix epoch.
pub fn time_text(time_us: i64) -> String {
    match DateTime::from_timestamp_micros(time_us) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        None => time_us.to_string(),
    }
}

/// Seconds and nanoseconds since the Unix epoch.
fn timestamp(array: &dyn Array, unit: TimeUnit, row: usize) -> Option<DateTime<Utc>> {
    match unit {
        TimeUnit::Second => DateTime::from_timestamp(value::<TimestampSecondType>(array, row), 0),
        TimeUnit::Millisecond => {
            DateTime::from_timestamp_millis(value::<TimestampMillisecondType>(array, row))
        }
        TimeUnit::Microsecond => {
            DateTime::from_timestamp_micros(value::<TimestampMicrosecondType>(array, row))
        }
        TimeUnit::Nanosecond => {
            let ns = value::<TimestampNanosecondType>(array, row);
            DateTime::UNIX_EPOCH.checked_add_signed(Duration::nanoseconds(ns))
        }
    }
}

/// RFC 3339 in UTC, with as many digits of a second as the column has.
fn write_timestamp(field: &Field, time: Option<DateTime<Utc>>, out: &mut Vec<u8>) {
    let precision = match SqlField::from_arrow(field).map(|f| f.sql_type) {
        Ok(SqlType::Timestamp { precision, .. }) => usize::from(precision.min(9)),
        _ => 9,
    };
    let Some(time) = time else { return out.extend_from_slice(b"null") };
    let _ = write!(out, "\"{}", time.format("%Y-%m-%dT%H:%M:%S"));
    if precision > 0 {
        let digits = format!("{:09}", time.timestamp_subsec_nanos());
        let _ = write!(out, ".{}", &digits[..precision]);
    }
    out.extend_from_slice(b"Z\"");
}

fn write_list(item: &Field, items: &dyn Array, options: RenderOptions, out: &mut Vec<u8>) {
    out.push(b'[');
    for index in 0..items.len() {
        if index > 0 {
            out.push(b',');
        }
        write_value(item, items, index, options, out);
    }
    out.push(b']');
}

fn write_struct(array: &StructArray, row: usize, options: RenderOptions, out: &mut Vec<u8>) {
    let members = array.fields().iter().map(|f| f.as_ref()).zip(array.columns());
    write_object(members.map(|(f, a)| (f, a.as_ref())), row, options, out);
}

/// Types that the dialect does not have are written as Arrow shows them.
fn write_display(array: &dyn Array, row: usize, out: &mut Vec<u8>) {
    match ArrayFormatter::try_new(array, &FormatOptions::default()) {
        Ok(formatter) => write_text(&formatter.value(row).to_string(), out),
        Err(_) => out.extend_from_slice(b"null"),
    }
}
