//! The type of a column that USING merges: the one that both sides have in common, by PostgreSQL's rules.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion_common::{DFSchema, Result};
use datafusion_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion_expr::{ExprSchemable, cast};
use datafusion_sql::sqlparser::ast::{BinaryOperator, Expr as SqlExpr};

use super::decimal::Digits;

/// Stands between the column that is shown and the one that it is merged with.
const MERGED: &str = "merged with";

/// The first column, in the type that both have in common.
pub fn with(shown: SqlExpr, other: SqlExpr) -> SqlExpr {
    let op = BinaryOperator::Custom(MERGED.to_string());
    SqlExpr::BinaryOp { left: Box::new(shown), op, right: Box::new(other) }
}

#[derive(Debug)]
pub struct MergedColumns;

impl ExprPlanner for MergedColumns {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        if !matches!(&expr.op, BinaryOperator::Custom(name) if name == MERGED) {
            return Ok(PlannerResult::Original(expr));
        }
        let (shown, other) = (expr.left.get_type(schema)?, expr.right.get_type(schema)?);
        Ok(PlannerResult::Planned(match common(&shown, &other) {
            Some(common) if common != shown => cast(expr.left, common),
            _ => expr.left,
        }))
    }
}

fn common(one: &DataType, two: &DataType) -> Option<DataType> {
    use DataType::{Date32, Float32, Float64, Timestamp};
    let is_number = |t: &DataType| t.is_integer() || t.is_decimal() || t.is_floating();
    match (one, two) {
        (one, two) if one == two => None,
        (one, two) if is_number(one) && is_number(two) => Some(match (one, two) {
            (Float64, _) | (_, Float64) => Float64,
            (Float32, _) | (_, Float32) => Float32,
            _ if one.is_decimal() || two.is_decimal() => {
                let both = Digits::of(one)?.both(Digits::of(two)?);
                both.data_type(both.scale)
            }
            _ if one.primitive_width() >= two.primitive_width() => one.clone(),
            _ => two.clone(),
        }),
        (Date32, time @ Timestamp(..)) | (time @ Timestamp(..), Date32) => Some(time.clone()),
        (Timestamp(a, a_zone), Timestamp(b, b_zone)) => {
            let digits = |unit: &TimeUnit| match unit {
                TimeUnit::Second => 0,
                TimeUnit::Millisecond => 3,
                TimeUnit::Microsecond => 6,
                TimeUnit::Nanosecond => 9,
            };
            let unit = if digits(a) >= digits(b) { a } else { b };
            Some(Timestamp(*unit, a_zone.clone().or(b_zone.clone())))
        }
        _ => None,
    }
}
