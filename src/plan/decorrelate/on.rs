//! Sub-queries in the ON of outer joins.
//!
//! A sub-query that refers to one side alone becomes a column of that side. A condition with a sub-query that
//! refers to both is asked of every pair; a row that is in no pair is added beside NULLs.

use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, JoinType, Result, ScalarValue, plan_err};
use datafusion_expr::utils::{conjunction, split_conjunction_owned};
use datafusion_expr::{Expr, Filter, Join, LogicalPlan, LogicalPlanBuilder, lit};

use super::outer::{self, subquery_of};
use super::{Decorrelation, has_subquery, keep, null_safe_join};

/// The inputs of a join while its conditions lose their sub-queries.
struct JoinInputs {
    left: LogicalPlan,
    right: LogicalPlan,
}

impl Decorrelation {
    pub(super) fn outer_join(&self, join: Join) -> Result<LogicalPlan> {
        let (pads_left, pads_right) = match join.join_type {
            JoinType::Left => (false, true),
            JoinType::Right => (true, false),
            JoinType::Full => (true, true),
            other => return plan_err!("a sub-query in the ON of a {other} JOIN is not supported"),
        };
        let shown = join.schema.columns();
        let pairs = join.on.iter().map(|(l, r)| l.clone().eq(r.clone()));
        let filters = join.filter.clone().into_iter().flat_map(split_conjunction_owned);
        let conditions: Vec<Expr> = pairs.chain(filters).collect();
        let mut sides = JoinInputs {
            left: Arc::unwrap_or_clone(join.left),
            right: Arc::unwrap_or_clone(join.right),
        };
        let original = (sides.left.clone(), sides.right.clone());
        let mut rest = Vec::new();
        for condition in conditions.iter().cloned() {
            // Rows that are beside NULLs if they match nothing, and are not shown alone, need not match.
            if has_subquery(&condition)? && !pads_left && refers_to(&condition, &sides.right)? {
                sides.right = self.condition(sides.right, condition)?;
            } else if has_subquery(&condition)?
                && !pads_right
                && refers_to(&condition, &sides.left)?
            {
                sides.left = self.condition(sides.left, condition)?;
            } else {
                rest.push(self.without_subqueries(&mut sides, condition)?);
            }
        }
        for condition in &rest {
            if has_subquery(condition)? {
                return self.pairs_and_padded(original, conditions, join.join_type, shown);
            }
        }
        let on = if rest.is_empty() { vec![lit(true)] } else { rest };
        let joined = LogicalPlanBuilder::from(sides.left)
            .join_on(sides.right, join.join_type, on)?
            .build()?;
        keep(joined, shown)
    }

    /// The condition with the values of sub-queries that refer to one side taken from that side.
    fn without_subqueries(&self, sides: &mut JoinInputs, condition: Expr) -> Result<Expr> {
        let condition = condition.transform_up(|e| {
            if subquery_of(&e).is_none() {
                return Ok(Transformed::no(e));
            }
            let side = if refers_to(&e, &sides.left)? {
                &mut sides.left
            } else if refers_to(&e, &sides.right)? {
                &mut sides.right
            } else {
                return Ok(Transformed::no(e));
            };
            let (wider, value) = self.joined(side.clone(), e)?;
            *side = wider;
            Ok(Transformed::yes(value))
        })?;
        Ok(condition.data)
    }

    /// The pairs for which all conditions are true, and the rows in none of them, beside NULLs.
    fn pairs_and_padded(
        &self,
        (left, right): (LogicalPlan, LogicalPlan),
        conditions: Vec<Expr>,
        join_type: JoinType,
        shown: Vec<Column>,
    ) -> Result<LogicalPlan> {
        let condition = conjunction(conditions).unwrap_or_else(|| lit(true));
        let asked = references(&condition)?;
        let product = LogicalPlanBuilder::from(left.clone()).cross_join(right.clone())?.build()?;
        let pairs = self.filter(Filter::try_new(condition, Arc::new(product))?)?;
        // The two sides may have columns of one name.
        let names: Vec<Column> = shown.iter().map(|_| self.names.column("o")).collect();
        let width = left.schema().fields().len();
        let renamed = |columns: &[Column], names: &[Column]| -> Vec<Expr> {
            let named = columns.iter().zip(names);
            named.map(|(c, name)| Expr::Column(c.clone()).alias(&name.name)).collect()
        };
        let mut plan = LogicalPlanBuilder::from(pairs.clone()).project(renamed(&shown, &names))?;
        let nulls = |side: &LogicalPlan, names: &[Column]| -> Result<Vec<Expr>> {
            let fields = side.schema().fields().iter().zip(names);
            fields
                .map(|(field, name)| {
                    let null = ScalarValue::try_from(field.data_type())?;
                    Ok(Expr::Literal(null, None).alias(&name.name))
                })
                .collect()
        };
        if join_type != JoinType::Right {
            let alone = self.unmatched(left.clone(), &pairs, &asked)?;
            let mut exprs = renamed(&shown[..width], &names[..width]);
            exprs.extend(nulls(&right, &names[width..])?);
            plan = plan.union(LogicalPlanBuilder::from(alone).project(exprs)?.build()?)?;
        }
        if join_type != JoinType::Left {
            let alone = self.unmatched(right, &pairs, &asked)?;
            let mut exprs = nulls(&left, &names[..width])?;
            exprs.extend(renamed(&shown[width..], &names[width..]));
            plan = plan.union(LogicalPlanBuilder::from(alone).project(exprs)?.build()?)?;
        }
        let named = names.into_iter().zip(shown);
        let exprs = named.map(|(name, c)| Expr::Column(name).alias_qualified(c.relation, c.name));
        plan.project(exprs.collect::<Vec<_>>())?.build()
    }

    /// The rows of a side that are in none of the pairs. Rows that are equal in the columns that the condition
    /// asks of are in pairs or not alike.
    fn unmatched(
        &self,
        side: LogicalPlan,
        pairs: &LogicalPlan,
        asked: &[Column],
    ) -> Result<LogicalPlan> {
        let mut columns = side.schema().columns();
        let is_asked = |column: &Column| asked.iter().any(|other| other.name == column.name);
        if columns.iter().any(is_asked) {
            columns.retain(is_asked);
        }
        let names: Vec<Column> = columns.iter().map(|_| self.names.column("o")).collect();
        let named = columns.iter().zip(&names);
        let exprs = named.map(|(c, name)| Expr::Column(c.clone()).alias(&name.name));
        let seen = LogicalPlanBuilder::from(pairs.clone())
            .project(exprs.collect::<Vec<_>>())?
            .distinct()?
            .build()?;
        let on = columns.into_iter().zip(names).collect();
        null_safe_join(side, seen, on, JoinType::LeftAnti)
    }
}

/// Whether an expression, with what its sub-queries refer to, is over this plan's columns alone.
fn refers_to(expr: &Expr, plan: &LogicalPlan) -> Result<bool> {
    let all = plan.schema().columns();
    Ok(references(expr)?.iter().all(|column| all.contains(column)))
}

/// The columns that an expression and its sub-queries refer to.
fn references(expr: &Expr) -> Result<Vec<Column>> {
    let mut columns: Vec<Column> = expr.column_refs().into_iter().cloned().collect();
    expr.apply(|e| {
        if let Some(subquery) = subquery_of(e) {
            columns.extend(outer::references(&subquery.subquery)?);
        }
        Ok(datafusion_common::tree_node::TreeNodeRecursion::Continue)
    })?;
    Ok(columns)
}
