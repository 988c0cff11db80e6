//! IR → operators: one match, one file per stateful operator.

mod changes;
mod delta_join;
mod filled;
mod first;
mod join;
mod kept;
mod linear;
mod nearest;
mod ordered_input;
mod pairs;
mod partitioned;
mod pending;
mod recompute;
mod recursion;
mod reduce;
mod sliced;
mod temporal;
mod topk;
mod window;

pub use join::keyed;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use differential_dataflow::operators::arrange::Arranged;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::core::Concatenate;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::vec::ToStream;
use timely::dataflow::{Scope, Stream};

use super::arrange::{GroupTrace, Placement, RowTrace};
use super::delta::Delta;
use super::failure::FailureStream;
use super::group_rows::{GroupFinish, GroupRows, RowStep};
use super::guard::Guard;
use crate::model::Tick;
use crate::plan::group_rows::RowsOfGroups;
use crate::plan::ir::{NodeId, Op, Plan};

/// Identifies an arrangement: node, key columns, whether rows with NULL keys are left out, and placement.
type Arrangement = (NodeId, Vec<usize>, bool, Placement);

/// A node's output.
pub type Deltas<'scope> = Stream<'scope, Tick, Vec<Delta>>;

/// A dataflow under construction.
pub struct Renderer<'scope, 'a> {
    pub scope: Scope<'scope, Tick>,
    pub plan: &'a Plan,
    pub failures: FailureStream,
    pub guard: Guard,
    outputs: Vec<Option<Deltas<'scope>>>,
    /// Rows that are arranged already: by node, key, whether rows with NULL keys are left out, and
    /// where they are.
    arranged: RefCell<HashMap<Arrangement, Arranged<'scope, RowTrace>>>,
    /// Where the view's rows are read from, if they are made of groups, and these groups.
    rows_of: Option<RowsOfGroups>,
    groups: RefCell<Option<(GroupTrace, GroupFinish)>>,
}

/// A view's dataflow but for its end.
pub struct Rendered<'scope> {
    /// The changes of the view's rows.
    pub rows: Deltas<'scope>,
    /// The groups that the rows are made of, if they are.
    pub groups: Option<GroupRows>,
}

impl<'scope, 'a> Renderer<'scope, 'a> {
    /// A renderer into `scope` of `plan`, whose rows are read by `key`.
    pub fn new(
        scope: Scope<'scope, Tick>,
        plan: &'a Plan,
        key: &[usize],
        failures: FailureStream,
        guard: Guard,
    ) -> Self {
        Renderer {
            scope,
            plan,
            failures,
            guard,
            outputs: plan.nodes.iter().map(|_| None).collect(),
            arranged: RefCell::default(),
            rows_of: plan.rows_of_groups(key),
            groups: RefCell::default(),
        }
    }

    /// Builds all operators; `sources` are the streams of the plan's source nodes.
    pub fn render(
        mut self,
        mut sources: Vec<(NodeId, Deltas<'scope>)>,
    ) -> Result<Rendered<'scope>, ArrowError> {
        for id in 0..self.plan.nodes.len() {
            let source = sources.iter().position(|(node, _)| *node == id);
            let output = match source {
                Some(index) => self.filled(id, sources.swap_remove(index).1)?,
                None => {
                    self.guard.begin_node(id);
                    self.node(id)?
                }
            };
            self.outputs[id] = Some(output);
        }
        let rows = self.input(self.plan.root);
        let groups = self.groups.take().map(|(trace, finish)| {
            let steps = self.rows_of.iter().flat_map(|rows_of| &rows_of.steps);
            GroupRows::new(trace, finish, steps.map(|step| self.row_step(*step)).collect())
        });
        Ok(Rendered { rows, groups })
    }

    /// Keeps a node's groups for the view's end, if its rows are made of them.
    fn keep_groups(&self, id: NodeId, groups: &Arranged<'scope, GroupTrace>, finish: &GroupFinish) {
        if self.rows_of.as_ref().is_some_and(|rows_of| rows_of.groups == id) {
            *self.groups.borrow_mut() = Some((groups.trace.clone(), GroupFinish::clone(finish)));
        }
    }

    /// What a node does with the rows of groups.
    fn row_step(&self, id: NodeId) -> RowStep {
        match &self.plan.nodes[id].op {
            Op::Filter { conditions, .. } => RowStep::Filter(conditions.clone()),
            Op::Project { columns, .. } => RowStep::Project(columns.clone(), self.schema(id)),
            other => unreachable!("rows of groups are filtered and projected only: {other:?}"),
        }
    }

    fn input(&self, id: NodeId) -> Deltas<'scope> {
        match &self.outputs[id] {
            Some(stream) => stream.clone(),
            None => unreachable!("inputs come before their readers"),
        }
    }

    /// The columns that a node's rows really have: names and types of the plan, all nullable.
    fn schema(&self, id: NodeId) -> SchemaRef {
        crate::plan::relaxed(&self.plan.nodes[id].schema)
    }

    fn node(&self, id: NodeId) -> Result<Deltas<'scope>, ArrowError> {
        match &self.plan.nodes[id].op {
            Op::Source { table, .. } => unreachable!("no stream was given for {}", table.name()),
            Op::Constant { rows } => {
                let delta = Delta {
                    rows: rows.clone(),
                    diffs: vec![1; rows.num_rows()].into(),
                    positions: None,
                    tick: 0,
                };
                // An installation that takes up kept state has the rows already.
                let first = self.scope.worker().index() == 0 && self.guard.from().is_none();
                Ok(first.then_some(delta).into_iter().to_stream(self.scope))
            }
            Op::Filter { input, conditions } => Ok(self.filter(*input, conditions)),
            Op::Temporal { input, condition, moments } => self.temporal(*input, condition, moments),
            Op::Project { input, columns } => Ok(self.project(id, *input, columns)),
            Op::Unnest { input, array, outer, ordinality, unread } => {
                Ok(self.unnest(id, *input, array, *outer, *ordinality, unread))
            }
            Op::Join { left, right, on } => self.join(id, *left, *right, on),
            Op::DeltaJoin { inputs, paths } => self.delta_join(id, inputs, paths),
            Op::SemiJoin { left, right, on, anti } => self.semi_join(*left, *right, on, *anti),
            Op::Nearest { left, right, on, at, order, strict, outer } => {
                let nearest = nearest::NearestParameters {
                    on,
                    at: *at,
                    order,
                    strict: *strict,
                    outer: *outer,
                };
                self.nearest(id, *left, *right, &nearest)
            }
            Op::Reduce { input, key, aggregates } => self.reduce(id, *input, key, aggregates),
            Op::TopK { input, key, order, offset, limit } => {
                self.top_k(*input, key, order, *offset, *limit)
            }
            Op::First { input, key, order, limit, numbered } => {
                self.first(id, *input, key, order, *limit, *numbered)
            }
            Op::Recompute { input, key, order, aggregates } => {
                self.recompute(id, *input, key, order, aggregates)
            }
            Op::Window { input, key, order, functions } => {
                self.window(id, *input, key, order, functions)
            }
            Op::AssertKey { input, key } => self.assert_key(*input, key),
            Op::Given { .. } => unreachable!("only recursions are given rows"),
            Op::Recursion { base, outer, step, distinct, iterations_max, name } => {
                let recursion = recursion::Recursion {
                    step,
                    distinct: *distinct,
                    iterations_max: *iterations_max,
                    name: Arc::clone(name),
                };
                self.recursion(id, *base, outer, &recursion)
            }
            Op::Union { inputs } => {
                let schema = self.schema(id);
                let streams: Vec<_> = inputs.iter().map(|i| self.input(*i)).collect();
                Ok(map(self.scope.concatenate(streams), "Union", move |delta| {
                    let columns = delta.rows.columns().to_vec();
                    match delta.with_columns(Arc::clone(&schema), columns) {
                        Ok(delta) => vec![delta],
                        Err(error) => unreachable!("the parts of a union are alike: {error}"),
                    }
                }))
            }
        }
    }
}

/// An operator that turns each delta into others, as it comes.
fn map<'scope>(
    stream: Deltas<'scope>,
    name: &str,
    mut logic: impl FnMut(Delta) -> Vec<Delta> + 'static,
) -> Deltas<'scope> {
    stream.unary(Pipeline, name, move |_, _| {
        move |input, output| {
            input.for_each(|time, deltas| {
                let mut session = output.session(&time);
                for delta in deltas.drain(..) {
                    session.give_iterator(logic(delta).into_iter());
                }
            });
        }
    })
}

/// The rows of deltas as `encode` appends them, for operators that keep them.
fn encoded<'scope, U: Clone + 'static>(
    stream: Deltas<'scope>,
    guard: &Guard,
    encode: impl Fn(&Delta, &mut Vec<U>) -> Result<(), ArrowError> + 'static,
) -> Stream<'scope, Tick, Vec<U>> {
    let guard = guard.clone();
    stream.unary(Pipeline, "Encode", move |_, _| {
        move |input, output| {
            let stops = guard.enter();
            input.for_each(|time, deltas| {
                if stops {
                    return deltas.clear();
                }
                let mut updates = Vec::new();
                for delta in deltas.drain(..) {
                    expect_planned(encode(&delta, &mut updates));
                }
                output.session(&time).give_container(&mut updates);
            });
        }
    })
}

/// The value of a conversion between columns and rows. Values of the types that were planned always
/// convert, so an error is a bug of this module.
#[expect(clippy::panic, reason = "operators have no way to go on with rows that they cannot read")]
pub fn expect_planned<T>(result: Result<T, ArrowError>) -> T {
    result.unwrap_or_else(|error| panic!("rows could not be encoded or decoded: {error}"))
}
