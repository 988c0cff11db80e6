//! From net changes to the rows that make ClickHouse's table say the same.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::model::row::{Row, RowCodec};

use super::encode::OutRow;
use super::pending::{KeyChange, Multiplicities, Net, key_changes, row_changes};
use super::table::Table;

/// Changes that are compared at once.
const COMPARE_ROWS: usize = 65_536;

/// Makes rows out of net changes of one view.
pub(super) struct RowMaker {
    view: String,
    /// Given where the sorting key has columns that are not in the view's key.
    sorting: Option<SortingColumns>,
}

/// Finds updates that move a row to another place in the table.
struct SortingColumns {
    value: RowCodec,
    /// Places in `value` of the columns of the sorting key.
    places: Vec<usize>,
    sorting: RowCodec,
}

impl RowMaker {
    pub(super) fn new(table: &Table) -> Result<Self, ArrowError> {
        let schema = &table.schema;
        let value_columns = schema.value_columns();
        let places: Vec<usize> = table
            .sort_columns()
            .iter()
            .filter_map(|column| value_columns.iter().position(|v| v == column))
            .collect();
        let sorting = match places.is_empty() {
            true => None,
            false => Some(SortingColumns::new(
                value_columns.iter().map(|i| schema.columns[*i].sql_type.to_arrow()).collect(),
                places,
            )?),
        };
        Ok(RowMaker { view: schema.name.clone(), sorting })
    }

    /// The rows of a view with a key: the new row of each changed key, a tombstone where there is
    /// none, and both where the sorting key changed, because then the new row does not take the
    /// old one's place.
    pub(super) fn keyed(&self, changes: &[(Row, Net)]) -> Result<Vec<OutRow>, ArrowError> {
        let changes: Vec<KeyChange<'_>> = key_changes(changes).collect();
        if let Some(change) = changes.iter().find(|change| change.repeated) {
            // The dataflow removes such rows before; if one comes through, the answer must at least
            // not depend on the order of arrival.
            tracing::error!(view = self.view, key = ?change.key, "a key has more than one row");
        }
        let moved = self.moved(&changes)?;
        let mut rows = Vec::with_capacity(changes.len());
        for (change, moved) in changes.into_iter().zip(moved) {
            let KeyChange { key, old, new, .. } = change;
            if let Some(old) = old
                && (new.is_none() || moved)
            {
                rows.push(OutRow { key: key.clone(), value: old.clone(), multiplicity: 0 });
            }
            if let Some(new) = new {
                rows.push(OutRow { key: key.clone(), value: new.clone(), multiplicity: 1 });
            }
        }
        Ok(rows)
    }

    /// The rows of a view without a key, each with how often it occurs now.
    pub(super) fn keyless(
        &self,
        changes: &[(Row, Net)],
        counts: &mut Multiplicities,
    ) -> Vec<OutRow> {
        let rows = row_changes(changes).map(|(key, diff)| {
            let count = counts.change(key, diff);
            if count < 0 {
                tracing::error!(view = self.view, row = ?key, count, "a row was taken too often");
            }
            let multiplicity = u64::try_from(count).unwrap_or(0);
            OutRow { key: key.clone(), value: Row::default(), multiplicity }
        });
        rows.collect()
    }

    /// For each change, whether its row moves to another place in the table.
    fn moved(&self, changes: &[KeyChange<'_>]) -> Result<Vec<bool>, ArrowError> {
        let mut moved = vec![false; changes.len()];
        let Some(sorting) = &self.sorting else { return Ok(moved) };
        let mut updates = Vec::new();
        for (index, change) in changes.iter().enumerate() {
            if let (Some(old), Some(new)) = (change.old, change.new) {
                updates.push((index, old, new));
            }
        }
        for updates in updates.chunks(COMPARE_ROWS) {
            let before = sorting.encode(updates.iter().map(|(_, old, _)| *old))?;
            let after = sorting.encode(updates.iter().map(|(_, _, new)| *new))?;
            for (at, (index, _, _)) in updates.iter().enumerate() {
                moved[*index] = before.bytes(at) != after.bytes(at);
            }
        }
        Ok(moved)
    }
}

impl SortingColumns {
    fn new(value_types: Vec<DataType>, places: Vec<usize>) -> Result<Self, ArrowError> {
        let types: Vec<DataType> = places.iter().map(|p| value_types[*p].clone()).collect();
        let (value, sorting) = (RowCodec::new(&value_types)?, RowCodec::new(&types)?);
        Ok(SortingColumns { value, places, sorting })
    }

    fn encode<'a>(
        &self,
        values: impl ExactSizeIterator<Item = &'a Row>,
    ) -> Result<crate::model::row::EncodedRows, ArrowError> {
        let len = values.len();
        let columns = self.value.decode(values.map(|row| &**row))?;
        let columns: Vec<ArrayRef> = self.places.iter().map(|p| Arc::clone(&columns[*p])).collect();
        self.sorting.encode(&columns, len)
    }
}
