//! `array_transform(a, x -> x + 1)`: the arguments of functions over arrays that are functions themselves.
//!
//! The parser takes the arrow for the operator of JSON, which in these places it is not.

use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, LambdaFunction,
    LambdaFunctionParameter, LambdaSyntax, OneOrManyWithParens, Query, visit_expressions_mut,
};

/// Makes functions of such arguments; `takes_functions` tells of a name whether its arguments may be some.
pub fn read_lambdas(query: &mut Query, takes_functions: impl Fn(&str) -> bool) {
    let _ = visit_expressions_mut(query, |expr| {
        if let Expr::Function(function) = expr
            && takes_functions(&function.name.to_string().to_lowercase())
            && let FunctionArguments::List(list) = &mut function.args
        {
            for argument in &mut list.args {
                if let FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) = argument
                    && let Some(parameters) = take_parameters(argument)
                {
                    *argument = lambda(parameters, argument.clone());
                }
            }
        }
        ControlFlow::<Infallible>::Continue(())
    });
}

/// The names before the first arrow, which are taken away with it.
fn take_parameters(expr: &mut Expr) -> Option<Vec<Ident>> {
    // The body may hold operators that bind less than the arrow, which are around it then.
    if !matches!(expr, Expr::BinaryOp { left, .. } if !has_operators(left)) {
        return take_parameters(first_operand(expr)?);
    }
    let Expr::BinaryOp { left, op, right } = expr else { return None };
    let names = match left.as_ref() {
        Expr::Identifier(name) => vec![name.clone()],
        Expr::Nested(name) => vec![identifier(name)?],
        Expr::Tuple(names) => names.iter().map(identifier).collect::<Option<_>>()?,
        _ => return None,
    };
    if *op != BinaryOperator::Arrow {
        return None;
    }
    *expr = right.as_ref().clone();
    Some(names)
}

fn has_operators(expr: &Expr) -> bool {
    first_operand(&mut expr.clone()).is_some()
}

/// The operand that an operator's text begins with.
fn first_operand(expr: &mut Expr) -> Option<&mut Expr> {
    Some(match expr {
        Expr::BinaryOp { left, .. } | Expr::AnyOp { left, .. } | Expr::AllOp { left, .. } => left,
        Expr::IsNull(operand)
        | Expr::IsNotNull(operand)
        | Expr::IsTrue(operand)
        | Expr::IsNotTrue(operand)
        | Expr::IsFalse(operand)
        | Expr::IsNotFalse(operand)
        | Expr::IsUnknown(operand)
        | Expr::IsNotUnknown(operand)
        | Expr::IsDistinctFrom(operand, _)
        | Expr::IsNotDistinctFrom(operand, _) => operand,
        Expr::InList { expr, .. }
        | Expr::InSubquery { expr, .. }
        | Expr::Between { expr, .. }
        | Expr::Like { expr, .. }
        | Expr::ILike { expr, .. }
        | Expr::SimilarTo { expr, .. } => expr,
        _ => return None,
    })
}

fn identifier(expr: &Expr) -> Option<Ident> {
    match expr {
        Expr::Identifier(name) => Some(name.clone()),
        _ => None,
    }
}

fn lambda(names: Vec<Ident>, body: Expr) -> Expr {
    let parameter = |name| LambdaFunctionParameter { name, data_type: None };
    Expr::Lambda(LambdaFunction {
        params: OneOrManyWithParens::Many(names.into_iter().map(parameter).collect()),
        body: Box::new(body),
        syntax: LambdaSyntax::Arrow,
    })
}
