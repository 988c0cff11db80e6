//! Plain JSON: the members of `data` are the columns.

use super::{PayloadFormat, RowData};
use crate::decode::Violation;

/// See the module.
pub struct Json;

impl PayloadFormat for Json {
    fn row<'a>(&self, data: &'a [u8]) -> Result<RowData<'a>, Violation> {
        Ok(RowData { data, pointer: "", deleted: false })
    }

    fn has_numeric_times(&self) -> bool {
        false
    }
}
