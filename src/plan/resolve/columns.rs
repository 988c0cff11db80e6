//! The names of columns in an expression.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{AccessExpr, Expr, Ident, Query, Value, VisitMut, VisitorMut};

use crate::plan::names::fold;

pub(super) fn relations_in(expr: &Expr) -> Vec<String> {
    let mut names = ColumnNames { found: Vec::new(), nested: false };
    let _ = expr.clone().visit(&mut names);
    let relations = names.found.iter().filter(|parts| parts.len() > 1);
    relations.filter_map(|parts| parts.first().map(fold)).collect()
}

/// The names of columns in an expression.
pub(super) struct ColumnNames {
    pub(super) found: Vec<Vec<Ident>>,
    /// There is a sub-query in it.
    pub(super) nested: bool,
}

impl VisitorMut for ColumnNames {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.nested = true;
        ControlFlow::Break(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) => self.found.push(vec![name.clone()]),
            Expr::CompoundIdentifier(parts) => self.found.push(parts.clone()),
            // `t.c['a']`: neither part of `t.c` is a name by itself.
            Expr::CompoundFieldAccess { root, access_chain } => {
                if let Expr::Identifier(relation) = root.as_ref()
                    && let Some(AccessExpr::Dot(dotted)) = access_chain.first_mut()
                    && let Expr::Identifier(column) = &*dotted
                {
                    self.found.push(vec![relation.clone(), column.clone()]);
                    *dotted = Expr::value(Value::Null);
                    **root = Expr::value(Value::Null);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
