//! Equality of jsonb: two values are the same if their texts are, numbers without the zeros behind them.
//!
//! Comparisons with `=`, `<>` and IS DISTINCT FROM, IN, CASE and NULLIF compare these texts, so that a condition that is
//! a join's key stays one. A literal in quotes beside a jsonb is one, too.

use std::sync::{Arc, LazyLock};

use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion_expr::expr::InList;
use datafusion_expr::{BinaryExpr, Case, Cast, Expr, ExprSchemable, Operator, ScalarUDF, lit};

use super::jsonb_tree::Tree;
use super::literals::is_quoted;
use super::row::{Overload, Type, Value, function, overload};
use crate::model::schema::{SqlField, SqlType};

const SAME: &[Overload] =
    &[overload(&[Type::Json], Type::Text, |row| Ok(Value::Text(Tree::read(row.text(0))?.same())))];

static FUNCTION: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| function("jsonb_same", &[], SAME, None));

/// Whether an expression is JSON.
pub fn is_json(expr: &Expr, schema: &DFSchema) -> bool {
    let field = expr.to_field(schema).map(|(_, field)| SqlField::from_arrow(&field));
    matches!(field, Ok(Ok(field)) if field.sql_type == SqlType::Json)
}

/// Whether an expression is JSON, or stands for it beside some.
fn may_be_json(expr: &Expr, schema: &DFSchema) -> bool {
    let is_null = matches!(expr, Expr::Literal(value, _) if value.is_null());
    is_quoted(expr) || is_null || is_json(expr, schema)
}

/// The text by which a value is compared.
fn same(expr: Expr) -> Result<Expr> {
    Ok(match expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)), _) => lit(Tree::read(&text)?.same()),
        Expr::Literal(value, _) if value.is_null() => lit(ScalarValue::Utf8(None)),
        other => FUNCTION.call(vec![other]),
    })
}

/// The value that is compared, when the function stands for its text.
pub fn written(function: &ScalarUDF, args: &[Expr]) -> Option<Expr> {
    match args {
        [value] if function.name() == FUNCTION.name() => Some(value.clone()),
        _ => None,
    }
}

/// The expression with comparisons of jsonb by these texts, in a plan whose types agree.
pub fn in_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    use Operator::{Eq, IsDistinctFrom, IsNotDistinctFrom, NotEq};
    let all = |exprs: &[&Expr]| {
        exprs.iter().any(|expr| is_json(expr, schema))
            && exprs.iter().all(|expr| may_be_json(expr, schema))
    };
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if matches!(op, Eq | NotEq | IsDistinctFrom | IsNotDistinctFrom)
                && all(&[&left, &right]) =>
        {
            let (left, right) = (Box::new(same(*left)?), Box::new(same(*right)?));
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
        }
        Expr::InList(InList { expr, list, negated })
            if is_json(&expr, schema) && list.iter().all(|item| may_be_json(item, schema)) =>
        {
            let list = list.into_iter().map(same).collect::<Result<_>>()?;
            Transformed::yes(Expr::InList(InList { expr: Box::new(same(*expr)?), list, negated }))
        }
        Expr::Case(Case { expr: Some(of), when_then_expr, else_expr })
            if is_json(&of, schema)
                && when_then_expr.iter().all(|(when, _)| may_be_json(when, schema)) =>
        {
            let branch = |(when, then): (Box<Expr>, Box<Expr>)| Ok((Box::new(same(*when)?), then));
            let when_then_expr = when_then_expr.into_iter().map(branch).collect::<Result<_>>()?;
            let expr = Some(Box::new(same(*of)?));
            Transformed::yes(Expr::Case(Case { expr, when_then_expr, else_expr }))
        }
        Expr::ScalarFunction(call)
            if call.func.name() == "nullif"
                && matches!(call.args.as_slice(), [value, other] if all(&[value, other])) =>
        {
            let field = Expr::ScalarFunction(call.clone()).to_field(schema)?.1;
            let (value, other) = (call.args[0].clone(), call.args[1].clone());
            let null = Box::new(lit(ScalarValue::Utf8(None)));
            let case = Case {
                expr: Some(Box::new(same(value.clone())?)),
                when_then_expr: vec![(Box::new(same(other)?), null)],
                else_expr: Some(Box::new(value)),
            };
            let case = Box::new(Expr::Case(case));
            Transformed::yes(Expr::Cast(Cast::new_from_field(case, field)))
        }
        Expr::Between(between) if is_json(&between.expr, schema) => {
            return plan_err!("BETWEEN of JSON is not supported: a >= b AND a <= c is");
        }
        other => Transformed::no(other),
    })
}
