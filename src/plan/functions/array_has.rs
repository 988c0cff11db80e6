//! `array_has` without DataFusion's simplification, which makes `x IN (a, b)` of `array_has([a, b], x)`: an
//! array of which an element is NULL has `x` or has it not, and IN gives NULL.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::Result;
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature};
use datafusion_functions_nested::array_has::array_has_udf;

/// The function under all of its names.
pub fn array_has() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(ArrayHas { inner: array_has_udf() }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ArrayHas {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for ArrayHas {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.inner.invoke_with_args(arguments)
    }
}
