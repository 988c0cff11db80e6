//! An optimizer rule: inner joins are made in an order in which each has a key.
//!
//! All inner joins and the conditions around them are taken together. Relations with conditions of
//! their own come first, since they keep the state of the joins after them small; each next one is
//! connected to those before it by an equality, if any is. (DataFusion's rule for this mixes joins in
//! which NULL equals NULL with others.)

use std::sync::Arc;

use datafusion_common::tree_node::Transformed;
use datafusion_common::{JoinType, NullEquality, Result};
use datafusion_expr::utils::{
    conjunction, split_binary, split_conjunction, split_conjunction_owned,
};
use datafusion_expr::{
    BinaryExpr, Expr, Filter, Join, JoinConstraint, LogicalPlan, Operator, Projection,
};
use datafusion_optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// See the module's description.
#[derive(Debug)]
pub struct JoinOrder;

impl OptimizerRule for JoinOrder {
    fn name(&self) -> &str {
        "join_order"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        if !is_joined(&plan) {
            return Ok(Transformed::no(plan));
        }
        let mut parts = JoinParts::default();
        parts.take(&plan);
        let ordered = parts.ordered(&plan)?;
        Ok(if ordered == plan { Transformed::no(plan) } else { Transformed::yes(ordered) })
    }
}

/// An inner join, or conditions on one.
fn is_joined(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Join(join) => {
            join.join_type == JoinType::Inner
                && join.null_equality == NullEquality::NullEqualsNothing
        }
        LogicalPlan::Filter(filter) => is_joined(&filter.input),
        _ => false,
    }
}

/// The relations of a join, and its conditions.
#[derive(Default)]
struct JoinParts {
    relations: Vec<JoinedRelation>,
    conditions: Vec<Expr>,
}

struct JoinedRelation {
    plan: LogicalPlan,
    /// Estimate of the part that the relation's own conditions leave out: higher for more.
    narrowness: usize,
}

impl JoinParts {
    fn take(&mut self, plan: &LogicalPlan) {
        match plan {
            LogicalPlan::Join(join) if is_joined(plan) => {
                self.take(&join.left);
                self.take(&join.right);
                for (left, right) in &join.on {
                    self.conditions.push(left.clone().eq(right.clone()));
                }
                if let Some(filter) = &join.filter {
                    self.conditions.extend(split_conjunction_owned(filter.clone()));
                }
            }
            LogicalPlan::Filter(filter) if is_joined(plan) => {
                self.take(&filter.input);
                self.conditions.extend(split_conjunction_owned(filter.predicate.clone()));
            }
            other => {
                let narrowness = narrowness_of(other);
                self.relations.push(JoinedRelation { plan: other.clone(), narrowness });
            }
        }
    }

    fn ordered(mut self, original: &LogicalPlan) -> Result<LogicalPlan> {
        self.own_conditions()?;
        let implied: Vec<Expr> = self.conditions.iter().flat_map(implied_equalities).collect();
        let mut conditions: Vec<Option<Expr>> = self.conditions.into_iter().map(Some).collect();
        let mut relations = self.relations;
        let start = narrowest(relations.iter().enumerate());
        let mut plan = relations.remove(start).plan;
        while !relations.is_empty() {
            let all = || conditions.iter().flatten().chain(&implied);
            let connected = relations
                .iter()
                .enumerate()
                .filter(|(_, relation)| all().any(|c| as_key(c, &plan, &relation.plan).is_some()));
            let next = relations.remove(narrowest(connected)).plan;
            let mut on: Vec<(Expr, Expr)> =
                implied.iter().filter_map(|c| as_key(c, &plan, &next)).collect();
            for condition in &mut conditions {
                if let Some(key) = condition.as_ref().and_then(|c| as_key(c, &plan, &next)) {
                    on.push(key);
                    *condition = None;
                }
            }
            let join = Join::try_new(
                Arc::new(plan),
                Arc::new(next),
                on,
                None,
                JoinType::Inner,
                JoinConstraint::On,
                NullEquality::NullEqualsNothing,
                false,
            )?;
            plan = LogicalPlan::Join(join);
            let known = |c: &Expr| c.column_refs().iter().all(|c| plan.schema().has_column(c));
            let ready: Vec<Expr> = conditions
                .iter_mut()
                .filter(|c| c.as_ref().is_some_and(known))
                .filter_map(Option::take)
                .collect();
            plan = filtered(plan, ready)?;
        }
        let plan = filtered(plan, conditions.into_iter().flatten().collect())?;
        if plan.schema() == original.schema() {
            return Ok(plan);
        }
        let columns = original.schema().columns().into_iter().map(Expr::Column).collect();
        Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?))
    }

    /// Conditions on one relation are tested before the join.
    fn own_conditions(&mut self) -> Result<()> {
        for condition in std::mem::take(&mut self.conditions) {
            let columns = condition.column_refs();
            let owner = self.relations.iter_mut().find(|relation| {
                !columns.is_empty() && columns.iter().all(|c| relation.plan.schema().has_column(c))
            });
            match owner {
                Some(relation) => {
                    relation.narrowness += narrowness(&condition);
                    relation.plan = filtered(relation.plan.clone(), vec![condition])?;
                }
                None => self.conditions.push(condition),
            }
        }
        Ok(())
    }
}

/// Index of the first relation with the highest narrowness; 0 if there are no relations.
fn narrowest<'a>(relations: impl Iterator<Item = (usize, &'a JoinedRelation)>) -> usize {
    let ranked = relations.map(|(index, r)| (r.narrowness, std::cmp::Reverse(index)));
    ranked.max().map_or(0, |(_, std::cmp::Reverse(index))| index)
}

fn narrowness_of(plan: &LogicalPlan) -> usize {
    match plan {
        LogicalPlan::Filter(filter) => {
            let own: usize = split_conjunction(&filter.predicate).into_iter().map(narrowness).sum();
            own + narrowness_of(&filter.input)
        }
        LogicalPlan::SubqueryAlias(alias) => narrowness_of(&alias.input),
        LogicalPlan::Projection(projection) => narrowness_of(&projection.input),
        _ => 0,
    }
}

/// An equality with a constant is likely to leave out more than any other condition.
fn narrowness(condition: &Expr) -> usize {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right })
            if left.column_refs().is_empty() || right.column_refs().is_empty() =>
        {
            3
        }
        _ => 1,
    }
}

/// The condition as a pair of keys of the two sides.
fn as_key(condition: &Expr, left: &LogicalPlan, right: &LogicalPlan) -> Option<(Expr, Expr)> {
    let Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b }) = condition else {
        return None;
    };
    let of = |expr: &Expr, plan: &LogicalPlan| {
        let columns = expr.column_refs();
        !columns.is_empty() && columns.iter().all(|c| plan.schema().has_column(c))
    };
    let (a, b) = (a.as_ref(), b.as_ref());
    if of(a, left) && of(b, right) {
        Some((a.clone(), b.clone()))
    } else if of(b, left) && of(a, right) {
        Some((b.clone(), a.clone()))
    } else {
        None
    }
}

/// Equalities of columns that every branch of an OR has.
fn implied_equalities(condition: &Expr) -> Vec<Expr> {
    let branches = split_binary(condition, Operator::Or);
    let Some((first, others)) = branches.split_first().filter(|(_, others)| !others.is_empty())
    else {
        return Vec::new();
    };
    let between_columns = |e: &&&Expr| match **e {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            matches!((left.as_ref(), right.as_ref()), (Expr::Column(_), Expr::Column(_)))
        }
        _ => false,
    };
    split_conjunction(first)
        .iter()
        .filter(between_columns)
        .filter(|e| others.iter().all(|other| split_conjunction(other).contains(e)))
        .map(|e| (*e).clone())
        .collect()
}

fn filtered(plan: LogicalPlan, conditions: Vec<Expr>) -> Result<LogicalPlan> {
    match conjunction(conditions) {
        Some(condition) => Ok(LogicalPlan::Filter(Filter::try_new(condition, Arc::new(plan))?)),
        None => Ok(plan),
    }
}
