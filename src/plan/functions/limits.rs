//! Limits of the values that one expression may make of one row. Beyond them the row is a failed row, whose
//! reason names the limit.

use std::cell::Cell;

use datafusion_common::{Result, exec_err};

/// The longest text or byte string, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// The most elements of an array.
pub const ARRAY_ELEMENTS_MAX: usize = 1_000_000;
/// The most rows of `generate_series`.
pub const SERIES_ROWS_MAX: usize = 10_000_000;

/// The most bytes that one expression may make of a batch of several rows at once. Beyond it the batch
/// is evaluated in parts.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Bytes that an element of an array is reckoned at.
const ELEMENT_BYTES: usize = 16;

thread_local! {
    /// Number of bytes that may still be made of the batch that is being evaluated.
    static BATCH_BYTES_LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// A batch of so many rows is evaluated from now on.
pub fn begin_batch(rows: usize) {
    BATCH_BYTES_LEFT.set(if rows > 1 { BATCH_BYTES_MAX } else { usize::MAX });
}

/// No batch is evaluated any more.
pub fn end_batch() {
    BATCH_BYTES_LEFT.set(usize::MAX);
}

fn take_of_batch(bytes: usize) -> Result<()> {
    match BATCH_BYTES_LEFT.get().checked_sub(bytes) {
        Some(left) => {
            BATCH_BYTES_LEFT.set(left);
            Ok(())
        }
        None => exec_err!("the values of a batch have {BATCH_BYTES_MAX} bytes at most"),
    }
}

/// Fails where a text or byte string would be longer than one may be.
pub fn check_bytes(bytes: usize) -> Result<()> {
    match bytes > VALUE_BYTES_MAX {
        true => exec_err!("a value has {VALUE_BYTES_MAX} bytes at most (value_bytes_max)"),
        false => take_of_batch(bytes),
    }
}

/// Fails where an array would have more elements than one may have.
pub fn check_elements(elements: usize) -> Result<()> {
    match elements > ARRAY_ELEMENTS_MAX {
        true => {
            exec_err!("an array has {ARRAY_ELEMENTS_MAX} elements at most (array_elements_max)")
        }
        false => take_of_batch(elements * ELEMENT_BYTES),
    }
}

/// Fails where a series would have more rows than one may have.
pub fn check_series(rows: usize) -> Result<()> {
    match rows > SERIES_ROWS_MAX {
        true => exec_err!("a series has {SERIES_ROWS_MAX} rows at most (series_rows_max)"),
        false => Ok(()),
    }
}

/// Fails where the series of a batch together would have too many rows to be made at once.
pub fn check_series_of_batch(rows: usize) -> Result<()> {
    take_of_batch(rows.saturating_mul(ELEMENT_BYTES))
}
