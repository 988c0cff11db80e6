//! Our rows and PostgreSQL's, compared by the types that our columns have.
//!
//! * Text, booleans, dates, times, bytes, UUIDs, JSON: the text that PostgreSQL writes.
//! * Floats: as near as [`super::cells`] says.
//! * Numbers: a column here has one scale, each of PostgreSQL's quotients its own. Where one side has
//!   rounded, both are rounded to the smaller scale; exact numbers must be equal.
//! * Arrays and structs: by their elements.

use std::cmp::Ordering as Order;

use arrow::array::{ArrayRef, RecordBatch};
use heliostat::internals::model::{SqlField, SqlType};
use num_bigint::BigInt;

use super::cells::{self, Compared};
use super::common_postgres::Answer;
use super::postgres_cells as written;

/// The digits that PostgreSQL gives a quotient at least; a number with fewer is exact.
const QUOTIENT_DIGITS_MIN: usize = 16;
/// The scale that a rounded column here has at least.
const ROUNDED_SCALE_MIN: usize = 6;

/// A value as both sides have it.
#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Text(String),
    Number(Number),
    Float(f64),
    Real(f32),
    /// The elements of an array, or the members of a struct.
    Several(Vec<Value>),
}

/// `digits` / 10^`scale`.
#[derive(Clone, Debug)]
pub struct Number {
    digits: BigInt,
    scale: usize,
}

/// Compares our rows of a view with PostgreSQL's answer; the error says how they differ.
pub fn compare(ours: &RecordBatch, columns: &[SqlField], theirs: &Answer) -> Result<(), String> {
    compare_types(columns, theirs)?;
    cells::compare(&values(ours, columns), &read(&theirs.rows, columns))
}

fn compare_types(columns: &[SqlField], theirs: &Answer) -> Result<(), String> {
    let types = columns.iter().zip(&theirs.types);
    let differ = types.filter(|(column, oid)| !same_type(&column.sql_type, **oid));
    let differ: Vec<String> = differ
        .map(|(column, oid)| {
            format!("{} is {} here, and {} there", column.name, column.sql_type, type_name(*oid))
        })
        .collect();
    if columns.len() != theirs.types.len() || !differ.is_empty() {
        return Err(format!(
            "types: {} columns here, {} there; {}",
            columns.len(),
            theirs.types.len(),
            differ.join(", ")
        ));
    }
    Ok(())
}

fn read(rows: &[Vec<Option<String>>], columns: &[SqlField]) -> Vec<Vec<Value>> {
    let row = |row: &Vec<Option<String>>| {
        let cells = row.iter().zip(columns);
        cells.map(|(text, column)| value(text.as_deref(), &column.sql_type)).collect()
    };
    rows.iter().map(row).collect()
}

/// Checks rows that must contain all of `least`, and beside them only rows of `most`.
#[allow(dead_code, reason = "the suites ask for it")]
pub fn compare_part(
    ours: &RecordBatch,
    columns: &[SqlField],
    least: &[Vec<Option<String>>],
    most: &Answer,
) -> Result<(), String> {
    compare_types(columns, most)?;
    let mut least = read(least, columns);
    let mut most = read(&most.rows, columns);
    for row in values(ours, columns) {
        let agrees = |theirs: &Vec<Value>| row.iter().zip(theirs).all(|(a, b)| a.agrees(b));
        if let Some(at) = least.iter().position(agrees) {
            least.swap_remove(at);
        }
        match most.iter().position(agrees) {
            Some(at) => drop(most.swap_remove(at)),
            None => return Err(format!("a row too many: {}", cells::line(&row))),
        }
    }
    match least.first() {
        Some(row) => Err(format!("a row is missing: {}", cells::line(row))),
        None => Ok(()),
    }
}

/// Our rows.
fn values(batch: &RecordBatch, columns: &[SqlField]) -> Vec<Vec<Value>> {
    let texts: Vec<Vec<Option<String>>> = batch
        .columns()
        .iter()
        .zip(columns)
        .map(|(array, column)| texts(array, &column.sql_type))
        .collect();
    (0..batch.num_rows())
        .map(|row| {
            let cells = texts.iter().zip(columns);
            cells.map(|(t, column)| value(t[row].as_deref(), &column.sql_type)).collect()
        })
        .collect()
}

/// A column as PostgreSQL writes it.
pub fn texts(column: &ArrayRef, sql_type: &SqlType) -> Vec<Option<String>> {
    let cells = written::texts(column, sql_type).into_iter();
    cells
        .map(|cell| match cell {
            written::Cell::Text(text) => Some(text),
            written::Cell::Null | written::Cell::Error => None,
        })
        .collect()
}

/// A text that PostgreSQL writes, as a value of this type. A text that is no such value stays a text.
fn value(text: Option<&str>, sql_type: &SqlType) -> Value {
    let Some(text) = text else { return Value::Null };
    let plain = Value::Text(text.to_string());
    match sql_type {
        SqlType::Boolean => Value::Text(text.chars().take(1).collect()),
        SqlType::Double => float(text).map_or(plain, Value::Float),
        SqlType::Real => float(text).map_or(plain, |value| Value::Real(value as f32)),
        SqlType::SmallInt
        | SqlType::Int
        | SqlType::BigInt
        | SqlType::SmallIntUnsigned
        | SqlType::IntUnsigned
        | SqlType::BigIntUnsigned
        | SqlType::Decimal { .. } => Number::read(text).map_or(plain, Value::Number),
        SqlType::Array(item) => match items(text, '{', '}') {
            Some(items) => {
                let read = |item_text: &Option<String>| value(item_text.as_deref(), &item.sql_type);
                Value::Several(items.iter().map(read).collect())
            }
            None => plain,
        },
        SqlType::Struct(fields) => match items(text, '(', ')') {
            Some(items) if items.len() == fields.len() => {
                let members = items.iter().zip(fields);
                Value::Several(members.map(|(t, f)| value(t.as_deref(), &f.sql_type)).collect())
            }
            _ => plain,
        },
        _ => plain,
    }
}

fn float(text: &str) -> Option<f64> {
    match text {
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        other => other.parse().ok(),
    }
}

/// The elements of an array's or a record's text. An element without quotes is NULL where it is NULL in
/// an array, or nothing in a record.
fn items(text: &str, open: char, close: char) -> Option<Vec<Option<String>>> {
    let inner = text.strip_prefix(open)?.strip_suffix(close)?;
    let mut items = Vec::new();
    if inner.is_empty() && open == '{' {
        return Some(items);
    }
    let (mut item, mut quoted, mut inside, mut depth) = (String::new(), false, false, 0);
    let mut chars = inner.chars().peekable();
    let end = |item: &mut String, quoted: &mut bool| {
        let text = std::mem::take(item);
        let null = if open == '{' { "NULL" } else { "" };
        let is_null = !std::mem::take(quoted) && text == null;
        (!is_null).then_some(text)
    };
    while let Some(c) = chars.next() {
        match c {
            '\\' => item.extend(chars.next()),
            '"' if inside && chars.peek() == Some(&'"') && open == '(' => item.extend(chars.next()),
            '"' if depth == 0 => (inside, quoted) = (!inside, true),
            ',' if !inside && depth == 0 => items.push(end(&mut item, &mut quoted)),
            c => {
                if !inside && c == '{' {
                    depth += 1;
                } else if !inside && c == '}' {
                    depth -= 1;
                }
                item.push(c);
            }
        }
    }
    items.push(end(&mut item, &mut quoted));
    Some(items)
}

impl Number {
    fn read(text: &str) -> Option<Number> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = format!("{whole}{fraction}").parse().ok()?;
        Some(Number { digits, scale: fraction.len() })
    }

    fn at_scale(&self, scale: usize) -> BigInt {
        let ten = BigInt::from(10);
        if scale >= self.scale {
            return &self.digits * ten.pow((scale - self.scale) as u32);
        }
        let unit = ten.pow((self.scale - scale) as u32);
        let half: BigInt = &unit / 2;
        match self.digits.sign() {
            num_bigint::Sign::Minus => (&self.digits - half) / unit,
            _ => (&self.digits + half) / unit,
        }
    }

    fn significant_digits(&self) -> usize {
        self.digits.magnitude().to_string().len()
    }

    /// Whether PostgreSQL may have rounded this number.
    fn may_be_rounded(&self) -> bool {
        self.scale >= QUOTIENT_DIGITS_MIN || self.significant_digits() >= QUOTIENT_DIGITS_MIN
    }

    /// Whether our number is theirs.
    fn agrees(&self, theirs: &Number) -> bool {
        let (more, less) = (self.scale.max(theirs.scale), self.scale.min(theirs.scale));
        if self.at_scale(more) == theirs.at_scale(more) {
            return true;
        }
        let rounded_here = self.scale < theirs.scale && self.scale >= ROUNDED_SCALE_MIN;
        let rounded_there = self.scale > theirs.scale && theirs.may_be_rounded();
        (rounded_here || rounded_there) && self.at_scale(less) == theirs.at_scale(less)
    }
}

impl Compared for Value {
    fn agrees(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Number(a), Value::Number(b)) => a.agrees(b),
            (Value::Float(a), Value::Float(b)) => cells::near(*a, *b),
            (Value::Real(a), Value::Real(b)) => cells::near_real(*a, *b),
            (Value::Several(a), Value::Several(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.agrees(b))
            }
            _ => false,
        }
    }

    fn order(&self, other: &Value) -> Order {
        let rank = |value: &Value| match value {
            Value::Null => 0,
            Value::Text(_) => 1,
            Value::Number(_) => 2,
            Value::Float(_) => 3,
            Value::Real(_) => 4,
            Value::Several(_) => 5,
        };
        match (self, other) {
            (Value::Text(a), Value::Text(b)) => a.cmp(b),
            (Value::Number(a), Value::Number(b)) => {
                let scale = a.scale.max(b.scale);
                a.at_scale(scale).cmp(&b.at_scale(scale))
            }
            (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
            (Value::Real(a), Value::Real(b)) => a.total_cmp(b),
            (Value::Several(a), Value::Several(b)) => {
                let items = a.iter().zip(b).map(|(a, b)| a.order(b));
                items.fold(a.len().cmp(&b.len()), Order::then)
            }
            (a, b) => rank(a).cmp(&rank(b)),
        }
    }

    fn is_near(&self) -> bool {
        matches!(self, Value::Float(_) | Value::Real(_))
    }

    fn show(&self) -> String {
        match self {
            Value::Null => "NULL".to_string(),
            Value::Text(text) => format!("{text:?}"),
            Value::Number(Number { digits, scale: 0 }) => digits.to_string(),
            Value::Number(Number { digits, scale }) => {
                let sign = if digits.sign() == num_bigint::Sign::Minus { "-" } else { "" };
                let text = format!("{:0>1$}", digits.magnitude().to_string(), scale + 1);
                let (whole, fraction) = text.split_at(text.len() - scale);
                format!("{sign}{whole}.{fraction}")
            }
            Value::Float(value) => format!("{value:?}"),
            Value::Real(value) => format!("{value:?}"),
            Value::Several(items) => {
                format!("[{}]", items.iter().map(Value::show).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// PostgreSQL's built-in types, of values and of arrays of them, and the kind that each belongs to.
const TYPES: &[(u32, u32, &str)] = &[
    (16, 1000, "boolean"),
    (20, 1016, "integer"),
    (21, 1005, "integer"),
    (23, 1007, "integer"),
    (700, 1021, "real"),
    (701, 1022, "double precision"),
    (1700, 1231, "numeric"),
    (25, 1009, "text"),
    (1042, 1014, "text"),
    (1043, 1015, "text"),
    (19, 1003, "text"),
    (18, 1002, "text"),
    (17, 1001, "bytea"),
    (1082, 1182, "date"),
    (1083, 1183, "time"),
    (1114, 1115, "timestamp"),
    (1184, 1185, "timestamp with time zone"),
    (1186, 1187, "interval"),
    (2950, 2951, "uuid"),
    (114, 199, "json"),
    (3802, 3807, "json"),
];

fn type_name(oid: u32) -> String {
    let found = TYPES.iter().find(|(value, array, _)| *value == oid || *array == oid);
    match found {
        Some((value, _, name)) if *value == oid => (*name).to_string(),
        Some((_, _, name)) => format!("{name}[]"),
        None => format!("the type {oid}"),
    }
}

/// Whether a column here has the type of PostgreSQL's column. Integers may be wider here. Types that a
/// script makes are not looked at.
fn same_type(ours: &SqlType, oid: u32) -> bool {
    fn kind(sql_type: &SqlType) -> Option<String> {
        Some(match sql_type {
            SqlType::Boolean => "boolean".to_string(),
            SqlType::SmallInt
            | SqlType::Int
            | SqlType::BigInt
            | SqlType::SmallIntUnsigned
            | SqlType::IntUnsigned => "integer".to_string(),
            SqlType::BigIntUnsigned => return None,
            SqlType::Real => "real".to_string(),
            SqlType::Double => "double precision".to_string(),
            SqlType::Decimal { .. } => "numeric".to_string(),
            SqlType::Text | SqlType::Varchar(_) => "text".to_string(),
            SqlType::Bytea => "bytea".to_string(),
            SqlType::Date => "date".to_string(),
            SqlType::Timestamp { with_time_zone: false, .. } => "timestamp".to_string(),
            SqlType::Timestamp { .. } => "timestamp with time zone".to_string(),
            SqlType::Interval => "interval".to_string(),
            SqlType::Time => "time".to_string(),
            SqlType::Uuid => "uuid".to_string(),
            SqlType::Json => "json".to_string(),
            // PostgreSQL's arrays do not tell how deep they are.
            SqlType::Array(item) => match kind(&item.sql_type)? {
                nested if nested.ends_with("[]") => nested,
                item => format!("{item}[]"),
            },
            SqlType::Struct(_) => return None,
        })
    }
    let Some(ours) = kind(ours) else { return true };
    let theirs = type_name(oid);
    ours == theirs
}
