//! Rows in a form that can be compared across engines.

#[path = "../common/ulps.rs"]
mod ulps;

use std::cmp::Ordering;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use ulps::ulps;

/// How far floats of two engines may be apart, in units in the last place of a double: their sums
/// round after every addition, in an order of their own, and ours only once. About 1e-9.
pub const FLOAT_ULPS_MAX: u64 = 1 << 22;
/// The same for REAL, in units in the last place of a single: others sum in single precision. About 1e-5.
const REAL_ULPS_MAX: u32 = 1 << 7;
/// What may be left of a sum whose terms cancel out, where no number of units is few.
const RESIDUE_MAX: f64 = 1e-12;

#[derive(Clone, Debug)]
pub enum Cell {
    Null,
    Text(String),
    Float(f64),
    Real(f32),
}

pub type Rows = Vec<Vec<Cell>>;

/// A batch's rows, in the order that it has them.
pub fn rows(batch: &RecordBatch) -> Rows {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| (column, ArrayFormatter::try_new(column, &options).unwrap()))
        .collect();
    (0..batch.num_rows())
        .map(|row| {
            columns
                .iter()
                .map(|(column, text)| match column.data_type() {
                    _ if column.is_null(row) => Cell::Null,
                    DataType::Float64 => {
                        Cell::Float(column.as_primitive::<Float64Type>().value(row))
                    }
                    DataType::Float32 => {
                        Cell::Real(column.as_primitive::<Float32Type>().value(row))
                    }
                    _ => Cell::Text(text.value(row).to_string()),
                })
                .collect()
        })
        .collect()
}

impl Cell {
    /// As the files have it.
    pub fn show(&self) -> String {
        match self {
            Cell::Null => "NULL".to_string(),
            Cell::Text(text) if text.is_empty() => "(empty)".to_string(),
            Cell::Text(text) => text.replace('\n', "\\n"),
            Cell::Float(value) => format!("{value:?}"),
            Cell::Real(value) => format!("{value:?}"),
        }
    }

    /// A text that stands for a value of the same type as this cell.
    fn read(&self, text: &str) -> Cell {
        match (text, self) {
            ("NULL", _) => Cell::Null,
            ("(empty)", _) => Cell::Text(String::new()),
            (text, Cell::Float(_)) => {
                text.parse().map_or(Cell::Text(text.to_string()), Cell::Float)
            }
            (text, Cell::Real(_)) => text.parse().map_or(Cell::Text(text.to_string()), Cell::Real),
            (text, _) => Cell::Text(text.replace("\\n", "\n")),
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Cell::Null => None,
            Cell::Text(text) => text.parse().ok(),
            Cell::Float(value) => Some(*value),
            Cell::Real(value) => Some(f64::from(*value)),
        }
    }

    fn agrees(&self, other: &Cell) -> bool {
        match (self, other) {
            (Cell::Null, Cell::Null) => true,
            (Cell::Null, _) | (_, Cell::Null) => false,
            (Cell::Text(a), Cell::Text(b)) => a == b || same_text(a, b) || same_quotient(a, b),
            (Cell::Real(_), _) | (_, Cell::Real(_)) => {
                near(self, other, |a, b| real_ulps(a as f32, b as f32) <= REAL_ULPS_MAX)
            }
            _ => near(self, other, |a, b| {
                ulps(a, b) <= FLOAT_ULPS_MAX || (a - b).abs() < RESIDUE_MAX
            }),
        }
    }

    /// Floats come last when rows are ordered, so that they decide only between equal rows.
    fn order(&self, other: &Cell) -> Ordering {
        match (self, other) {
            (Cell::Null, Cell::Null) => Ordering::Equal,
            (Cell::Null, _) => Ordering::Less,
            (_, Cell::Null) => Ordering::Greater,
            (Cell::Text(a), Cell::Text(b)) => normal(a).cmp(&normal(b)),
            (a, b) => a.number().unwrap_or(f64::NAN).total_cmp(&b.number().unwrap_or(f64::NAN)),
        }
    }
}

/// Whether decimals with the digits of quotients are near: the batch engines calculate averages and variances of
/// integers in floats.
fn same_quotient(a: &str, b: &str) -> bool {
    let digits = |text: &str| text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(x), Ok(y)) if digits(a) >= 16 || digits(b) >= 16 => {
            ulps(x, y) <= FLOAT_ULPS_MAX || (x - y).abs() < RESIDUE_MAX
        }
        _ => false,
    }
}

fn near(a: &Cell, b: &Cell, close: impl Fn(f64, f64) -> bool) -> bool {
    let (Some(a), Some(b)) = (a.number(), b.number()) else { return false };
    a == b || (a.is_nan() && b.is_nan()) || close(a, b)
}

fn real_ulps(a: f32, b: f32) -> u32 {
    let ordered = |x: f32| {
        let bits = x.to_bits() as i32;
        if bits < 0 { i32::MIN.wrapping_sub(bits) } else { bits }
    };
    ordered(a).abs_diff(ordered(b))
}

/// A text without what engines write differently: the T and Z of timestamps, quotes in structs,
/// zeros that end a decimal.
fn normal(text: &str) -> String {
    let bare: String = text.chars().filter(|c| !matches!(c, '\'' | '"')).collect();
    let bare = bare.trim_end_matches("+00").trim_end_matches('Z');
    let time = bare.len() >= 19 && bare.as_bytes()[4] == b'-' && bare.as_bytes()[13] == b':';
    let bare = if time { bare.replacen('T', " ", 1) } else { bare.to_string() };
    let number =
        bare.contains('.') && bare.chars().all(|c| c.is_ascii_digit() || "-.: ".contains(c));
    if number { bare.trim_end_matches('0').trim_end_matches('.').to_string() } else { bare }
}

fn same_text(a: &str, b: &str) -> bool {
    normal(a) == normal(b)
}

/// Orders rows by their values alone.
pub fn sort(rows: &mut Rows) {
    let is_float = |cell: &Cell| matches!(cell, Cell::Float(_) | Cell::Real(_));
    rows.sort_by(|a, b| {
        let by = |floats: bool| {
            let cells = a.iter().zip(b).filter(|(a, b)| (is_float(a) || is_float(b)) == floats);
            cells.map(|(a, b)| a.order(b)).fold(Ordering::Equal, Ordering::then)
        };
        by(false).then_with(|| by(true))
    });
}

/// What is wrong with our rows, given those of another engine.
pub fn compare(ours: &Rows, theirs: &Rows) -> Result<(), String> {
    let (mut ours, mut theirs) = (ours.clone(), theirs.clone());
    sort(&mut ours);
    sort(&mut theirs);
    let agree = |a: &Vec<Cell>, b: &Vec<Cell>| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.agrees(b))
    };
    if ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(a, b)| agree(a, b)) {
        return Ok(());
    }
    // Rows that only one has; near floats may have put equal rows at different places.
    let extra: Vec<&Vec<Cell>> = ours
        .iter()
        .filter(|row| match theirs.iter().position(|other| agree(row, other)) {
            Some(at) => {
                theirs.remove(at);
                false
            }
            None => true,
        })
        .collect();
    if extra.is_empty() && theirs.is_empty() {
        return Ok(());
    }
    let list = |rows: &[&Vec<Cell>]| {
        rows.iter().take(12).map(|row| format!("\n    {}", line(row))).collect::<String>()
    };
    let missing: Vec<&Vec<Cell>> = theirs.iter().collect();
    Err(format!(
        "{} rows too many{}\n  {} rows missing{}",
        extra.len(),
        list(&extra),
        missing.len(),
        list(&missing)
    ))
}

/// A row as a line of a file.
pub fn line(row: &[Cell]) -> String {
    row.iter().map(Cell::show).collect::<Vec<_>>().join(" | ")
}

/// Lines of a file as rows, with the types that our rows have.
pub fn read(lines: &[&str], ours: &Rows) -> Rows {
    let width = ours.first().map_or(0, Vec::len);
    let like = |column: usize| {
        let typed = ours.iter().map(|row| &row[column]).find(|cell| !matches!(cell, Cell::Null));
        typed.unwrap_or(&Cell::Null)
    };
    lines
        .iter()
        .map(|line| {
            let cells: Vec<&str> = line.split(" | ").collect();
            if cells.len() != width {
                return vec![Cell::Text(line.to_string())];
            }
            cells.iter().enumerate().map(|(column, text)| like(column).read(text)).collect()
        })
        .collect()
}
