//! NOT NULL where it cannot be checked earlier: of the rows that are left once those that mean
//! "deleted", which need only their key, are gone.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion_common::{Result, ScalarValue, exec_err, internal_err};
use datafusion_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, lit,
};

/// The value of a NOT NULL column; a NULL fails, with the column's name.
pub fn required(value: Expr, column: &str) -> Expr {
    let signature = Signature::any(2, Volatility::Immutable);
    ScalarUDF::new_from_impl(Required { signature }).call(vec![value, lit(column)])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Required {
    signature: Signature,
}

impl ScalarUDFImpl for Required {
    fn name(&self) -> &str {
        "not_null"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(arguments.arg_fields[0].as_ref().clone().with_nullable(false)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value, ColumnarValue::Scalar(ScalarValue::Utf8(Some(column)))] =
            arguments.args.as_slice()
        else {
            return internal_err!("not_null takes a value and a column's name");
        };
        let values = value.to_array(arguments.number_rows)?;
        if values.logical_null_count() > 0 {
            return exec_err!("{column} is NULL in an event that does not delete");
        }
        Ok(value.clone())
    }
}
