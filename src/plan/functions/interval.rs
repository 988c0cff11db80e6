//! `INTERVAL '1 day' * n` and `INTERVAL '1 day' / n`, which DataFusion lacks.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, IntervalMonthDayNanoArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Float64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit,
};
use datafusion_common::{DFSchema, Result, exec_err};
use datafusion_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, cast as cast_expr,
};
use datafusion_sql::sqlparser::ast::BinaryOperator;

const DAYS_PER_MONTH: f64 = 30.0;
const SECONDS_PER_DAY: f64 = 86_400.0;
const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

/// Plans the products and quotients.
#[derive(Debug)]
pub struct IntervalArithmetic;

impl ExprPlanner for IntervalArithmetic {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        if !matches!(expr.op, BinaryOperator::Multiply | BinaryOperator::Divide) {
            return Ok(PlannerResult::Original(expr));
        }
        let is_interval = |e: &Expr| matches!(e.get_type(schema), Ok(DataType::Interval(_)));
        let is_number = |e: &Expr| e.get_type(schema).is_ok_and(|t| t.is_numeric());
        let (left, right) = (&expr.left, &expr.right);
        let scaled = |interval: &Expr, factor: &Expr, divides: bool| {
            let factor = cast_expr(factor.clone(), DataType::Float64);
            let function = ScalarUDF::new_from_impl(IntervalTimes::new(divides));
            Ok(PlannerResult::Planned(function.call(vec![interval.clone(), factor])))
        };
        match expr.op {
            BinaryOperator::Multiply if is_interval(left) && is_number(right) => {
                scaled(left, right, false)
            }
            BinaryOperator::Multiply if is_number(left) && is_interval(right) => {
                scaled(right, left, false)
            }
            BinaryOperator::Divide if is_interval(left) && is_number(right) => {
                scaled(left, right, true)
            }
            _ => Ok(PlannerResult::Original(expr)),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct IntervalTimes {
    divides: bool,
    signature: Signature,
}

impl IntervalTimes {
    fn new(divides: bool) -> Self {
        let types = vec![INTERVAL, DataType::Float64];
        IntervalTimes { divides, signature: Signature::exact(types, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for IntervalTimes {
    fn name(&self) -> &str {
        if self.divides { "interval_divide" } else { "interval_times" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(INTERVAL)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let intervals = cast(&arrays[0], &INTERVAL)?;
        let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
        let factors = arrays[1].as_primitive::<Float64Type>();
        let product = |row: usize| {
            if intervals.is_null(row) || factors.is_null(row) {
                return Ok(None);
            }
            scaled(intervals.value(row), factors.value(row), self.divides).map(Some)
        };
        let products = (0..intervals.len()).map(product);
        let products: ArrayRef = Arc::new(products.collect::<Result<IntervalMonthDayNanoArray>>()?);
        Ok(ColumnarValue::Array(products))
    }
}

/// As PostgreSQL has it: what is left of a month counts as days of which a month has 30, and what is left
/// of a day as time. Each part is scaled by itself, so that a quotient is not rounded twice.
fn scaled(
    interval: IntervalMonthDayNano,
    factor: f64,
    divides: bool,
) -> Result<IntervalMonthDayNano> {
    if divides && factor == 0.0 {
        return exec_err!("division by zero");
    }
    let scale = |value: f64| if divides { value / factor } else { value * factor };
    let out_of_range = || exec_err!("interval out of range");
    let months = scale(f64::from(interval.months));
    let days = scale(f64::from(interval.days));
    let fits = |value: f64| value.is_finite() && value.abs() <= f64::from(i32::MAX);
    if !fits(months) || !fits(days) {
        return out_of_range();
    }
    let days_of_months = rounded((months - months.trunc()) * DAYS_PER_MONTH);
    let left_of_days = days - days.trunc() + days_of_months - days_of_months.trunc();
    let mut seconds = rounded(left_of_days * SECONDS_PER_DAY);
    let mut whole_days = days.trunc() + days_of_months.trunc();
    if seconds.abs() >= SECONDS_PER_DAY {
        let more = (seconds / SECONDS_PER_DAY).trunc();
        whole_days += more;
        seconds -= more * SECONDS_PER_DAY;
    }
    let micros = (scale((interval.nanoseconds / 1000) as f64) + seconds * 1e6).round_ties_even();
    if !fits(whole_days) || micros.is_nan() || micros.abs() >= i64::MAX as f64 / 1000.0 {
        return out_of_range();
    }
    Ok(IntervalMonthDayNano::new(months.trunc() as i32, whole_days as i32, micros as i64 * 1000))
}

/// To microseconds.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round_ties_even() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_months_and_days_spill_over_as_in_postgres() {
        let of = |months, days, nanoseconds, factor| {
            let product =
                scaled(IntervalMonthDayNano::new(months, days, nanoseconds), factor, false);
            let product = product.unwrap();
            (product.months, product.days, product.nanoseconds)
        };
        let hour = 3_600_000_000_000;
        assert_eq!(of(1, 0, 0, 2.5), (2, 15, 0));
        assert_eq!(of(0, 1, 0, 0.5), (0, 0, 12 * hour));
        assert_eq!(of(1, 1, hour, -3.0), (-3, -3, -3 * hour));
        assert_eq!(of(1, 0, 0, 0.1), (0, 3, 0));
        assert_eq!(of(0, 0, hour, 1.0 / 3.0), (0, 0, hour / 3));
        assert!(scaled(IntervalMonthDayNano::new(1, 0, 0), f64::INFINITY, false).is_err());
        assert!(scaled(IntervalMonthDayNano::new(1, 0, 0), 0.0, true).is_err());
    }
}
