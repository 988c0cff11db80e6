//! The number of rows that LIMIT or OFFSET says by a sub-query.

use std::sync::Arc;

use datafusion_common::{Result, exec_err};
use datafusion_expr::ScalarUDF;

use super::row::{CallRow, Overload, Type, Value, function, overload};

/// A name that no query can write without quotes.
pub const ROW_LIMIT: &str = "row limit";

const COUNT: &[Overload] = &[overload(&[Type::BigInt, Type::Text], Type::BigInt, count)];

pub fn row_limit() -> Arc<ScalarUDF> {
    function(ROW_LIMIT, &[], COUNT, None)
}

fn count(row: &CallRow<'_>) -> Result<Value> {
    match row.int(0) {
        ..0 => exec_err!("{} must not be negative", row.text(1)),
        count => Ok(Value::Int(count)),
    }
}
