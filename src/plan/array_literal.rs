//! `ARRAY[a, b]` as the call `make_array(a, b)`: the planner knows no columns of outer queries inside
//! the brackets, and knows them in a call.

use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion_common::Result;
use datafusion_sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Query, visit_expressions_mut,
};
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::parser::Parser;

/// The query without array literals.
pub fn as_calls(mut query: Query) -> Result<Query> {
    let call = Parser::new(&GenericDialect {}).try_with_sql("make_array()")?.parse_expr()?;
    let _ = visit_expressions_mut(&mut query, |expr| {
        if let Expr::Array(literal) = expr
            && let Expr::Function(mut function) = call.clone()
            && let FunctionArguments::List(list) = &mut function.args
        {
            let items = std::mem::take(&mut literal.elem).into_iter();
            list.args = items.map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e))).collect();
            *expr = Expr::Function(function);
        }
        ControlFlow::<Infallible>::Continue(())
    });
    Ok(query)
}
