//! What one expression may make of one row. Beyond it the row is a failed row, whose reason names the limit.

use datafusion_common::{Result, exec_err};

/// The longest text or byte string, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// The most elements of an array.
pub const ARRAY_ELEMENTS_MAX: usize = 1_000_000;
/// The most rows of `generate_series`.
pub const SERIES_ROWS_MAX: usize = 10_000_000;

/// Fails where a text or byte string would be longer than one may be.
pub fn check_bytes(bytes: usize) -> Result<()> {
    match bytes > VALUE_BYTES_MAX {
        true => exec_err!("a value has {VALUE_BYTES_MAX} bytes at most (value_bytes_max)"),
        false => Ok(()),
    }
}

/// Fails where an array would have more elements than one may have.
pub fn check_elements(elements: usize) -> Result<()> {
    match elements > ARRAY_ELEMENTS_MAX {
        true => {
            exec_err!("an array has {ARRAY_ELEMENTS_MAX} elements at most (array_elements_max)")
        }
        false => Ok(()),
    }
}

/// Fails where a series would have more rows than one may have.
pub fn check_series(rows: usize) -> Result<()> {
    match rows > SERIES_ROWS_MAX {
        true => exec_err!("a series has {SERIES_ROWS_MAX} rows at most (series_rows_max)"),
        false => Ok(()),
    }
}
