//! Values as text, as PostgreSQL writes them: with DateStyle ISO, IntervalStyle postgres and the time zone UTC.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Float32Type, Float64Type, Int64Type, IntervalMonthDayNano,
    IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, TimeUnit,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion_common::Result;

use super::calendar::{self, MICROS_PER_DAY};
use crate::model::interval::{clock_text, push_clock};

/// The exponent from which a float is written with one: as many digits as it surely has.
const DOUBLE_EXPONENT_MIN: i32 = 15;
const REAL_EXPONENT_MIN: i32 = 6;

/// Writes the values of an array.
pub struct Writer {
    values: ArrayRef,
    form: Form,
}

enum Form {
    Text,
    Boolean {
        short: bool,
    },
    Double,
    Real,
    Date,
    Timestamp {
        zone: bool,
    },
    Interval,
    Time,
    Bytes,
    Array(Box<Writer>),
    Null,
    /// As Arrow writes it: integers, decimals.
    Plain,
}

impl Writer {
    /// `short`: a truth value is `t` or `f`, as a function's result is written, not `true`, as a cast gives it.
    pub fn new(array: &ArrayRef, short: bool) -> Result<Self> {
        let micros = |zone: bool| -> Result<(ArrayRef, Form)> {
            Ok((micros_of(array)?, Form::Timestamp { zone }))
        };
        let as_type = |data_type: DataType| cast(array, &data_type);
        let (values, form) = match array.data_type() {
            DataType::Null => (as_type(DataType::Utf8)?, Form::Null),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                (as_type(DataType::Utf8)?, Form::Text)
            }
            DataType::Boolean => (array.clone(), Form::Boolean { short }),
            DataType::Float64 => (array.clone(), Form::Double),
            DataType::Float16 | DataType::Float32 => (as_type(DataType::Float32)?, Form::Real),
            DataType::Date32 | DataType::Date64 => (as_type(DataType::Date32)?, Form::Date),
            DataType::Timestamp(_, zone) => micros(zone.is_some())?,
            DataType::Interval(_) => {
                (as_type(DataType::Interval(IntervalUnit::MonthDayNano))?, Form::Interval)
            }
            DataType::Time32(_) | DataType::Time64(_) => {
                (as_type(DataType::Time64(TimeUnit::Microsecond))?, Form::Time)
            }
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                (as_type(DataType::Binary)?, Form::Bytes)
            }
            DataType::List(_) => {
                let items = Writer::new(array.as_list::<i32>().values(), true)?;
                (array.clone(), Form::Array(Box::new(items)))
            }
            _ => (array.clone(), Form::Plain),
        };
        Ok(Writer { values, form })
    }

    /// The text of the value in this row; `None` for NULL.
    pub fn text(&self, row: usize) -> Result<Option<String>> {
        if self.values.is_null(row) {
            return Ok(None);
        }
        let values = &self.values;
        Ok(Some(match &self.form {
            Form::Null => return Ok(None),
            Form::Text => values.as_string::<i32>().value(row).to_string(),
            Form::Boolean { short } => match (values.as_boolean().value(row), short) {
                (true, true) => "t".to_string(),
                (false, true) => "f".to_string(),
                (value, false) => value.to_string(),
            },
            Form::Double => double(values.as_primitive::<Float64Type>().value(row)),
            Form::Real => real(values.as_primitive::<Float32Type>().value(row)),
            Form::Date => date(values.as_primitive::<Date32Type>().value(row)),
            Form::Timestamp { zone } => {
                timestamp(values.as_primitive::<Int64Type>().value(row), *zone)
            }
            Form::Interval => {
                interval(values.as_primitive::<IntervalMonthDayNanoType>().value(row))
            }
            Form::Time => clock_text(values.as_primitive::<Time64MicrosecondType>().value(row)),
            Form::Bytes => bytes(values.as_binary::<i32>().value(row)),
            Form::Array(items) => {
                let offsets = values.as_list::<i32>().value_offsets();
                items.array(offsets[row] as usize, offsets[row + 1] as usize)?
            }
            Form::Plain => {
                ArrayFormatter::try_new(values, &FormatOptions::default())?.value(row).to_string()
            }
        }))
    }

    fn array(&self, from: usize, to: usize) -> Result<String> {
        let mut out = String::from("{");
        for at in from..to {
            if at > from {
                out.push(',');
            }
            match self.text(at)? {
                None => out.push_str("NULL"),
                Some(text) if matches!(self.form, Form::Array(_)) => out.push_str(&text),
                Some(text) => push_element(&mut out, &text),
            }
        }
        out.push('}');
        Ok(out)
    }
}

fn push_element(out: &mut String, text: &str) {
    let special = |c: char| "{},\"\\".contains(c) || c.is_ascii_whitespace() || c == '\u{b}';
    if !text.is_empty() && !text.contains(special) && !text.eq_ignore_ascii_case("null") {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        if c == '"' || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// All values as text.
pub fn texts(array: &ArrayRef, short: bool) -> Result<StringArray> {
    let writer = Writer::new(array, short)?;
    (0..array.len()).map(|row| writer.text(row)).collect()
}

/// Instants as microseconds since the epoch.
pub fn micros_of(array: &ArrayRef) -> Result<ArrayRef> {
    let DataType::Timestamp(_, zone) = array.data_type() else {
        let micros = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
        return Ok(cast(&micros, &DataType::Int64)?);
    };
    let micros = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
    Ok(cast(&cast(array, &micros)?, &DataType::Int64)?)
}

pub fn double(value: f64) -> String {
    float(value, &format!("{value:e}"), DOUBLE_EXPONENT_MIN)
}

pub fn real(value: f32) -> String {
    float(f64::from(value), &format!("{value:e}"), REAL_EXPONENT_MIN)
}

/// `scientific` has the fewest digits that are read back as the same number.
fn float(value: f64, scientific: &str, exponent_min: i32) -> String {
    if value.is_nan() {
        return "NaN".to_string();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_string();
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= exponent_min {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let sign = if mantissa.starts_with('-') { "-" } else { "" };
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    if exponent < 0 {
        let zeros = "0".repeat((-exponent - 1) as usize);
        return format!("{sign}0.{zeros}{digits}");
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        return format!("{sign}{digits}{}", "0".repeat(whole - digits.len()));
    }
    format!("{sign}{}.{}", &digits[..whole], &digits[whole..])
}

pub fn bytes(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("\\x"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub fn date(days: i32) -> String {
    let (year, month, day) = calendar::civil(i64::from(days));
    let era = if year <= 0 { " BC" } else { "" };
    format!("{:04}-{month:02}-{day:02}{era}", calendar::year_of_era(year))
}

/// The text of an instant: with `zone` the offset of UTC is written, too.
pub fn timestamp(micros: i64, zone: bool) -> String {
    let (days, time) = (micros.div_euclid(MICROS_PER_DAY), micros.rem_euclid(MICROS_PER_DAY));
    let (year, month, day) = calendar::civil(days);
    let mut text = format!("{:04}-{month:02}-{day:02} ", calendar::year_of_era(year));
    push_clock(&mut text, time);
    if zone {
        text.push_str("+00");
    }
    if year <= 0 {
        text.push_str(" BC");
    }
    text
}

pub fn interval(value: IntervalMonthDayNano) -> String {
    let mut text = String::new();
    let mut behind_negative = false;
    let parts = [(value.months / 12, "year"), (value.months % 12, "mon"), (value.days, "day")];
    for (count, unit) in parts {
        if count == 0 {
            continue;
        }
        let space = if text.is_empty() { "" } else { " " };
        let sign = if behind_negative && count > 0 { "+" } else { "" };
        let plural = if count == 1 { "" } else { "s" };
        let _ = write!(text, "{space}{sign}{count} {unit}{plural}");
        behind_negative = count < 0;
    }
    let micros = value.nanoseconds / 1000;
    if micros != 0 || text.is_empty() {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(match micros < 0 {
            true => "-",
            false if behind_negative => "+",
            false => "",
        });
        let micros = micros.unsigned_abs() as i64;
        push_clock(&mut text, micros);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_have_an_exponent_from_their_sure_digits_on() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (100.0, "100"),
            (123456.789, "123456.789"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
        ] {
            assert_eq!(double(value), text);
        }
        assert_eq!(real(1e6), "1e+06");
        assert_eq!(real(16777216.0), "1.6777216e+07");
    }
}
