//! `ARRAY[a, b]` as the call `make_array(a, b)`: the planner knows no columns of outer queries inside
//! the brackets, and knows them in a call.

use std::ops::ControlFlow;

use datafusion_common::{DataFusionError, Result};
use datafusion_sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Query, visit_expressions_mut,
};

use super::sugar::call;

/// The query without array literals.
pub fn as_calls(mut query: Query) -> Result<Query> {
    let replaced = visit_expressions_mut(&mut query, |expr| {
        if let Expr::Array(literal) = expr {
            let items = std::mem::take(&mut literal.elem).into_iter();
            let items = items.map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e))).collect();
            match call("make_array", items) {
                Ok(call) => *expr = call,
                Err(error) => return ControlFlow::<DataFusionError>::Break(error),
            }
        }
        ControlFlow::Continue(())
    });
    match replaced {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(query),
    }
}
