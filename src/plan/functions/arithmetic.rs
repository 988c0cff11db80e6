//! Arithmetic that fails where PostgreSQL's does: of floats, which there neither overflow to infinity nor divide by
//! zero, and the negation of the least integer. Operands that agree in another way than DataFusion's do.

use std::any::Any;
use std::ops::{Add, Div, Mul, Sub};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float32Type, Float64Type, TimeUnit};
use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchema, Result, exec_err, internal_err, plan_err};
use datafusion_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, binary_expr, cast as cast_expr, lit,
};
use datafusion_sql::sqlparser::ast::BinaryOperator;

use super::literals::{is_quoted, narrowed, settled};
use super::{arrays, decimal, format, interval, jsonb_change, jsonb_equal, times};

const MICROS: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// Operators whose operands DataFusion would make agree in another way than PostgreSQL, and those that it has and
/// that mean something else there.
#[derive(Debug)]
pub struct Operands;

impl ExprPlanner for Operands {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        use BinaryOperator::*;
        if expr.op == BitwiseXor {
            return plan_err!("^ is not supported: power(a, b) is");
        }
        let RawBinaryExpr { op, left, right } = expr;
        let (left, right) = (settled(narrowed(left), schema)?, settled(narrowed(right), schema)?);
        let expr = RawBinaryExpr { op, left, right };
        let small = |expr: &Expr| expr.get_type(schema).is_ok_and(|t| t == DataType::Int16);
        if matches!(expr.op, PGBitwiseShiftLeft | PGBitwiseShiftRight) && small(&expr.left) {
            return plan_err!("{} of a SMALLINT is not supported: CAST it to INT", expr.op);
        }
        let json = |expr: &Expr| jsonb_equal::is_json(expr, schema);
        let list = |expr: &Expr| matches!(expr.get_type(schema), Ok(DataType::List(_)));
        let (left_json, right_json) = (json(&expr.left), json(&expr.right));
        let joined = expr.op == StringConcat;
        if joined && (left_json && is_quoted(&expr.right) || is_quoted(&expr.left) && right_json) {
            // JSON and JSONB are one type here: the literal would be a text beside the one, JSON beside the other.
            return plan_err!(
                "JSON || a literal is not supported: CAST the literal to JSONB to merge them, to TEXT to join the texts"
            );
        }
        let of_json = match expr.op {
            StringConcat => left_json && right_json,
            Lt | LtEq | Gt | GtEq => {
                let (left, right) = (is_quoted(&expr.left), is_quoted(&expr.right));
                left_json && (right_json || right) || left && right_json
            }
            AtArrow | ArrowAt => left_json || right_json,
            Question | QuestionPipe | QuestionAnd | Minus | HashMinus => left_json,
            _ => false,
        };
        if of_json && let Some(call) = jsonb_change::operator(&expr.op, &expr.left, &expr.right) {
            return Ok(PlannerResult::Planned(call));
        }
        match expr.op {
            Lt | LtEq | Gt | GtEq if list(&expr.left) && list(&expr.right) => {
                let RawBinaryExpr { op, left, right } = expr;
                return Ok(PlannerResult::Planned(arrays::compared(&op, left, right)));
            }
            AtArrow if list(&expr.left) => {
                let call = arrays::contains().call(vec![expr.left, expr.right]);
                return Ok(PlannerResult::Planned(call));
            }
            ArrowAt if list(&expr.left) => {
                let call = arrays::contains().call(vec![expr.right, expr.left]);
                return Ok(PlannerResult::Planned(call));
            }
            _ => {}
        }
        if !matches!(
            expr.op,
            Plus | Minus | Multiply | Divide | Modulo | Eq | NotEq | Lt | LtEq | Gt | GtEq
        ) {
            return Ok(PlannerResult::Original(expr));
        }
        let (Ok(left), Ok(right)) = (expr.left.get_type(schema), expr.right.get_type(schema))
        else {
            return Ok(PlannerResult::Original(expr));
        };
        let compares = matches!(expr.op, Eq | NotEq | Lt | LtEq | Gt | GtEq);
        // A literal in quotes is of the type that it stands beside.
        match (&left, &right) {
            (DataType::Interval(_), _) if compares && is_quoted(&expr.right) => {
                let RawBinaryExpr { op, left: span, right } = expr;
                let right = cast_expr(right, left);
                return Ok(PlannerResult::Original(RawBinaryExpr { op, left: span, right }));
            }
            (_, DataType::Interval(_)) if compares && is_quoted(&expr.left) => {
                let RawBinaryExpr { op, left, right: span } = expr;
                let left = cast_expr(left, right);
                return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right: span }));
            }
            _ => {}
        }
        let cast_to = |expr: Expr, to: &DataType| cast_expr(expr, to.clone());
        // A day is its first instant, in the unit of what it is compared with.
        match (&left, &right) {
            (DataType::Date32, DataType::Timestamp(..)) if compares => {
                let RawBinaryExpr { op, left, right: time } = expr;
                let left = cast_to(left, &right);
                return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right: time }));
            }
            (DataType::Timestamp(..), DataType::Date32) if compares => {
                let RawBinaryExpr { op, left: time, right } = expr;
                let right = cast_to(right, &left);
                return Ok(PlannerResult::Original(RawBinaryExpr { op, left: time, right }));
            }
            _ => {}
        }
        match (&left, &expr.op, &right) {
            (DataType::Date32, Plus, t) if t.is_integer() => {
                return Ok(PlannerResult::Planned(times::date_plus(expr.left, expr.right)));
            }
            (t, Plus, DataType::Date32) if t.is_integer() => {
                return Ok(PlannerResult::Planned(times::date_plus(expr.right, expr.left)));
            }
            (DataType::Date32, Minus, t) if t.is_integer() || *t == DataType::Date32 => {
                return Ok(PlannerResult::Planned(times::date_minus(expr.left, expr.right)));
            }
            (
                DataType::Timestamp(..) | DataType::Date32,
                Minus,
                DataType::Timestamp(..) | DataType::Date32,
            ) => {
                return Ok(PlannerResult::Planned(interval::since(expr.left, expr.right)));
            }
            (DataType::Date32, Plus, DataType::Time64(_))
            | (DataType::Time64(_), Plus, DataType::Interval(_)) => {
                return Ok(PlannerResult::Planned(times::time_plus(expr.left, expr.right)));
            }
            (DataType::Time64(_), Plus, DataType::Date32)
            | (DataType::Interval(_), Plus, DataType::Time64(_)) => {
                return Ok(PlannerResult::Planned(times::time_plus(expr.right, expr.left)));
            }
            (DataType::Time64(_), Minus, DataType::Time64(_) | DataType::Interval(_)) => {
                return Ok(PlannerResult::Planned(times::time_minus(expr.left, expr.right)));
            }
            // With a span of time a day is its first instant.
            (DataType::Date32, Plus | Minus, DataType::Interval(_)) => {
                let RawBinaryExpr { op, left, right } = expr;
                let left = cast_expr(left, MICROS);
                return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
            }
            (DataType::Interval(_), Plus, DataType::Date32) => {
                let RawBinaryExpr { op, left, right } = expr;
                let right = cast_expr(right, MICROS);
                return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
            }
            _ => {}
        }
        let arithmetic = match expr.op {
            Plus => Some(Operator::Plus),
            Minus => Some(Operator::Minus),
            Multiply => Some(Operator::Multiply),
            Divide => Some(Operator::Divide),
            Modulo => Some(Operator::Modulo),
            _ => None,
        };
        if let Some(op) = arithmetic
            && let Some(operation) = decimal::operation(op, &left, &right)
        {
            return Ok(PlannerResult::Planned(operation.call(vec![expr.left, expr.right])));
        }
        if compares && let Some(wide) = decimal::comparison(&left, &right) {
            let RawBinaryExpr { op, left, right } = expr;
            let (left, right) = (cast_to(left, &wide), cast_to(right, &wide));
            return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
        }
        // Beside an exact number a float is one of 64 bits, as is that number.
        let is_exact = |t: &DataType| t.is_decimal() || t.is_integer();
        let mixed =
            (left.is_floating() && is_exact(&right)) || (is_exact(&left) && right.is_floating());
        if !mixed || expr.op == Modulo {
            return Ok(PlannerResult::Original(expr));
        }
        let RawBinaryExpr { op, left, right } = expr;
        let double = |expr: Expr| match expr.get_type(schema) {
            Ok(DataType::Float64) => expr,
            _ => cast_expr(expr, DataType::Float64),
        };
        let (left, right) = (double(left), double(right));
        Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
    }
}

/// The expression with checked arithmetic in the place of Arrow's.
pub fn in_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let expr = match jsonb_equal::in_expr(expr, schema)? {
        compared if compared.transformed => return Ok(compared),
        same => same.data,
    };
    let expr = match interval::in_expr(expr, schema)? {
        compared if compared.transformed => return Ok(compared),
        same => same.data,
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right })
            if left.get_type(schema).is_ok_and(|t| t.is_string())
                && right.get_type(schema).is_ok_and(|t| t.is_string()) =>
        {
            Ok(Transformed::yes(format::joined(*left, *right)))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if matches!(
                op,
                Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide
            ) =>
        {
            if let (Ok(one), Ok(other)) = (left.get_type(schema), right.get_type(schema))
                && let Some(operation) = decimal::operation(op, &one, &other)
            {
                // Columns of a set operation have become decimals since their names were read.
                return Ok(Transformed::yes(operation.call(vec![*left, *right])));
            }
            let is_float = |expr: &Expr| expr.get_type(schema).is_ok_and(|t| t.is_floating());
            if !is_float(&left) && !is_float(&right) {
                return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })));
            }
            let whole = binary_expr(*left.clone(), op, *right.clone()).get_type(schema)?;
            if !whole.is_floating() {
                return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })));
            }
            let function = ScalarUDF::new_from_impl(FloatOperator::new(op, whole));
            Ok(Transformed::yes(function.call(vec![*left, *right])))
        }
        Expr::Negative(inner)
            if !matches!(*inner, Expr::Literal(..))
                && inner.get_type(schema).is_ok_and(|t| t.is_integer()) =>
        {
            let zero = match inner.get_type(schema)? {
                DataType::Int16 => lit(0_i16),
                DataType::Int32 => lit(0_i32),
                DataType::Int64 => lit(0_i64),
                _ => return Ok(Transformed::no(Expr::Negative(inner))),
            };
            Ok(Transformed::yes(binary_expr(zero, Operator::Minus, *inner)))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// The operation as it was written, when the function stands for one.
pub fn written(function: &ScalarUDF, args: &[Expr]) -> Option<Expr> {
    let written = decimal::written(function, args).or_else(|| format::written(function, args));
    if let Some(written) = written.or_else(|| jsonb_equal::written(function, args)) {
        return Some(written);
    }
    let any: &dyn Any = function.inner().as_ref();
    let operator = any.downcast_ref::<FloatOperator>()?;
    let [left, right] = args else { return None };
    Some(binary_expr(left.clone(), operator.op, right.clone()))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct FloatOperator {
    op: Operator,
    data_type: DataType,
    signature: Signature,
}

impl FloatOperator {
    fn new(op: Operator, data_type: DataType) -> Self {
        FloatOperator { op, data_type, signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for FloatOperator {
    fn name(&self) -> &str {
        match self.op {
            Operator::Plus => "float_plus",
            Operator::Minus => "float_minus",
            Operator::Multiply => "float_times",
            _ => "float_divide",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.data_type.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [left, right] = arrays.as_slice() else {
            return internal_err!("an operator has two operands");
        };
        let (left, right) = (cast(left, &self.data_type)?, cast(right, &self.data_type)?);
        let array: ArrayRef = match self.data_type {
            DataType::Float32 => Arc::new(self.apply::<Float32Type>(&left, &right)?),
            _ => Arc::new(self.apply::<Float64Type>(&left, &right)?),
        };
        Ok(ColumnarValue::Array(array))
    }
}

impl FloatOperator {
    fn apply<T: ArrowPrimitiveType>(
        &self,
        left: &ArrayRef,
        right: &ArrayRef,
    ) -> Result<PrimitiveArray<T>>
    where
        T::Native: Into<f64> + Add<Output = T::Native> + Sub<Output = T::Native>,
        T::Native: Mul<Output = T::Native> + Div<Output = T::Native>,
    {
        let pairs = left.as_primitive::<T>().iter().zip(right.as_primitive::<T>().iter());
        let of = |(a, b): (Option<T::Native>, Option<T::Native>)| {
            let (Some(a), Some(b)) = (a, b) else { return Ok(None) };
            let value = match self.op {
                Operator::Plus => a + b,
                Operator::Minus => a - b,
                Operator::Multiply => a * b,
                _ => a / b,
            };
            self.check(a.into(), b.into(), value.into())?;
            Ok(Some(value))
        };
        pairs.map(of).collect()
    }

    #[inline]
    fn check(&self, a: f64, b: f64, value: f64) -> Result<()> {
        if self.op == Operator::Divide && b == 0.0 && !a.is_nan() {
            return exec_err!("division by zero");
        }
        if value.is_infinite() && a.is_finite() && b.is_finite() {
            return exec_err!("value out of range: overflow");
        }
        let scales = matches!(self.op, Operator::Multiply | Operator::Divide);
        if scales && value == 0.0 && a != 0.0 && b != 0.0 && !b.is_infinite() {
            return exec_err!("value out of range: underflow");
        }
        Ok(())
    }
}
