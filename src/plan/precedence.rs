//! How tightly `->`, `->>`, `#>` and `#>>` bind: as in PostgreSQL, less than `+` and more than comparisons.
//!
//! The parser lets them bind less than comparisons: of `j ->> 'a' = 'x'` it makes `j ->> ('a' = 'x')`, and
//! of `x = j ->> 'a'` it makes `(x = j) ->> 'a'`. Parentheses that were written are nodes of their own,
//! so that what has none was not meant so.

use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{BinaryOperator, Expr, VisitMut, visit_expressions_mut};

/// Lets the JSON operators of a query or an expression bind as in PostgreSQL.
pub fn bind_json_operators(sql: &mut impl VisitMut) {
    let _ = visit_expressions_mut(sql, |expr| {
        if matches!(expr, Expr::BinaryOp { op, .. } if is_json(op)) {
            let taken = std::mem::replace(expr, placeholder());
            *expr = bound(taken);
        }
        ControlFlow::<Infallible>::Continue(())
    });
}

fn placeholder() -> Expr {
    Expr::Tuple(Vec::new())
}

fn is_json(op: &BinaryOperator) -> bool {
    use BinaryOperator::*;
    matches!(op, Arrow | LongArrow | HashArrow | HashLongArrow)
}

fn is_comparison(op: &BinaryOperator) -> bool {
    use BinaryOperator::*;
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | Spaceship)
}

/// A JSON operator whose operands are bound already.
fn bound(expr: Expr) -> Expr {
    let Expr::BinaryOp { mut left, op, mut right } = expr else { return expr };
    if let Some(first) = first_operand(&mut right) {
        let operand = Box::new(std::mem::replace(first, placeholder()));
        *first = bound(Expr::BinaryOp { left, op, right: operand });
        return *right;
    }
    if let Some(last) = last_operand(&mut left) {
        let operand = Box::new(std::mem::replace(last, placeholder()));
        *last = bound(Expr::BinaryOp { left: operand, op, right });
        return *left;
    }
    Expr::BinaryOp { left, op, right }
}

/// The first operand of something that binds less than a JSON operator before it.
fn first_operand(expr: &mut Expr) -> Option<&mut Expr> {
    let operand = match expr {
        Expr::BinaryOp { left, op, .. }
            if is_comparison(op) || *op == BinaryOperator::StringConcat =>
        {
            left
        }
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
        | Expr::InUnnest { expr, .. }
        | Expr::Between { expr, .. }
        | Expr::Like { expr, .. }
        | Expr::ILike { expr, .. }
        | Expr::SimilarTo { expr, .. }
        | Expr::RLike { expr, .. } => expr,
        Expr::AnyOp { left, .. } | Expr::AllOp { left, .. } => left,
        _ => return None,
    };
    // Operators of one kind that follow each other bind from the left.
    if first_operand(operand).is_some() { first_operand(operand) } else { Some(operand) }
}

/// The last operand of something that binds less than a JSON operator behind it.
fn last_operand(expr: &mut Expr) -> Option<&mut Expr> {
    match expr {
        Expr::BinaryOp { right, op, .. } if is_comparison(op) => Some(right),
        Expr::IsDistinctFrom(_, last) | Expr::IsNotDistinctFrom(_, last) => Some(last),
        Expr::Between { high, .. } => Some(high),
        Expr::Like { pattern, .. } | Expr::ILike { pattern, .. } => Some(pattern),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion_sql::sqlparser::dialect::GenericDialect;
    use datafusion_sql::sqlparser::parser::Parser;

    use super::*;

    fn parsed(sql: &str) -> Expr {
        Parser::new(&GenericDialect {}).try_with_sql(sql).unwrap().parse_expr().unwrap()
    }

    /// The expression with parentheses around everything.
    fn explicit(expr: &Expr) -> String {
        match expr {
            Expr::BinaryOp { left, op, right } => {
                format!("({} {op} {})", explicit(left), explicit(right))
            }
            Expr::IsNotNull(e) => format!("({} IS NOT NULL)", explicit(e)),
            Expr::Nested(e) => explicit(e),
            Expr::InList { expr, list, .. } => {
                let list: Vec<String> = list.iter().map(explicit).collect();
                format!("({} IN {})", explicit(expr), list.join(" "))
            }
            Expr::Between { expr, low, high, .. } => {
                format!("({} BETWEEN {} AND {})", explicit(expr), explicit(low), explicit(high))
            }
            Expr::Like { expr, pattern, .. } => {
                format!("({} LIKE {})", explicit(expr), explicit(pattern))
            }
            other => other.to_string(),
        }
    }

    #[test]
    fn json_operators_bind_more_than_comparisons() {
        for (written, meant) in [
            ("j ->> 'a' = 'x'", "((j ->> 'a') = 'x')"),
            ("x = j ->> 'a'", "(x = (j ->> 'a'))"),
            ("x <> j -> 'a' ->> 'b'", "(x <> ((j -> 'a') ->> 'b'))"),
            ("j ->> 'a' = k -> 'b' ->> 'c'", "((j ->> 'a') = ((k -> 'b') ->> 'c'))"),
            ("j ->> 'a' IS NOT NULL AND b", "(((j ->> 'a') IS NOT NULL) AND b)"),
            ("j #>> '{a,b}' IN ('x', 'y')", "((j #>> '{a,b}') IN 'x' 'y')"),
            ("j ->> 'a' LIKE k ->> 'b'", "((j ->> 'a') LIKE (k ->> 'b'))"),
            ("j ->> 'a' BETWEEN 'x' AND k ->> 'b'", "((j ->> 'a') BETWEEN 'x' AND (k ->> 'b'))"),
            ("j ->> 'a' || 'x' = 'y'", "(((j ->> 'a') || 'x') = 'y')"),
            ("j -> 1 + 1", "(j -> (1 + 1))"),
            ("(x = j) ->> 'a'", "((x = j) ->> 'a')"),
            ("j ->> ('a' = 'x')", "(j ->> ('a' = 'x'))"),
        ] {
            let mut expr = parsed(written);
            bind_json_operators(&mut expr);
            assert_eq!(explicit(&expr), meant, "{written}");
        }
    }
}
