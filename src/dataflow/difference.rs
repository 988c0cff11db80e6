//! The difference between two multisets of rows.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;

use super::delta::{Delta, batch};
use crate::model::Tick;
use crate::model::row::RowCodec;

/// Rows that take the place of others at a tick: ranges of one batch.
pub struct Replacement {
    pub tick: Tick,
    pub before: Vec<Range<usize>>,
    pub after: Vec<Range<usize>>,
}

/// Tells rows of one schema apart.
pub struct Difference {
    schema: SchemaRef,
    codec: RowCodec,
}

impl Difference {
    /// For rows of these columns. Fails on a type that cannot be compared.
    pub fn new(schema: SchemaRef) -> Result<Self, ArrowError> {
        let types: Vec<DataType> = schema.fields().iter().map(|f| f.data_type().clone()).collect();
        Ok(Difference { schema, codec: RowCodec::new(&types)? })
    }

    /// The columns' types and names.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The changes that make these replacements, one delta per tick.
    pub fn deltas(
        &self,
        rows: &RecordBatch,
        replacements: &[Replacement],
    ) -> Result<Vec<Delta>, ArrowError> {
        let encoded = self.codec.encode(rows.columns(), rows.num_rows())?;
        let mut changes: Vec<(Tick, u32, i64)> = Vec::new();
        for replacement in replacements {
            let mut net: HashMap<&[u8], (u32, i64)> = HashMap::new();
            for (ranges, sign) in [(&replacement.before, -1), (&replacement.after, 1)] {
                for row in ranges.iter().cloned().flatten() {
                    net.entry(encoded.bytes(row)).or_insert((row as u32, 0)).1 += sign;
                }
            }
            let changed = net.into_values().filter(|(_, diff)| *diff != 0);
            changes.extend(changed.map(|(row, diff)| (replacement.tick, row, diff)));
        }
        changes.sort_unstable();
        changes.chunk_by(|a, b| a.0 == b.0).map(|group| self.delta(rows, group)).collect()
    }

    fn delta(&self, rows: &RecordBatch, group: &[(Tick, u32, i64)]) -> Result<Delta, ArrowError> {
        let indexes = UInt32Array::from_iter_values(group.iter().map(|(_, row, _)| *row));
        let columns = rows.columns().iter().map(|c| take(c.as_ref(), &indexes, None));
        let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
        Ok(Delta {
            rows: batch(Arc::clone(&self.schema), columns, group.len())?,
            diffs: group.iter().map(|(_, _, diff)| *diff).collect(),
            positions: None,
            tick: group[0].0,
        })
    }
}
