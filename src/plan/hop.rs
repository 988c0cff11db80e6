//! The windows of `hop` that a row is in.

use std::sync::Arc;

use arrow::array::{Array, AsArray, ListArray, TimestampNanosecondArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit, TimestampNanosecondType};
use datafusion_common::{Result, exec_datafusion_err};
use datafusion_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast,
};

use super::functions::limits::check_series_of_batch;

const TIME: DataType = DataType::Timestamp(TimeUnit::Nanosecond, None);

/// The beginnings of `count` windows, `slide` nanoseconds apart, the last of which begins at `last`.
pub fn hop_starts(last: Expr, slide: i64, count: usize) -> Expr {
    let signature = Signature::exact(vec![TIME], Volatility::Immutable);
    let function = ScalarUDF::new_from_impl(HopStarts { slide, count, signature });
    function.call(vec![cast(last, TIME)])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct HopStarts {
    slide: i64,
    count: usize,
    signature: Signature,
}

fn item() -> FieldRef {
    Arc::new(Field::new_list_field(TIME, true))
}

impl ScalarUDFImpl for HopStarts {
    fn name(&self) -> &str {
        "hop_starts"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(item()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let last = arrays[0].as_primitive::<TimestampNanosecondType>();
        check_series_of_batch(last.len().saturating_mul(self.count))?;
        let width = self.slide * (self.count as i64 - 1);
        let mut starts = Vec::with_capacity(last.len() * self.count);
        for last in last.values() {
            let first = last.checked_sub(width);
            let first = first.ok_or_else(|| exec_datafusion_err!("timestamp out of range"))?;
            starts.extend((0..self.count as i64).map(|window| first + window * self.slide));
        }
        let offsets = OffsetBuffer::from_repeated_length(self.count, last.len());
        let starts = Arc::new(TimestampNanosecondArray::from(starts));
        let lists = ListArray::try_new(item(), offsets, starts, last.nulls().cloned())?;
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}
