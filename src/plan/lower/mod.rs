//! DataFusion's optimised logical plan → [`ir`](super::ir).
//!
//! Everything that has no form in the IR is refused here, in words for the author of the SQL.

mod aggregate;
mod call;
mod expr;
mod grouping;
mod join;
mod rank;
mod reach;
mod recursion;
mod temporal;
mod unread;
mod window;

pub use expr::column_index;

pub use expr::column;

use std::any::Any;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{DFSchema, DFSchemaRef};
use datafusion_expr::utils::split_conjunction;
use datafusion_expr::{Expr, LogicalPlan, TableScan, Values, lit};

use super::context::{ScannedTable, WorkTableSource, plain_message};
use super::delta_join::delta_joins;
use super::functions::lockstep::{in_lockstep, member};
use super::ir::{Node, NodeId, Op, Plan, Scalar};
use super::nearest::Nearest;
use super::share::shared_scans;
use super::top_rows::TopRows;
use super::unnest::UnnestRows;
use crate::model::source::SourceColumn;
use unread::mark_unread;

/// Why a plan cannot be kept: a sentence for the author of the SQL.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LowerError(pub String);

impl From<datafusion_common::DataFusionError> for LowerError {
    fn from(error: datafusion_common::DataFusionError) -> Self {
        LowerError(plain_message(&error))
    }
}

impl From<arrow::error::ArrowError> for LowerError {
    fn from(error: arrow::error::ArrowError) -> Self {
        LowerError(error.to_string())
    }
}

type Result<T> = std::result::Result<T, LowerError>;

fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(LowerError(message.into()))
}

/// The IR of a logical plan.
///
/// A recursion that has not ended after `iterations_max` iterations fails.
pub fn lower(
    plan: &LogicalPlan,
    options: &Arc<ConfigOptions>,
    iterations_max: u64,
) -> Result<Plan> {
    let mut lowering = Lowering {
        nodes: Vec::new(),
        exprs: expr::ExprPlanner::new(options),
        work_tables: Vec::new(),
        iterations_max,
    };
    let root = lowering.plan(plan)?;
    let plan = reachable(Plan { nodes: lowering.nodes, root });
    let mut plan = shared_scans(plan);
    delta_joins(&mut plan);
    let mut plan = reachable(plan);
    mark_unread(&mut plan);
    Ok(plan)
}

/// The plan without nodes that nobody reads.
fn reachable(plan: Plan) -> Plan {
    let mut needed = vec![false; plan.nodes.len()];
    needed[plan.root] = true;
    for id in (0..plan.nodes.len()).rev().filter(|id| *id <= plan.root) {
        if needed[id] {
            plan.nodes[id].op.inputs().into_iter().for_each(|input| needed[input] = true);
        }
    }
    let mut places = vec![0; plan.nodes.len()];
    let mut nodes = Vec::new();
    for (id, mut node) in plan.nodes.into_iter().enumerate().filter(|(id, _)| needed[*id]) {
        node.op.map_inputs(&|input| places[input]);
        places[id] = nodes.len();
        nodes.push(node);
    }
    Plan { root: places[plan.root], nodes }
}

/// Appends to a plan the check that `key` is unique, unless that is already certain.
pub fn assert_key(mut plan: Plan, key: &[usize]) -> Plan {
    let root = plan.root();
    if root.is_unique_by(key) {
        return plan;
    }
    let node = Node {
        op: Op::AssertKey { input: plan.root, key: key.to_vec() },
        schema: Arc::clone(&root.schema),
        keys: vec![key.to_vec()],
        monotonic: false,
    };
    plan.root = plan.nodes.len();
    plan.nodes.push(node);
    plan
}

/// Most candidate keys that are remembered per node.
const KEYS_MAX: usize = 4;

struct Lowering {
    nodes: Vec<Node>,
    exprs: expr::ExprPlanner,
    /// The recursions around what is being planned.
    work_tables: Vec<recursion::WorkTable>,
    iterations_max: u64,
}

impl Lowering {
    fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn add(&mut self, op: Op, schema: SchemaRef, keys: Vec<Vec<usize>>, monotonic: bool) -> NodeId {
        let mut keys = keys;
        for key in &mut keys {
            key.sort_unstable();
            key.dedup();
        }
        keys.sort_by_key(|k| k.len());
        keys.dedup();
        keys.truncate(KEYS_MAX);
        // An operator that occurs twice in the query is computed once.
        let types = |schema: &Schema| -> Vec<arrow::datatypes::DataType> {
            schema.fields().iter().map(|f| f.data_type().clone()).collect()
        };
        let same = |node: &Node| node.op == op && types(&node.schema) == types(&schema);
        if let Some(known) = self.nodes.iter().position(same) {
            return known;
        }
        self.push(Node { op, schema, keys, monotonic })
    }

    fn width(&self, id: NodeId) -> usize {
        self.nodes[id].schema.fields().len()
    }

    fn plan(&mut self, plan: &LogicalPlan) -> Result<NodeId> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => self.plan(&alias.input),
            LogicalPlan::Projection(projection) => {
                let input = self.plan(&projection.input)?;
                let schema = arrow_schema(&projection.schema);
                self.project(input, &projection.expr, projection.input.schema(), schema)
            }
            LogicalPlan::Filter(filter) => {
                let input = self.plan(&filter.input)?;
                self.filter(input, &filter.predicate, filter.input.schema())
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => {
                let inputs =
                    union.inputs.iter().map(|i| self.plan(i)).collect::<Result<Vec<_>>>()?;
                Ok(self.union(inputs, arrow_schema(&union.schema)))
            }
            LogicalPlan::Distinct(datafusion_expr::Distinct::All(input)) => {
                let input = self.plan(input)?;
                Ok(self.distinct(input))
            }
            LogicalPlan::Sort(sort) => match sort.fetch {
                // Without a limit the order of rows is nobody's business: tables have none.
                None => self.plan(&sort.input),
                Some(fetch) => self.top(&sort.input, &sort.expr, 0, Some(fetch as u64)),
            },
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Values(values) => self.values(values),
            LogicalPlan::EmptyRelation(empty) => {
                let schema = arrow_schema(&empty.schema);
                let options = RecordBatchOptions::new()
                    .with_row_count(Some(usize::from(empty.produce_one_row)));
                let columns = if empty.produce_one_row {
                    Vec::new()
                } else {
                    schema
                        .fields()
                        .iter()
                        .map(|f| arrow::array::new_empty_array(f.data_type()))
                        .collect()
                };
                let rows = RecordBatch::try_new_with_options(schema, columns, &options)?;
                Ok(self.constant(rows))
            }
            LogicalPlan::Extension(extension) => {
                let node = extension.node.as_any();
                if let Some(unnest) = node.downcast_ref::<UnnestRows>() {
                    self.unnest(unnest)
                } else if let Some(top) = node.downcast_ref::<TopRows>() {
                    self.top_rows(top)
                } else if let Some(nearest) = node.downcast_ref::<Nearest>() {
                    self.nearest(nearest)
                } else {
                    refuse("UNNEST needs a row to belong to: FROM t, UNNEST(t.items) AS i")
                }
            }
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::RecursiveQuery(query) => self.recursive(query),
            LogicalPlan::Subquery(_) => refuse("LATERAL needs a table before it"),
            LogicalPlan::Unnest(unnest) => self.unnest_column(unnest),
            other => refuse(format!("{} is not supported", other.display())),
        }
    }

    fn scan(&mut self, scan: &TableScan) -> Result<NodeId> {
        if !scan.filters.is_empty() || scan.fetch.is_some() {
            return refuse("a table scan took over a filter or a limit");
        }
        let source: &dyn Any = scan.source.as_ref();
        if let Some(work) = source.downcast_ref::<WorkTableSource>() {
            let known = self.work_tables.iter().rev().find(|table| table.name == work.name);
            let Some(node) = known.map(|table| table.node) else {
                return refuse(format!(
                    "{0} is read in a sub-query of its recursive term, but not in the term's FROM: join {0} there",
                    work.name
                ));
            };
            return Ok(match &scan.projection {
                Some(columns) => self.select(node, columns),
                None => node,
            });
        }
        let Some(scanned) = source.downcast_ref::<ScannedTable>() else {
            return refuse(format!("{} cannot be read", scan.table_name));
        };
        let all = scanned.table.columns();
        let columns: Vec<SourceColumn> = match &scan.projection {
            Some(indexes) => indexes.iter().map(|i| all[*i]).collect(),
            None => all,
        };
        let position = SourceColumn::System(crate::model::source::SystemColumn::Position);
        let keys = columns.iter().position(|c| *c == position).map(|i| vec![i]);
        let schema = arrow_schema(&scan.projected_schema);
        let op = Op::Source { table: scanned.table.clone(), columns };
        Ok(self.add(op, schema, keys.into_iter().collect(), true))
    }

    fn constant(&mut self, rows: RecordBatch) -> NodeId {
        let keys = if rows.num_rows() <= 1 { vec![Vec::new()] } else { Vec::new() };
        let schema = rows.schema();
        self.add(Op::Constant { rows }, schema, keys, true)
    }

    fn values(&mut self, values: &Values) -> Result<NodeId> {
        let schema = arrow_schema(&values.schema);
        let none = RecordBatch::try_new_with_options(
            Arc::new(Schema::empty()),
            Vec::new(),
            &RecordBatchOptions::new().with_row_count(Some(1)),
        )?;
        let mut columns: Vec<Vec<ArrayRef>> = vec![Vec::new(); schema.fields().len()];
        for row in &values.values {
            for (column, value) in columns.iter_mut().zip(row) {
                let scalar = self.exprs.scalar(value, &DFSchema::empty())?;
                column.push(scalar.expr.evaluate(&none)?.into_array(1)?);
            }
        }
        let columns = columns
            .iter()
            .map(|parts| {
                let parts: Vec<&dyn arrow::array::Array> =
                    parts.iter().map(|p| p.as_ref()).collect();
                arrow::compute::concat(&parts)
            })
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let rows = RecordBatch::try_new(relaxed(&schema), columns)?;
        Ok(self.constant(rows))
    }

    fn project(
        &mut self,
        input: NodeId,
        exprs: &[Expr],
        input_schema: &DFSchema,
        schema: SchemaRef,
    ) -> Result<NodeId> {
        let columns =
            exprs.iter().map(|e| self.exprs.scalar(e, input_schema)).collect::<Result<Vec<_>>>()?;
        Ok(self.project_scalars(input, columns, schema))
    }

    fn project_scalars(
        &mut self,
        input: NodeId,
        columns: Vec<Scalar>,
        schema: SchemaRef,
    ) -> NodeId {
        let origins: Vec<Option<usize>> = columns.iter().map(expr::column_index).collect();
        let identity = origins.len() == self.width(input)
            && origins.iter().enumerate().all(|(i, origin)| *origin == Some(i));
        if identity {
            return input;
        }
        let node = &self.nodes[input];
        let moved = |column: &usize| origins.iter().position(|o| *o == Some(*column));
        let keys = node.keys.iter().filter_map(|key| key.iter().map(moved).collect()).collect();
        let monotonic = node.monotonic;
        self.add(Op::Project { input, columns }, schema, keys, monotonic)
    }

    /// Keeps some columns of a node, in the given order.
    fn select(&mut self, input: NodeId, indexes: &[usize]) -> NodeId {
        let schema = Arc::clone(&self.nodes[input].schema);
        let fields: Vec<_> = indexes.iter().map(|i| Arc::clone(&schema.fields()[*i])).collect();
        let columns = indexes.iter().map(|i| expr::column(&schema, *i)).collect();
        self.project_scalars(input, columns, Arc::new(Schema::new(fields)))
    }

    fn filter(&mut self, input: NodeId, predicate: &Expr, schema: &DFSchema) -> Result<NodeId> {
        let always = lit(true);
        let conditions = split_conjunction(predicate).into_iter().filter(|c| **c != always);
        let (temporal, plain): (Vec<&Expr>, Vec<&Expr>) =
            conditions.partition(|condition| temporal::mentions_now(condition));
        let conditions = plain
            .into_iter()
            .map(|condition| self.exprs.scalar(condition, schema))
            .collect::<Result<Vec<_>>>()?;
        let mut node = input;
        if !conditions.is_empty() {
            let Node { schema, keys, monotonic, .. } = self.nodes[input].clone();
            node = self.add(Op::Filter { input, conditions }, schema, keys, monotonic);
        }
        self.temporal(node, &temporal, schema)
    }

    fn union(&mut self, inputs: Vec<NodeId>, schema: SchemaRef) -> NodeId {
        let monotonic = inputs.iter().all(|i| self.nodes[*i].monotonic);
        self.add(Op::Union { inputs }, schema, Vec::new(), monotonic)
    }

    fn distinct(&mut self, input: NodeId) -> NodeId {
        let Node { schema, mut keys, monotonic, .. } = self.nodes[input].clone();
        if !keys.is_empty() {
            // Rows that differ in a key are distinct already.
            return input;
        }
        let key: Vec<usize> = (0..schema.fields().len()).collect();
        keys.push(key.clone());
        self.add(Op::Reduce { input, key, aggregates: Vec::new() }, schema, keys, monotonic)
    }

    /// UNNEST in the SELECT list. Several arrays go on side by side.
    fn unnest_column(&mut self, unnest: &datafusion_expr::Unnest) -> Result<NodeId> {
        let names = unnest.input.schema();
        let mut elements: Vec<Field> = Vec::new();
        for (n, (column, list)) in unnest.list_type_columns.iter().enumerate() {
            match names.field(*column).data_type() {
                DataType::List(item) if list.depth == 1 && !item.data_type().is_nested() => {
                    let element = item.as_ref().clone().with_nullable(true);
                    elements.push(element.with_name(member(n)));
                }
                _ => elements.clear(),
            }
        }
        let lists: Vec<usize> = unnest.list_type_columns.iter().map(|(at, _)| *at).collect();
        if elements.len() != lists.len() || !unnest.struct_type_columns.is_empty() {
            let hint = "FROM t, UNNEST(t.items) AS i does it";
            return refuse(format!("UNNEST in the SELECT list takes arrays of values: {hint}"));
        }
        let input = self.plan(&unnest.input)?;
        let schema = Arc::clone(&self.nodes[input].schema);
        let width = self.width(input);
        let array = match lists.as_slice() {
            [column] => expr::column(&schema, *column),
            several => {
                let columns = names.columns();
                let arrays = several.iter().map(|at| Expr::Column(columns[*at].clone()));
                self.exprs.scalar(&in_lockstep(arrays.collect()), names)?
            }
        };
        let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        fields.extend(elements);
        let monotonic = self.nodes[input].monotonic;
        let op = Op::Unnest { input, array, outer: false, ordinality: false, unread: Vec::new() };
        let node = self.add(op, Arc::new(Schema::new(fields)), Vec::new(), monotonic);
        let place = |index: &usize| match lists.iter().position(|list| list == index) {
            Some(n) => width + n,
            None => *index,
        };
        let columns: Vec<usize> = unnest.dependency_indices.iter().map(place).collect();
        Ok(self.select(node, &columns))
    }

    fn unnest(&mut self, unnest: &UnnestRows) -> Result<NodeId> {
        let input = self.plan(&unnest.input)?;
        let array = self.exprs.scalar(&unnest.array, unnest.input.schema())?;
        let monotonic = self.nodes[input].monotonic;
        let schema = {
            use datafusion_expr::UserDefinedLogicalNodeCore;
            arrow_schema(UnnestRows::schema(unnest))
        };
        let (outer, ordinality, unread) = (unnest.outer, unnest.ordinality, Vec::new());
        let op = Op::Unnest { input, array, outer, ordinality, unread };
        Ok(self.add(op, schema, Vec::new(), monotonic))
    }
}

fn arrow_schema(schema: &DFSchemaRef) -> SchemaRef {
    Arc::new(schema.as_arrow().clone())
}

/// The schema with every column nullable.
///
/// Nullability is a promise about results, made at the view's edge; inside, DataFusion's inference
/// is not a reason to fail a batch.
pub fn relaxed(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> =
        schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    Arc::new(Schema::new(fields))
}
