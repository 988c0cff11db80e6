//! What `sum` and `avg` keep of a group: how many numbers there are, and their exact sum.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array, Decimal256Array, Int64Array,
    PrimitiveArray, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, Float64Type, Int64Type, UInt64Type, i256,
};
use arrow::error::ArrowError;
use num_bigint::{BigInt, BigUint, Sign};
use serde::{Deserialize, Serialize};

use super::exact::FloatSum;
use super::{Overflows, State, States};

/// Decimals of this many digits can be summed in 128 bits: 10^10 of them.
const NARROW_DECIMAL_DIGITS_MAX: u8 = 28;

/// What is kept of the numbers of a column.
pub enum Kept {
    /// An [`IntegerTotal`].
    Integers,
    /// A [`WideTotal`].
    WideDecimals,
    /// A [`FloatTotal`].
    Floats,
}

impl Kept {
    /// What is kept of numbers of this type.
    pub fn of(input: &DataType) -> Self {
        match input {
            DataType::Float64 | DataType::Float32 => Kept::Floats,
            DataType::Decimal128(precision, _) if *precision > NARROW_DECIMAL_DIGITS_MAX => {
                Kept::WideDecimals
            }
            DataType::Decimal256(_, _) => Kept::WideDecimals,
            _ => Kept::Integers,
        }
    }
}

/// The exact sum of some numbers.
pub trait Total: State + Default + 'static {
    /// Adds a batch's column to the totals of the rows' groups.
    fn add_column(column: &ArrayRef, totals: States<'_, Self>) -> Result<(), ArrowError>;

    /// How many numbers there are.
    fn count(&self) -> i64;
}

/// The sum of integers, or of decimals without their scale.
pub trait IntegerSum: Total {
    fn sum(&self) -> BigInt;
}

/// The total of integers, or of decimals of up to 28 digits, which no number of events makes overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IntegerTotal {
    count: i64,
    sum: Int128,
}

/// The total of wider decimals.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WideTotal {
    count: i64,
    sum: BigInt,
}

/// The total of floats.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FloatTotal {
    count: i64,
    sum: FloatSum,
}

/// An `i128` with the alignment of a `u64`, which keeps slots small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Int128 {
    high: i64,
    low: u64,
}

impl Int128 {
    #[inline]
    fn get(self) -> i128 {
        (i128::from(self.high) << 64) | i128::from(self.low)
    }

    #[inline]
    fn add(&mut self, value: i128) {
        let sum = self.get() + value;
        *self = Int128 { high: (sum >> 64) as i64, low: sum as u64 };
    }
}

impl State for IntegerTotal {
    #[inline]
    fn merge(&mut self, other: &Self) {
        self.count = self.count.wrapping_add(other.count);
        self.sum.add(other.sum.get());
    }

    #[inline]
    fn is_zero(&self) -> bool {
        self.count == 0 && self.sum.get() == 0
    }
}

impl State for Box<WideTotal> {
    fn merge(&mut self, other: &Self) {
        self.count = self.count.wrapping_add(other.count);
        self.sum += &other.sum;
    }

    fn is_zero(&self) -> bool {
        self.count == 0 && self.sum.sign() == Sign::NoSign
    }
}

impl State for Box<FloatTotal> {
    fn merge(&mut self, other: &Self) {
        self.count = self.count.wrapping_add(other.count);
        self.sum.merge(&other.sum);
    }

    fn is_zero(&self) -> bool {
        self.count == 0 && self.sum.is_zero()
    }
}

impl IntegerTotal {
    /// The sum as it is kept.
    pub fn sum_i128(&self) -> i128 {
        self.sum.get()
    }

    fn add_values<T: ArrowPrimitiveType>(
        values: &PrimitiveArray<T>,
        totals: States<'_, Self>,
        widen: impl Fn(T::Native) -> i128,
    ) {
        totals.each(values, |total, row, diff| {
            total.count = total.count.wrapping_add(diff);
            total.sum.add(widen(values.value(row)) * i128::from(diff));
        });
    }

    #[cfg(test)]
    pub fn of_values(count: i64, sum: i128) -> Self {
        let mut total = IntegerTotal { count, sum: Int128::default() };
        total.sum.add(sum);
        total
    }
}

impl Total for IntegerTotal {
    fn add_column(column: &ArrayRef, totals: States<'_, Self>) -> Result<(), ArrowError> {
        match column.data_type() {
            DataType::Decimal128(_, _) => {
                Self::add_values(column.as_primitive::<Decimal128Type>(), totals, |v| v);
            }
            DataType::UInt64 => {
                Self::add_values(column.as_primitive::<UInt64Type>(), totals, i128::from);
            }
            _ => {
                let column = cast(column, &DataType::Int64)?;
                Self::add_values(column.as_primitive::<Int64Type>(), totals, i128::from);
            }
        }
        Ok(())
    }

    fn count(&self) -> i64 {
        self.count
    }
}

impl IntegerSum for IntegerTotal {
    fn sum(&self) -> BigInt {
        BigInt::from(self.sum.get())
    }
}

impl Total for Box<WideTotal> {
    fn add_column(column: &ArrayRef, totals: States<'_, Self>) -> Result<(), ArrowError> {
        let value = |row: usize| match column.data_type() {
            DataType::Decimal256(_, _) => {
                let bytes = column.as_primitive::<Decimal256Type>().value(row).to_le_bytes();
                BigInt::from_signed_bytes_le(&bytes)
            }
            _ => BigInt::from(column.as_primitive::<Decimal128Type>().value(row)),
        };
        totals.each(column.as_ref(), |total, row, diff| {
            total.count = total.count.wrapping_add(diff);
            total.sum += value(row) * diff;
        });
        Ok(())
    }

    fn count(&self) -> i64 {
        self.count
    }
}

impl IntegerSum for Box<WideTotal> {
    fn sum(&self) -> BigInt {
        self.sum.clone()
    }
}

impl Total for Box<FloatTotal> {
    fn add_column(column: &ArrayRef, totals: States<'_, Self>) -> Result<(), ArrowError> {
        let column = cast(column, &DataType::Float64)?;
        let values = column.as_primitive::<Float64Type>();
        totals.each(values, |total, row, diff| {
            total.count = total.count.wrapping_add(diff);
            total.sum.add(values.value(row), diff);
        });
        Ok(())
    }

    fn count(&self) -> i64 {
        self.count
    }
}

impl FloatTotal {
    /// The float nearest to the sum.
    pub fn sum(&self) -> f64 {
        self.sum.value()
    }
}

/// A type of exact numbers.
#[derive(Clone, Copy)]
pub enum ExactType {
    Int64,
    UInt64,
    Decimal128(u8, i8),
    Decimal256(u8, i8),
}

impl ExactType {
    /// Fails on a type that is none.
    pub fn of(data_type: &DataType) -> Result<Self, ArrowError> {
        Ok(match data_type {
            DataType::Int64 => ExactType::Int64,
            DataType::UInt64 => ExactType::UInt64,
            DataType::Decimal128(precision, scale) => ExactType::Decimal128(*precision, *scale),
            DataType::Decimal256(precision, scale) => ExactType::Decimal256(*precision, *scale),
            other => {
                return Err(ArrowError::NotYetImplemented(format!("a sum of type {other}")));
            }
        })
    }

    fn data_type(self) -> DataType {
        match self {
            ExactType::Int64 => DataType::Int64,
            ExactType::UInt64 => DataType::UInt64,
            ExactType::Decimal128(precision, scale) => DataType::Decimal128(precision, scale),
            ExactType::Decimal256(precision, scale) => DataType::Decimal256(precision, scale),
        }
    }

    fn holds(self, value: &BigInt) -> bool {
        match self {
            ExactType::Int64 => i64::try_from(value).is_ok(),
            ExactType::UInt64 => u64::try_from(value).is_ok(),
            ExactType::Decimal128(precision, _) | ExactType::Decimal256(precision, _) => {
                value.magnitude() < &BigUint::from(10_u8).pow(u32::from(precision))
            }
        }
    }

    /// A column of these integers, which have a decimal type's scale already.
    pub fn column(
        self,
        values: impl Iterator<Item = Option<BigInt>>,
        overflows: &mut Overflows,
    ) -> Result<ArrayRef, ArrowError> {
        let held = |(row, value): (usize, Option<BigInt>)| {
            let value = value?;
            if self.holds(&value) {
                return Some(value);
            }
            let reason = format!("the result is out of range of {}", self.data_type());
            overflows.push((row, reason));
            None
        };
        let values = values.enumerate().map(held);
        let narrow = |v: Option<BigInt>| v.and_then(|v| i128::try_from(v).ok());
        Ok(match self {
            ExactType::Int64 => {
                Arc::new(values.map(|v| narrow(v).map(|v| v as i64)).collect::<Int64Array>())
            }
            ExactType::UInt64 => {
                Arc::new(values.map(|v| narrow(v).map(|v| v as u64)).collect::<UInt64Array>())
            }
            ExactType::Decimal128(precision, scale) => Arc::new(
                values
                    .map(narrow)
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(precision, scale)?,
            ),
            ExactType::Decimal256(precision, scale) => Arc::new(
                values
                    .map(|v| v.as_ref().map(wide))
                    .collect::<Decimal256Array>()
                    .with_precision_and_scale(precision, scale)?,
            ),
        })
    }
}

fn wide(value: &BigInt) -> i256 {
    let mut bytes = if value.sign() == Sign::Minus { [0xff; 32] } else { [0; 32] };
    let digits = value.to_signed_bytes_le();
    bytes[..digits.len()].copy_from_slice(&digits);
    i256::from_le_bytes(bytes)
}
