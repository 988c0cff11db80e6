//! Arrays side by side. Several functions of one SELECT list that give rows give them together, as in PostgreSQL: the
//! first ones, the second ones and so on, with NULL for those that have no more.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StructArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion_common::{Result, internal_err, plan_err};
use datafusion_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::limits::{check_series, check_series_of_batch};

/// The name of the `n`th array's elements.
pub fn member(n: usize) -> String {
    format!("__element{n}")
}

/// One array of the elements at the same place in all of these arrays.
pub fn in_lockstep(arrays: Vec<Expr>) -> Expr {
    let signature = Signature::any(arrays.len(), Volatility::Immutable);
    ScalarUDF::new_from_impl(Lockstep { signature }).call(arrays)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Lockstep {
    signature: Signature,
}

impl ScalarUDFImpl for Lockstep {
    fn name(&self) -> &str {
        "in_lockstep"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let fields = types.iter().map(|t| Arc::new(Field::new("array", t.clone(), true)));
        Ok(field_of(&fields.collect::<Vec<FieldRef>>())?.data_type().clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        field_of(args.arg_fields)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let DataType::List(item) = args.return_field.data_type() else {
            return internal_err!("in_lockstep gives an array");
        };
        let DataType::Struct(members) = item.data_type() else {
            return internal_err!("in_lockstep gives rows");
        };
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let lists: Vec<&ListArray> = arrays.iter().map(|array| array.as_list()).collect();
        let rows = args.number_rows;
        let rows = lists.iter().map(|list| list.len()).max().unwrap_or(rows);
        let length = |list: &ListArray, row: usize| match list.is_null(row) {
            true => 0,
            false => list.value_length(row) as usize,
        };
        let longest = |row| lists.iter().map(|list| length(list, row)).max().unwrap_or(0);
        let lengths: Vec<usize> = (0..rows).map(longest).collect();
        lengths.iter().try_for_each(|length| check_series(*length))?;
        check_series_of_batch(lengths.iter().sum::<usize>() * lists.len())?;
        let elements = lists.iter().zip(members).map(|(list, member)| -> Result<ArrayRef> {
            let mut places: Vec<Option<u64>> = Vec::new();
            for (row, longest) in lengths.iter().enumerate() {
                let (from, own) = (list.value_offsets()[row] as u64, length(list, row) as u64);
                places.extend((0..*longest as u64).map(|n| (n < own).then_some(from + n)));
            }
            let elements = take(list.values(), &UInt64Array::from(places), None)?;
            Ok(cast(&elements, member.data_type())?)
        });
        let elements: Vec<ArrayRef> = elements.collect::<Result<_>>()?;
        let structs = StructArray::try_new(members.clone(), elements, None)?;
        let offsets = OffsetBuffer::from_lengths(lengths);
        let list = ListArray::try_new(Arc::clone(item), offsets, Arc::new(structs), None)?;
        Ok(ColumnarValue::Array(Arc::new(list)))
    }
}

fn field_of(arrays: &[FieldRef]) -> Result<FieldRef> {
    let members = arrays.iter().enumerate().map(|(n, array)| match array.data_type() {
        DataType::List(item) => {
            Ok(Arc::new(item.as_ref().clone().with_name(member(n)).with_nullable(true)))
        }
        other => plan_err!("UNNEST takes an array, found {other}"),
    });
    let members = DataType::Struct(members.collect::<Result<Fields>>()?);
    let list = DataType::List(Arc::new(Field::new("item", members, true)));
    Ok(Arc::new(Field::new("in_lockstep", list, false)))
}
