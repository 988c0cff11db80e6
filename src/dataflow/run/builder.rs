//! Makes a run of sorted updates.

use differential_dataflow::trace::Builder;

use super::cursor::KeyRef;
use super::writer::{RunWriter, put_update};
use super::{PackedDifference, Run};
use crate::dataflow::arrange::Key;
use crate::model::Tick;
use crate::model::row::Row;

/// A value that is kept as bytes.
pub trait PackedValue: Ord + 'static {
    /// Its bytes, which are ordered as it is.
    fn bytes(&self) -> &[u8];
}

impl PackedValue for Row {
    #[inline]
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl PackedValue for () {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &[]
    }
}

/// A run that is made of updates which come in order and consolidated.
pub struct RunBuilder<V, D> {
    out: Option<RunWriter<D>>,
    /// The key and value whose updates are being collected.
    last: Option<(Key, V)>,
    count: usize,
    packed: Vec<u8>,
}

impl<V, D> Default for RunBuilder<V, D> {
    fn default() -> Self {
        RunBuilder { out: None, last: None, count: 0, packed: Vec::new() }
    }
}

impl<V: PackedValue, D: PackedDifference> RunBuilder<V, D> {
    /// Writes the value whose updates are complete.
    fn end_value(&mut self) {
        if let (Some(out), Some((_, value))) = (&mut self.out, &self.last) {
            out.value(value.bytes(), self.count, &self.packed);
        }
        self.packed.clear();
        self.count = 0;
    }
}

impl<V: PackedValue, D: PackedDifference> Builder for RunBuilder<V, D> {
    type Input = Vec<((Key, V), Tick, D)>;
    type Time = Tick;
    type Output = Run<D>;

    fn push(&mut self, chunk: &mut Self::Input) {
        for ((key, value), tick, difference) in chunk.drain(..) {
            let same_key = self.last.as_ref().is_some_and(|(last, _)| *last == key);
            let same_value = same_key && self.last.as_ref().is_some_and(|(_, last)| *last == value);
            if !same_value {
                self.end_value();
                let out = self.out.get_or_insert_with(|| RunWriter::new(tick, 0));
                if !same_key {
                    out.key(KeyRef::from(&key));
                }
                self.last = Some((key, value));
            }
            let base = self.out.as_ref().map_or(tick, RunWriter::base);
            put_update(&mut self.packed, base, tick, &difference);
            self.count += 1;
        }
    }

    fn done(mut self) -> Option<Run<D>> {
        self.end_value();
        self.out.and_then(RunWriter::done)
    }
}
