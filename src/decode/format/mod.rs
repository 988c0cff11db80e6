//! How an event's `data` carries a row: one file per format.

mod debezium;
mod json;

use super::Violation;
use crate::model::schema::Format;

/// A format of `data`.
pub trait PayloadFormat: Sync {
    /// The part of `data` whose members are the table's columns.
    fn row<'a>(&self, data: &'a [u8]) -> Result<RowData<'a>, Violation>;

    /// Whether times may be numbers: days since 1970, and milliseconds, microseconds or nanoseconds
    /// as the column's precision says.
    fn has_numeric_times(&self) -> bool;
}

/// The part of an event's `data` that its columns are members of.
pub struct RowData<'a> {
    pub data: &'a [u8],
    /// Where in `data` that is.
    pub pointer: &'static str,
    /// The event says that this row is gone.
    pub deleted: bool,
}

/// The format that a table's option names.
pub fn of(format: Format) -> &'static dyn PayloadFormat {
    match format {
        Format::Json => &json::Json,
        Format::Debezium => &debezium::Debezium,
    }
}
