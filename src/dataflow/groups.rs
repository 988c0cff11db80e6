//! Rows → accumulators, a whole batch at a time: each group is sent on once, however many rows it
//! has in the batch.

use std::rc::Rc;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::accumulator::AccumulatorLayout;
use super::arrange::{GroupUpdate, Key};
use super::delta::Delta;
use crate::aggregate::Accumulator;
use crate::model::Tick;
use crate::model::row::{EncodedRows, RowCodec};

/// Folds batches into groups.
pub struct Grouper {
    key_columns: Vec<usize>,
    key: RowCodec,
    layout: Rc<AccumulatorLayout>,
    groups: FoldedGroups,
}

/// The groups of the batches so far, all at one tick: keys and accumulators at the same indexes.
#[derive(Default)]
struct FoldedGroups {
    table: HashTable<usize>,
    keys: Vec<Key>,
    accumulators: Vec<Accumulator>,
    tick: Tick,
}

impl Grouper {
    /// A grouper of rows of this schema by these columns.
    pub fn new(
        schema: &SchemaRef,
        key: &[usize],
        layout: Rc<AccumulatorLayout>,
    ) -> Result<Self, ArrowError> {
        let types: Vec<DataType> =
            key.iter().map(|c| schema.field(*c).data_type().clone()).collect();
        Ok(Grouper {
            key_columns: key.to_vec(),
            key: RowCodec::new(&types)?,
            layout,
            groups: FoldedGroups::default(),
        })
    }

    /// Adds a batch; groups of an earlier tick go to `out` first.
    pub fn push(&mut self, delta: &Delta, out: &mut Vec<GroupUpdate>) -> Result<(), ArrowError> {
        if delta.tick != self.groups.tick {
            self.flush(out);
            self.groups.tick = delta.tick;
        }
        let columns: Vec<ArrayRef> =
            self.key_columns.iter().map(|c| Arc::clone(delta.rows.column(*c))).collect();
        let keys = self.key.encode(&columns, delta.len())?;
        let members = self.groups.assign(&keys, self.layout.empty());
        self.layout.add(delta, &mut self.groups.accumulators, &members)
    }

    /// Sends on all groups.
    pub fn flush(&mut self, out: &mut Vec<GroupUpdate>) {
        let FoldedGroups { table, keys, accumulators, tick } = &mut self.groups;
        table.clear();
        let groups = keys.drain(..).zip(accumulators.drain(..));
        out.extend(groups.map(|(key, accumulator)| ((key, ()), *tick, accumulator)));
    }
}

impl FoldedGroups {
    /// The index of each row's group; new ones are added empty.
    fn assign(&mut self, rows: &EncodedRows, empty: &Accumulator) -> Vec<usize> {
        let FoldedGroups { table, keys, accumulators, .. } = self;
        let mut members = Vec::with_capacity(rows.len());
        for index in 0..rows.len() {
            let bytes = rows.bytes(index);
            let hash = xxh3_64(bytes);
            let entry = table.entry(hash, |at| *keys[*at].row == *bytes, |at| keys[*at].hash());
            let at = match entry {
                hashbrown::hash_table::Entry::Occupied(entry) => *entry.get(),
                hashbrown::hash_table::Entry::Vacant(entry) => {
                    let at = keys.len();
                    entry.insert(at);
                    keys.push(Key::with_hash(hash, bytes));
                    accumulators.push(empty.clone());
                    at
                }
            };
            members.push(at);
        }
        members
    }
}
