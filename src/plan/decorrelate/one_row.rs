//! The check that a scalar sub-query gave one row: a function that fails for the outer row that has
//! more.

use std::sync::{Arc, LazyLock};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion_common::{Result, exec_err};
use datafusion_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

static ONE_ROW: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(OneRow::new())));

/// `value`, where `count` says that it is the only one.
pub fn one_row(value: Expr, count: Expr) -> Expr {
    ONE_ROW.call(vec![value, count])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OneRow {
    signature: Signature,
}

impl OneRow {
    fn new() -> Self {
        OneRow { signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for OneRow {
    fn name(&self) -> &str {
        "scalar sub-query"
    }

    fn display_name(&self, _: &[Expr]) -> Result<String> {
        Ok("scalar sub-query".to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[0].clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(args.arg_fields[0].as_ref().clone().with_name(self.name())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let counts = args.args[1].to_array(args.number_rows)?;
        let counts = counts.as_primitive::<Int64Type>();
        match counts.iter().flatten().find(|count| *count > 1) {
            Some(count) => exec_err!("a scalar sub-query gave {count} rows where it may give one"),
            None => Ok(args.args[0].clone()),
        }
    }
}
