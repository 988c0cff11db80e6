//! Values that an upcast gives to a column with VARCHAR(n), in arrays and structs, too: a text that is longer
//! fails, and its event is a dead letter.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray, StructArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, is_null, nullif, take};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{Result, exec_err, internal_err};
use datafusion_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use crate::model::schema::{SqlField, SqlType, within_length};

/// A value that becomes one of this column, whose texts have to fit.
pub fn within(value: Expr, column: &SqlField) -> Expr {
    let signature = Signature::any(1, Volatility::Immutable);
    ScalarUDF::new_from_impl(Varchar { column: column.clone(), signature }).call(vec![value])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Varchar {
    column: SqlField,
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
        Ok(self.column.sql_type.to_arrow())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> Result<FieldRef> {
        let field: Field = self.column.to_arrow();
        Ok(Arc::new(field.with_name("varchar").with_nullable(true)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = arguments.args.as_slice() else {
            return internal_err!("varchar takes a value");
        };
        let value = value.to_array(arguments.number_rows)?;
        let value = cast(&value, &self.column.sql_type.to_arrow())?;
        Ok(ColumnarValue::Array(fitting(&value, &self.column.sql_type)?))
    }
}

/// The values, whose texts are no longer than this type says.
fn fitting(values: &ArrayRef, sql_type: &SqlType) -> Result<ArrayRef> {
    if !sql_type.mentions_length() {
        return Ok(Arc::clone(values));
    }
    Ok(match sql_type {
        SqlType::Varchar(length) => {
            let within = |text| match within_length(text, *length) {
                Ok(text) => Ok(text),
                Err(_) => exec_err!("value too long for type character varying({length})"),
            };
            let texts = values.as_string::<i32>().iter();
            Arc::new(
                texts.map(|text| text.map(within).transpose()).collect::<Result<StringArray>>()?,
            )
        }
        SqlType::Array(item) => {
            let lists = values.as_list::<i32>();
            let DataType::List(field) = lists.data_type() else {
                return internal_err!("an array is a list");
            };
            // No other elements than those that are in an array.
            let (mut places, mut lengths) = (Vec::new(), Vec::with_capacity(lists.len()));
            for row in 0..lists.len() {
                let length = if lists.is_null(row) { 0 } else { lists.value_length(row) as u64 };
                let first = lists.value_offsets()[row] as u64;
                places.extend(first..first + length);
                lengths.push(length as usize);
            }
            let elements = take(lists.values(), &UInt64Array::from(places), None)?;
            let elements = fitting(&elements, &item.sql_type)?;
            let offsets = OffsetBuffer::from_lengths(lengths);
            let nulls = lists.nulls().cloned();
            Arc::new(ListArray::try_new(Arc::clone(field), offsets, elements, nulls)?)
        }
        SqlType::Struct(members) => {
            let rows = values.as_struct();
            let gone = is_null(rows)?;
            let columns = rows
                .columns()
                .iter()
                .zip(members)
                .map(|(column, member)| fitting(&nullif(column, &gone)?, &member.sql_type));
            let columns = columns.collect::<Result<Vec<_>>>()?;
            let nulls = rows.nulls().cloned();
            Arc::new(StructArray::try_new(rows.fields().clone(), columns, nulls)?)
        }
        other => return internal_err!("{other} has no length"),
    })
}
