//! Rows in a form that can be compared across engines.

use std::cmp::Ordering;

use super::postgres_cells as written;
use super::ulps::ulps;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use heliostat::internals::model::SqlType;

/// Most that floats of two engines may differ, in units in the last place of a double: about 1e-9. Their sums
/// round after every addition, in an order of their own, and ours only once.
pub const FLOAT_ULPS_MAX: u64 = 1 << 22;
/// The same for REAL, in units in the last place of a single: others sum in single precision. About 1e-5.
const REAL_ULPS_MAX: u32 = 1 << 7;
/// Most that a sum may leave whose terms cancel out. So close to zero even a tiny difference is many units in
/// the last place.
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
                    // As PostgreSQL writes them: Arrow has no 24:00, and other words.
                    DataType::Time64(_) => Cell::Text(written::text(column, row, &SqlType::Time)),
                    DataType::Interval(_) => {
                        Cell::Text(written::text(column, row, &SqlType::Interval))
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

/// A value of a row that is compared with another engine's.
pub trait Compared: Clone {
    /// Whether it is the other engine's value.
    fn agrees(&self, theirs: &Self) -> bool;

    /// The order of values when rows are sorted.
    fn order(&self, other: &Self) -> Ordering;

    /// Whether it need only be near the other one. Such values decide only between rows that are
    /// otherwise equal.
    fn is_near(&self) -> bool;

    /// The value as files have it.
    fn show(&self) -> String;
}

impl Cell {
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
}

impl Compared for Cell {
    fn show(&self) -> String {
        match self {
            Cell::Null => "NULL".to_string(),
            Cell::Text(text) if text.is_empty() => "(empty)".to_string(),
            Cell::Text(text) => text.replace('\n', "\\n"),
            Cell::Float(value) => format!("{value:?}"),
            Cell::Real(value) => format!("{value:?}"),
        }
    }

    fn agrees(&self, other: &Cell) -> bool {
        match (self, other) {
            (Cell::Null, Cell::Null) => true,
            (Cell::Null, _) | (_, Cell::Null) => false,
            (Cell::Text(a), Cell::Text(b)) => a == b || same_text(a, b),
            (Cell::Real(_), _) | (_, Cell::Real(_)) => {
                numbers(self, other).is_some_and(|(a, b)| near_real(a as f32, b as f32))
            }
            _ => numbers(self, other).is_some_and(|(a, b)| near(a, b)),
        }
    }

    fn is_near(&self) -> bool {
        matches!(self, Cell::Float(_) | Cell::Real(_))
    }

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

fn numbers(a: &Cell, b: &Cell) -> Option<(f64, f64)> {
    Some((a.number()?, b.number()?))
}

/// Whether two engines may have these for one number.
pub fn near(a: f64, b: f64) -> bool {
    let close = || ulps(a, b) <= FLOAT_ULPS_MAX || (a - b).abs() < RESIDUE_MAX;
    a == b || (a.is_nan() && b.is_nan()) || close()
}

/// The same for REAL.
pub fn near_real(a: f32, b: f32) -> bool {
    let ordered = |x: f32| {
        let bits = x.to_bits() as i32;
        if bits < 0 { i32::MIN.wrapping_sub(bits) } else { bits }
    };
    let apart = ordered(a).abs_diff(ordered(b));
    a == b || (a.is_nan() && b.is_nan()) || apart <= REAL_ULPS_MAX
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
pub fn sort<T: Compared>(rows: &mut [Vec<T>]) {
    rows.sort_by(|a, b| {
        let by = |near: bool| {
            let cells = a.iter().zip(b).filter(|(a, b)| (a.is_near() || b.is_near()) == near);
            cells.map(|(a, b)| a.order(b)).fold(Ordering::Equal, Ordering::then)
        };
        by(false).then_with(|| by(true))
    });
}

/// Compares our rows with those of another engine; the error lists what is too many and what is missing.
pub fn compare<T: Compared>(ours: &[Vec<T>], theirs: &[Vec<T>]) -> Result<(), String> {
    let (mut ours, mut theirs) = (ours.to_vec(), theirs.to_vec());
    sort(&mut ours);
    sort(&mut theirs);
    let agree =
        |a: &Vec<T>, b: &Vec<T>| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.agrees(b));
    if ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(a, b)| agree(a, b)) {
        return Ok(());
    }
    // Rows that only one has; near floats may have put equal rows at different places.
    let extra: Vec<&Vec<T>> = ours
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
    let list = |rows: &[&Vec<T>]| {
        rows.iter().take(12).map(|row| format!("\n    {}", line(row))).collect::<String>()
    };
    let missing: Vec<&Vec<T>> = theirs.iter().collect();
    Err(format!(
        "{} rows too many{}\n  {} rows missing{}",
        extra.len(),
        list(&extra),
        missing.len(),
        list(&missing)
    ))
}

/// A row as a line of a file.
pub fn line<T: Compared>(row: &[T]) -> String {
    row.iter().map(Compared::show).collect::<Vec<_>>().join(" | ")
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
