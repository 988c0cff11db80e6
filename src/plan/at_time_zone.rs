//! `time AT TIME ZONE zone` is `timezone(zone, time)`, of an instant the local time there, and the reverse.

use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    ObjectName, VisitMut, visit_expressions_mut,
};

/// Writes the function in the place of the words.
pub fn as_calls(sql: &mut impl VisitMut) {
    let _ = visit_expressions_mut(sql, |expr| {
        if let Expr::AtTimeZone { timestamp, time_zone } = expr {
            let argument = |expr: &Expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr.clone()));
            let args = vec![argument(time_zone), argument(timestamp)];
            *expr = Expr::Function(Function {
                name: ObjectName::from(vec![Ident::new("timezone")]),
                uses_odbc_syntax: false,
                parameters: FunctionArguments::None,
                args: FunctionArguments::List(FunctionArgumentList {
                    duplicate_treatment: None,
                    args,
                    clauses: Vec::new(),
                }),
                filter: None,
                null_treatment: None,
                over: None,
                within_group: Vec::new(),
            });
        }
        ControlFlow::<Infallible>::Continue(())
    });
}
