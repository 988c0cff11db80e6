//! What an upcast gives to a column of VARCHAR(n): a text that is longer fails, and its event is a dead letter.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion_common::{Result, exec_err, internal_err};
use datafusion_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::model::schema::within_length;

/// A text that has to fit VARCHAR(`length`).
pub fn within(value: Expr, length: u32) -> Expr {
    let signature = Signature::any(1, Volatility::Immutable);
    ScalarUDF::new_from_impl(Varchar { length, signature }).call(vec![value])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Varchar {
    length: u32,
    signature: Signature,
}

impl ScalarUDFImpl for Varchar {
    fn name(&self) -> &str {
        "varchar"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = arguments.args.as_slice() else {
            return internal_err!("varchar takes a text");
        };
        let length = self.length;
        let texts = cast(&value.to_array(arguments.number_rows)?, &DataType::Utf8)?;
        let within = |text| match within_length(text, length) {
            Ok(text) => Ok(text),
            Err(_) => exec_err!("value too long for type character varying({length})"),
        };
        let texts = texts.as_string::<i32>().iter().map(|text| text.map(within).transpose());
        let texts: ArrayRef = Arc::new(texts.collect::<Result<StringArray>>()?);
        Ok(ColumnarValue::Array(texts))
    }
}
