//! How a node's rows are split into key and value bytes, and put together again.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::SortField;

use super::arrange::{Key, KeyedUpdate};
use super::delta::{Delta, batch};
use crate::model::Tick;
use crate::model::multiplicity::Multiplicity;
use crate::model::row::{Row, RowCodec};
use crate::plan::ir::OrderColumn;

/// Rows as (key, value) bytes: the value begins with the ordering columns, if any, and holds every
/// column that is not in the key.
pub struct RowLayout {
    schema: SchemaRef,
    key: RowCodec,
    value: RowCodec,
    key_columns: Vec<usize>,
    value_columns: Vec<usize>,
}

/// The types of some columns.
pub fn types(schema: &SchemaRef, columns: &[usize]) -> Vec<DataType> {
    columns.iter().map(|c| schema.field(*c).data_type().clone()).collect()
}

/// The columns of an order, each once, and how they sort.
pub fn sorted(schema: &SchemaRef, order: &[OrderColumn]) -> (Vec<usize>, Vec<SortField>) {
    let mut columns: Vec<usize> = Vec::new();
    let mut fields = Vec::new();
    for by in order {
        if !columns.contains(&by.column) {
            let options = SortOptions { descending: by.descending, nulls_first: by.nulls_first };
            let data_type = schema.field(by.column).data_type().clone();
            fields.push(SortField::new_with_options(data_type, options));
            columns.push(by.column);
        }
    }
    (columns, fields)
}

impl RowLayout {
    /// Rows by `key`, the values in no particular order.
    pub fn new(schema: &SchemaRef, key: &[usize]) -> Result<Self, ArrowError> {
        RowLayout::ordered(schema, key, &[])
    }

    /// Rows by `key`, whose values compare as `order` says, and after that as whole rows.
    pub fn ordered(
        schema: &SchemaRef,
        key: &[usize],
        order: &[OrderColumn],
    ) -> Result<Self, ArrowError> {
        let (mut value_columns, mut fields) = sorted(schema, order);
        for column in 0..schema.fields().len() {
            if !key.contains(&column) && !value_columns.contains(&column) {
                fields.push(SortField::new(schema.field(column).data_type().clone()));
                value_columns.push(column);
            }
        }
        Ok(RowLayout {
            key: RowCodec::new(&types(schema, key))?,
            value: RowCodec::with_fields(&types(schema, &value_columns), fields)?,
            schema: Arc::clone(schema),
            key_columns: key.to_vec(),
            value_columns,
        })
    }

    /// The columns' types and names.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Appends a delta's rows; those whose key has a NULL are left out if `skip_null_keys`.
    pub fn encode(
        &self,
        delta: &Delta,
        skip_null_keys: bool,
        out: &mut Vec<KeyedUpdate>,
    ) -> Result<(), ArrowError> {
        out.reserve(delta.len());
        self.encode_each(delta, skip_null_keys, |index, key, value| {
            out.push(((key, value), delta.tick, Multiplicity::new(delta.diffs[index])));
        })
    }

    /// Hands on each of a delta's rows with its index.
    pub fn encode_each(
        &self,
        delta: &Delta,
        skip_null_keys: bool,
        mut give: impl FnMut(usize, Key, Row),
    ) -> Result<(), ArrowError> {
        let select = |columns: &[usize]| -> Vec<ArrayRef> {
            columns.iter().map(|c| Arc::clone(delta.rows.column(*c))).collect()
        };
        let key_arrays = select(&self.key_columns);
        let keys = self.key.encode(&key_arrays, delta.len())?;
        let values = self.value.encode(&select(&self.value_columns), delta.len())?;
        for index in 0..delta.len() {
            if skip_null_keys && key_arrays.iter().any(|a| a.is_null(index)) {
                continue;
            }
            give(index, Key::new(keys.bytes(index)), Row::from_slice(values.bytes(index)));
        }
        Ok(())
    }

    /// The columns of rows given as key and value bytes, in the order of the schema.
    pub fn columns<'a>(
        &self,
        rows: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let keys = self.key.decode(rows.clone().map(|(key, _)| key))?;
        let values = self.value.decode(rows.map(|(_, value)| value))?;
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.schema.fields().len()];
        for (column, array) in self.key_columns.iter().zip(keys) {
            columns[*column] = Some(array);
        }
        for (column, array) in self.value_columns.iter().zip(values) {
            columns[*column] = Some(array);
        }
        Ok(columns.into_iter().flatten().collect())
    }

    /// Changes of rows, given as bytes, as one delta per tick.
    pub fn decode(
        &self,
        updates: &mut Vec<(Row, Row, Tick, i64)>,
    ) -> Result<Vec<Delta>, ArrowError> {
        let mut deltas = Vec::new();
        updates.sort_by_key(|(_, _, tick, _)| *tick);
        for group in updates.chunk_by(|a, b| a.2 == b.2) {
            let bytes = group.iter().map(|(key, value, _, _)| (&key[..], &value[..]));
            let columns = self.columns(bytes)?;
            deltas.push(Delta {
                rows: batch(Arc::clone(&self.schema), columns, group.len())?,
                diffs: group.iter().map(|(_, _, _, diff)| *diff).collect(),
                positions: None,
                tick: group[0].2,
            });
        }
        updates.clear();
        Ok(deltas)
    }
}
