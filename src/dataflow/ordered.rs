//! Rows by a key, in order: how operators that need their partitions in order have them arranged.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use datafusion_common::ScalarValue;

use super::arrange::KeyedUpdate;
use super::delta::Delta;
use super::layout::{RowLayout, sorted, types};
use super::partition::HeldRow;
use crate::model::multiplicity::Multiplicity;
use crate::model::row::{Row, RowCodec};
use crate::plan::ir::OrderColumn;

/// Rows by a key, in order, and what they are ordered by.
pub struct Ordered {
    layout: RowLayout,
    order: RowOrder,
    /// Rows that have a NULL in the key or in what they are ordered by are left out.
    skip_nulls: bool,
}

impl Ordered {
    /// Rows by `key`, which compare as `order` says, and after that as whole rows. They are peers if
    /// they agree in the first `peers` columns of the order.
    pub fn new(
        schema: &SchemaRef,
        key: &[usize],
        order: &[OrderColumn],
        peers: usize,
        skip_nulls: bool,
    ) -> Result<Self, ArrowError> {
        Ok(Ordered {
            layout: RowLayout::ordered(schema, key, order)?,
            order: RowOrder::new(schema, &order[..peers])?,
            skip_nulls,
        })
    }

    /// The layout of the rows as bytes.
    pub fn layout(&self) -> &RowLayout {
        &self.layout
    }

    /// The sort order.
    pub fn order(&self) -> &RowOrder {
        &self.order
    }

    /// Appends a delta's rows. [`Ordered::held`] reads their values.
    pub fn encode(&self, delta: &Delta, out: &mut Vec<KeyedUpdate>) -> Result<(), ArrowError> {
        let columns = self.order.of(delta);
        let orders = match self.order.width {
            Some(_) => None,
            None => Some(self.order.codec.encode(&columns, delta.len())?),
        };
        self.layout.encode_each(delta, self.skip_nulls, |index, key, row| {
            if self.skip_nulls && columns.iter().any(|column| column.is_null(index)) {
                return;
            }
            let value = match &orders {
                None => row,
                Some(orders) => with_width(&row, orders.bytes(index).len()),
            };
            out.push(((key, value), delta.tick, Multiplicity::new(delta.diffs[index])));
        })
    }

    /// The row of a value that [`Ordered::encode`] wrote, which is there so often.
    pub fn held(&self, value: &[u8], copies: i64) -> HeldRow {
        let (row, width) = match self.order.width {
            Some(width) => (value, width),
            None => without_width(value),
        };
        HeldRow::new(Row::from_slice(row), width, copies)
    }
}

/// A row, and behind it how many of its bytes are what it is ordered by. Rows of one layout have an end
/// of their own, so that what is behind it does not change how they compare.
fn with_width(row: &Row, width: usize) -> Row {
    // Rows are far below 4 GiB: an event has a few megabytes at most.
    let mut bytes = row.to_vec();
    bytes.extend_from_slice(&(width as u32).to_be_bytes());
    Row::from_slice(&bytes)
}

fn without_width(value: &[u8]) -> (&[u8], usize) {
    match value.split_last_chunk() {
        Some((row, width)) => (row, u32::from_be_bytes(*width) as usize),
        None => (value, 0),
    }
}

/// The columns that rows are ordered by.
pub struct RowOrder {
    codec: RowCodec,
    columns: Vec<usize>,
    first: Option<OrderColumn>,
    /// Number of bytes that the columns' values have in each row; `None` if it differs.
    width: Option<usize>,
}

impl RowOrder {
    fn new(schema: &SchemaRef, order: &[OrderColumn]) -> Result<Self, ArrowError> {
        let (columns, fields) = sorted(schema, order);
        let types = types(schema, &columns);
        let codec = RowCodec::with_fields(&types, fields)?;
        let width = width(&codec, &types)?;
        Ok(RowOrder { codec, columns, first: order.first().copied(), width })
    }

    fn of(&self, delta: &Delta) -> Vec<ArrayRef> {
        self.columns.iter().map(|column| Arc::clone(delta.rows.column(*column))).collect()
    }

    /// The order of rows that are `by` further back, or on; `None`: all there are, for all that is
    /// known. There is one column.
    pub fn shifted(&self, order: &[u8], by: &ScalarValue, back: bool) -> Option<Vec<u8>> {
        let column = self.codec.decode([order]).ok()?.into_iter().next()?;
        if column.is_null(0) {
            return Some(order.to_vec());
        }
        let less = back != self.first?.descending;
        let value = ScalarValue::try_from_array(&column, 0).ok()?;
        let shifted = if less { value.sub_checked(by) } else { value.add_checked(by) };
        // Beyond what the type can hold, there is nothing to tell.
        let shifted = shifted.ok()?.to_array().ok()?;
        let same_type = shifted.data_type() == column.data_type() && shifted.is_valid(0);
        same_type.then(|| Some(self.codec.encode(&[shifted], 1).ok()?.bytes(0).to_vec())).flatten()
    }
}

/// Number of bytes that each row of these types has; `None` if it depends on the values.
fn width(codec: &RowCodec, types: &[DataType]) -> Result<Option<usize>, ArrowError> {
    if !types.iter().all(|t| t.is_primitive() || matches!(t, DataType::Boolean)) {
        return Ok(None);
    }
    let nulls: Vec<ArrayRef> = types.iter().map(|t| new_null_array(t, 1)).collect();
    Ok(Some(codec.encode(&nulls, 1)?.bytes(0).len()))
}
