//! Building blocks of operators that hold the rows of a key in order, of one input or of several.

use super::delta::Delta;
use super::eval::FailedExpression;
use super::ordered::Ordered;
use super::partition::HeldRow;
use crate::model::Tick;
use crate::model::row::Row;

/// Computes what changes of partitions change in the output. The result is the same on any thread.
pub trait PartitionLogic<const INPUTS: usize>: Send + Sync + 'static {
    /// The rows of a key, of all inputs. The default has none.
    type Partition: Default + Send + 'static;

    /// The order of the rows of each input.
    fn orders(&self) -> [&Ordered; INPUTS];

    /// A partition of these rows, which are in order, each once.
    fn read(&self, rows: [Vec<HeldRow>; INPUTS]) -> Self::Partition;

    /// The bytes that a partition takes; 0 if it has no rows.
    fn bytes(&self, partition: &Self::Partition) -> usize;

    /// About how many rows have to be looked at for changes of a partition.
    fn work(&self, partition: &Self::Partition, changes: &[Vec<HeldRow>; INPUTS]) -> usize;

    /// Makes a tick's changes of some partitions. When `stop` is true it ends as soon as it can, and what
    /// it gives is of no use.
    fn change(
        &self,
        tick: Tick,
        partitions: Vec<ChangedPartition<Self::Partition, INPUTS>>,
        stop: &dyn Fn() -> bool,
    ) -> PartitionChanges<Self::Partition>;
}

/// A partition, and the changes of its rows at a tick: of each input, in order, each row once.
pub struct ChangedPartition<P, const INPUTS: usize> {
    pub key: Row,
    pub partition: P,
    pub changes: [Vec<HeldRow>; INPUTS],
}

/// Result of changes of partitions.
pub struct PartitionChanges<P> {
    pub deltas: Vec<Delta>,
    /// Failures, each with the number of rows that fail now; a negative number: of rows that fail no longer.
    pub failures: Vec<(FailedExpression, i64)>,
    /// The partitions, with their changes.
    pub partitions: Vec<(Row, P)>,
}

impl<P> Default for PartitionChanges<P> {
    fn default() -> Self {
        PartitionChanges { deltas: Vec::new(), failures: Vec::new(), partitions: Vec::new() }
    }
}
