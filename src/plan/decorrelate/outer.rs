//! The columns of an outer query that a plan refers to, and their renaming.

use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema, Result};
use datafusion_expr::expr::{Exists, InSubquery, SetComparison};
use datafusion_expr::{Expr, LogicalPlan, Subquery};

/// Outer columns and what stands for each of them.
pub type Renaming = Vec<(Column, Column)>;

/// The columns of the outer query that a plan refers to, in the order of their first use.
pub fn references(plan: &LogicalPlan) -> Result<Vec<Column>> {
    let mut found = Vec::new();
    collect(plan, &mut found)?;
    Ok(found)
}

/// True when an expression of this node, whose inputs are `inputs`, refers to the outer query.
pub fn refers(expr: &Expr, inputs: &[&LogicalPlan]) -> Result<bool> {
    let mut found = Vec::new();
    collect_expr(expr, inputs, &mut found)?;
    Ok(!found.is_empty())
}

fn collect(plan: &LogicalPlan, found: &mut Vec<Column>) -> Result<()> {
    let inputs = plan.inputs();
    plan.apply_expressions(|expr| {
        collect_expr(expr, &inputs, found)?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    if let LogicalPlan::Join(join) = plan
        && let Some(lateral) = lateral(&join.right)
    {
        collect(&join.left, found)?;
        return collect_nested(lateral, &[&join.left], found);
    }
    if let LogicalPlan::Subquery(subquery) = plan {
        return collect(&subquery.subquery, found);
    }
    for input in inputs {
        collect(input, found)?;
    }
    Ok(())
}

fn collect_expr(expr: &Expr, inputs: &[&LogicalPlan], found: &mut Vec<Column>) -> Result<()> {
    expr.apply(|e| {
        match e {
            Expr::OuterReferenceColumn(_, column) => see(column, found),
            _ => {
                if let Some(subquery) = subquery_of(e) {
                    collect_nested(subquery, inputs, found)?;
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// Adds the columns that a sub-query refers to beyond the query that it stands in.
fn collect_nested(
    subquery: &Subquery,
    inputs: &[&LogicalPlan],
    found: &mut Vec<Column>,
) -> Result<()> {
    for column in references(&subquery.subquery)? {
        if !is_local(&column, inputs) {
            see(&column, found);
        }
    }
    Ok(())
}

fn see(column: &Column, found: &mut Vec<Column>) {
    if !found.contains(column) {
        found.push(column.clone());
    }
}

fn is_local(column: &Column, inputs: &[&LogicalPlan]) -> bool {
    inputs.iter().any(|input| has(input.schema(), column))
}

fn has(schema: &DFSchema, column: &Column) -> bool {
    schema.has_column(column)
}

/// The sub-query that a LATERAL relation is, beneath its alias.
pub fn lateral(plan: &LogicalPlan) -> Option<&Subquery> {
    match plan {
        LogicalPlan::Subquery(subquery) => Some(subquery),
        LogicalPlan::SubqueryAlias(alias) => lateral(&alias.input),
        LogicalPlan::Projection(projection) => lateral(&projection.input),
        _ => None,
    }
}

/// The sub-query that an expression is.
pub fn subquery_of(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::ScalarSubquery(subquery) => Some(subquery),
        Expr::Exists(exists) => Some(&exists.subquery),
        Expr::InSubquery(member) => Some(&member.subquery),
        Expr::SetComparison(comparison) => Some(&comparison.subquery),
        _ => None,
    }
}

/// The expression with its outer references replaced by columns of its own input.
pub fn bind(expr: Expr, renaming: &Renaming, inputs: &[&LogicalPlan]) -> Result<Expr> {
    let bound = expr.transform_up(|e| {
        Ok(match e {
            Expr::OuterReferenceColumn(field, column) => match target(renaming, &column) {
                Some(to) => Transformed::yes(Expr::Column(to.clone())),
                None => Transformed::no(Expr::OuterReferenceColumn(field, column)),
            },
            Expr::ScalarSubquery(subquery) => {
                Transformed::yes(Expr::ScalarSubquery(pass_down(subquery, renaming, inputs)?))
            }
            Expr::Exists(Exists { subquery, negated }) => Transformed::yes(Expr::Exists(Exists {
                subquery: pass_down(subquery, renaming, inputs)?,
                negated,
            })),
            Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
                let subquery = pass_down(subquery, renaming, inputs)?;
                Transformed::yes(Expr::InSubquery(InSubquery { expr, subquery, negated }))
            }
            Expr::SetComparison(SetComparison { expr, subquery, op, quantifier }) => {
                let subquery = pass_down(subquery, renaming, inputs)?;
                let comparison = SetComparison { expr, subquery, op, quantifier };
                Transformed::yes(Expr::SetComparison(comparison))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(bound.data)
}

fn target<'a>(renaming: &'a Renaming, column: &Column) -> Option<&'a Column> {
    renaming.iter().find(|(from, _)| from == column).map(|(_, to)| to)
}

/// A nested sub-query's references beyond its own surroundings stay outer references, under the
/// new names.
pub fn pass_down(
    subquery: Subquery,
    renaming: &Renaming,
    inputs: &[&LogicalPlan],
) -> Result<Subquery> {
    let foreign: Renaming =
        renaming.iter().filter(|(from, _)| !is_local(from, inputs)).cloned().collect();
    let plan = rename_outer(subquery.subquery.as_ref().clone(), &foreign)?;
    Ok(subquery.with_plan(plan.into()))
}

/// The plan with other names for the outer columns that it refers to.
fn rename_outer(plan: LogicalPlan, renaming: &Renaming) -> Result<LogicalPlan> {
    let rename = |e: Expr| {
        Ok(match e {
            Expr::OuterReferenceColumn(field, column) => match target(renaming, &column) {
                Some(to) => Transformed::yes(Expr::OuterReferenceColumn(field, to.clone())),
                None => Transformed::no(Expr::OuterReferenceColumn(field, column)),
            },
            other => Transformed::no(other),
        })
    };
    let renamed = plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|expr| expr.transform_up(rename))
    })?;
    Ok(renamed.data)
}
