//! Walks the expressions of a clause, sub-queries included.

use std::ops::ControlFlow;

use datafusion_common::{DataFusionError, Result};
use datafusion_sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    Ident, OneOrManyWithParens, Query, Spanned, VisitMut, VisitorMut,
};

use super::{Resolver, Use, refusal};
use crate::plan::names::fold;
use crate::plan::row_values::MOVED;

impl Resolver<'_> {
    /// Changes the names in something that holds expressions, sub-queries included.
    pub(super) fn walk(&mut self, node: &mut impl VisitMut) -> Result<()> {
        let mut walk = ClauseWalk {
            resolver: self,
            aside: Vec::new(),
            taken: Vec::new(),
            parameters: Vec::new(),
        };
        match node.visit(&mut walk) {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(()),
        }
    }
}

/// Stands in the place of an expression that is walked by itself.
const ASIDE: &str = "__aside";

/// Walks the expressions of a clause.
struct ClauseWalk<'r, 'a> {
    resolver: &'r mut Resolver<'a>,
    /// Expressions that are walked by themselves, while [`ASIDE`] stands in their place.
    aside: Vec<Expr>,
    /// Sub-queries that are resolved, while nothing stands in their place.
    taken: Vec<Query>,
    /// The parameters of the functions around.
    parameters: Vec<Vec<String>>,
}

impl ClauseWalk<'_, '_> {
    fn replacement(&mut self, expr: &mut Expr) -> Result<Option<Expr>> {
        match expr {
            Expr::Identifier(name) => {
                let folded = fold(name);
                if self.parameters.iter().flatten().any(|p| *p == folded) {
                    return Ok(None);
                }
                self.resolver.unqualified(name)
            }
            Expr::CompoundIdentifier(parts) => Ok(self.resolver.reached(parts)),
            Expr::IsNull(row) | Expr::IsNotNull(row) => {
                let Some(columns) = self.resolver.columns_of_row(row) else { return Ok(None) };
                let is_null = matches!(expr, Expr::IsNull(_));
                let tests = columns.into_iter().map(|column| match is_null {
                    true => Expr::IsNull(Box::new(column)),
                    false => Expr::IsNotNull(Box::new(column)),
                });
                let and = |left, right| Expr::BinaryOp {
                    left: Box::new(left),
                    op: BinaryOperator::And,
                    right: Box::new(right),
                };
                Ok(tests.reduce(and).map(|tests| Expr::Nested(Box::new(tests))))
            }
            Expr::BinaryOp { left, op, right } if is_comparison(op) => {
                self.refuse_rows(left, right)?;
                Ok(None)
            }
            Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
                self.refuse_rows(left, right)?;
                Ok(None)
            }
            Expr::CompoundFieldAccess { root, access_chain } => {
                // `t.c['a']`: neither part of `t.c` is a name by itself.
                let dotted = matches!(access_chain.first(), Some(AccessExpr::Dot(_)));
                if !(dotted && matches!(root.as_ref(), Expr::Identifier(_))) {
                    self.resolver.walk(root)?;
                }
                for access in access_chain {
                    if let AccessExpr::Subscript(subscript) = access {
                        self.resolver.walk(subscript)?;
                    }
                }
                self.aside.push(expr.clone());
                Ok(Some(Expr::Identifier(Ident::new(ASIDE))))
            }
            Expr::Function(function) if function.name.to_string() == MOVED => {
                let FunctionArguments::List(list) = &mut function.args else { return Ok(None) };
                let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(moved))) = list.args.pop()
                else {
                    return Ok(None);
                };
                self.resolver.moved(moved).map(Some)
            }
            Expr::Function(function) => {
                if let Some(column) = self.resolver.outer_aggregate(function)? {
                    return Ok(Some(column));
                }
                self.whole_rows(function)?;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Whole rows are values that nothing is compared with.
    fn refuse_rows(&self, left: &Expr, right: &Expr) -> Result<()> {
        for side in [left, right] {
            if self.resolver.columns_of_row(side).is_some() {
                let message = format!(
                    "{side} is a whole row, which is compared with nothing: name its columns"
                );
                return Err(refusal(side.span(), message));
            }
        }
        Ok(())
    }

    /// `f(t.*)` is `f(t)`.
    fn whole_rows(&mut self, function: &mut Function) -> Result<()> {
        let FunctionArguments::List(list) = &mut function.args else { return Ok(()) };
        for argument in &mut list.args {
            let FunctionArg::Unnamed(FunctionArgExpr::QualifiedWildcard(name)) = &*argument else {
                continue;
            };
            let Some(ident) = name.0.last().and_then(|part| part.as_ident()).cloned() else {
                continue;
            };
            if let Some(row) = self.resolver.whole_row(&ident)? {
                *argument = FunctionArg::Unnamed(FunctionArgExpr::Expr(row));
            }
        }
        Ok(())
    }
}

impl VisitorMut for ClauseWalk<'_, '_> {
    type Break = DataFusionError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<DataFusionError> {
        let nothing = self.resolver.nothing.clone();
        let mut taken = std::mem::replace(query, nothing);
        let result = self.resolver.query(&mut taken, Use::Within);
        self.taken.push(taken);
        match result {
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<DataFusionError> {
        if let Some(taken) = self.taken.pop() {
            *query = taken;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<DataFusionError> {
        if let Expr::Lambda(lambda) = expr {
            let names = match &lambda.params {
                OneOrManyWithParens::One(parameter) => vec![fold(&parameter.name)],
                OneOrManyWithParens::Many(parameters) => {
                    parameters.iter().map(|p| fold(&p.name)).collect()
                }
            };
            self.parameters.push(names);
        }
        match self.replacement(expr) {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(replacement)) => {
                *expr = replacement;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<DataFusionError> {
        match expr {
            Expr::Lambda(_) => {
                self.parameters.pop();
            }
            Expr::Identifier(name) if name.value == ASIDE => {
                if let Some(aside) = self.aside.pop() {
                    *expr = aside;
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn is_comparison(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}
