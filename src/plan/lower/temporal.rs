//! Conditions on `now()`: taken apart into comparisons that change their value once as time passes.

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema, ScalarValue};
use datafusion_expr::expr::Between;
use datafusion_expr::utils::conjunction;
use datafusion_expr::{BinaryExpr, Expr, ExprSchemable, Operator, cast};

use super::{Lowering, Result, refuse};
use crate::model::schema::SqlType;
use crate::plan::functions;
use crate::plan::ir::{Node, NodeId, Op};

/// The column that stands for the time that it is.
const NOW: &str = "now()";

/// True when an expression depends on the time that it is.
pub fn mentions_now(expr: &Expr) -> bool {
    let mut found = false;
    let _ = expr.apply(|e| {
        found |= is_now(e);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

fn is_now(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if matches!(call.func.name(), "now" | "current_date"))
}

impl Lowering {
    /// The input's rows while all conditions, which mention `now()`, hold.
    pub(super) fn temporal(
        &mut self,
        input: NodeId,
        conditions: &[&Expr],
        schema: &DFSchema,
    ) -> Result<NodeId> {
        let Some(condition) = conjunction(conditions.iter().map(|c| (*c).clone())) else {
            return Ok(input);
        };
        let condition = plain_comparisons(condition)?;
        let mut parts = Vec::new();
        comparisons(&condition, &mut parts)?;
        let now = Field::new(NOW, now_type(), true);
        let now = DFSchema::from_unqualified_fields(vec![now].into(), Default::default())?;
        let schema = schema.join(&now)?;
        let moments = parts
            .into_iter()
            .map(|part| self.exprs.scalar(&at_now(part.clone())?, &schema))
            .collect::<Result<Vec<_>>>()?;
        let condition = self.exprs.scalar(&at_now(condition)?, &schema)?;
        let Node { schema, keys, .. } = self.nodes[input].clone();
        Ok(self.add(Op::Temporal { input, condition, moments }, schema, keys, false))
    }
}

fn now_type() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into()))
}

/// The expression over a column in the place of `now()`.
fn at_now(expr: Expr) -> Result<Expr> {
    let replaced = expr.transform_up(|e| {
        if !is_now(&e) {
            return Ok(Transformed::no(e));
        }
        let now = Expr::Column(Column::new_unqualified(NOW));
        Ok(Transformed::yes(cast(now, e.get_type(&DFSchema::empty())?)))
    });
    Ok(replaced.data()?)
}

/// `=`, `<>` and BETWEEN over `now()` as comparisons of one direction.
fn plain_comparisons(expr: Expr) -> Result<Expr> {
    let rewritten = expr.transform_down(|e| {
        Ok(match e {
            Expr::Between(Between { expr, negated, low, high })
                if mentions_now_in(&[&expr, &low, &high]) =>
            {
                let within = expr.as_ref().clone().gt_eq(*low).and(expr.lt_eq(*high));
                Transformed::yes(if negated { Expr::Not(Box::new(within)) } else { within })
            }
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: op @ (Operator::Eq | Operator::NotEq),
                right,
            }) if mentions_now_in(&[&left, &right]) => {
                let same =
                    left.as_ref().clone().lt_eq(right.as_ref().clone()).and(left.gt_eq(*right));
                Transformed::yes(if op == Operator::Eq { same } else { Expr::Not(Box::new(same)) })
            }
            other => Transformed::no(other),
        })
    });
    Ok(rewritten.data()?)
}

fn mentions_now_in(exprs: &[&Expr]) -> bool {
    exprs.iter().any(|e| mentions_now(e))
}

/// The comparisons with `now()` in a condition.
fn comparisons<'a>(expr: &'a Expr, parts: &mut Vec<&'a Expr>) -> Result<()> {
    if !mentions_now(expr) {
        return Ok(());
    }
    match expr {
        Expr::Not(e) | Expr::IsTrue(e) | Expr::IsNotTrue(e) => comparisons(e, parts),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And | Operator::Or, right }) => {
            comparisons(left, parts)?;
            comparisons(right, parts)
        }
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq,
            right,
        }) => {
            if mentions_now(left) && mentions_now(right) {
                return refuse(format!("now() stands on both sides of {expr}: put it on one side"));
            }
            for side in [left, right] {
                if !goes_one_way(side) {
                    return refuse(format!(
                        "{side} does not go one way as time passes: now(), now() ± an interval, \
                         date_trunc, date_bin and casts to DATE or TIMESTAMP do"
                    ));
                }
            }
            parts.push(expr);
            Ok(())
        }
        other => refuse(format!(
            "now() is supported in comparisons, joined by AND, OR and NOT, not in {other}"
        )),
    }
}

/// Never less, or never more, at a later time.
fn goes_one_way(expr: &Expr) -> bool {
    if !mentions_now(expr) || is_now(expr) {
        return true;
    }
    match expr {
        Expr::Cast(cast) => {
            let to = cast.field.data_type();
            matches!(to, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64)
                && goes_one_way(&cast.expr)
        }
        Expr::Alias(alias) => goes_one_way(&alias.expr),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus, right }) => {
            (mentions_now(left) != mentions_now(right)) && goes_one_way(left) && goes_one_way(right)
        }
        Expr::ScalarFunction(call) => {
            let (function, args) = (call.func.name(), call.args.as_slice());
            let constant = |e: &Expr| matches!(e, Expr::Literal(value, _) if !matches!(value, ScalarValue::Null));
            match (function, args) {
                ("cast", [time]) if functions::cast::target(&call.func).is_some() => {
                    let to = functions::cast::target(&call.func);
                    matches!(to, Some(SqlType::Timestamp { .. } | SqlType::Date))
                        && goes_one_way(time)
                }
                ("interval_order", [time]) => goes_one_way(time),
                ("time_since", [left, right]) => {
                    (mentions_now(left) != mentions_now(right))
                        && goes_one_way(left)
                        && goes_one_way(right)
                }
                ("date_plus" | "date_minus", [time, other]) => {
                    !mentions_now(other) && goes_one_way(time)
                }
                ("date_trunc", [unit, time]) => constant(unit) && goes_one_way(time),
                ("date_bin", [width, time]) => constant(width) && goes_one_way(time),
                ("date_bin", [width, time, origin]) => {
                    constant(width) && constant(origin) && goes_one_way(time)
                }
                _ => false,
            }
        }
        _ => false,
    }
}
