//! IN, EXISTS, ANY and ALL.

use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, JoinType, Result, ScalarValue, plan_err};
use datafusion_expr::expr::{InSubquery, SetComparison, SetQuantifier};
use datafusion_expr::utils::{conjunction, split_conjunction_owned};
use datafusion_expr::{
    Aggregate, BinaryExpr, Distinct, Expr, ExprSchemable, Filter, Join, JoinConstraint,
    LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit, when,
};
use datafusion_functions_aggregate::count::{count, count_all};

use super::apply::{Apply, domain_of, filtered};
use super::outer::{self, Renaming};
use super::{Decorrelation, has_subquery, null_safe_join};

/// Neither the value nor any member is ever NULL.
pub fn never_null(member: &InSubquery, input: &LogicalPlan) -> Result<bool> {
    let members = member.subquery.subquery.schema();
    Ok(!member.expr.nullable(input.schema())? && !members.field(0).is_nullable())
}

/// The sub-query's rows that compare so with an expression of the outer query.
pub fn matching(
    expr: &Expr,
    op: Operator,
    subquery: &Subquery,
    input: &LogicalPlan,
) -> Result<LogicalPlan> {
    let plan = subquery.subquery.as_ref();
    let condition = comparison(expr, op, plan, input)?;
    Ok(LogicalPlan::Filter(Filter::try_new(condition, Arc::new(plan.clone()))?))
}

fn comparison(expr: &Expr, op: Operator, plan: &LogicalPlan, input: &LogicalPlan) -> Result<Expr> {
    let Some(member) = plan.schema().columns().into_iter().next() else {
        return plan_err!("a sub-query has one column here");
    };
    let outer = expr.clone().transform_up(|e| match e {
        Expr::Column(column) => {
            let (_, field) = input.schema().qualified_field_from_column(&column)?;
            Ok(Transformed::yes(Expr::OuterReferenceColumn(Arc::clone(field), column)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    let (left, right) = (Box::new(outer.data), Box::new(Expr::Column(member)));
    Ok(Expr::BinaryExpr(BinaryExpr::new(left, op, right)))
}

/// True when a plan has one row at most.
pub fn at_most_one(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Projection(projection) => at_most_one(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => at_most_one(&alias.input),
        LogicalPlan::Filter(filter) => at_most_one(&filter.input),
        LogicalPlan::Sort(sort) => at_most_one(&sort.input),
        LogicalPlan::Subquery(subquery) => at_most_one(&subquery.subquery),
        LogicalPlan::Limit(limit) => {
            let one = |e: &Expr| *e == lit(1_i64) || *e == lit(0_i64);
            limit.fetch.as_deref().is_some_and(one) || at_most_one(&limit.input)
        }
        LogicalPlan::EmptyRelation(_) => true,
        LogicalPlan::Values(values) => values.values.len() <= 1,
        _ => false,
    }
}

impl Decorrelation {
    /// The input's rows for which the plan has a row, or has none if `anti`.
    pub(super) fn semi_join(
        &self,
        input: LogicalPlan,
        plan: &LogicalPlan,
        anti: bool,
    ) -> Result<LogicalPlan> {
        let kind = if anti { JoinType::LeftAnti } else { JoinType::LeftSemi };
        if let Some((inner, conditions)) = pulled_up(plan)? {
            let inner = self.plan(inner)?;
            let renaming: Renaming =
                inner.schema().columns().into_iter().map(|c| (c, self.names.column("s"))).collect();
            let exprs: Vec<Expr> = renaming
                .iter()
                .map(|(from, to)| Expr::Column(from.clone()).alias(&to.name))
                .collect();
            let inner = LogicalPlanBuilder::from(inner).project(exprs)?.build()?;
            let conditions = conditions
                .into_iter()
                .map(|c| side_by_side(c, &renaming))
                .collect::<Result<Vec<_>>>()?;
            let join = Join::try_new(
                Arc::new(input),
                Arc::new(inner),
                Vec::new(),
                conjunction(conditions),
                kind,
                JoinConstraint::On,
                datafusion_common::NullEquality::NullEqualsNothing,
                false,
            )?;
            return Ok(LogicalPlan::Join(join));
        }
        let (keys, found) = self.bindings(&input, plan)?;
        null_safe_join(input, found, keys, kind)
    }

    /// For which of the outer columns' values a plan has rows.
    fn bindings(
        &self,
        input: &LogicalPlan,
        plan: &LogicalPlan,
    ) -> Result<(Vec<(Column, Column)>, LogicalPlan)> {
        let columns = outer::references(plan)?;
        let domain = domain_of(input, &columns, &self.names)?;
        let applied = Apply { names: &self.names }.apply(plan, &domain, false)?;
        let applied = self.plan(applied)?;
        let keys = domain.columns();
        let shown: Vec<Expr> = match keys.is_empty() {
            true => vec![lit(true).alias(self.names.column("s").name)],
            false => keys.iter().cloned().map(Expr::Column).collect(),
        };
        let found = LogicalPlanBuilder::from(applied).project(shown)?.distinct()?.build()?;
        Ok((columns.into_iter().zip(keys).collect(), found))
    }

    /// Whether the plan has a row, as an expression.
    pub(super) fn mark(
        &self,
        input: LogicalPlan,
        plan: &LogicalPlan,
    ) -> Result<(LogicalPlan, Expr)> {
        let (keys, found) = self.bindings(&input, plan)?;
        let mark = self.names.column("s");
        let shown = keys.iter().map(|(_, key)| Expr::Column(key.clone()));
        let shown: Vec<Expr> = shown.chain([lit(true).alias(&mark.name)]).collect();
        let found = LogicalPlanBuilder::from(found).project(shown)?.build()?;
        let input = null_safe_join(input, found, keys, JoinType::Left)?;
        Ok((input, Expr::Column(mark).is_not_null()))
    }

    /// IN as a value: true, false, or NULL.
    pub(super) fn member(
        &self,
        input: LogicalPlan,
        member: InSubquery,
    ) -> Result<(LogicalPlan, Expr)> {
        let sure = never_null(&member, &input)?;
        let among = matching(&member.expr, Operator::Eq, &member.subquery, &input)?;
        let (mut input, mut value) = self.mark(input, &among)?;
        if !sure {
            let (wider, rows, members) = self.counts(input, &member.subquery)?;
            input = wider;
            let unknown = member.expr.as_ref().clone().is_null().or(members.lt(rows.clone()));
            value = when(value, lit(true))
                .when(rows.eq(lit(0_i64)), lit(false))
                .when(unknown, lit(ScalarValue::Boolean(None)))
                .otherwise(lit(false))?;
        }
        Ok((input, if member.negated { Expr::Not(Box::new(value)) } else { value }))
    }

    /// The input with two more columns: the number of rows of a sub-query, and the number of those that are
    /// not NULL.
    fn counts(&self, input: LogicalPlan, subquery: &Subquery) -> Result<(LogicalPlan, Expr, Expr)> {
        let plan = subquery.subquery.as_ref();
        let Some(member) = plan.schema().columns().into_iter().next() else {
            return plan_err!("IN takes a sub-query of one column");
        };
        let calls = vec![count_all(), count(Expr::Column(member))];
        let counted =
            LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(plan.clone()), Vec::new(), calls)?);
        let columns = outer::references(&counted)?;
        let domain = domain_of(&input, &columns, &self.names)?;
        let applied = Apply { names: &self.names }.apply(&counted, &domain, false)?;
        let applied = self.plan(applied)?;
        let keys = domain.columns();
        let (rows, members) = (self.names.column("s"), self.names.column("s"));
        let values = applied.schema().columns().into_iter().skip(keys.len()).zip([&rows, &members]);
        let values = values.map(|(c, name)| Expr::Column(c).alias(&name.name));
        let shown: Vec<Expr> = keys.iter().cloned().map(Expr::Column).chain(values).collect();
        let applied = LogicalPlanBuilder::from(applied).project(shown)?.build()?;
        let pairs = columns.into_iter().zip(keys).collect();
        let input = null_safe_join(input, applied, pairs, JoinType::Left)?;
        Ok((input, Expr::Column(rows), Expr::Column(members)))
    }

    /// `x op ANY (…)` and `x op ALL (…)`.
    pub(super) fn comparison(
        &self,
        input: LogicalPlan,
        written: SetComparison,
    ) -> Result<(LogicalPlan, Expr)> {
        let SetComparison { expr, subquery, op, quantifier } = written;
        if has_subquery(&expr)? {
            return plan_err!("a sub-query beside ANY or ALL is not supported");
        }
        let all = quantifier == SetQuantifier::All;
        let Some(op) = (if all { op.negate() } else { Some(op) }) else {
            return plan_err!("{op} ALL is not supported");
        };
        let plan = subquery.subquery.as_ref();
        let condition = comparison(&expr, op, plan, &input)?;
        let rows = |condition: Expr| {
            Ok::<_, datafusion_common::DataFusionError>(LogicalPlan::Filter(Filter::try_new(
                condition,
                Arc::new(plan.clone()),
            )?))
        };
        let (input, found) = self.mark(input, &rows(condition.clone())?)?;
        let (input, unknown) = self.mark(input, &rows(condition.is_null())?)?;
        let value = when(found, lit(true))
            .when(unknown, lit(ScalarValue::Boolean(None)))
            .otherwise(lit(false))?;
        Ok((input, if all { Expr::Not(Box::new(value)) } else { value }))
    }
}

/// A plan without outer references and the conditions that its rows are to meet, when the references
/// stand in filters on its top alone.
///
/// Conditions without such references stay with the plan: they may be the keys of joins in it.
fn pulled_up(plan: &LogicalPlan) -> Result<Option<(LogicalPlan, Vec<Expr>)>> {
    let mut plan = plan;
    let mut conditions: Vec<Expr> = Vec::new();
    let mut own: Vec<Expr> = Vec::new();
    while !outer::references(plan)?.is_empty() {
        plan = match plan {
            LogicalPlan::Filter(filter) => {
                for condition in split_conjunction_owned(filter.predicate.clone()) {
                    let refers = outer::refers(&condition, &[&filter.input])?;
                    (if refers { &mut conditions } else { &mut own }).push(condition);
                }
                &filter.input
            }
            LogicalPlan::Projection(projection) => {
                let names = projection.schema.columns();
                let exprs = projection.expr.iter().cloned().map(Expr::unalias);
                let renaming: Vec<(Column, Expr)> = names.into_iter().zip(exprs).collect();
                conditions = substituted(conditions, &renaming)?;
                own = substituted(own, &renaming)?;
                &projection.input
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let inner = alias.input.schema().columns().into_iter().map(Expr::Column);
                let renaming: Vec<(Column, Expr)> =
                    alias.schema.columns().into_iter().zip(inner).collect();
                conditions = substituted(conditions, &renaming)?;
                own = substituted(own, &renaming)?;
                &alias.input
            }
            LogicalPlan::Distinct(Distinct::All(input)) => input,
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => &sort.input,
            _ => return Ok(None),
        };
    }
    for condition in &conditions {
        if has_subquery(condition)? {
            return Ok(None);
        }
    }
    Ok(Some((filtered(plan.clone(), own)?, conditions)))
}

fn substituted(conditions: Vec<Expr>, renaming: &[(Column, Expr)]) -> Result<Vec<Expr>> {
    let replace = |e: Expr| match &e {
        Expr::Column(column) => match renaming.iter().find(|(from, _)| from == column) {
            Some((_, to)) => Ok(Transformed::yes(to.clone())),
            None => Ok(Transformed::no(e)),
        },
        _ => Ok(Transformed::no(e)),
    };
    conditions.into_iter().map(|c| Ok(c.transform_up(replace)?.data)).collect()
}

/// A condition of the inner plan over both sides of a join.
fn side_by_side(condition: Expr, renaming: &Renaming) -> Result<Expr> {
    let placed = condition.transform_up(|e| {
        Ok(match e {
            Expr::Column(column) => match renaming.iter().find(|(from, _)| *from == column) {
                Some((_, to)) => Transformed::yes(Expr::Column(to.clone())),
                None => Transformed::no(Expr::Column(column)),
            },
            Expr::OuterReferenceColumn(_, column) => Transformed::yes(Expr::Column(column)),
            other => Transformed::no(other),
        })
    })?;
    Ok(placed.data)
}
