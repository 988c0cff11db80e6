//! Sub-queries and LATERAL → joins, wherever they stand and whatever they refer to.
//!
//! A condition that is IN or EXISTS becomes a semi or anti join; any other sub-query gives columns
//! that are joined to the rows of the query around it, and expressions over those columns take its
//! place. See [`apply`] for how a sub-query loses its references to the outer query.

mod apply;
mod grouping;
mod members;
mod nearest;
mod on;
mod one_row;
mod outer;
mod recursion;

use std::cell::Cell;
use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{Column, JoinType, NullEquality, Result, Spans, plan_err};
use datafusion_expr::utils::{conjunction, split_conjunction_owned};
use datafusion_expr::{
    BinaryExpr, Expr, Filter, Join, JoinConstraint, LogicalPlan, LogicalPlanBuilder, Operator,
    Projection, Subquery, SubqueryAlias, lit,
};

use datafusion_functions_aggregate::count::count_all;
use datafusion_functions_aggregate::first_last::first_value;

use apply::{Apply, domain_of, filtered};
use outer::subquery_of;

/// The plan without sub-queries.
pub fn decorrelate(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(marked_lateral)?.data;
    Decorrelation { names: FreshColumns::default() }.plan(plan)
}

/// The planner takes a LATERAL relation for an ordinary one where only sub-queries in it refer to the
/// relations before it.
fn marked_lateral(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Join(mut join) = plan else { return Ok(Transformed::no(plan)) };
    if outer::lateral(&join.right).is_some() {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    }
    let references = outer::references(&join.right)?;
    if !references.iter().any(|column| join.left.schema().has_column(column)) {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    }
    let subquery = |plan: Arc<LogicalPlan>| {
        LogicalPlan::Subquery(Subquery {
            subquery: plan,
            outer_ref_columns: Vec::new(),
            spans: Spans::new(),
        })
    };
    join.right = Arc::new(match Arc::unwrap_or_clone(join.right) {
        LogicalPlan::SubqueryAlias(SubqueryAlias { input, alias, .. }) => {
            LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(subquery(input)), alias)?)
        }
        other => subquery(Arc::new(other)),
    });
    Ok(Transformed::yes(LogicalPlan::Join(join)))
}

/// Makes names for columns that no query can have written.
#[derive(Default)]
struct FreshColumns(Cell<usize>);

impl FreshColumns {
    fn column(&self, kind: &str) -> Column {
        let number = self.0.get();
        self.0.set(number + 1);
        Column::new_unqualified(format!("__{kind}{number}"))
    }
}

struct Decorrelation {
    names: FreshColumns,
}

impl Decorrelation {
    fn plan(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        match plan {
            LogicalPlan::Join(join) if outer::lateral(&join.right).is_some() => {
                self.lateral_join(join)
            }
            other => self.node(other.map_children(|c| self.plan(c).map(Transformed::yes)).data()?),
        }
    }

    /// A node whose inputs have no sub-queries any more.
    fn node(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let mut found = false;
        plan.apply_expressions(|e| {
            found |= has_subquery(e)?;
            Ok(datafusion_common::tree_node::TreeNodeRecursion::Continue)
        })?;
        if !found {
            return Ok(plan);
        }
        match plan {
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::Join(join) if join.join_type == JoinType::Inner => {
                let Join { left, right, on, filter, .. } = join;
                let on = on.into_iter().map(|(l, r)| l.eq(r));
                let condition = conjunction(on.chain(filter)).unwrap_or_else(|| lit(true));
                let product = LogicalPlanBuilder::from(Arc::unwrap_or_clone(left))
                    .cross_join(Arc::unwrap_or_clone(right))?
                    .build()?;
                self.filter(Filter::try_new(condition, Arc::new(product))?)
            }
            LogicalPlan::Join(join) => self.outer_join(join),
            other => self.with_more_columns(other),
        }
    }

    /// Conditions one after the other: those that cannot fail first, since they may be join keys.
    fn filter(&self, filter: Filter) -> Result<LogicalPlan> {
        let shown = filter.input.schema().columns();
        let mut plan = Arc::unwrap_or_clone(filter.input);
        let (first, rest): (Vec<Expr>, Vec<Expr>) =
            split_conjunction_owned(filter.predicate).into_iter().partition(is_safe);
        plan = filtered(plan, first)?;
        for condition in rest {
            plan = self.condition(plan, condition)?;
        }
        keep(plan, shown)
    }

    fn condition(&self, input: LogicalPlan, condition: Expr) -> Result<LogicalPlan> {
        if !has_subquery(&condition)? {
            return filtered(input, vec![condition]);
        }
        match condition {
            Expr::Exists(e) => self.semi_join(input, e.subquery.subquery.as_ref(), e.negated),
            Expr::Not(inner) if matches!(*inner, Expr::Exists(_) | Expr::InSubquery(_)) => {
                let flipped = match *inner {
                    Expr::Exists(mut e) => {
                        e.negated = !e.negated;
                        Expr::Exists(e)
                    }
                    Expr::InSubquery(mut e) => {
                        e.negated = !e.negated;
                        Expr::InSubquery(e)
                    }
                    other => other,
                };
                self.condition(input, flipped)
            }
            Expr::InSubquery(member)
                if !has_subquery(&member.expr)?
                    && (!member.negated || members::never_null(&member, &input)?) =>
            {
                let members =
                    members::matching(&member.expr, Operator::Eq, &member.subquery, &input)?;
                self.semi_join(input, &members, member.negated)
            }
            other => {
                let (input, condition) = self.joined(input, other)?;
                filtered(input, vec![condition])
            }
        }
    }

    /// The node over an input that has the sub-queries' values as further columns.
    fn with_more_columns(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let inputs = plan.inputs();
        let [input] = inputs.as_slice() else {
            return plan_err!("a sub-query is not supported here");
        };
        let same_columns = plan.schema().columns() == input.schema().columns();
        let shown = plan.schema().columns();
        let mut input = (*input).clone();
        let mut exprs = Vec::new();
        for expr in plan.expressions() {
            let (wider, expr) = self.joined(input, expr)?;
            input = wider;
            exprs.push(expr);
        }
        // A result column keeps its name, whatever its expression has become.
        if let LogicalPlan::Projection(projection) = &plan {
            let named = projection.schema.iter().zip(exprs);
            let exprs = named.map(|((qualifier, field), expr)| match expr {
                Expr::Column(_) | Expr::Alias(_) => expr,
                other => other.alias_qualified(qualifier.cloned(), field.name()),
            });
            let exprs: Vec<Expr> = exprs.collect();
            return Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?));
        }
        let plan = plan.with_new_exprs(exprs, vec![input])?;
        if same_columns { keep(plan, shown) } else { renamed(plan, shown) }
    }

    /// An expression without sub-queries, over an input that has what they give.
    fn joined(&self, input: LogicalPlan, expr: Expr) -> Result<(LogicalPlan, Expr)> {
        let mut input = Some(input);
        let expr = expr.transform_up(|e| {
            if subquery_of(&e).is_none() {
                return Ok(Transformed::no(e));
            }
            let Some(before) = input.take() else { return plan_err!("a sub-query failed before") };
            let (wider, value) = match e {
                Expr::ScalarSubquery(subquery) => self.scalar(before, &subquery)?,
                Expr::Exists(exists) => {
                    let (input, found) = self.mark(before, exists.subquery.subquery.as_ref())?;
                    (input, if exists.negated { found.is_not_true() } else { found })
                }
                Expr::InSubquery(member) => self.member(before, member)?,
                Expr::SetComparison(comparison) => self.comparison(before, comparison)?,
                other => (before, other),
            };
            input = Some(wider);
            Ok(Transformed::yes(value))
        })?;
        match input {
            Some(input) => Ok((input, expr.data)),
            None => plan_err!("a sub-query failed before"),
        }
    }

    /// The sub-query's value as a column; a row for which it has two fails where it is read.
    fn scalar(&self, input: LogicalPlan, subquery: &Subquery) -> Result<(LogicalPlan, Expr)> {
        let plan = subquery.subquery.as_ref();
        let columns = outer::references(plan)?;
        let domain = domain_of(&input, &columns, &self.names)?;
        let applied = Apply { names: &self.names }.apply(plan, &domain, true)?;
        let mut applied = self.plan(applied)?;
        let keys = domain.columns();
        let many = !members::at_most_one(plan);
        let (value, count) = (self.names.column("s"), self.names.column("s"));
        let Some(inner) = applied.schema().columns().pop() else {
            return plan_err!("a scalar sub-query has one column");
        };
        let inner = Expr::Column(inner);
        if many {
            let group: Vec<Expr> = keys.iter().cloned().map(Expr::Column).collect();
            let calls = vec![
                first_value(inner, Vec::new()).alias(&value.name),
                count_all().alias(&count.name),
            ];
            applied = LogicalPlanBuilder::from(applied).aggregate(group, calls)?.build()?;
        } else {
            let shown = keys.iter().cloned().map(Expr::Column).chain([inner.alias(&value.name)]);
            let shown: Vec<Expr> = shown.collect();
            applied = LogicalPlanBuilder::from(applied).project(shown)?.build()?;
        }
        let pairs = columns.into_iter().zip(keys).collect();
        let input = null_safe_join(input, applied, pairs, JoinType::Left)?;
        let value = Expr::Column(value);
        let value = if many { one_row::one_row(value, Expr::Column(count)) } else { value };
        Ok((input, value))
    }

    fn lateral_join(&self, join: Join) -> Result<LogicalPlan> {
        if let Some(plan) = self.nearest_join(&join)? {
            return Ok(plan);
        }
        let shown = join.schema.columns();
        let left = self.plan(Arc::unwrap_or_clone(join.left))?;
        let columns = outer::references(&join.right)?;
        let domain = domain_of(&left, &columns, &self.names)?;
        let right = Apply { names: &self.names }.apply(&join.right, &domain, false)?;
        let right = self.plan(right)?;
        let keys: Vec<(Column, Column)> = columns.into_iter().zip(domain.columns()).collect();
        let conditions: Vec<Expr> =
            join.on.into_iter().map(|(l, r)| l.eq(r)).chain(join.filter).collect();
        let plan = match join.join_type {
            JoinType::Inner => {
                let joined = null_safe_join(left, right, keys, JoinType::Inner)?;
                self.node(filtered(joined, conditions)?)?
            }
            JoinType::Left if conditions.iter().all(|c| *c == lit(true)) => {
                null_safe_join(left, right, keys, JoinType::Left)?
            }
            JoinType::Left => {
                let same = keys.into_iter().map(apply::same_value);
                let joined = LogicalPlanBuilder::from(left)
                    .join_on(right, JoinType::Left, same.chain(conditions))?
                    .build()?;
                self.node(joined)?
            }
            other => return plan_err!("{other} JOIN LATERAL is not supported: LEFT and INNER are"),
        };
        keep(plan, shown)
    }
}

/// The lateral sub-query beneath an alias, changed.
fn map_lateral(
    plan: LogicalPlan,
    change: &dyn Fn(Subquery) -> Result<Subquery>,
) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::Subquery(subquery) => Ok(LogicalPlan::Subquery(change(subquery)?)),
        other => other.map_children(|c| map_lateral(c, change).map(Transformed::yes)).data(),
    }
}

fn has_subquery(expr: &Expr) -> Result<bool> {
    expr.exists(|e| Ok(subquery_of(e).is_some()))
}

/// A condition that gives a value for every row.
fn is_safe(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) | Expr::Literal(..) => true,
        Expr::IsNull(e)
        | Expr::IsNotNull(e)
        | Expr::Not(e)
        | Expr::Alias(datafusion_expr::expr::Alias { expr: e, .. }) => is_safe(e),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            use Operator::*;
            let total = matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | And | Or);
            total && is_safe(left) && is_safe(right)
        }
        _ => false,
    }
}

/// Only these columns of a plan.
fn keep(plan: LogicalPlan, columns: Vec<Column>) -> Result<LogicalPlan> {
    if plan.schema().columns() == columns {
        return Ok(plan);
    }
    let exprs = columns.into_iter().map(Expr::Column).collect();
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
}

/// The plan's columns under these names, where expressions have changed theirs.
fn renamed(plan: LogicalPlan, names: Vec<Column>) -> Result<LogicalPlan> {
    if plan.schema().columns() == names {
        return Ok(plan);
    }
    let all = plan.schema().columns();
    // A Window keeps its input's columns, which are more now, in front.
    let added = all.len() - names.len();
    let exprs = names
        .into_iter()
        .enumerate()
        .map(|(index, name)| match all.contains(&name) {
            true => Expr::Column(name),
            false => {
                Expr::Column(all[index + added].clone()).alias_qualified(name.relation, name.name)
            }
        })
        .collect();
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
}

/// A join on pairs of columns, of which NULL and NULL match.
fn null_safe_join(
    left: LogicalPlan,
    right: LogicalPlan,
    keys: Vec<(Column, Column)>,
    join_type: JoinType,
) -> Result<LogicalPlan> {
    let on = keys.into_iter().map(|(l, r)| (Expr::Column(l), Expr::Column(r))).collect();
    let join = Join::try_new(
        Arc::new(left),
        Arc::new(right),
        on,
        None,
        join_type,
        JoinConstraint::On,
        NullEquality::NullEqualsNull,
        false,
    )?;
    Ok(LogicalPlan::Join(join))
}
