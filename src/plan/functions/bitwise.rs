//! `~`: all bits of an integer the other way round, in its own type.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::kernels::bitwise::bitwise_not;
use arrow::datatypes::{DataType, Int16Type, Int32Type, Int64Type};
use datafusion_common::{Result, internal_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

pub fn not() -> Arc<ScalarUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(BitwiseNot { signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct BitwiseNot {
    signature: Signature,
}

impl ScalarUDFImpl for BitwiseNot {
    fn name(&self) -> &str {
        "bitwise_not"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [DataType::Int16 | DataType::Int32 | DataType::Int64] => Ok(types.to_vec()),
            [DataType::Null] => Ok(vec![DataType::Int32]),
            [other] => plan_err!("~ takes an integer, found {other}"),
            _ => plan_err!("~ takes one integer"),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let inverted: ArrayRef = match arrays[0].data_type() {
            DataType::Int16 => Arc::new(bitwise_not(arrays[0].as_primitive::<Int16Type>())?),
            DataType::Int32 => Arc::new(bitwise_not(arrays[0].as_primitive::<Int32Type>())?),
            DataType::Int64 => Arc::new(bitwise_not(arrays[0].as_primitive::<Int64Type>())?),
            other => return internal_err!("~ of {other}"),
        };
        Ok(ColumnarValue::Array(inverted))
    }
}
