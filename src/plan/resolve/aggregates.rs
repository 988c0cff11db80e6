//! Aggregates that belong to a query around the one that they stand in.

use std::ops::ControlFlow;

use datafusion_common::{DataFusionError, Result};
use datafusion_sql::sqlparser::ast::{Expr, Function, Query, Spanned, VisitMut, VisitorMut};

use super::columns::ColumnNames;
use super::{Clause, Resolver, grouped, qualified, refusal};
use crate::plan::names::fold;

impl Resolver<'_> {
    /// The level that the columns in an aggregate's arguments belong to, where it is one further out.
    pub(super) fn level_of_aggregate(&self, function: &Function) -> Option<usize> {
        let innermost = self.levels.len().checked_sub(1)?;
        let mut names = ColumnNames { found: Vec::new(), nested: false };
        let mut function = function.clone();
        let _ = function.visit(&mut names);
        if names.nested {
            return None;
        }
        let mut deepest = None;
        for parts in &names.found {
            let at = match parts.as_slice() {
                [] => return None,
                [column] => {
                    let name = fold(column);
                    self.levels.iter().rposition(|level| {
                        level.is_opaque() || level.visible.iter().any(|v| v.name == name)
                    })?
                }
                [relation, ..] => {
                    let name = fold(relation);
                    self.levels.iter().rposition(|level| {
                        level.has_relation(&name) || level.visible.iter().any(|v| v.name == name)
                    })?
                }
            };
            deepest = deepest.max(Some(at));
        }
        deepest.filter(|depth| *depth < innermost)
    }

    /// An aggregate of a query further out: `None` where it belongs to the query that it stands in.
    pub(super) fn outer_aggregate(&mut self, function: &Function) -> Result<Option<Expr>> {
        let name = function.name.to_string().to_lowercase();
        if function.over.is_some() || !(self.known.is_aggregate)(&name) {
            return Ok(None);
        }
        let Some(depth) = self.level_of_aggregate(function) else { return Ok(None) };
        self.aggregate_of(depth, function)
    }

    /// The column that an aggregate of the level at this depth becomes, once its groups are taken out.
    pub(super) fn aggregate_of(
        &mut self,
        depth: usize,
        function: &Function,
    ) -> Result<Option<Expr>> {
        let clause = match self.levels[depth].clause {
            Clause::Select => None,
            Clause::From => Some("FROM"),
            Clause::Where => Some("WHERE"),
            Clause::GroupBy => Some("GROUP BY"),
        };
        if let Some(clause) = clause {
            let message = format!(
                "{function} belongs to the query around, in whose {clause} no aggregate may stand"
            );
            return Err(refusal(function.name.span(), message));
        }
        if !self.levels[depth].groups {
            self.outer_aggregate = self.outer_aggregate.max(Some(depth));
            return Ok(None);
        }
        // Its arguments are those of the query that it belongs to.
        let inner = self.levels.split_off(depth + 1);
        let mut expr = Expr::Function(function.clone());
        let walked = self.walk_arguments(&mut expr);
        let level = &mut self.levels[depth];
        let known = level.aggregates.iter().position(|aggregate| *aggregate == expr);
        let index = known.unwrap_or_else(|| {
            level.aggregates.push(expr);
            level.aggregates.len() - 1
        });
        let column = qualified(&grouped::relation(level.id), &grouped::aggregate(index));
        self.levels.extend(inner);
        walked.map(|()| Some(column))
    }

    /// An expression that was moved into a sub-query: its aggregates belong to the query around that.
    pub(super) fn moved(&mut self, mut expr: Expr) -> Result<Expr> {
        let inner = self.levels.pop();
        let mut aggregates = Aggregates { resolver: self, error: None };
        let _ = expr.visit(&mut aggregates);
        let result = match aggregates.error {
            Some(error) => Err(error),
            None => self.walk(&mut expr),
        };
        self.levels.extend(inner);
        result.map(|()| Expr::Nested(Box::new(expr)))
    }

    pub(super) fn walk_arguments(&mut self, expr: &mut Expr) -> Result<()> {
        let Expr::Function(function) = expr else { return Ok(()) };
        self.walk(&mut function.args)?;
        self.walk(&mut function.filter)?;
        self.walk(&mut function.within_group)
    }
}

/// Takes out the aggregates in an expression that was moved into a sub-query.
struct Aggregates<'r, 'a> {
    resolver: &'r mut Resolver<'a>,
    error: Option<DataFusionError>,
}

impl VisitorMut for Aggregates<'_, '_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        ControlFlow::Break(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::Function(function) = &*expr else { return ControlFlow::Continue(()) };
        let name = function.name.to_string().to_lowercase();
        let Some(innermost) = self.resolver.levels.len().checked_sub(1) else {
            return ControlFlow::Continue(());
        };
        if function.over.is_some() || !(self.resolver.known.is_aggregate)(&name) {
            return ControlFlow::Continue(());
        }
        let depth = self.resolver.level_of_aggregate(function).unwrap_or(innermost);
        match self.resolver.aggregate_of(depth, &function.clone()) {
            Ok(Some(column)) => *expr = column,
            Ok(None) => {}
            Err(error) => {
                self.error = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}
