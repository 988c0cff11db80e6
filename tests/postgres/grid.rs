//! The values that everything is tried with: for each type twenty, the ordinary ones first.
//!
//! Not among them is what no column here can hold: NaN and infinities of NUMERIC, infinite dates,
//! years before 1 and after 9999; nor JSON's null by itself, which in an event is an
//! absent member; intervals of more than 292 years of time; arrays of several dimensions.

use serde_json::Value;

use super::values::{GRIDS, NULL};

/// Values in a grid.
pub const VALUES: usize = 20;
/// Values of a grid, the first ones, that are ordinary: no extremes, no infinities.
pub const ORDINARY: usize = 13;

/// A column of values.
pub struct Grid {
    pub name: &'static str,
    /// The type in PostgreSQL.
    pub postgres: &'static str,
    /// The type of the column in an event table: TEXT where JSON or a column cannot carry the values.
    pub column: &'static str,
    /// How the column is read, `#` for its name, here and there.
    pub read: &'static str,
    pub values: &'static [&'static str],
}

pub const fn grid(
    name: &'static str,
    column: &'static str,
    read: &'static str,
    values: &'static [&'static str],
) -> Grid {
    Grid { name, postgres: name, column, read, values }
}

pub const fn special(
    name: &'static str,
    postgres: &'static str,
    values: &'static [&'static str],
) -> Grid {
    Grid { name, postgres, column: postgres, read: "#", values }
}

/// The values of a column: which of the grid's is at `row` in the argument `position` (from 1).
pub fn index(row: usize, position: usize) -> usize {
    match position {
        1 => row % VALUES,
        2 => row / VALUES % VALUES,
        _ => (row * 7919 + position * 104_729 + row * row * position / 3) % VALUES,
    }
}

/// A grid's type by PostgreSQL's name, and whether its arrays are meant.
pub fn find(name: &str) -> Option<(&'static Grid, bool)> {
    let (name, array) = match name.strip_suffix("[]") {
        Some(item) if !GRIDS.iter().any(|g| g.name == name) => (item, true),
        _ => (name, false),
    };
    Some((GRIDS.iter().find(|grid| grid.name == name)?, array))
}

impl Grid {
    pub fn value(&self, at: usize) -> Option<&'static str> {
        let text = self.values[at % self.values.len()];
        (text != NULL).then_some(text)
    }

    /// The value at this index as PostgreSQL reads it, as a literal.
    pub fn sql(&self, at: usize, array: bool) -> String {
        let literal = |value: Option<&str>| match value {
            Some(text) => format!("'{}'", text.replace('\'', "''")),
            None => NULL.to_string(),
        };
        match array {
            false => literal(self.value(at)),
            true => match self.array(at) {
                None => NULL.to_string(),
                Some(items) => {
                    let items: Vec<String> = items.into_iter().map(literal).collect();
                    format!("ARRAY[{}]::{}[]", items.join(","), self.postgres)
                }
            },
        }
    }

    /// The value at this index as an event has it.
    pub fn json(&self, at: usize, array: bool) -> Value {
        let one = |value: Option<&str>| match (value, self.column) {
            (None, _) => Value::Null,
            (
                Some(text),
                "BOOLEAN" | "SMALLINT" | "INT" | "BIGINT" | "integer" | "JSON" | "JSONB",
            ) => {
                // Kept as it is written: the server stores what was posted.
                Value::String(format!("\u{1}{text}\u{2}"))
            }
            (Some(text), "BYTEA") => Value::String(base64(text)),
            (Some(text), "TIMESTAMP") => Value::String(text.replace(' ', "T")),
            (Some(text), "TIMESTAMP WITH TIME ZONE") => {
                Value::String(text.replace(' ', "T").replace("+00", "Z"))
            }
            (Some(text), _) => Value::String(text.to_string()),
        };
        match array {
            false => one(self.value(at)),
            true => {
                self.array(at).map_or(Value::Null, |items| items.into_iter().map(one).collect())
            }
        }
    }

    /// The array at this index: none, one, several, with NULLs, of all orders.
    fn array(&self, at: usize) -> Option<Vec<Option<&'static str>>> {
        let ordinary: Vec<Option<&str>> = (1..self.values.len()).map(|n| self.value(n)).collect();
        let pick = |n: usize| ordinary[n % ordinary.len()];
        Some(match at {
            0 => return None,
            1 => Vec::new(),
            2 => vec![pick(1)],
            3 => vec![None],
            4 => vec![pick(1), pick(2), pick(3)],
            5 => vec![pick(1), None, pick(2)],
            6 => vec![pick(2), pick(1)],
            7 => vec![pick(1), pick(1)],
            n if n % 3 == 0 => (0..n % 5 + 1).map(|k| pick(n + k * 2)).collect(),
            n => (0..n % 4 + 1).map(|k| if k == n % 7 { None } else { pick(n * 3 + k) }).collect(),
        })
    }
}

fn base64(hex: &str) -> String {
    use base64::Engine;
    let digits = hex.trim_start_matches("\\x").as_bytes();
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// JSON text with the values that are written as they are put in.
pub fn raw(event: &Value) -> String {
    let text = event.to_string();
    let mut out = String::new();
    for (n, part) in text.split("\"\\u0001").enumerate() {
        if n == 0 {
            out.push_str(part);
            continue;
        }
        let (inner, rest) = part.split_once("\\u0002\"").expect("it is closed");
        let inner: String =
            serde_json::from_str(&format!("\"{inner}\"")).expect("it was written so");
        out.push_str(&inner);
        out.push_str(rest);
    }
    out
}
