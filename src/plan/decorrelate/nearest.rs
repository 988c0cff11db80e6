//! Sub-queries that find the nearest row: `… WHERE inner.k = outer.k AND inner.t <= outer.t ORDER BY
//! inner.t DESC LIMIT 1`. They need no row but that one, instead of all that the condition lets in.

use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{Column, JoinType, Result};
use datafusion_expr::utils::split_conjunction_owned;
use datafusion_expr::{
    BinaryExpr, Expr, Extension, FetchType, Join, Limit, LogicalPlan, LogicalPlanBuilder,
    Projection, SkipType, SortExpr, lit,
};

use super::apply::{Apply, Domain, equated, filtered, project};
use super::{Decorrelation, has_subquery, keep, outer};
use crate::plan::nearest::{Direction, Nearest};

/// A LIMIT 1 that finds the nearest row, taken apart.
struct NearestLimit {
    /// The rows to search.
    rows: LogicalPlan,
    /// Outer columns, and the expressions that equal them.
    on: Vec<(Column, Expr)>,
    /// An expression over outer references, and the one over the rows that is near to it.
    order: (Expr, Expr),
    direction: Direction,
    ties: Vec<SortExpr>,
    /// The expressions that are shown of a row.
    shown: Vec<Expr>,
}

impl Apply<'_> {
    /// The first row of `source` for each value of the domain, if that is a nearest one.
    pub(super) fn nearest(&self, limit: &Limit, domain: &Domain) -> Result<Option<LogicalPlan>> {
        let Some(found) = NearestLimit::of(limit)? else { return Ok(None) };
        let bound = |expr| outer::bind(expr, &domain.renaming, &[]);
        let of = |column: &Column| domain.renaming.iter().find(|(from, _)| from == column);
        let on =
            found.on.iter().filter_map(|(c, e)| Some((Expr::Column(of(c)?.1.clone()), e.clone())));
        let order = (bound(found.order.0)?, found.order.1);
        let (left, on) = (domain.plan.clone(), on.collect());
        let nearest =
            Nearest::try_new(left, found.rows, on, order, found.direction, found.ties, false)?;
        let Some(nearest) = nearest else { return Ok(None) };
        let nearest = LogicalPlan::Extension(Extension { node: Arc::new(nearest) });
        Ok(Some(project(nearest, domain, found.shown)?))
    }
}

impl Decorrelation {
    /// A LATERAL join with the nearest row: each row of the left side is searched for by itself.
    pub(super) fn nearest_join(&self, join: &Join) -> Result<Option<LogicalPlan>> {
        let plain = join.on.is_empty() && join.filter.as_ref().is_none_or(|f| *f == lit(true));
        let outer_join = match join.join_type {
            JoinType::Inner => false,
            JoinType::Left => true,
            _ => return Ok(None),
        };
        let shown = join.right.schema().columns().into_iter().map(Expr::Column).collect();
        let (Some((limit, shown)), true) = (limit_below(&join.right, shown)?, plain) else {
            return Ok(None);
        };
        let Some(found) = NearestLimit::of(limit)? else { return Ok(None) };
        // The shown expressions are computed before the search, also for rows that may not be found.
        let before = shown.into_iter().map(|e| replaced(e, limit.input.schema(), &found.shown));
        let before = before.collect::<Result<Vec<Expr>>>()?;
        if !before.iter().all(|e| matches!(e, Expr::Column(_) | Expr::Literal(..))) {
            return Ok(None);
        }
        let mut columns: Vec<Expr> = before
            .into_iter()
            .zip(join.right.schema().iter())
            .map(|(e, (qualifier, field))| e.alias_qualified(qualifier.cloned(), field.name()))
            .collect();
        let mut hidden = |expr: Expr| {
            let name = self.names.column("n");
            columns.push(expr.alias(&name.name));
            Expr::Column(name)
        };
        let on = found.on.into_iter().map(|(c, e)| (Expr::Column(c), hidden(e))).collect();
        let nearest = hidden(found.order.1);
        let ties = found.ties.into_iter();
        let ties = ties.map(|s| SortExpr { expr: hidden(s.expr.clone()), ..s }).collect();
        let rows = self.plan(found.rows)?;
        let rows = LogicalPlanBuilder::from(rows).project(columns)?.build()?;
        let identity: Vec<(Column, Column)> =
            outer::references(&join.right)?.into_iter().map(|c| (c.clone(), c)).collect();
        let order = (outer::bind(found.order.0, &identity, &[])?, nearest);
        let left = self.plan(join.left.as_ref().clone())?;
        let nearest = Nearest::try_new(left, rows, on, order, found.direction, ties, outer_join)?;
        let Some(nearest) = nearest else { return Ok(None) };
        let nearest = LogicalPlan::Extension(Extension { node: Arc::new(nearest) });
        Ok(Some(keep(nearest, join.schema.columns())?))
    }
}

/// The LIMIT beneath projections and aliases, and what `shown`, over the plan's columns, is over the
/// LIMIT's.
fn limit_below(plan: &LogicalPlan, shown: Vec<Expr>) -> Result<Option<(&Limit, Vec<Expr>)>> {
    let through = |below: &[Expr]| -> Result<Vec<Expr>> {
        shown.iter().map(|e| replaced(e.clone(), plan.schema(), below)).collect()
    };
    match plan {
        LogicalPlan::Limit(limit) => Ok(Some((limit, shown))),
        LogicalPlan::Subquery(subquery) => limit_below(&subquery.subquery, shown),
        LogicalPlan::SubqueryAlias(alias) => {
            let below: Vec<Expr> =
                alias.input.schema().columns().into_iter().map(Expr::Column).collect();
            limit_below(&alias.input, through(&below)?)
        }
        LogicalPlan::Projection(projection) => {
            let shown = through(&projection.expr)?;
            limit_below(&projection.input, shown)
        }
        _ => Ok(None),
    }
}

/// An expression over a schema's columns, with these expressions in their place.
fn replaced(expr: Expr, schema: &datafusion_common::DFSchema, below: &[Expr]) -> Result<Expr> {
    expr.transform(|e| {
        let Expr::Column(column) = &e else { return Ok(Transformed::no(e)) };
        Ok(match schema.maybe_index_of_column(column) {
            Some(index) => Transformed::yes(below[index].clone().unalias()),
            None => Transformed::no(e),
        })
    })
    .data()
}

impl NearestLimit {
    fn of(limit: &Limit) -> Result<Option<NearestLimit>> {
        let (SkipType::Literal(0), FetchType::Literal(Some(1)), LogicalPlan::Sort(sort)) =
            (limit.get_skip_type()?, limit.get_fetch_type()?, limit.input.as_ref())
        else {
            return Ok(None);
        };
        let (projection, filter) = match sort.input.as_ref() {
            LogicalPlan::Projection(projection) => match projection.input.as_ref() {
                LogicalPlan::Filter(filter) => (Some(projection), filter),
                _ => return Ok(None),
            },
            LogicalPlan::Filter(filter) => (None, filter),
            _ => return Ok(None),
        };
        let input = filter.input.as_ref();
        let shown = shown(projection, input);
        let order = sort
            .expr
            .iter()
            .map(|s| {
                Ok(SortExpr {
                    expr: replaced(s.expr.clone(), sort.input.schema(), &shown)?,
                    ..s.clone()
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let refer = |expr: &Expr| -> Result<bool> {
            Ok(outer::refers(expr, &[input])? || has_subquery(expr)?)
        };
        let mut own_rows = outer::references(input)?.is_empty();
        for expr in shown.iter().chain(order.iter().map(|s| &s.expr)) {
            own_rows &= !refer(expr)?;
        }
        let Some((first, rest)) = order.split_first().filter(|_| own_rows) else {
            return Ok(None);
        };
        let (mut own, mut on, mut matched) = (Vec::new(), Vec::new(), None);
        for condition in split_conjunction_owned(filter.predicate.clone()) {
            if !outer::refers(&condition, &[input])? {
                own.push(condition);
            } else if has_subquery(&condition)? {
                return Ok(None);
            } else if let Some(pair) = equated(&condition, input)? {
                on.push(pair);
            } else if let (Some(found), None) = (compared(&condition, first)?, &matched) {
                matched = Some(found);
            } else {
                return Ok(None);
            }
        }
        let Some((outer_order, direction)) = matched else { return Ok(None) };
        // Ties go by the whole row, as the sub-query shows it.
        let whole = shown.iter().map(|e| e.clone().sort(true, true));
        Ok(Some(NearestLimit {
            rows: filtered(input.clone(), own)?,
            on,
            order: (outer_order, first.expr.clone()),
            direction,
            ties: rest.iter().cloned().chain(whole).collect(),
            shown: match projection {
                Some(projection) => projection.expr.clone(),
                None => shown,
            },
        }))
    }
}

/// The expressions that are shown of the input's rows.
fn shown(projection: Option<&Projection>, input: &LogicalPlan) -> Vec<Expr> {
    match projection {
        Some(projection) => projection.expr.iter().map(|e| e.clone().unalias()).collect(),
        None => input.schema().columns().into_iter().map(Expr::Column).collect(),
    }
}

/// The expression that a condition compares the first expression of an order with, and the direction, where
/// the first row in that order is the nearest one.
fn compared(condition: &Expr, first: &SortExpr) -> Result<Option<(Expr, Direction)>> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return Ok(None) };
    let (inner, op, outer) =
        if **left == first.expr { (left, Some(*op), right) } else { (right, op.swap(), left) };
    let direction = op.and_then(Direction::of).filter(|d| d.back != first.asc);
    let usable = **inner == first.expr && outer.column_refs().is_empty();
    Ok(direction.filter(|_| usable).map(|direction| (outer.as_ref().clone(), direction)))
}
