//! Arithmetic of decimals whose results have room: types of up to 76 digits, and calculations that are exact
//! until they are rounded once, half away from zero.
//!
//! `docs/types.md` has the rules as a table. PostgreSQL's NUMERIC has a scale per row, a column here one for all.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Decimal256Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, i256};
use datafusion_common::{Result, exec_err, internal_err};
use datafusion_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, binary_expr,
};
use num_bigint::{BigInt, Sign};

use crate::aggregate::{FirstGroup, quotient_scale, rounded_quotient, wide};

/// The digits of a decimal in 128 bits, and in 256.
pub const NARROW_MAX: u8 = 38;
pub const PRECISION_MAX: u8 = 76;

/// The digits behind the point that a quotient has, and how many it has at least where 76 are not enough. An average,
/// which every row of a group changes, has so few already where 38 are not enough.
const QUOTIENT_SCALE_MIN: u8 = 16;
const QUOTIENT_SCALE_MAX: u8 = 20;

/// Number of digits before the point, and behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digits {
    pub whole: u8,
    pub scale: u8,
}

impl Digits {
    /// The digits of a decimal or an integer type; `None` for any other type.
    pub fn of(data_type: &DataType) -> Option<Self> {
        let (precision, scale) = match data_type {
            DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
                (*precision, u8::try_from(*scale).ok()?)
            }
            DataType::Int8 | DataType::UInt8 => (3, 0),
            DataType::Int16 | DataType::UInt16 => (5, 0),
            DataType::Int32 | DataType::UInt32 => (10, 0),
            DataType::Int64 => (19, 0),
            DataType::UInt64 => (20, 0),
            _ => return None,
        };
        Some(Digits { whole: precision.saturating_sub(scale), scale })
    }

    /// The type with this room. Where 76 digits are not enough, those behind the point go first, but for
    /// `scale_min` of them.
    pub fn data_type(self, scale_min: u8) -> DataType {
        let room = PRECISION_MAX.saturating_sub(self.whole);
        let scale = self.scale.min(room.max(scale_min)).min(PRECISION_MAX);
        let precision = self.whole.saturating_add(scale).clamp(1, PRECISION_MAX);
        match precision <= NARROW_MAX {
            true => DataType::Decimal128(precision, scale as i8),
            false => DataType::Decimal256(precision, scale as i8),
        }
    }

    /// The digits that suffice for values of both.
    pub fn both(self, other: Digits) -> Digits {
        Digits { whole: self.whole.max(other.whole), scale: self.scale.max(other.scale) }
    }
}

/// The type of a quotient with so many digits before the point, of numbers whose scale is at most `scale`.
pub fn quotient(whole: u8, scale: u8) -> DataType {
    let least = scale.max(QUOTIENT_SCALE_MIN);
    Digits { whole, scale: scale.max(QUOTIENT_SCALE_MAX) }.data_type(least)
}

/// The type of an average, with fewer digits behind the point where that makes 38 enough.
pub fn average(whole: u8, scale: u8) -> DataType {
    let free = NARROW_MAX.saturating_sub(whole);
    let least = scale.max(QUOTIENT_SCALE_MIN);
    match free >= least {
        true => Digits { whole, scale: least.max(free.min(QUOTIENT_SCALE_MAX)) }.data_type(least),
        false => quotient(whole, scale),
    }
}

/// The type that both compare as, where 38 digits do not hold the two.
pub fn comparison(left: &DataType, right: &DataType) -> Option<DataType> {
    if !left.is_decimal() && !right.is_decimal() {
        return None;
    }
    let both = Digits::of(left)?.both(Digits::of(right)?);
    let wide = both.data_type(both.scale);
    matches!(wide, DataType::Decimal256(..)).then_some(wide)
}

/// The operation on these types, when one is a decimal and the other exact.
pub fn operation(op: Operator, left: &DataType, right: &DataType) -> Option<ScalarUDF> {
    let known = matches!(
        op,
        Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo
    );
    if !known || (!left.is_decimal() && !right.is_decimal()) {
        return None;
    }
    Digits::of(left)?;
    Digits::of(right)?;
    Some(ScalarUDF::new_from_impl(DecimalOperator {
        op,
        signature: Signature::any(2, Volatility::Immutable),
    }))
}

/// The operation as it was written, when the function stands for one.
pub fn written(function: &ScalarUDF, args: &[Expr]) -> Option<Expr> {
    let any: &dyn Any = function.inner().as_ref();
    let operator = any.downcast_ref::<DecimalOperator>()?;
    let [left, right] = args else { return None };
    Some(binary_expr(left.clone(), operator.op, right.clone()))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DecimalOperator {
    op: Operator,
    signature: Signature,
}

impl ScalarUDFImpl for DecimalOperator {
    fn name(&self) -> &str {
        match self.op {
            Operator::Plus => "decimal_plus",
            Operator::Minus => "decimal_minus",
            Operator::Multiply => "decimal_times",
            Operator::Divide => "decimal_divide",
            _ => "decimal_modulo",
        }
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(format!("{} {} {}", args[0].schema_name(), self.op, args[1].schema_name()))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let (Some(left), Some(right)) = (Digits::of(&types[0]), Digits::of(&types[1])) else {
            return internal_err!("{} of {} and {}", self.name(), types[0], types[1]);
        };
        let scale = left.scale.max(right.scale);
        Ok(match self.op {
            Operator::Plus | Operator::Minus => {
                Digits { whole: left.whole.max(right.whole).saturating_add(1), scale }
                    .data_type(scale)
            }
            Operator::Multiply => {
                let whole = left.whole.saturating_add(right.whole);
                Digits { whole, scale: left.scale.saturating_add(right.scale) }.data_type(scale)
            }
            Operator::Divide => quotient(left.whole.saturating_add(right.scale), scale),
            _ => Digits { whole: left.whole.min(right.whole), scale }.data_type(scale),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let (left, right) = (Numbers::new(&arrays[0])?, Numbers::new(&arrays[1])?);
        let output =
            self.return_type(&[arrays[0].data_type().clone(), arrays[1].data_type().clone()])?;
        let (precision, scale) = match output {
            DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
                (precision, scale)
            }
            other => return internal_err!("{other} is no decimal"),
        };
        let scales = Scales {
            left: i32::from(left.scale),
            right: i32::from(right.scale),
            output: i32::from(scale),
        };
        let rows = arrays[0].len();
        let is_null = |row: usize| arrays[0].is_null(row) || arrays[1].is_null(row);
        if let DataType::Decimal128(..) = output {
            let limit = 10_i128.pow(u32::from(precision));
            let value = |row: usize| -> Result<Option<i128>> {
                if is_null(row) {
                    return Ok(None);
                }
                let narrow = self.narrow(left.narrow(row), right.narrow(row), &scales);
                let value = match narrow {
                    Some(value) => Some(value),
                    None => {
                        i128::try_from(self.wide(&left.wide(row), &right.wide(row), &scales)?).ok()
                    }
                };
                match value.filter(|v| v.unsigned_abs() < limit.unsigned_abs()) {
                    Some(value) => Ok(Some(value)),
                    None => overflow(&output),
                }
            };
            let values = (0..rows).map(value).collect::<Result<Decimal128Array>>()?;
            return Ok(ColumnarValue::Array(Arc::new(
                values.with_precision_and_scale(precision, scale)?,
            )));
        }
        let limit = BigInt::from(10).pow(u32::from(precision));
        let value = |row: usize| -> Result<Option<i256>> {
            if is_null(row) {
                return Ok(None);
            }
            if let Some(value) = self.narrow(left.narrow(row), right.narrow(row), &scales) {
                return Ok(Some(i256::from_i128(value)));
            }
            let value = self.wide(&left.wide(row), &right.wide(row), &scales)?;
            match value.magnitude() < limit.magnitude() {
                true => Ok(Some(wide(&value))),
                false => overflow(&output),
            }
        };
        let values = (0..rows).map(value).collect::<Result<Decimal256Array>>()?;
        Ok(ColumnarValue::Array(Arc::new(values.with_precision_and_scale(precision, scale)?)))
    }
}

fn overflow<T>(output: &DataType) -> Result<T> {
    exec_err!("numeric field overflow: the result is out of range of {output}")
}

/// Digits behind the point.
struct Scales {
    left: i32,
    right: i32,
    output: i32,
}

impl Scales {
    /// Number of digits behind the point of a quotient that PostgreSQL keeps, as far as they are kept here.
    #[inline]
    fn of_quotient(&self, dividend: FirstGroup, divisor: FirstGroup) -> i32 {
        quotient_scale(dividend, divisor, self.left.max(self.right)).min(self.output)
    }
}

impl DecimalOperator {
    /// In 128 bits; `None` where they are not enough, or where dividing by zero.
    #[inline]
    fn narrow(&self, a: Option<i128>, b: Option<i128>, scales: &Scales) -> Option<i128> {
        let (a, b) = (a?, b?);
        let up = |value: i128, by: i32| match by {
            0 => Some(value),
            by => value.checked_mul(10_i128.checked_pow(u32::try_from(by).ok()?)?),
        };
        match self.op {
            Operator::Plus => up(a, scales.output - scales.left)?
                .checked_add(up(b, scales.output - scales.right)?),
            Operator::Minus => up(a, scales.output - scales.left)?
                .checked_sub(up(b, scales.output - scales.right)?),
            Operator::Multiply => {
                let exact = a.checked_mul(b)?;
                match scales.left + scales.right - scales.output {
                    0 => Some(exact),
                    down => divided(exact, 10_i128.checked_pow(u32::try_from(down).ok()?)?),
                }
            }
            Operator::Divide => {
                let of = |value: i128, scale| FirstGroup::of(value.unsigned_abs(), scale);
                let kept = scales.of_quotient(of(a, scales.left), of(b, scales.right));
                let quotient = divided(up(a, kept - scales.left + scales.right)?, b)?;
                up(quotient, scales.output - kept)
            }
            _ => up(a, scales.output - scales.left)?
                .checked_rem(up(b, scales.output - scales.right)?),
        }
    }

    /// With as many bits as it takes.
    fn wide(&self, a: &BigInt, b: &BigInt, scales: &Scales) -> Result<BigInt> {
        let up = |value: &BigInt, by: i32| value * BigInt::from(10).pow(by.max(0) as u32);
        let (left, right) = (scales.output - scales.left, scales.output - scales.right);
        if matches!(self.op, Operator::Divide | Operator::Modulo) && b.sign() == Sign::NoSign {
            return exec_err!("division by zero");
        }
        Ok(match self.op {
            Operator::Plus => up(a, left) + up(b, right),
            Operator::Minus => up(a, left) - up(b, right),
            Operator::Multiply => {
                let down = scales.left + scales.right - scales.output;
                rounded_quotient(&(a * b), &up(&BigInt::from(1), down))
            }
            Operator::Divide => {
                let (first, second) =
                    (FirstGroup::of_big(a, scales.left), FirstGroup::of_big(b, scales.right));
                let kept = scales.of_quotient(first, second);
                let by = kept - scales.left + scales.right;
                let quotient = rounded_quotient(&up(a, by), &up(b, -by));
                up(&quotient, scales.output - kept)
            }
            _ => up(a, left) % up(b, right),
        })
    }
}

/// Half away from zero; `None` where there is no quotient.
fn divided(a: i128, b: i128) -> Option<i128> {
    let quotient = a.checked_div(b)?;
    let rest = (a % b).unsigned_abs();
    // The rest is below |b|, so twice of it needs one bit more.
    if rest < b.unsigned_abs() - rest {
        return Some(quotient);
    }
    quotient.checked_add(if (a < 0) == (b < 0) { 1 } else { -1 })
}

/// The numbers of a column without their scale.
enum Unscaled {
    Narrow(Decimal128Array),
    Wide(Decimal256Array),
}

pub struct Numbers {
    values: Unscaled,
    pub scale: i8,
}

impl Numbers {
    pub fn new(array: &ArrayRef) -> Result<Self> {
        Ok(match array.data_type() {
            DataType::Decimal128(_, scale) => Numbers {
                values: Unscaled::Narrow(array.as_primitive::<Decimal128Type>().clone()),
                scale: *scale,
            },
            DataType::Decimal256(_, scale) => Numbers {
                values: Unscaled::Wide(array.as_primitive::<Decimal256Type>().clone()),
                scale: *scale,
            },
            _ => {
                let whole = cast(array, &DataType::Decimal128(20, 0))?;
                let values = Unscaled::Narrow(whole.as_primitive::<Decimal128Type>().clone());
                Numbers { values, scale: 0 }
            }
        })
    }

    #[inline]
    fn narrow(&self, row: usize) -> Option<i128> {
        match &self.values {
            Unscaled::Narrow(values) => Some(values.value(row)),
            Unscaled::Wide(values) => values.value(row).to_i128(),
        }
    }

    pub fn wide(&self, row: usize) -> BigInt {
        match &self.values {
            Unscaled::Narrow(values) => BigInt::from(values.value(row)),
            Unscaled::Wide(values) => to_big(values.value(row)),
        }
    }
}

pub fn to_big(value: i256) -> BigInt {
    BigInt::from_signed_bytes_le(&value.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_widen_to_76_digits_and_quotients_keep_20() {
        let of = |op, left: (u8, i8), right: (u8, i8)| {
            let types =
                [DataType::Decimal256(left.0, left.1), DataType::Decimal256(right.0, right.1)];
            let signature = Signature::any(2, Volatility::Immutable);
            DecimalOperator { op, signature }.return_type(&types).unwrap()
        };
        use DataType::{Decimal128, Decimal256};
        assert_eq!(of(Operator::Plus, (15, 2), (10, 4)), Decimal128(18, 4));
        assert_eq!(of(Operator::Multiply, (15, 2), (15, 2)), Decimal128(30, 4));
        assert_eq!(of(Operator::Multiply, (28, 8), (29, 8)), Decimal256(57, 16));
        assert_eq!(of(Operator::Multiply, (76, 20), (38, 10)), Decimal256(76, 20));
        assert_eq!(of(Operator::Divide, (15, 2), (15, 2)), Decimal128(35, 20));
        assert_eq!(of(Operator::Divide, (20, 4), (20, 4)), Decimal256(40, 20));
        assert_eq!(of(Operator::Divide, (38, 10), (38, 10)), Decimal256(58, 20));
        assert_eq!(of(Operator::Divide, (76, 10), (38, 10)), Decimal256(76, 16));
        assert_eq!(of(Operator::Modulo, (15, 2), (10, 4)), Decimal128(10, 4));
    }

    #[test]
    fn quotients_round_half_away_from_zero_in_any_width() {
        for (a, b, quotient) in
            [(5, 2, 3), (-5, 2, -3), (5, -2, -3), (-5, -2, 3), (4, 3, 1), (1, 3, 0)]
        {
            assert_eq!(divided(a, b), Some(quotient));
            assert_eq!(
                rounded_quotient(&BigInt::from(a), &BigInt::from(b)),
                BigInt::from(quotient)
            );
        }
        assert_eq!(divided(1, 0), None);
    }
}
