//! WITH RECURSIVE: a scope whose time counts iterations within a tick.
//!
//! Rows travel whole and encoded. Every operator that is allowed here only adds rows when it is given
//! more, so the iteration comes to its fixed point, and differential dataflow takes back what no
//! longer follows when an input loses rows.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::operators::iterate::Variable;
use differential_dataflow::trace::cursor::{CursorList, cursor_list};
use differential_dataflow::trace::implementations::ord_neu::{
    OrdKeySpine, OrdValSpine, VecOrdKeyBuilder, VecOrdValBuilder,
};
use differential_dataflow::trace::{Cursor, Navigable, TraceReader};
use differential_dataflow::{AsCollection, VecCollection};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::Operator;
use timely::order::Product;
use timely::scheduling::Activator;
use xxhash_rust::xxh3::xxh3_64;

use super::linear::Unnest;
use super::pairs::{self, KeyRows, KeyedRows, PairsAt, ROWS_PER_LOOK};
use super::{Deltas, Renderer, encoded, expect_planned};
use crate::dataflow::arrange::{HeldAs, Key, arrange_guarded, owner, watch};
use crate::dataflow::delta::{Delta, batch};
use crate::dataflow::eval;
use crate::dataflow::failure::FailureStream;
use crate::dataflow::guard::Guard;
use crate::dataflow::layout::RowLayout;
use crate::dataflow::run::KeyRef;
use crate::model::Tick;
use crate::model::multiplicity::Multiplicity;
use crate::model::row::{Row, RowCodec};
use crate::plan::ir::{JoinKeys, NodeId, Op, Plan};

/// An iteration within a tick.
type IterationTime = Product<Tick, u64>;
/// Whole rows inside the scope.
type ScopedRows<'inner> = VecCollection<'inner, IterationTime, Row, Multiplicity>;
type Trace = TraceAgent<OrdValSpine<Key, Row, IterationTime, Multiplicity>>;
type TimedBatch = <Trace as TraceReader>::Batch;
/// Whole rows, arranged.
type RowsTrace = TraceAgent<OrdKeySpine<Row, IterationTime, Multiplicity>>;

/// The recursive step, and its limit of iterations.
pub struct Recursion<'a> {
    pub step: &'a Plan,
    pub distinct: bool,
    pub iterations_max: u64,
    pub name: Arc<str>,
}

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn recursion(
        &self,
        id: NodeId,
        base: NodeId,
        outer: &[NodeId],
        recursion: &Recursion,
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(id);
        let base = self.rows(base)?;
        let from = self.guard.from();
        let outer = outer.iter().map(|id| self.rows(*id)).collect::<Result<Vec<_>, _>>()?;
        let scope = self.scope;
        let failures = self.failures.clone();
        let told = self.failures.clone();
        let (text, max) =
            (format!("recursive term of {}", recursion.name).into(), recursion.iterations_max);
        let result = scope.scoped::<IterationTime, _, _>("Recursion", |nested| {
            let (variable, rows) = Variable::new(nested, Product::new(Default::default(), 1));
            let mut given = vec![rows];
            given.extend(outer.into_iter().map(|rows| rows.enter(nested)));
            let guard = self.guard.clone();
            let body = Loop {
                plan: recursion.step,
                given,
                failures: failures.clone(),
                guard: guard.clone(),
            };
            let stepped = limited(body.render()?, max, text, failures, &guard);
            let all = base.enter(nested).concat(stepped);
            let all = if recursion.distinct {
                distinct(all, &guard)
            } else {
                flat(whole_rows(all, &guard), &guard)
            };
            variable.set(all.clone());
            Ok::<_, ArrowError>(all.leave(scope))
        })?;
        let codec = codec(&schema)?;
        Ok(result.inner.unary(Pipeline, "Decode", move |_, _| {
            move |input, output| {
                input.for_each(|time, updates| {
                    let mut session = output.session(&time);
                    updates.sort_unstable_by_key(|(_, tick, _)| *tick);
                    // Results up to `from` are computed once more, from kept rows, and are known already.
                    updates.retain(|(_, tick, _)| from.is_none_or(|from| *tick > from));
                    for group in updates.chunk_by(|a, b| a.1 == b.1) {
                        let rows = group.iter().map(|(row, _, diff)| (row, told.known(*diff)));
                        session.give(decoded(&codec, &schema, rows, group[0].1));
                    }
                });
            }
        }))
    }

    /// A node's rows, encoded whole.
    fn rows(
        &self,
        id: NodeId,
    ) -> Result<VecCollection<'scope, Tick, Row, Multiplicity>, ArrowError> {
        let codec = codec(&self.schema(id))?;
        let stream = encoded(self.kept_input(id)?, &self.guard, move |delta, updates| {
            let rows = codec.encode(delta.rows.columns(), delta.len())?;
            updates.extend((0..delta.len()).map(|index| {
                let diff = Multiplicity::new(delta.diffs[index]);
                (Row::from_slice(rows.bytes(index)), delta.tick, diff)
            }));
            Ok(())
        });
        Ok(stream.as_collection())
    }
}

fn codec(schema: &SchemaRef) -> Result<RowCodec, ArrowError> {
    let types: Vec<DataType> = schema.fields().iter().map(|f| f.data_type().clone()).collect();
    RowCodec::new(&types)
}

fn decoded<'a>(
    codec: &RowCodec,
    schema: &SchemaRef,
    rows: impl Iterator<Item = (&'a Row, i64)> + Clone,
    tick: Tick,
) -> Delta {
    let diffs: Vec<i64> = rows.clone().map(|(_, diff)| diff).collect();
    let columns = expect_planned(codec.decode(rows.map(|(row, _)| &row[..])));
    let rows = expect_planned(batch(Arc::clone(schema), columns, diffs.len()));
    Delta { rows, diffs: diffs.into(), positions: None, tick }
}

/// Rows of further iterations than allowed are failures.
fn limited<'inner>(
    rows: ScopedRows<'inner>,
    max: u64,
    text: Arc<str>,
    failures: FailureStream,
    guard: &Guard,
) -> ScopedRows<'inner> {
    let reason = format!("it did not end within {max} iterations");
    let guard = guard.clone();
    // The last tick, and the number of rows made at it.
    let mut made: (Tick, usize) = (0, 0);
    let within = rows.inner.unary(Pipeline, "Limit", move |_, _| {
        move |input, output| {
            let stops = guard.enter();
            input.for_each(|time, updates| {
                if stops {
                    return updates.clear();
                }
                if let Some((_, at, _)) = updates.first() {
                    let before = if made.0 == at.outer { made.1 } else { 0 };
                    made = (at.outer, before + updates.len());
                    guard.check_rows(made.1, "a recursion, for all events of a tick");
                }
                updates.retain(|(_, at, diff)| {
                    // The base is there before the first iteration.
                    let within = at.inner <= max;
                    if !within {
                        let diff = failures.known(*diff);
                        failures.record(&text, reason.as_str(), None, (at.outer, diff));
                    }
                    within
                });
                output.session(&time).give_container(updates);
            });
        }
    });
    within.as_collection()
}

/// Rows, arranged as they are.
fn whole_rows<'inner>(rows: ScopedRows<'inner>, guard: &Guard) -> Arranged<'inner, RowsTrace> {
    let workers = rows.inner.scope().peers();
    let exchange = Exchange::new(move |update: &((Row, ()), IterationTime, Multiplicity)| {
        owner(xxh3_64(&update.0.0), workers)
    });
    let rows = rows.map(|row| (row, ())).inner;
    arrange_guarded::<_, VecOrdKeyBuilder<_, _, _>, _, _, _, _, _>(
        rows,
        exchange,
        "Whole rows",
        guard,
        HeldAs::State,
        Vec::new(),
    )
}

/// Each row once.
fn distinct<'inner>(rows: ScopedRows<'inner>, guard: &Guard) -> ScopedRows<'inner> {
    let arranged = whole_rows(rows, guard);
    let entered = guard.clone();
    let reduced = arranged
        .reduce_abelian::<_, VecOrdKeyBuilder<_, _, _>, OrdKeySpine<_, _, _>, _, _>(
            "Distinct",
            move |_, _, output| {
                entered.enter();
                output.push(((), Multiplicity::new(1)));
            },
            |updates, row: &Row, changes| {
                updates.clear();
                updates
                    .extend(changes.drain(..).map(|((), at, diff)| ((row.clone(), ()), at, diff)));
            },
        );
    watch(&reduced.trace, Rc::default(), guard, HeldAs::State);
    flat(reduced, guard)
}

/// Number of rows that are handed on at a time.
const ROWS_AT_ONCE: usize = 1 << 12;

/// The rows of an arrangement.
fn flat<'inner>(arranged: Arranged<'inner, RowsTrace>, guard: &Guard) -> ScopedRows<'inner> {
    let guard = guard.clone();
    let activations = arranged.stream.scope().activations();
    let rows = arranged.stream.unary(Pipeline, "Flat", move |_, info| {
        let activator = Activator::new(info.address, activations);
        let mut waiting = VecDeque::new();
        move |input, output| {
            let stops = guard.enter();
            input.for_each(|time, spans| {
                let capabilities = Rc::new(time.retain_stamp(0));
                for batch in spans.drain(..).filter_map(|span| span.inner) {
                    waiting.push_back((Rc::clone(&capabilities), batch.cursor(), batch));
                }
            });
            if stops {
                return waiting.clear();
            }
            guard.work_off(&mut waiting, &activator, |(capabilities, cursor, batch), slice| {
                let mut rows = Vec::new();
                while rows.len() < ROWS_AT_ONCE
                    && let Some(row) = cursor.get_key(batch)
                {
                    cursor.map_times(batch, |at, diff| rows.push((row.clone(), *at, *diff)));
                    cursor.step_key(batch);
                }
                slice.made(rows.len());
                output.session(&**capabilities).give_container(&mut rows);
                cursor.get_key(batch).is_none()
            });
        }
    });
    rows.as_collection()
}

/// The body of a recursion under construction.
struct Loop<'inner, 'a> {
    plan: &'a Plan,
    given: Vec<ScopedRows<'inner>>,
    failures: FailureStream,
    guard: Guard,
}

impl<'inner> Loop<'inner, '_> {
    fn render(&self) -> Result<ScopedRows<'inner>, ArrowError> {
        let mut outputs: Vec<ScopedRows<'inner>> = Vec::new();
        for id in 0..self.plan.nodes.len() {
            let rows = self.node(id, &outputs)?;
            outputs.push(rows);
        }
        Ok(outputs.swap_remove(self.plan.root))
    }

    fn schema(&self, id: NodeId) -> SchemaRef {
        crate::plan::relaxed(&self.plan.nodes[id].schema)
    }

    fn node(
        &self,
        id: NodeId,
        outputs: &[ScopedRows<'inner>],
    ) -> Result<ScopedRows<'inner>, ArrowError> {
        let input = |id: &NodeId| outputs[*id].clone();
        let failures = self.failures.clone();
        match &self.plan.nodes[id].op {
            Op::Given { index } => Ok(self.given[*index].clone()),
            Op::Filter { input: from, conditions } => {
                let conditions = conditions.clone();
                self.mapped(input(from), *from, id, move |delta| {
                    eval::filter(&conditions, delta, &failures)
                })
            }
            Op::Project { input: from, columns } => {
                let (columns, schema) = (columns.clone(), self.schema(id));
                self.mapped(input(from), *from, id, move |delta| {
                    eval::project(&columns, &schema, &delta, &failures)
                })
            }
            Op::Unnest { input: from, array, outer, ordinality, unread } => {
                let unnest = Unnest {
                    input_schema: self.schema(*from),
                    schema: self.schema(id),
                    array: array.clone(),
                    outer: *outer,
                    ordinality: *ordinality,
                    unread: unread.clone(),
                    failures,
                    guard: self.guard.clone(),
                };
                let unnest = unnest.prepared();
                self.mapped(input(from), *from, id, move |delta| unnest.run(&delta))
            }
            Op::Join { left, right, on } => {
                self.join(id, (*left, input(left)), (*right, input(right)), on)
            }
            Op::SemiJoin { left, right, on, anti } => {
                self.semi_join((*left, input(left)), (*right, input(right)), on, *anti)
            }
            Op::Reduce { input: from, key, .. } => {
                Ok(distinct(self.columns(*from, input(from), key)?, &self.guard))
            }
            Op::Union { inputs } => {
                let mut parts = inputs.iter().map(input);
                let Some(first) = parts.next() else { unreachable!("a union has parts") };
                Ok(first.concatenate(parts))
            }
            other => unreachable!("the planner keeps {other:?} out of recursions"),
        }
    }

    /// A linear operator over batches of columns.
    fn mapped(
        &self,
        rows: ScopedRows<'inner>,
        from: NodeId,
        to: NodeId,
        mut logic: impl FnMut(Delta) -> Vec<Delta> + 'static,
    ) -> Result<ScopedRows<'inner>, ArrowError> {
        let schema = self.schema(from);
        let failures = self.failures.clone();
        let (decoder, encoder) = (codec(&schema)?, codec(&self.schema(to))?);
        let guard = self.guard.clone();
        let stream = rows.inner.unary(Pipeline, "Map", move |_, _| {
            move |input, output| {
                let stops = guard.enter();
                input.for_each(|time, updates| {
                    if stops {
                        return updates.clear();
                    }
                    let mut out = Vec::new();
                    updates.sort_unstable_by_key(|(_, at, _)| *at);
                    for group in updates.chunk_by(|a, b| a.1 == b.1) {
                        let at = group[0].1;
                        let rows = group.iter().map(|(row, _, diff)| (row, failures.known(*diff)));
                        for delta in logic(decoded(&decoder, &schema, rows, at.outer)) {
                            let rows =
                                expect_planned(encoder.encode(delta.rows.columns(), delta.len()));
                            out.extend((0..delta.len()).map(|index| {
                                let row = Row::from_slice(rows.bytes(index));
                                (row, at, Multiplicity::new(delta.diffs[index]))
                            }));
                        }
                    }
                    output.session(&time).give_container(&mut out);
                });
            }
        });
        Ok(stream.as_collection())
    }

    /// Some columns of each row.
    fn columns(
        &self,
        from: NodeId,
        rows: ScopedRows<'inner>,
        columns: &[usize],
    ) -> Result<ScopedRows<'inner>, ArrowError> {
        let arranged = self.keyed(from, rows, columns, false)?;
        Ok(arranged.map(|(key, _)| key.row))
    }

    fn keyed(
        &self,
        from: NodeId,
        rows: ScopedRows<'inner>,
        key: &[usize],
        skip_null_keys: bool,
    ) -> Result<VecCollection<'inner, IterationTime, (Key, Row), Multiplicity>, ArrowError> {
        let schema = self.schema(from);
        let failures = self.failures.clone();
        let (decoder, layout) = (codec(&schema)?, RowLayout::new(&schema, key)?);
        let guard = self.guard.clone();
        let stream = rows.inner.unary(Pipeline, "Key", move |_, _| {
            move |input, output| {
                let stops = guard.enter();
                input.for_each(|time, updates| {
                    if stops {
                        return updates.clear();
                    }
                    let mut out = Vec::new();
                    updates.sort_unstable_by_key(|(_, at, _)| *at);
                    for group in updates.chunk_by(|a, b| a.1 == b.1) {
                        let at = group[0].1;
                        let rows = group.iter().map(|(row, _, diff)| (row, failures.known(*diff)));
                        let delta = decoded(&decoder, &schema, rows, at.outer);
                        let mut keyed = Vec::new();
                        expect_planned(layout.encode(&delta, skip_null_keys, &mut keyed));
                        out.extend(keyed.into_iter().map(|(data, _, diff)| (data, at, diff)));
                    }
                    output.session(&time).give_container(&mut out);
                });
            }
        });
        Ok(stream.as_collection())
    }

    fn join(
        &self,
        id: NodeId,
        left: (NodeId, ScopedRows<'inner>),
        right: (NodeId, ScopedRows<'inner>),
        on: &JoinKeys,
    ) -> Result<ScopedRows<'inner>, ArrowError> {
        let layouts = (
            RowLayout::new(&self.schema(left.0), &on.left)?,
            RowLayout::new(&self.schema(right.0), &on.right)?,
        );
        let left = self.keyed(left.0, left.1, &on.left, !on.nulls_equal)?;
        let right = self.keyed(right.0, right.1, &on.right, !on.nulls_equal)?;
        let (left, right) = (arranged(left, &self.guard), arranged(right, &self.guard));
        let encoder = codec(&self.schema(id))?;
        self.matched(left, right, move |pairs| {
            let mut columns: Vec<ArrayRef> = expect_planned(layouts.0.columns(pairs.lefts()));
            columns.extend(expect_planned(layouts.1.columns(pairs.rights())));
            let rows = expect_planned(encoder.encode(&columns, pairs.len()));
            (0..pairs.len()).map(|index| Row::from_slice(rows.bytes(index))).collect()
        })
    }

    fn semi_join(
        &self,
        left: (NodeId, ScopedRows<'inner>),
        right: (NodeId, ScopedRows<'inner>),
        on: &JoinKeys,
        anti: bool,
    ) -> Result<ScopedRows<'inner>, ArrowError> {
        let schema = self.schema(left.0);
        let (encoder, layout) = (codec(&schema)?, RowLayout::new(&schema, &on.left)?);
        let skip = !on.nulls_equal;
        let keys = self.keyed(right.0, right.1, &on.right, skip)?;
        let keys = distinct(keys.map(|(key, _)| key.row), &self.guard);
        let keys = keys.map(|row| (Key::new(&row), Row::default()));
        let rows = arranged(self.keyed(left.0, left.1.clone(), &on.left, skip)?, &self.guard);
        let matched = self.matched(rows, arranged(keys, &self.guard), move |pairs| {
            let columns = expect_planned(layout.columns(pairs.lefts()));
            let rows = expect_planned(encoder.encode(&columns, pairs.len()));
            (0..pairs.len()).map(|index| Row::from_slice(rows.bytes(index))).collect()
        })?;
        Ok(if anti { left.1.concat(matched.negate()) } else { matched })
    }

    fn matched(
        &self,
        left: Arranged<'inner, Trace>,
        right: Arranged<'inner, Trace>,
        rows: impl Fn(&PairsAt<'_, IterationTime>) -> Vec<Row> + 'static,
    ) -> Result<ScopedRows<'inner>, ArrowError> {
        let guard = self.guard.clone();
        let pairs = pairs::join::<_, IterationRows>(left, right, "Join", &guard);
        let stream = pairs.unary(Pipeline, "ScopedRows", move |_, _| {
            move |input, output| {
                let stops = guard.enter();
                input.for_each(|time, pairs| {
                    if stops {
                        return pairs.clear();
                    }
                    let encoded = rows(&pairs.all());
                    let mut out: Vec<(Row, IterationTime, Multiplicity)> = encoded
                        .into_iter()
                        .zip(pairs.all().times())
                        .map(|(row, (at, diff))| (row, *at, diff))
                        .collect();
                    pairs.clear();
                    output.session(&time).give_container(&mut out);
                });
            }
        });
        Ok(stream.as_collection())
    }
}

/// Rows by key at times within a tick, as a join walks through them.
struct IterationRows {
    cursor: CursorList<<TimedBatch as Navigable>::Cursor>,
    batches: Vec<TimedBatch>,
}

impl KeyedRows<IterationTime> for IterationRows {
    type Batch = TimedBatch;

    fn new(batches: Vec<TimedBatch>) -> Self {
        let (cursor, batches) = cursor_list(batches);
        IterationRows { cursor, batches }
    }

    fn key(&self) -> Option<KeyRef<'_>> {
        self.cursor.get_key(&self.batches).map(KeyRef::from)
    }

    fn next_key(&mut self) {
        self.cursor.step_key(&self.batches);
    }

    fn seek_key(&mut self, key: KeyRef<'_>) {
        self.cursor.seek_key(&self.batches, &Key::with_hash(key.hash, key.bytes));
    }

    fn load(&mut self, meet: Option<&IterationTime>, to: &mut KeyRows<IterationTime>) -> bool {
        let IterationRows { cursor, batches } = self;
        for _ in 0..ROWS_PER_LOOK {
            let Some(row) = cursor.get_val(batches) else { return true };
            let mut times = Vec::new();
            cursor.map_times(batches, |time, diff| {
                times.push((meet.map_or(*time, |meet| time.join(meet)), *diff));
            });
            to.push(row, times.into_iter());
            cursor.step_val(batches);
        }
        false
    }
}

fn arranged<'inner>(
    rows: VecCollection<'inner, IterationTime, (Key, Row), Multiplicity>,
    guard: &Guard,
) -> Arranged<'inner, Trace> {
    let workers = rows.inner.scope().peers();
    let exchange = Exchange::new(move |update: &((Key, Row), IterationTime, Multiplicity)| {
        owner(update.0.0.hash(), workers)
    });
    arrange_guarded::<_, VecOrdValBuilder<_, _, _, _>, _, _, _, _, _>(
        rows.inner,
        exchange,
        "Arrange",
        guard,
        HeldAs::State,
        Vec::new(),
    )
}
