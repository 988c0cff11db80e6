//! Rows of a view of which each follows from one group: the groups are kept, and the rows are made of them
//! when somebody reads them. See [`RowsOfGroups`](crate::plan::group_rows::RowsOfGroups).

use std::rc::Rc;

use arrow::datatypes::SchemaRef;
use differential_dataflow::difference::Semigroup;

use super::arrange::{GroupTrace, forget_before, runs_of};
use super::delta::Delta;
use super::eval;
use super::failure::FailureStream;
use super::run::{KeyRef, RunsCursor};
use crate::aggregate::Accumulator;
use crate::model::Tick;
use crate::model::row::Row;
use crate::plan::ir::Scalar;

/// A group before or after a change: its key, its sum, when, and whether it comes or goes.
pub type GroupChange = (Row, Accumulator, Tick, i64);

/// Makes rows of groups; of some there may be none, and what fails is recorded.
pub type GroupFinish = Rc<dyn Fn(Vec<GroupChange>, &FailureStream) -> Vec<Delta>>;

/// Number of groups that are looked at at a time.
const GROUPS_AT_ONCE: usize = 1 << 12;

/// What becomes of the rows of groups.
pub enum RowStep {
    Filter(Vec<Scalar>),
    Project(Vec<Scalar>, SchemaRef),
}

/// What makes rows of groups.
struct RowMaker {
    finish: GroupFinish,
    steps: Vec<RowStep>,
    /// Takes what fails: it was recorded when the group changed.
    known: FailureStream,
}

impl RowMaker {
    /// Whether there may be groups without a row.
    fn is_filtered(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, RowStep::Filter(_)))
    }

    fn rows(&self, groups: Vec<GroupChange>) -> Vec<Delta> {
        let known = &self.known;
        let mut rows = (self.finish)(groups, known);
        for step in &self.steps {
            rows = match step {
                RowStep::Filter(conditions) => rows
                    .into_iter()
                    .flat_map(|rows| eval::filter(conditions, rows, known))
                    .collect(),
                RowStep::Project(columns, schema) => rows
                    .iter()
                    .flat_map(|rows| eval::project(columns, schema, rows, known))
                    .collect(),
            };
        }
        rows
    }
}

/// The groups that a view's rows are made of, on one worker.
pub struct GroupRows {
    trace: GroupTrace,
    maker: Rc<RowMaker>,
}

impl GroupRows {
    /// The rows that `finish` and then `steps` make of the groups.
    pub fn new(trace: GroupTrace, finish: GroupFinish, steps: Vec<RowStep>) -> Self {
        let known = FailureStream::new(&[], Some(Tick::MAX));
        GroupRows { trace, maker: Rc::new(RowMaker { finish, steps, known }) }
    }

    /// Lets history before `tick` be forgotten: only reads at `tick` and later are exact.
    pub fn compact(&mut self, tick: Tick) {
        forget_before(&mut self.trace, tick);
    }

    /// The rows as of a tick, from a key on.
    pub fn read(&self, tick: Tick, from: Option<KeyRef<'_>>) -> GroupsRead {
        let mut groups = RunsCursor::new(runs_of(&self.trace));
        if let Some(key) = from {
            groups.seek_key(key);
        }
        GroupsRead { groups, tick, maker: Rc::clone(&self.maker) }
    }
}

/// The rows of groups, in the order of their keys.
pub struct GroupsRead {
    groups: RunsCursor<Accumulator>,
    tick: Tick,
    maker: Rc<RowMaker>,
}

impl GroupsRead {
    /// The rows of the next groups, of which `wanted` says whether they are to be read: some thousand groups, or,
    /// where each has a row, `max` of them. `None` when there is none left.
    pub fn next(&mut self, max: usize, wanted: impl Fn(&[u8]) -> Wanted) -> Option<Vec<Delta>> {
        self.groups.key()?;
        let max = if self.maker.is_filtered() { usize::MAX } else { max };
        let mut groups = Vec::new();
        for _ in 0..GROUPS_AT_ONCE {
            let Some(key) = self.groups.key().filter(|_| groups.len() < max) else { break };
            match wanted(key.bytes) {
                Wanted::Yes => {
                    let mut sum = Accumulator::default();
                    let past = self.groups.updates().filter(|(tick, _)| *tick <= self.tick);
                    past.for_each(|(_, change)| sum.plus_equals(&change));
                    if sum.is_there() {
                        groups.push((Row::from_slice(key.bytes), sum, self.tick, 1));
                    }
                }
                Wanted::No => {}
                Wanted::NoneAnyMore if groups.is_empty() => return None,
                Wanted::NoneAnyMore => break,
            }
            self.groups.next_key();
        }
        Some(self.maker.rows(groups))
    }
}

/// Whether a group is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Yes,
    No,
    /// And neither are those behind it.
    NoneAnyMore,
}
