//! Batches that flow between operators: rows in columns, each with its multiplicity (negative: taken
//! away).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{filter, take};
use arrow::datatypes::SchemaRef;

use crate::model::{Position, Tick};

/// Changes at one tick.
#[derive(Clone, Debug)]
pub struct Delta {
    pub rows: RecordBatch,
    /// Number of times each row is added; negative: taken away.
    pub diffs: Arc<[i64]>,
    /// Each row's event, while rows are still events; 0 for a row of none.
    pub positions: Option<Arc<[Position]>>,
    pub tick: Tick,
}

impl Delta {
    /// Changes that add each of `rows` once.
    pub fn insertions(rows: RecordBatch, positions: Vec<Position>, tick: Tick) -> Self {
        let diffs = vec![1; rows.num_rows()].into();
        Delta { rows, diffs, positions: Some(positions.into()), tick }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The event of row `index`.
    pub fn position(&self, index: usize) -> Option<Position> {
        self.positions.as_ref().map(|p| p[index]).filter(|position| *position > 0)
    }

    /// The rows for which `keep` is true; NULL is not.
    pub fn filter(&self, keep: &BooleanArray) -> Result<Delta, arrow::error::ArrowError> {
        let kept = |index: &usize| keep.value(*index) && keep.is_valid(*index);
        let indexes: Vec<usize> = (0..keep.len()).filter(kept).collect();
        let columns = self
            .rows
            .columns()
            .iter()
            .map(|column| filter(column.as_ref(), keep))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Delta {
            rows: batch(self.rows.schema(), columns, indexes.len())?,
            diffs: indexes.iter().map(|i| self.diffs[*i]).collect(),
            positions: self.positions.as_ref().map(|p| indexes.iter().map(|i| p[*i]).collect()),
            tick: self.tick,
        })
    }

    /// The rows at these indexes, in this order, repeats included.
    pub fn take(&self, indexes: &[u32]) -> Result<Delta, arrow::error::ArrowError> {
        let array = UInt32Array::from(indexes.to_vec());
        let columns = self
            .rows
            .columns()
            .iter()
            .map(|column| take(column.as_ref(), &array, None))
            .collect::<Result<Vec<_>, _>>()?;
        let at = |i: &u32| *i as usize;
        Ok(Delta {
            rows: batch(self.rows.schema(), columns, indexes.len())?,
            diffs: indexes.iter().map(|i| self.diffs[at(i)]).collect(),
            positions: self.positions.as_ref().map(|p| indexes.iter().map(|i| p[at(i)]).collect()),
            tick: self.tick,
        })
    }

    /// The same changes with other columns.
    pub fn with_columns(
        &self,
        schema: SchemaRef,
        columns: Vec<ArrayRef>,
    ) -> Result<Delta, arrow::error::ArrowError> {
        Ok(Delta { rows: batch(schema, columns, self.len())?, ..self.clone() })
    }

    /// The inverse of these changes.
    pub fn negated(mut self) -> Delta {
        self.diffs = self.diffs.iter().map(|d| -d).collect();
        self
    }
}

/// A record batch whose length is known even without columns.
pub fn batch(
    schema: SchemaRef,
    columns: Vec<ArrayRef>,
    len: usize,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(len));
    RecordBatch::try_new_with_options(schema, columns, &options)
}
