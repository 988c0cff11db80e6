//! Window functions over some rows of a partition, of which the rows before may be known by what the
//! functions had come to.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::kernels::numeric::add;
use arrow::compute::partition;
use datafusion_common::{DataFusionError, Result, ScalarValue};
use datafusion_expr::Accumulator;
use datafusion_expr::window_state::WindowFrameContext;

use crate::plan::ir::{Exclusion, FrameAggregate, Rank, WindowEvaluation, WindowFunction};

/// The state of the functions before some row of a partition, so that they can go on from there.
#[derive(Clone, Debug, Default)]
pub struct Prior {
    pub rows: u64,
    /// Sets of peers.
    pub peers: u64,
    carried: Vec<Carried>,
}

impl Prior {
    /// So many rows and sets of peers.
    pub fn counted(rows: u64, peers: u64) -> Self {
        Prior { rows, peers, carried: Vec::new() }
    }
}

/// The state of one function.
#[derive(Clone, Debug)]
enum Carried {
    /// Nothing that is not in the counts.
    Counts,
    Value(ScalarValue),
    State(Vec<ScalarValue>),
}

/// A part of a partition, in order.
pub struct PartitionPart<'a> {
    pub rows: &'a RecordBatch,
    /// For which rows values are asked. The others are there since frames reach them.
    pub wanted: Range<usize>,
    /// From which row on functions that go on from what was before are to be computed.
    pub known: usize,
    /// The state before `known`; none at a partition's start.
    pub prior: Option<&'a Prior>,
    /// Where sets of peers end, ascending, if frames go by peers; otherwise each row is by itself.
    pub peers: Option<&'a [usize]>,
    /// Rows before which it is to be told what functions have come to; ends of sets of peers, if
    /// those matter. With each, what is before it but for the functions.
    pub boundaries: &'a [(usize, Prior)],
    /// When this is true, evaluation ends with an error that nobody looks at.
    pub stop: &'a dyn Fn() -> bool,
}

/// The values that functions have for the rows that are asked for, a column each, and what there is
/// before each boundary.
pub type FrameValues = (Vec<ArrayRef>, Vec<Prior>);

impl PartitionPart<'_> {
    /// Computes all functions. An error comes with the function's index.
    pub fn evaluate(
        &self,
        functions: &[WindowFunction],
    ) -> std::result::Result<FrameValues, (usize, DataFusionError)> {
        let mut columns = Vec::with_capacity(functions.len());
        let mut priors: Vec<Prior> = self.boundaries.iter().map(|(_, p)| p.clone()).collect();
        for (index, function) in functions.iter().enumerate() {
            let values = self.function(index, function, &mut priors);
            columns.push(values.map_err(|error| (index, error))?);
        }
        Ok((columns, priors))
    }

    fn function(
        &self,
        index: usize,
        function: &WindowFunction,
        priors: &mut [Prior],
    ) -> Result<ArrayRef> {
        let carried = self.prior.and_then(|prior| prior.carried.get(index));
        let mut told = vec![Carried::Counts; priors.len()];
        let column = match &function.evaluation {
            WindowEvaluation::Whole(expr) => {
                expr.evaluate(self.rows)?.slice(self.wanted.start, self.wanted.len())
            }
            WindowEvaluation::EachFrame(frame) => self.each_frame(frame)?,
            WindowEvaluation::Rank(rank, expr) => {
                let before = self.prior.map_or(0, |prior| match rank {
                    Rank::Rows => prior.rows,
                    Rank::Peers => prior.peers,
                });
                let ranks = self.wanted_of(&expr.evaluate(&self.unknown())?);
                add(&ranks, &Int64Array::new_scalar(before as i64))?
            }
            WindowEvaluation::Nth { n, expr } => {
                let values = expr.expressions()[0].evaluate(self.rows)?;
                let values = values.into_array(self.rows.num_rows())?;
                let known = match carried {
                    Some(Carried::Value(value)) => Some(value.clone()),
                    _ => {
                        let row = self.known + (*n - 1) as usize;
                        let there = row < self.rows.num_rows();
                        there.then(|| ScalarValue::try_from_array(&values, row)).transpose()?
                    }
                };
                for ((row, _), told) in self.boundaries.iter().zip(&mut told) {
                    if let Some(value) = &known
                        && (carried.is_some() || row - self.known >= *n as usize)
                    {
                        *told = Carried::Value(value.clone());
                    }
                }
                match carried {
                    Some(Carried::Value(value)) => value.to_array_of_size(self.wanted.len())?,
                    _ => self.wanted_of(&expr.evaluate(&self.unknown())?),
                }
            }
            WindowEvaluation::Growing(frame) => self.growing(frame, carried, &mut told)?,
        };
        for (prior, told) in priors.iter_mut().zip(told) {
            prior.carried.push(told);
        }
        Ok(column)
    }

    fn go_on(&self) -> Result<()> {
        if (self.stop)() {
            return Err(DataFusionError::Execution("stopped".to_string()));
        }
        Ok(())
    }

    /// The rows that are not known by what functions had come to.
    fn unknown(&self) -> RecordBatch {
        self.rows.slice(self.known, self.rows.num_rows() - self.known)
    }

    /// The part of `values`, which begin at the row `known`, that is asked for.
    fn wanted_of(&self, values: &ArrayRef) -> ArrayRef {
        values.slice(self.wanted.start - self.known, self.wanted.len())
    }

    /// Each frame's aggregate by itself.
    fn each_frame(&self, of: &FrameAggregate) -> Result<ArrayRef> {
        let inputs = Inputs::new(of, self.rows)?;
        let mut frames = Frames::new(of, self.rows)?;
        let mut results: Vec<ScalarValue> = Vec::with_capacity(self.wanted.len());
        let mut last: Option<Vec<Range<usize>>> = None;
        // Frames are found one after the other, from the first row on.
        for row in 0..self.wanted.end {
            let ranges = frames.parts_of(row)?;
            if row < self.wanted.start {
                continue;
            }
            self.go_on()?;
            if let (Some(before), Some(result)) = (&last, results.last())
                && *before == ranges
            {
                results.push(result.clone());
                continue;
            }
            let mut accumulator = of.aggregate.create_accumulator()?;
            for range in &ranges {
                inputs.add(accumulator.as_mut(), range.clone())?;
            }
            results.push(accumulator.evaluate()?);
            last = Some(ranges);
        }
        ScalarValue::iter_to_array(results)
    }

    /// The aggregate of frames that begin at the partition's start, one accumulator for all of them.
    ///
    /// Rows are added one by one, or one set of peers after the other, wherever the part begins, so
    /// that sums of floats do not depend on that.
    fn growing(
        &self,
        of: &FrameAggregate,
        carried: Option<&Carried>,
        told: &mut [Carried],
    ) -> Result<ArrayRef> {
        let rows = self.unknown();
        let inputs = Inputs::new(of, &rows)?;
        let mut frames = Frames::new(of, &rows)?;
        let mut accumulator = of.aggregate.create_accumulator()?;
        if let Some(Carried::State(state)) = carried {
            let state = state.iter().map(ScalarValue::to_array).collect::<Result<Vec<_>>>()?;
            accumulator.merge_batch(&state)?;
        }
        let mut peers = self.peers.map(|peers| peers.iter().map(|end| end - self.known).peekable());
        let mut boundaries = self.boundaries.iter().map(|(at, _)| at - self.known).peekable();
        let mut told = told.iter_mut();
        let mut results: Vec<ScalarValue> = Vec::with_capacity(rows.num_rows());
        let mut end = 0;
        let mut value = None;
        for row in 0..rows.num_rows() {
            let range = frames.of(row)?;
            if range.end > end {
                value = None;
            }
            self.go_on()?;
            while end < range.end {
                let next = match &mut peers {
                    None => end + 1,
                    Some(peers) => {
                        while peers.next_if(|peer| *peer <= end).is_some() {}
                        peers.peek().map_or(range.end, |peer| (*peer).min(range.end))
                    }
                };
                inputs.add(accumulator.as_mut(), end..next)?;
                end = next;
                if boundaries.next_if_eq(&end).is_some()
                    && let Some(told) = told.next()
                {
                    *told = Carried::State(copy_of_state(of, &mut accumulator)?);
                }
            }
            let result = match value.take() {
                Some(value) => value,
                None => accumulator.evaluate()?,
            };
            results.push(result.clone());
            value = Some(result);
        }
        assert!(boundaries.next().is_none(), "each boundary is an end of peers");
        Ok(self.wanted_of(&ScalarValue::iter_to_array(results)?))
    }
}

/// An accumulator's state; the accumulator goes on with a copy, since telling its state may end it.
fn copy_of_state(
    of: &FrameAggregate,
    accumulator: &mut Box<dyn Accumulator>,
) -> Result<Vec<ScalarValue>> {
    let state = accumulator.state()?;
    let arrays = state.iter().map(ScalarValue::to_array).collect::<Result<Vec<_>>>()?;
    let mut copy = of.aggregate.create_accumulator()?;
    copy.merge_batch(&arrays)?;
    *accumulator = copy;
    Ok(state)
}

/// An aggregate's arguments for each row, and which rows count.
struct Inputs {
    values: Vec<ArrayRef>,
    kept: Option<ArrayRef>,
}

impl Inputs {
    fn new(of: &FrameAggregate, rows: &RecordBatch) -> Result<Self> {
        let len = rows.num_rows();
        let values = of.aggregate.expressions();
        let values = values.iter().map(|e| e.evaluate(rows)?.into_array(len));
        let kept = of.filter.as_ref().map(|f| f.expr.evaluate(rows)?.into_array(len));
        Ok(Inputs { values: values.collect::<Result<_>>()?, kept: kept.transpose()? })
    }

    fn add(&self, accumulator: &mut dyn Accumulator, range: Range<usize>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let part = |array: &ArrayRef| -> Result<ArrayRef> {
            let slice = array.slice(range.start, range.len());
            Ok(match &self.kept {
                Some(kept) => {
                    let kept = kept.slice(range.start, range.len());
                    arrow::compute::filter(&slice, kept.as_boolean())?
                }
                None => slice,
            })
        };
        accumulator.update_batch(&self.values.iter().map(part).collect::<Result<Vec<_>>>()?)
    }
}

/// Each row's frame, found in the rows' order.
struct Frames {
    context: WindowFrameContext,
    order: Vec<ArrayRef>,
    rows: usize,
    last: Range<usize>,
    exclusion: Option<Exclusion>,
    /// The sets of peers, where those matter, and the one that was met last.
    peers: Vec<Range<usize>>,
    met: usize,
}

impl Frames {
    fn new(of: &FrameAggregate, rows: &RecordBatch) -> Result<Self> {
        let sort = of.frame.order_by_columns(rows)?;
        let options = of.frame.order_by().iter().map(|o| o.options).collect();
        let order: Vec<ArrayRef> = sort.iter().map(|s| Arc::clone(&s.values)).collect();
        let by_peers = matches!(of.exclusion, Some(Exclusion::Group | Exclusion::Ties));
        let peers = match by_peers && !order.is_empty() {
            true => partition(&order)?.ranges(),
            // Without an order all rows are peers.
            false => std::iter::once(0..rows.num_rows()).collect(),
        };
        Ok(Frames {
            context: WindowFrameContext::new(Arc::clone(of.frame.get_window_frame()), options),
            order,
            rows: rows.num_rows(),
            last: 0..0,
            exclusion: of.exclusion,
            peers,
            met: 0,
        })
    }

    fn of(&mut self, row: usize) -> Result<Range<usize>> {
        let range = self.context.calculate_range(&self.order, &self.last, self.rows, row)?;
        self.last = range.clone();
        Ok(range)
    }

    /// The rows of the frame, without those that it leaves out. Rows are asked for in their order.
    fn parts_of(&mut self, row: usize) -> Result<Vec<Range<usize>>> {
        let Range { start, end } = self.of(row)?;
        let left_out = match self.exclusion {
            None => return Ok(std::iter::once(start..end).collect()),
            Some(Exclusion::CurrentRow) => row..row + 1,
            Some(Exclusion::Group | Exclusion::Ties) => {
                while self.peers[self.met].end <= row {
                    self.met += 1;
                }
                self.peers[self.met].clone()
            }
        };
        let itself = match self.exclusion {
            Some(Exclusion::Ties) if (start..end).contains(&row) => row..row + 1,
            _ => 0..0,
        };
        let parts = [start..end.min(left_out.start), itself, start.max(left_out.end)..end];
        Ok(parts.into_iter().filter(|part| !part.is_empty()).collect())
    }
}
