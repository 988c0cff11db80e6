//! The first rows of each partition in order, as a logical node: what LIMIT inside a correlated
//! sub-query means, and `row_number() … <= k`.

use std::cmp::Ordering;
use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TransformedResult};
use datafusion_common::{Column, DFSchemaRef, Result, ScalarValue, plan_err};
use datafusion_expr::utils::{conjunction, split_conjunction_owned};
use datafusion_expr::{
    BinaryExpr, Expr, Extension, Filter, Limit, LogicalPlan, Operator, Projection, SortExpr,
    SubqueryAlias, UserDefinedLogicalNodeCore, Window,
};
use datafusion_optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// The input's rows `skip .. skip + fetch` of each partition; ties go by the whole row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopRows {
    pub input: LogicalPlan,
    pub partition: Vec<Expr>,
    pub order: Vec<SortExpr>,
    pub skip: usize,
    pub fetch: Option<usize>,
}

impl TopRows {
    /// A node over `input`.
    pub fn new(
        input: LogicalPlan,
        partition: Vec<Expr>,
        order: Vec<SortExpr>,
        skip: usize,
        fetch: Option<usize>,
    ) -> Self {
        TopRows { input, partition, order, skip, fetch }
    }
}

impl PartialOrd for TopRows {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.partition.partial_cmp(&other.partition)
    }
}

impl UserDefinedLogicalNodeCore for TopRows {
    fn name(&self) -> &str {
        "TopRows"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        self.partition.iter().cloned().chain(self.order.iter().map(|s| s.expr.clone())).collect()
    }

    fn fmt_for_explain(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "TopRows: skip {} fetch {:?}", self.skip, self.fetch)
    }

    fn with_exprs_and_inputs(
        &self,
        mut exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> Result<Self> {
        let (Some(input), true) =
            (inputs.pop(), exprs.len() == self.partition.len() + self.order.len())
        else {
            return plan_err!("the first rows of a partition lost their input");
        };
        let sorted = exprs.split_off(self.partition.len());
        let order = sorted.into_iter().zip(&self.order);
        let order = order.map(|(expr, s)| SortExpr { expr, ..s.clone() }).collect();
        Ok(TopRows { input, partition: exprs, order, skip: self.skip, fetch: self.fetch })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let mut needed = output_columns.to_vec();
        for column in self.expressions().iter().flat_map(|e| e.column_refs()) {
            needed.push(self.input.schema().maybe_index_of_column(column)?);
        }
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// LIMIT moved below the projections that stand between it and its ORDER BY.
///
/// The planner puts a projection there when the order is by columns that the SELECT list leaves out,
/// and so does the optimizer when the query around it reads none of them.
pub fn sink_limits(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Limit(limit) if is_sorted_below(&limit.input) => {
            sink(limit).map(Transformed::yes)
        }
        other => Ok(Transformed::no(other)),
    })
    .data()
}

fn is_sorted_below(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => {
            matches!(projection.input.as_ref(), LogicalPlan::Sort(_))
                || is_sorted_below(&projection.input)
        }
        _ => false,
    }
}

fn sink(mut limit: Limit) -> Result<LogicalPlan> {
    match Arc::unwrap_or_clone(limit.input) {
        LogicalPlan::Projection(mut projection) => {
            limit.input = projection.input;
            projection.input = Arc::new(sink(limit)?);
            Ok(LogicalPlan::Projection(projection))
        }
        input => {
            limit.input = Arc::new(input);
            Ok(LogicalPlan::Limit(limit))
        }
    }
}

/// An optimizer rule: of `row_number() … <= k` only the first k rows of each partition are kept,
/// and numbered only if somebody reads the number.
#[derive(Debug)]
pub struct RowNumberLimit;

impl OptimizerRule for RowNumberLimit {
    fn name(&self) -> &str {
        "row_number_limit"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Filter(filter) = &plan else { return Ok(Transformed::no(plan)) };
        let mut rest = Vec::new();
        let mut limited: Option<LogicalPlan> = None;
        for condition in split_conjunction_owned(filter.predicate.clone()) {
            let bound = at_most(&condition);
            match bound.filter(|_| limited.is_none()) {
                Some((column, k, exact)) => {
                    limited = limit_numbers(&filter.input, &column, k)?;
                    if limited.is_none() || !exact {
                        rest.push(condition);
                    }
                }
                None => rest.push(condition),
            }
        }
        let Some(limited) = limited else { return Ok(Transformed::no(plan)) };
        Ok(Transformed::yes(match conjunction(rest) {
            Some(rest) => LogicalPlan::Filter(Filter::try_new(rest, Arc::new(limited))?),
            None => limited,
        }))
    }
}

/// The column and the number that it is at most; whether the condition says no more than that of a
/// number from 1 on.
fn at_most(condition: &Expr) -> Option<(Column, usize, bool)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return None };
    let (column, op, number) = match (column_of(left), column_of(right)) {
        (Some(column), None) => (column, *op, right),
        (None, Some(column)) => (column, op.swap()?, left),
        _ => return None,
    };
    let Expr::Literal(value, _) = number.as_ref() else { return None };
    let number = match value.cast_to(&arrow::datatypes::DataType::Int64).ok()? {
        ScalarValue::Int64(Some(number)) if number >= 1 => number as usize,
        _ => return None,
    };
    match op {
        Operator::LtEq => Some((column, number, true)),
        Operator::Lt if number > 1 => Some((column, number - 1, true)),
        Operator::Eq => Some((column, number, number == 1)),
        _ => None,
    }
}

fn column_of(expr: &Expr) -> Option<Column> {
    match expr {
        Expr::Column(column) => Some(column.clone()),
        Expr::Cast(cast) => column_of(&cast.expr),
        _ => None,
    }
}

/// The plan with only the first `k` rows of each partition below its row numbers, if `column` is one.
fn limit_numbers(plan: &LogicalPlan, column: &Column, k: usize) -> Result<Option<LogicalPlan>> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => {
            let index = alias.schema.maybe_index_of_column(column);
            let Some(index) = index else { return Ok(None) };
            let below = alias.input.schema().columns().swap_remove(index);
            let Some(input) = limit_numbers(&alias.input, &below, k)? else { return Ok(None) };
            let alias = SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?;
            Ok(Some(LogicalPlan::SubqueryAlias(alias)))
        }
        LogicalPlan::Projection(projection) => {
            let index = projection.schema.maybe_index_of_column(column);
            let Some(below) = index.and_then(|i| column_of(&projection.expr[i].clone().unalias()))
            else {
                return Ok(None);
            };
            let Some(input) = limit_numbers(&projection.input, &below, k)? else {
                return Ok(None);
            };
            let projection = Projection::try_new(projection.expr.clone(), Arc::new(input))?;
            Ok(Some(LogicalPlan::Projection(projection)))
        }
        LogicalPlan::Window(window) => {
            let width = window.input.schema().fields().len();
            let own = window.schema.maybe_index_of_column(column).is_some_and(|i| i >= width);
            let numbers: Option<Vec<_>> = window.window_expr.iter().map(row_number).collect();
            let Some(numbers) = numbers.filter(|_| own) else { return Ok(None) };
            let Some(((partition, order), others)) = numbers.split_first() else {
                return Ok(None);
            };
            if others.iter().any(|other| other != &(*partition, *order)) {
                return Ok(None);
            }
            let input = window.input.as_ref().clone();
            let top = TopRows::new(input, partition.to_vec(), order.to_vec(), 0, Some(k));
            if let LogicalPlan::Extension(below) = window.input.as_ref()
                && let Some(below) = below.node.as_any().downcast_ref::<TopRows>()
                && (&below.partition, &below.order, below.fetch)
                    == (&top.partition, &top.order, top.fetch)
            {
                return Ok(None);
            }
            let top = LogicalPlan::Extension(Extension { node: Arc::new(top) });
            let window = Window::try_new(window.window_expr.clone(), Arc::new(top))?;
            Ok(Some(LogicalPlan::Window(window)))
        }
        _ => Ok(None),
    }
}

/// The partition and order of a row number.
fn row_number(expr: &Expr) -> Option<(&[Expr], &[SortExpr])> {
    match expr {
        Expr::Alias(alias) => row_number(&alias.expr),
        Expr::WindowFunction(function) if function.fun.name() == "row_number" => {
            Some((&function.params.partition_by, &function.params.order_by))
        }
        _ => None,
    }
}
