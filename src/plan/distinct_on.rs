//! DISTINCT ON as what it means: the SELECT list, the first row for each value of the ON expressions, and
//! the order of those rows, which a LIMIT around it goes by.

use std::sync::Arc;

use datafusion_common::Result;
use datafusion_common::tree_node::{Transformed, TransformedResult};
use datafusion_expr::{
    Distinct, DistinctOn, Expr, Extension, LogicalPlan, LogicalPlanBuilder, Projection, SortExpr,
    col,
};

use super::top_rows::TopRows;

/// The plan without DISTINCT ON, sub-queries included.
pub fn as_top_rows(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Distinct(Distinct::On(on)) => first_rows(on).map(Transformed::yes),
        other => Ok(Transformed::no(other)),
    })
    .data()
}

fn first_rows(on: DistinctOn) -> Result<LogicalPlan> {
    let DistinctOn { on_expr, select_expr, sort_expr, input, schema } = on;
    // One column for each expression, whatever it is for: a key that is selected is a key of the result.
    let width = select_expr.len();
    let mut exprs: Vec<Expr> = select_expr.into_iter().map(Expr::unalias).collect();
    let mut column = |expr: Expr| {
        let known = exprs.iter().position(|e| *e == expr);
        let index = known.unwrap_or_else(|| {
            exprs.push(expr);
            exprs.len() - 1
        });
        col(name(index))
    };
    let partition: Vec<Expr> = on_expr.into_iter().map(&mut column).collect();
    let order: Vec<SortExpr> = sort_expr
        .unwrap_or_default()
        .into_iter()
        .map(|sort| SortExpr { expr: column(sort.expr), ..sort })
        .collect();
    let named = exprs.into_iter().enumerate().map(|(index, e)| e.alias(name(index))).collect();
    let rows = LogicalPlan::Projection(Projection::try_new(named, input)?);
    let first = TopRows::new(rows, partition, order.clone(), 0, Some(1));
    let mut plan = LogicalPlan::Extension(Extension { node: Arc::new(first) });
    if !order.is_empty() {
        plan = LogicalPlanBuilder::from(plan).sort(order)?.build()?;
    }
    let shown = schema.iter().take(width).enumerate().map(|(index, (qualifier, field))| {
        col(name(index)).alias_qualified(qualifier.cloned(), field.name())
    });
    Ok(LogicalPlan::Projection(Projection::try_new(shown.collect(), Arc::new(plan))?))
}

fn name(index: usize) -> String {
    format!("__on{index}")
}
