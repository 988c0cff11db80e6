//! The plan that runs: a closed set of operators that states everything a renderer would otherwise
//! have to work out.
//!
//! Nodes are listed so that inputs come before their readers; a node may be read more than once.
//! Columns are indexes into the input's schema. Expressions are DataFusion's physical ones, bound to
//! those indexes, with the SQL text that errors quote.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use datafusion_physical_expr::window::WindowExpr;

use crate::aggregate::AggregateFunction;
use crate::model::source::{SourceColumn, SourceTable};

/// Index of a node in [`Plan::nodes`].
pub type NodeId = usize;

/// The plan of one materialized view.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub nodes: Vec<Node>,
    pub root: NodeId,
}

impl Plan {
    /// The node that gives the view's rows.
    pub fn root(&self) -> &Node {
        &self.nodes[self.root]
    }

    /// Whether rows change as time passes.
    pub fn is_temporal(&self) -> bool {
        self.nodes.iter().any(|node| matches!(node.op, Op::Temporal { .. }))
    }

    /// The event tables that the plan reads, with their columns.
    pub fn sources(&self) -> impl Iterator<Item = (NodeId, &SourceTable, &[SourceColumn])> {
        self.nodes.iter().enumerate().filter_map(|(id, node)| match &node.op {
            Op::Source { table, columns } => Some((id, table, columns.as_slice())),
            _ => None,
        })
    }
}

/// An operator and what is known of its output.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub op: Op,
    pub schema: SchemaRef,
    /// Sets of columns by which no two output rows are equal; an empty set: at most one row.
    pub keys: Vec<Vec<usize>>,
    /// Rows are only ever added to the output.
    pub monotonic: bool,
}

impl Node {
    /// Whether no two rows agree in all of these columns.
    pub fn is_unique_by(&self, columns: &[usize]) -> bool {
        self.keys.iter().any(|key| key.iter().all(|column| columns.contains(column)))
    }
}

/// The operator of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The events of a table, as rows of these columns.
    Source { table: SourceTable, columns: Vec<SourceColumn> },
    /// Rows that are always there.
    Constant { rows: RecordBatch },
    /// The input's rows for which all conditions are true, tested one after the other.
    Filter { input: NodeId, conditions: Vec<Scalar> },
    /// The input's rows while a condition holds that depends on the time that it is: its expressions
    /// have that as a column behind the input's. Each moment is a part of the condition that changes
    /// its value once at most.
    Temporal { input: NodeId, condition: Scalar, moments: Vec<Scalar> },
    /// One output row per input row.
    Project { input: NodeId, columns: Vec<Scalar> },
    /// Each row once per element of its array column, the element's columns behind its own, and
    /// behind those its number. Columns of the row that nobody reads are NULL.
    Unnest { input: NodeId, array: Scalar, outer: bool, ordinality: bool, unread: Vec<usize> },
    /// Pairs of rows with equal keys: the left columns, then the right ones.
    Join { left: NodeId, right: NodeId, on: JoinKeys },
    /// Rows of all inputs with equal keys side by side. Nothing is kept but the inputs: what changes in
    /// one of them looks up the others by its path.
    DeltaJoin { inputs: Vec<NodeId>, paths: Vec<DeltaPath> },
    /// The left rows for which there is a right row with an equal key, or none if `anti`.
    SemiJoin { left: NodeId, right: NodeId, on: JoinKeys, anti: bool },
    /// Each left row beside the right row that is nearest to it, of those with an equal key: that
    /// comes first in `order`, of which the first column is compared with the left row's `at`.
    Nearest {
        left: NodeId,
        right: NodeId,
        on: JoinKeys,
        at: usize,
        order: Vec<OrderColumn>,
        /// Right rows at the same place do not count.
        strict: bool,
        /// Left rows without a right one are beside NULLs.
        outer: bool,
    },
    /// One row per key: its columns, then the aggregates. No aggregates: DISTINCT.
    Reduce { input: NodeId, key: Vec<usize>, aggregates: Vec<Aggregate> },
    /// The rows `offset .. offset + limit` of each group in order; ties go by the whole row.
    TopK {
        input: NodeId,
        key: Vec<usize>,
        order: Vec<OrderColumn>,
        offset: u64,
        limit: Option<u64>,
    },
    /// The first `limit` rows of each group, of an input that only grows: only they are kept. With `numbered`, each
    /// has its number among them, from 1 on, behind its columns.
    First { input: NodeId, key: Vec<usize>, order: Vec<OrderColumn>, limit: u64, numbered: bool },
    /// One row per key: its columns, then aggregates computed anew from all of the group's rows, in
    /// order.
    Recompute {
        input: NodeId,
        key: Vec<usize>,
        order: Vec<OrderColumn>,
        aggregates: Vec<GeneralAggregate>,
    },
    /// The input's rows, each with what functions over its partition, in order, give for it.
    Window {
        input: NodeId,
        key: Vec<usize>,
        order: Vec<OrderColumn>,
        functions: Vec<WindowFunction>,
    },
    /// The input's rows; those that share their key with another row are errors.
    AssertKey { input: NodeId, key: Vec<usize> },
    /// Inside a recursion: the rows so far (index 0), or what is computed outside it (from 1 on).
    Given { index: usize },
    /// The rows of `base`, and what `step` makes of the rows so far, until nothing changes.
    Recursion {
        base: NodeId,
        /// Nodes that the step reads and that do not change within the recursion.
        outer: Vec<NodeId>,
        step: Arc<Plan>,
        distinct: bool,
        /// Rows of further iterations are failures.
        iterations_max: u64,
        name: Arc<str>,
    },
    /// The rows of all inputs.
    Union { inputs: Vec<NodeId> },
}

impl Op {
    /// The nodes that this one reads.
    pub fn inputs(&self) -> Vec<NodeId> {
        let mut op = self.clone();
        op.inputs_mut().into_iter().map(|id| *id).collect()
    }

    /// Lets the node read others in the place of its inputs.
    pub fn map_inputs(&mut self, place: &dyn Fn(NodeId) -> NodeId) {
        self.inputs_mut().into_iter().for_each(|id| *id = place(*id));
    }

    fn inputs_mut(&mut self) -> Vec<&mut NodeId> {
        match self {
            Op::Source { .. } | Op::Constant { .. } | Op::Given { .. } => Vec::new(),
            Op::Filter { input, .. }
            | Op::Temporal { input, .. }
            | Op::Project { input, .. }
            | Op::Unnest { input, .. }
            | Op::Reduce { input, .. }
            | Op::TopK { input, .. }
            | Op::First { input, .. }
            | Op::Recompute { input, .. }
            | Op::Window { input, .. }
            | Op::AssertKey { input, .. } => vec![input],
            Op::Join { left, right, .. }
            | Op::SemiJoin { left, right, .. }
            | Op::Nearest { left, right, .. } => vec![left, right],
            Op::Recursion { base, outer, .. } => [base].into_iter().chain(outer).collect(),
            Op::Union { inputs } | Op::DeltaJoin { inputs, .. } => inputs.iter_mut().collect(),
        }
    }
}

/// An expression over the columns of an input.
#[derive(Clone)]
pub struct Scalar {
    pub expr: Arc<dyn PhysicalExpr>,
    /// The SQL that it was written as, or near to it.
    pub text: Arc<str>,
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.expr.as_ref() == other.expr.as_ref()
    }
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Which columns two inputs are matched by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinKeys {
    pub left: Vec<usize>,
    pub right: Vec<usize>,
    /// NULL equals NULL (as in set operations); otherwise a row with a NULL key matches nothing.
    pub nulls_equal: bool,
}

/// The path by which the changes of one input of a delta join find the rows of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaPath {
    pub lookups: Vec<Lookup>,
    /// The output's columns: places in the input's row with those looked up behind it.
    pub output: Vec<usize>,
}

/// A step of a path: which input is looked up, by which columns of the row so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The number of the input.
    pub input: usize,
    pub on: JoinKeys,
}

/// A column to order by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderColumn {
    pub column: usize,
    pub descending: bool,
    pub nulls_first: bool,
}

/// An aggregate that needs all of its group's values. Its expressions are over the input's columns.
#[derive(Clone)]
pub struct GeneralAggregate {
    pub function: Arc<AggregateFunctionExpr>,
    /// Only rows in which this column is true.
    pub filter: Option<usize>,
    /// Only the first of rows with equal arguments.
    pub distinct: bool,
    pub text: Arc<str>,
}

impl PartialEq for GeneralAggregate {
    fn eq(&self, other: &Self) -> bool {
        self.function == other.function
            && (self.filter, self.distinct) == (other.filter, other.distinct)
    }
}

impl fmt::Debug for GeneralAggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A function over a partition's rows in order.
#[derive(Clone)]
pub struct WindowFunction {
    pub evaluation: WindowEvaluation,
    pub reach: Reach,
    pub text: Arc<str>,
}

impl PartialEq for WindowFunction {
    /// Only copies of one function are known to be equal.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.text, &other.text)
    }
}

impl fmt::Debug for WindowFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How a window function is computed.
#[derive(Clone)]
pub enum WindowEvaluation {
    /// As DataFusion does it.
    Whole(Arc<dyn WindowExpr>),
    /// An aggregate of each row's frame by itself: nothing is ever taken out of a sum.
    EachFrame(FrameAggregate),
    /// An aggregate of frames that begin at the partition's start: goes on from what the rows before
    /// came to.
    Growing(FrameAggregate),
    /// A number that counts what is before a row.
    Rank(Rank, Arc<dyn WindowExpr>),
    /// The value of the partition's `n`-th row (from 1), where frames begin at the partition's start.
    Nth { n: u64, expr: Arc<dyn WindowExpr> },
}

/// The unit that a rank counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// Rows, whether peers or not, or rows before the first peer.
    Rows,
    /// Sets of peers.
    Peers,
}

/// An aggregate over frames.
#[derive(Clone)]
pub struct FrameAggregate {
    pub aggregate: Arc<AggregateFunctionExpr>,
    pub frame: Arc<dyn WindowExpr>,
    /// Only rows for which this is true.
    pub filter: Option<Scalar>,
    pub exclusion: Option<Exclusion>,
}

/// The rows that a frame leaves out, though they are within its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    CurrentRow,
    /// The row and its peers.
    Group,
    /// Its peers, without the row.
    Ties,
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Exclusion::CurrentRow => "EXCLUDE CURRENT ROW",
            Exclusion::Group => "EXCLUDE GROUP",
            Exclusion::Ties => "EXCLUDE TIES",
        })
    }
}

/// The rows of its partition that a function's value for a row depends on.
#[derive(Clone, Debug)]
pub enum Reach {
    /// All of them.
    Partition,
    /// The rows near the row.
    Near { before: Extent, after: Extent },
    /// All rows before it, in a form that can be gone on from, and the rows near behind it.
    Before { after: Extent },
}

/// A distance from a row.
#[derive(Clone, Debug)]
pub enum Extent {
    /// So many rows, whether peers or not.
    Rows(u64),
    /// The peers of the row and so many sets of peers further on.
    Peers(u64),
    /// Rows whose ordering column differs by no more than this.
    Value(ScalarValue),
}

/// An aggregate over one column. NULLs never count; a FILTER has become NULLs in the column.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    pub function: &'static AggregateFunction,
    /// `None` for `count(*)` alone.
    pub input: Option<usize>,
    pub input_type: DataType,
    pub output_type: DataType,
    pub text: Arc<str>,
}
