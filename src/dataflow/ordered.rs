//! Rows on their way to operators that hold them in order.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion_common::ScalarValue;

use super::arrange::Key;
use super::delta::Delta;
use super::layout::{RowLayout, sorted, types};
use super::partition::HeldRow;
use crate::model::Tick;
use crate::model::row::{Row, RowCodec};
use crate::plan::ir::OrderColumn;

/// A change of a row of a partition.
pub type RowUpdate = (Key, HeldRow, Tick);

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

    /// How the rows are laid out as bytes.
    pub fn layout(&self) -> &RowLayout {
        &self.layout
    }

    /// The sort order.
    pub fn order(&self) -> &RowOrder {
        &self.order
    }

    /// Appends a delta's rows.
    pub fn encode(&self, delta: &Delta, out: &mut Vec<RowUpdate>) -> Result<(), ArrowError> {
        let columns = self.order.of(delta);
        let orders = self.order.codec.encode(&columns, delta.len())?;
        self.layout.encode_each(delta, self.skip_nulls, |index, key, row| {
            if self.skip_nulls && columns.iter().any(|column| column.is_null(index)) {
                return;
            }
            let held = HeldRow::new(row, orders.bytes(index).len(), delta.diffs[index]);
            out.push((key, held, delta.tick));
        })
    }
}

/// The columns that rows are ordered by.
pub struct RowOrder {
    codec: RowCodec,
    columns: Vec<usize>,
    first: Option<OrderColumn>,
}

impl RowOrder {
    fn new(schema: &SchemaRef, order: &[OrderColumn]) -> Result<Self, ArrowError> {
        let (columns, fields) = sorted(schema, order);
        let codec = RowCodec::with_fields(&types(schema, &columns), fields)?;
        Ok(RowOrder { codec, columns, first: order.first().copied() })
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

/// Changes by key, those of one row as one, in order.
pub fn by_key(mut updates: Vec<(Row, HeldRow)>) -> Vec<(Row, Vec<HeldRow>)> {
    updates.sort_unstable_by(|a, b| (&a.0, &a.1.row).cmp(&(&b.0, &b.1.row)));
    let mut keys: Vec<(Row, Vec<HeldRow>)> = Vec::new();
    for (key, held) in updates {
        match keys.last_mut() {
            Some((last, rows)) if *last == key => match rows.last_mut() {
                Some(row) if row.row == held.row => row.copies += held.copies,
                _ => rows.push(held),
            },
            _ => keys.push((key, vec![held])),
        }
    }
    for (_, rows) in &mut keys {
        rows.retain(|row| row.copies != 0);
    }
    keys.retain(|(_, rows)| !rows.is_empty());
    keys
}
