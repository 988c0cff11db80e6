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
    Volatility, cast as cast_expr, lit,
};
use datafusion_sql::sqlparser::ast::BinaryOperator;

const DAYS_PER_MONTH: f64 = 30.0;
const NANOSECONDS_PER_DAY: f64 = 86_400e9;
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
        let times = |interval: &Expr, factor: Expr| {
            let factor = cast_expr(factor, DataType::Float64);
            let function = ScalarUDF::new_from_impl(IntervalTimes::new());
            Ok(PlannerResult::Planned(function.call(vec![interval.clone(), factor])))
        };
        match expr.op {
            BinaryOperator::Multiply if is_interval(left) && is_number(right) => {
                times(left, right.clone())
            }
            BinaryOperator::Multiply if is_number(left) && is_interval(right) => {
                times(right, left.clone())
            }
            BinaryOperator::Divide if is_interval(left) && is_number(right) => {
                times(left, lit(1.0) / cast_expr(right.clone(), DataType::Float64))
            }
            _ => Ok(PlannerResult::Original(expr)),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct IntervalTimes {
    signature: Signature,
}

impl IntervalTimes {
    fn new() -> Self {
        let types = vec![INTERVAL, DataType::Float64];
        IntervalTimes { signature: Signature::exact(types, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for IntervalTimes {
    fn name(&self) -> &str {
        "interval_times"
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
            times(intervals.value(row), factors.value(row)).map(Some)
        };
        let products = (0..intervals.len()).map(product);
        let products: ArrayRef = Arc::new(products.collect::<Result<IntervalMonthDayNanoArray>>()?);
        Ok(ColumnarValue::Array(products))
    }
}

/// As PostgreSQL has it: what is left of a month counts as days of which a month has 30, and what is left
/// of a day as time.
fn times(interval: IntervalMonthDayNano, factor: f64) -> Result<IntervalMonthDayNano> {
    let months = f64::from(interval.months) * factor;
    let days = f64::from(interval.days) * factor;
    let days_of_months = rounded(months.fract() * DAYS_PER_MONTH);
    let time_of_days = rounded(days.fract() + days_of_months.fract()) * NANOSECONDS_PER_DAY;
    let nanoseconds = interval.nanoseconds as f64 * factor + time_of_days;
    let days = days.trunc() + days_of_months.trunc();
    let fits = |value: f64, max: f64| value.is_finite() && value.abs() <= max;
    if !fits(months, f64::from(i32::MAX))
        || !fits(days, f64::from(i32::MAX))
        || !fits(nanoseconds, i64::MAX as f64)
    {
        return exec_err!("interval out of range");
    }
    let (months, days) = (months.trunc() as i32, days as i32);
    Ok(IntervalMonthDayNano::new(months, days, nanoseconds.round() as i64))
}

/// Without what a product of floats is off by.
fn rounded(value: f64) -> f64 {
    (value * 1e9).round() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_months_and_days_spill_over_as_in_postgres() {
        let of = |months, days, nanoseconds, factor| {
            let product = times(IntervalMonthDayNano::new(months, days, nanoseconds), factor);
            let product = product.unwrap();
            (product.months, product.days, product.nanoseconds)
        };
        let hour = 3_600_000_000_000;
        assert_eq!(of(1, 0, 0, 2.5), (2, 15, 0));
        assert_eq!(of(0, 1, 0, 0.5), (0, 0, 12 * hour));
        assert_eq!(of(1, 1, hour, -3.0), (-3, -3, -3 * hour));
        assert_eq!(of(1, 0, 0, 0.1), (0, 3, 0));
        assert_eq!(of(0, 0, hour, 1.0 / 3.0), (0, 0, hour / 3));
        assert!(times(IntervalMonthDayNano::new(1, 0, 0), f64::INFINITY).is_err());
    }
}
