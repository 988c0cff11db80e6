//! Casts of one expression to several types, told apart.
//!
//! The planner calls a cast what it casts: `max(v::BIGINT)` and `max(v::TEXT)` are both `max(v)`, and so is
//! `max(v)` itself, of which an aggregate or a group can have one only. `coalesce(v)` is `v` under
//! another name.

use std::ops::ControlFlow;

use datafusion_common::{DataFusionError, Result};
use datafusion_sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, OrderBy, Query, Select,
    VisitMut, VisitorMut,
};

use super::fold;
use crate::plan::sugar::call;

/// Gives the second cast of an expression in a SELECT with groups or windows another name, and so on.
pub fn apart(
    select: &mut Select,
    mut order_by: Option<&mut OrderBy>,
    is_aggregate: &dyn Fn(&str) -> bool,
) -> Result<()> {
    let has_keys =
        !matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    let mut casts =
        Casts { depth: 0, operands: Vec::new(), groups: has_keys, is_aggregate, renames: false };
    if let GroupByExpr::Expressions(keys, _) = &select.group_by {
        keys.iter().for_each(|key| casts.see_column(key));
    }
    each_clause(select, order_by.as_deref_mut(), &mut casts)?;
    if !casts.groups || casts.operands.iter().all(|(_, types)| types.len() < 2) {
        return Ok(());
    }
    casts.renames = true;
    each_clause(select, order_by, &mut casts)
}

fn each_clause(
    select: &mut Select,
    order_by: Option<&mut OrderBy>,
    casts: &mut Casts<'_>,
) -> Result<()> {
    let broken = |flow| match flow {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    };
    broken(select.projection.visit(casts))?;
    broken(select.group_by.visit(casts))?;
    broken(select.having.visit(casts))?;
    broken(select.qualify.visit(casts))?;
    broken(select.distinct.visit(casts))?;
    match order_by {
        Some(order_by) => broken(order_by.visit(casts)),
        None => Ok(()),
    }
}

struct Casts<'a> {
    depth: usize,
    /// Each operand of a cast, and the types that it is cast to; the empty type where it stands without a
    /// cast.
    operands: Vec<(String, Vec<String>)>,
    groups: bool,
    is_aggregate: &'a dyn Fn(&str) -> bool,
    renames: bool,
}

/// The name that the planner gives an expression, near enough.
fn called(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Nested(inner) => called(inner),
        Expr::Value(_) | Expr::TypedString(_) | Expr::Interval(_) => None,
        Expr::Identifier(name) => Some(fold(name)),
        Expr::CompoundIdentifier(parts) => parts.last().map(fold),
        Expr::Cast { expr, .. } => called(expr),
        other => Some(other.to_string()),
    }
}

impl Casts<'_> {
    /// An argument without a cast.
    fn see_plain(&mut self, argument: &FunctionArg) {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = argument else { return };
        self.see_column(expr);
    }

    fn see_column(&mut self, expr: &Expr) {
        if matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
            && let Some(name) = called(expr)
        {
            self.see(name, String::new());
        }
    }

    fn see(&mut self, operand: String, data_type: String) {
        match self.operands.iter_mut().find(|(known, _)| *known == operand) {
            Some((_, types)) if types.contains(&data_type) => {}
            Some((_, types)) if data_type.is_empty() => types.insert(0, data_type),
            Some((_, types)) => types.push(data_type),
            None => self.operands.push((operand, vec![data_type])),
        }
    }
}

impl VisitorMut for Casts<'_> {
    type Break = DataFusionError;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<DataFusionError> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<DataFusionError> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<DataFusionError> {
        if self.depth > 0 {
            return ControlFlow::Continue(());
        }
        match expr {
            Expr::Cast { expr: operand, data_type, .. } => {
                let (Some(name), data_type) = (called(operand), data_type.to_string()) else {
                    return ControlFlow::Continue(());
                };
                if !self.renames {
                    self.see(name, data_type);
                    return ControlFlow::Continue(());
                }
                let types = self.operands.iter().find(|(known, _)| *known == name);
                let place = types.and_then(|(_, types)| types.iter().position(|t| *t == data_type));
                for _ in 0..place.unwrap_or(0) {
                    let inner =
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(operand.as_ref().clone()));
                    match call("coalesce", vec![inner]) {
                        Ok(call) => **operand = call,
                        Err(error) => return ControlFlow::Break(error),
                    }
                }
            }
            Expr::Function(function) if !self.renames => {
                let name = function.name.to_string().to_lowercase();
                if function.over.is_some() || (self.is_aggregate)(&name) {
                    self.groups = true;
                    if let FunctionArguments::List(list) = &function.args {
                        list.args.iter().for_each(|argument| self.see_plain(argument));
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
