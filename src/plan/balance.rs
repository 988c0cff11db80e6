//! Long chains of AND and OR → trees.
//!
//! The parser makes `a OR b OR c …` as deep as the chain is long, and the planner asks for the type of
//! each level anew at each level. As a tree the same operands, in the same order, are as deep as the
//! logarithm of their number.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr, Statement, Value, VisitMut, VisitorMut,
};

/// Chains up to here stay as they are written.
const CHAIN_MAX: usize = 32;

/// The statement with its long chains of AND and OR as trees.
pub fn balanced(mut statement: Statement) -> Statement {
    let _ = VisitMut::visit(&mut statement, &mut Balance);
    statement
}

struct Balance;

impl VisitorMut for Balance {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(op) = chain(expr) {
            let whole = std::mem::replace(expr, Expr::value(Value::Null));
            *expr = tree(operands(whole, &op), &op);
        }
        ControlFlow::Continue(())
    }
}

/// The operator of the chain that an expression is, if it is a long one.
fn chain(expr: &Expr) -> Option<BinaryOperator> {
    let Expr::BinaryOp { op, .. } = expr else { return None };
    if !matches!(op, BinaryOperator::And | BinaryOperator::Or) {
        return None;
    }
    let mut expr = expr;
    for _ in 0..CHAIN_MAX {
        match expr {
            Expr::BinaryOp { left, op: same, .. } if same == op => expr = left,
            _ => return None,
        }
    }
    Some(op.clone())
}

/// The operands of a chain, as they are written.
fn operands(expr: Expr, op: &BinaryOperator) -> Vec<Expr> {
    let mut operands = Vec::new();
    let mut todo = vec![expr];
    while let Some(expr) = todo.pop() {
        match expr {
            Expr::BinaryOp { left, op: same, right } if same == *op => {
                todo.extend([*right, *left]);
            }
            other => operands.push(other),
        }
    }
    operands
}

fn tree(operands: Vec<Expr>, op: &BinaryOperator) -> Expr {
    let mut level = operands;
    while level.len() > 1 {
        let mut rest = level.into_iter();
        let mut above = Vec::new();
        while let Some(left) = rest.next() {
            above.push(match rest.next() {
                None => left,
                Some(right) => {
                    let (left, right) = (Box::new(left), Box::new(right));
                    Expr::BinaryOp { left, op: op.clone(), right }
                }
            });
        }
        level = above;
    }
    match level.pop() {
        Some(expr) => expr,
        None => unreachable!("a chain has operands"),
    }
}
