//! `string_agg(value, delimiter)` of texts and byte strings, with a delimiter of each row's own.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{Result, ScalarValue, internal_err, plan_err};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use super::limits::check_bytes;

pub fn string_agg() -> Arc<AggregateUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(AggregateUDF::new_from_impl(StringAgg { signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct StringAgg {
    signature: Signature,
}

impl AggregateUDFImpl for StringAgg {
    fn name(&self) -> &str {
        "string_agg"
    }

    fn aliases(&self) -> &[String] {
        &[]
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let is_text = |t: &DataType| t.is_string() || t.is_null();
        let is_bytes = |t: &DataType| matches!(t, DataType::Binary) || t.is_null();
        match types {
            [a, b] if is_text(a) && is_text(b) => Ok(vec![DataType::Utf8; 2]),
            [a, b] if is_bytes(a) && is_bytes(b) => Ok(vec![DataType::Binary; 2]),
            _ => plan_err!("string_agg takes two texts or two byte strings"),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[0].clone())
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(args.name, args.return_field.data_type().clone(), true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let is_text = *args.return_field.data_type() == DataType::Utf8;
        Ok(Box::new(Joined { is_text, bytes: None }))
    }
}

#[derive(Debug)]
struct Joined {
    is_text: bool,
    bytes: Option<Vec<u8>>,
}

impl Accumulator for Joined {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let bytes = |array: &ArrayRef| arrow::compute::cast(array, &DataType::Binary);
        let (values, delimiters) = (bytes(&values[0])?, bytes(&values[1])?);
        let (values, delimiters) = (values.as_binary::<i32>(), delimiters.as_binary::<i32>());
        for row in 0..values.len() {
            if values.is_null(row) {
                continue;
            }
            let value = values.value(row);
            match &mut self.bytes {
                // The first value's delimiter stands before nothing.
                None => self.bytes = Some(value.to_vec()),
                Some(bytes) => {
                    if delimiters.is_valid(row) {
                        bytes.extend_from_slice(delimiters.value(row));
                    }
                    bytes.extend_from_slice(value);
                    check_bytes(bytes.len())?;
                }
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if !self.is_text {
            return Ok(ScalarValue::Binary(self.bytes.clone()));
        }
        match self.bytes.clone().map(String::from_utf8).transpose() {
            Ok(text) => Ok(ScalarValue::Utf8(text)),
            Err(_) => internal_err!("texts join to a text"),
        }
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.bytes.as_ref().map_or(0, Vec::capacity)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        internal_err!("string_agg is computed from all of its rows")
    }
}
