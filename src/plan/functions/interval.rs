//! Intervals: products and quotients, which DataFusion lacks; the order in which a month has 30 days and a day 24
//! hours; and what lies between two instants, in days and time.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, IntervalMonthDayNanoArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Float64Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit,
    TimeUnit,
};
use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchema, Result, exec_err, plan_err};
use datafusion_expr::expr::{Between, Case, InList, WindowFunction};
use datafusion_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion_expr::{
    BinaryExpr, ColumnarValue, Distinct, Expr, ExprSchemable, LogicalPlan, Operator,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, SortExpr, Volatility, binary_expr,
    cast as cast_expr,
};
use datafusion_sql::sqlparser::ast::BinaryOperator;

use crate::aggregate;

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);
const NANOS_PER_DAY: i128 = 86_400_000_000_000;

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

fn scaled(
    interval: IntervalMonthDayNano,
    factor: f64,
    divides: bool,
) -> Result<IntervalMonthDayNano> {
    if divides && factor == 0.0 {
        return exec_err!("division by zero");
    }
    match aggregate::scaled_interval(interval, factor, divides) {
        Some(interval) => Ok(interval),
        None => exec_err!("interval out of range"),
    }
}

/// The interval at a part of the way from one to another.
pub fn between(
    low: IntervalMonthDayNano,
    high: IntervalMonthDayNano,
    part: f64,
) -> Result<IntervalMonthDayNano> {
    let difference = IntervalMonthDayNano::new(
        high.months.wrapping_sub(low.months),
        high.days.wrapping_sub(low.days),
        high.nanoseconds.wrapping_sub(low.nanoseconds),
    );
    let by = scaled(difference, part, false)?;
    let (months, days) = (low.months.checked_add(by.months), low.days.checked_add(by.days));
    match (months, days, low.nanoseconds.checked_add(by.nanoseconds)) {
        (Some(months), Some(days), Some(nanoseconds)) => {
            Ok(IntervalMonthDayNano::new(months, days, nanoseconds))
        }
        _ => exec_err!("interval out of range"),
    }
}

/// The interval between two instants.
pub fn since(time: Expr, earlier: Expr) -> Expr {
    let signature = Signature::any(2, Volatility::Immutable);
    ScalarUDF::new_from_impl(Since { signature }).call(vec![time, earlier])
}

/// The number by which intervals compare.
pub fn order(interval: Expr) -> Expr {
    let signature = Signature::any(1, Volatility::Immutable);
    ScalarUDF::new_from_impl(Order { signature }).call(vec![interval])
}

/// An interval's length: a month has 30 days, a day 24 hours.
pub fn nanoseconds(value: IntervalMonthDayNano) -> i128 {
    let days = i128::from(value.months) * 30 + i128::from(value.days);
    days * NANOS_PER_DAY + i128::from(value.nanoseconds)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Since {
    signature: Signature,
}

impl ScalarUDFImpl for Since {
    fn name(&self) -> &str {
        "time_since"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(format!("{} - {}", args[0].schema_name(), args[1].schema_name()))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(INTERVAL)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let (left, right) = (Instants::new(&arrays[0])?, Instants::new(&arrays[1])?);
        let between = |row: usize| {
            let (Some(left), Some(right)) = (left.nanoseconds(row), right.nanoseconds(row)) else {
                return Ok(None);
            };
            let (days, time) = ((left - right) / NANOS_PER_DAY, (left - right) % NANOS_PER_DAY);
            match i32::try_from(days) {
                Ok(days) => Ok(Some(IntervalMonthDayNano::new(0, days, time as i64))),
                Err(_) => exec_err!("interval out of range"),
            }
        };
        let intervals = (0..arrays[0].len()).map(between);
        let intervals = intervals.collect::<Result<IntervalMonthDayNanoArray>>()?;
        Ok(ColumnarValue::Array(Arc::new(intervals)))
    }
}

/// Instants or days.
struct Instants {
    counts: ArrayRef,
    unit: i128,
}

impl Instants {
    fn new(array: &ArrayRef) -> Result<Self> {
        let (array, unit) = match array.data_type() {
            DataType::Timestamp(TimeUnit::Second, _) => (Arc::clone(array), 1_000_000_000),
            DataType::Timestamp(TimeUnit::Millisecond, _) => (Arc::clone(array), 1_000_000),
            DataType::Timestamp(TimeUnit::Microsecond, _) => (Arc::clone(array), 1_000),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => (Arc::clone(array), 1),
            _ => (cast(&cast(array, &DataType::Date32)?, &DataType::Int32)?, NANOS_PER_DAY),
        };
        Ok(Instants { counts: cast(&array, &DataType::Int64)?, unit })
    }

    fn nanoseconds(&self, row: usize) -> Option<i128> {
        let counts = self.counts.as_primitive::<Int64Type>();
        counts.is_valid(row).then(|| i128::from(counts.value(row)) * self.unit)
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Order {
    signature: Signature,
}

impl ScalarUDFImpl for Order {
    fn name(&self) -> &str {
        "interval_order"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args[0].schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Decimal128(38, 0))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        Ok(ColumnarValue::Array(lengths(&arrays[0])?))
    }
}

/// The numbers by which intervals compare.
pub fn lengths(intervals: &ArrayRef) -> Result<ArrayRef> {
    let intervals = cast(intervals, &INTERVAL)?;
    let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
    let lengths = intervals.iter().map(|value| value.map(nanoseconds));
    Ok(Arc::new(lengths.collect::<Decimal128Array>().with_precision_and_scale(38, 0)?))
}

/// `greatest` and `least`, which of intervals compare their lengths.
pub fn beside(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match inner.name() {
        "greatest" | "least" => Arc::new(ScalarUDF::new_from_impl(GreatestOrLeast { inner })),
        _ => inner,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct GreatestOrLeast {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for GreatestOrLeast {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if !matches!(args.return_field.data_type(), DataType::Interval(_)) {
            return self.inner.invoke_with_args(args);
        }
        let rows = args.number_rows;
        let arrays: Vec<ArrayRef> = args
            .args
            .into_iter()
            .map(|arg| Ok(cast(&arg.into_array(rows)?, &INTERVAL)?))
            .collect::<Result<_>>()?;
        let value = |row: usize| {
            let values = arrays.iter().filter(|array| array.is_valid(row));
            let values =
                values.map(|array| array.as_primitive::<IntervalMonthDayNanoType>().value(row));
            // The first one of equal intervals is kept.
            values.reduce(|kept, next| {
                let order = nanoseconds(next).cmp(&nanoseconds(kept));
                let better = if self.name() == "greatest" { order.is_gt() } else { order.is_lt() };
                if better { next } else { kept }
            })
        };
        let values: IntervalMonthDayNanoArray = (0..rows).map(value).collect();
        Ok(ColumnarValue::Array(Arc::new(values)))
    }
}

fn is_interval(expr: &Expr, schema: &DFSchema) -> bool {
    matches!(expr.get_type(schema), Ok(DataType::Interval(_) | DataType::Duration(_)))
}

/// The order of what may be an interval.
fn ordered(expr: Expr, schema: &DFSchema) -> Expr {
    if is_interval(&expr, schema) { order(expr) } else { expr }
}

/// The expression in which intervals compare by their lengths.
pub fn in_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if matches!(
                op,
                Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom
            ) && is_interval(&left, schema)
                && is_interval(&right, schema) =>
        {
            Transformed::yes(binary_expr(order(*left), op, order(*right)))
        }
        Expr::Between(Between { expr, negated, low, high }) if is_interval(&expr, schema) => {
            let part = |expr: Expr| Box::new(ordered(expr, schema));
            let (expr, low, high) = (part(*expr), part(*low), part(*high));
            Transformed::yes(Expr::Between(Between { expr, negated, low, high }))
        }
        Expr::InList(InList { expr, list, negated }) if is_interval(&expr, schema) => {
            let list = list.into_iter().map(|item| ordered(item, schema)).collect();
            let expr = Box::new(order(*expr));
            Transformed::yes(Expr::InList(InList { expr, list, negated }))
        }
        Expr::Case(Case { expr: Some(expr), when_then_expr, else_expr })
            if is_interval(&expr, schema) =>
        {
            let case =
                |(when, then): (Box<Expr>, Box<Expr>)| (Box::new(ordered(*when, schema)), then);
            let when_then_expr = when_then_expr.into_iter().map(case).collect();
            let expr = Some(Box::new(order(*expr)));
            Transformed::yes(Expr::Case(Case { expr, when_then_expr, else_expr }))
        }
        Expr::WindowFunction(function) => {
            let WindowFunction { fun, mut params } = *function;
            if params.partition_by.iter().any(|expr| is_interval(expr, schema)) {
                return plan_err!(
                    "PARTITION BY an interval is not supported: extract(epoch FROM …) is"
                );
            }
            let mut changed = false;
            for by in &mut params.order_by {
                changed |= order_by(by, schema);
            }
            let function = Expr::WindowFunction(Box::new(WindowFunction { fun, params }));
            if changed { Transformed::yes(function) } else { Transformed::no(function) }
        }
        Expr::AggregateFunction(mut function) => {
            if function.params.distinct
                && function.params.args.iter().any(|arg| is_interval(arg, schema))
            {
                return plan_err!(
                    "DISTINCT of intervals is not supported: extract(epoch FROM …) is"
                );
            }
            let of_arrays = |arg: &Expr| matches!(arg.get_type(schema), Ok(DataType::List(_)));
            if function.func.name() == "array_agg" && function.params.args.iter().any(of_arrays) {
                return plan_err!(
                    "arrays of several dimensions are not supported: array_agg of arrays"
                );
            }
            let mut changed = false;
            for by in &mut function.params.order_by {
                changed |= order_by(by, schema);
            }
            let function = Expr::AggregateFunction(function);
            if changed { Transformed::yes(function) } else { Transformed::no(function) }
        }
        other => Transformed::no(other),
    })
}

fn order_by(by: &mut SortExpr, schema: &DFSchema) -> bool {
    let changes = is_interval(&by.expr, schema);
    if changes {
        by.expr = order(std::mem::take(&mut by.expr));
    }
    changes
}

/// Joins and sorts by intervals' lengths. Which of two equal ones a group would show nobody can tell, so groups
/// of intervals are refused.
pub fn in_plan(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(match plan {
        LogicalPlan::Join(mut join) => {
            for (left, right) in &mut join.on {
                if is_interval(left, join.left.schema()) {
                    (*left, *right) = (order(std::mem::take(left)), order(std::mem::take(right)));
                }
            }
            LogicalPlan::Join(join)
        }
        LogicalPlan::Sort(mut sort) => {
            for by in &mut sort.expr {
                order_by(by, sort.input.schema());
            }
            LogicalPlan::Sort(sort)
        }
        LogicalPlan::Aggregate(aggregate) => {
            let schema = aggregate.input.schema();
            if aggregate.group_expr.iter().any(|expr| is_interval(expr, schema)) {
                return plan_err!(
                    "GROUP BY an interval is not supported: extract(epoch FROM …) is"
                );
            }
            LogicalPlan::Aggregate(aggregate)
        }
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let is_interval = |t: &DataType| matches!(t, DataType::Interval(_));
            if input.schema().fields().iter().any(|field| is_interval(field.data_type())) {
                return plan_err!(
                    "DISTINCT of intervals is not supported: extract(epoch FROM …) is"
                );
            }
            LogicalPlan::Distinct(Distinct::All(input))
        }
        other => other,
    })
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
