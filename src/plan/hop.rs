//! The windows of `hop` that a row is in.

use std::sync::Arc;

use arrow::array::{Array, AsArray, ListArray, TimestampNanosecondArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit, TimestampNanosecondType};
use datafusion_common::ScalarValue::Int64;
use datafusion_common::{Result, exec_datafusion_err, internal_err};
use datafusion_expr::ColumnarValue::Scalar;
use datafusion_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast,
    lit,
};

use super::functions::limits::check_series_of_batch;

const TIME: DataType = DataType::Timestamp(TimeUnit::Nanosecond, None);

/// The beginnings of `count` windows, `slide` nanoseconds apart, the last of which begins at `last`.
pub fn hop_starts(last: Expr, slide: i64, count: i64) -> Expr {
    let types = vec![TIME, DataType::Int64, DataType::Int64];
    let signature = Signature::exact(types, Volatility::Immutable);
    let function = ScalarUDF::new_from_impl(HopStarts { signature });
    function.call(vec![cast(last, TIME), lit(slide), lit(count)])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct HopStarts {
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
        let [last, Scalar(Int64(Some(slide))), Scalar(Int64(Some(count)))] = &args.args[..] else {
            return internal_err!("{} has a slide and a number of windows", self.name());
        };
        let last = last.to_array(args.number_rows)?;
        let last = last.as_primitive::<TimestampNanosecondType>();
        let windows = *count as usize;
        check_series_of_batch(last.len().saturating_mul(windows))?;
        let mut starts = Vec::with_capacity(last.len() * windows);
        for last in last.iter() {
            // Nobody sees the windows of NULL.
            let first = last.unwrap_or_default().checked_sub(slide * (count - 1));
            let first = first.ok_or_else(|| exec_datafusion_err!("timestamp out of range"))?;
            starts.extend((0..*count).map(|window| first + window * slide));
        }
        let offsets = OffsetBuffer::from_repeated_length(windows, last.len());
        let starts = Arc::new(TimestampNanosecondArray::from(starts));
        let lists = ListArray::try_new(item(), offsets, starts, last.nulls().cloned())?;
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}
