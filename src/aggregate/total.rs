//! The state of `sum` and `avg` for a group: the number of its numbers, and their exact sum.

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
use crate::model::packed::{
    put, put_bytes, put_signed, put_wide, take, take_bytes, take_signed, take_wide,
};

/// 128 bits hold the sum of 10^10 decimals of so many digits.
const NARROW_DECIMAL_DIGITS_MAX: u8 = 28;

/// The type of state for the numbers of a column.
pub enum Kept {
    /// An [`IntegerTotal`].
    Integers,
    /// A [`WideTotal`].
    WideDecimals,
    /// A [`FloatTotal`].
    Floats,
}

impl Kept {
    /// The type of state for numbers of this type.
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

/// A number of numbers and their exact sum.
pub trait Total: State + Default + 'static {
    /// Adds a batch's column to the totals of the rows' groups.
    fn add_column(column: &ArrayRef, totals: States<'_, Self>) -> Result<(), ArrowError>;

    /// The number of numbers, NULLs not counted.
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
    sum: ExactInteger,
}

/// An integer of any size. Equal integers have the same variant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ExactInteger {
    /// An integer that fits 128 bits.
    Small(i128),
    /// An integer that needs more.
    Big(BigInt),
}

impl Default for ExactInteger {
    fn default() -> Self {
        ExactInteger::Small(0)
    }
}

impl From<BigInt> for ExactInteger {
    fn from(value: BigInt) -> Self {
        i128::try_from(&value).map_or(ExactInteger::Big(value), ExactInteger::Small)
    }
}

impl ExactInteger {
    /// The integer.
    pub fn get(&self) -> BigInt {
        match self {
            ExactInteger::Small(value) => BigInt::from(*value),
            ExactInteger::Big(value) => value.clone(),
        }
    }

    /// True if it is zero.
    pub fn is_zero(&self) -> bool {
        *self == ExactInteger::Small(0)
    }

    /// Appends it in its packed form.
    pub fn pack(&self, out: &mut Vec<u8>) {
        match self {
            ExactInteger::Small(value) => {
                put(out, 0);
                put_wide(out, *value);
            }
            ExactInteger::Big(value) => {
                put(out, 1);
                put_bytes(out, &value.to_signed_bytes_le());
            }
        }
    }

    /// Reads a packed integer, and removes it from the front.
    pub fn unpack(from: &mut &[u8]) -> Self {
        match take(from) {
            0 => ExactInteger::Small(take_wide(from)),
            _ => ExactInteger::Big(BigInt::from_signed_bytes_le(take_bytes(from))),
        }
    }

    /// Adds another one.
    #[inline]
    pub fn add(&mut self, other: &ExactInteger) {
        if let (ExactInteger::Small(a), ExactInteger::Small(b)) = (&*self, other)
            && let Some(sum) = a.checked_add(*b)
        {
            *self = ExactInteger::Small(sum);
            return;
        }
        *self = (self.get() + other.get()).into();
    }

    /// Adds a product.
    #[inline]
    pub fn add_product(&mut self, a: &ExactInteger, b: &ExactInteger) {
        if let (ExactInteger::Small(a), ExactInteger::Small(b)) = (a, b)
            && let Some(product) = a.checked_mul(*b)
        {
            return self.add(&ExactInteger::Small(product));
        }
        self.add(&(a.get() * b.get()).into());
    }

    /// The unscaled value of a column of integers or decimals.
    #[inline]
    fn at(column: &ArrayRef, row: usize) -> ExactInteger {
        match column.data_type() {
            DataType::Decimal128(_, _) => {
                ExactInteger::Small(column.as_primitive::<Decimal128Type>().value(row))
            }
            DataType::Decimal256(_, _) => {
                let value = column.as_primitive::<Decimal256Type>().value(row);
                match value.to_i128() {
                    Some(small) => ExactInteger::Small(small),
                    None => ExactInteger::Big(BigInt::from_signed_bytes_le(&value.to_le_bytes())),
                }
            }
            DataType::UInt64 => {
                ExactInteger::Small(column.as_primitive::<UInt64Type>().value(row).into())
            }
            _ => ExactInteger::Small(column.as_primitive::<Int64Type>().value(row).into()),
        }
    }
}

/// Runs `add` for each number of a column of integers or decimals: the state, the number, and how often it is
/// added.
pub fn each_integer<S: State>(
    column: &ArrayRef,
    states: States<'_, S>,
    mut add: impl FnMut(&mut S, ExactInteger, i64),
) -> Result<(), ArrowError> {
    let column = match column.data_type() {
        DataType::Decimal128(_, _) | DataType::Decimal256(_, _) | DataType::UInt64 => {
            Arc::clone(column)
        }
        _ => cast(column, &DataType::Int64)?,
    };
    states.each(column.as_ref(), |state, row, diff| {
        add(state, ExactInteger::at(&column, row), diff);
    });
    Ok(())
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

    #[inline]
    fn pack(&self, out: &mut Vec<u8>) {
        put_signed(out, self.count);
        put_wide(out, self.sum.get());
    }

    #[inline]
    fn unpack(from: &mut &[u8]) -> Self {
        let mut total = IntegerTotal { count: take_signed(from), sum: Int128::default() };
        total.sum.add(take_wide(from));
        total
    }
}

impl State for Box<WideTotal> {
    fn merge(&mut self, other: &Self) {
        self.count = self.count.wrapping_add(other.count);
        self.sum.add(&other.sum);
    }

    fn is_zero(&self) -> bool {
        self.count == 0 && self.sum.is_zero()
    }

    fn heap_bytes(&self) -> usize {
        size_of::<WideTotal>()
    }

    fn pack(&self, out: &mut Vec<u8>) {
        put_signed(out, self.count);
        self.sum.pack(out);
    }

    fn unpack(from: &mut &[u8]) -> Self {
        Box::new(WideTotal { count: take_signed(from), sum: ExactInteger::unpack(from) })
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

    fn heap_bytes(&self) -> usize {
        size_of::<FloatTotal>()
    }

    fn pack(&self, out: &mut Vec<u8>) {
        put_signed(out, self.count);
        self.sum.pack(out);
    }

    fn unpack(from: &mut &[u8]) -> Self {
        Box::new(FloatTotal { count: take_signed(from), sum: FloatSum::unpack(from) })
    }
}

impl IntegerTotal {
    /// The sum, which always fits.
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
        each_integer(column, totals, |total, value, diff| {
            total.count = total.count.wrapping_add(diff);
            match diff {
                1 => total.sum.add(&value),
                diff => total.sum.add_product(&value, &ExactInteger::Small(diff.into())),
            }
        })?;
        Ok(())
    }

    fn count(&self) -> i64 {
        self.count
    }
}

impl IntegerSum for Box<WideTotal> {
    fn sum(&self) -> BigInt {
        self.sum.get()
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

    /// True if the exact sum is finite but beyond the largest float.
    pub fn overflows(&self) -> bool {
        self.sum.overflows()
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

/// A quotient rounded half away from zero. The divisor is not zero.
pub fn rounded_quotient(a: &BigInt, b: &BigInt) -> BigInt {
    let quotient = a / b;
    let rest = a - &quotient * b;
    if rest.magnitude() * 2_u8 < *b.magnitude() {
        return quotient;
    }
    let away = if (a.sign() == Sign::Minus) == (b.sign() == Sign::Minus) { 1 } else { -1 };
    quotient + away
}

/// A number of at most 76 digits in 256 bits.
pub fn wide(value: &BigInt) -> i256 {
    let mut bytes = if value.sign() == Sign::Minus { [0xff; 32] } else { [0; 32] };
    let digits = value.to_signed_bytes_le();
    bytes[..digits.len()].copy_from_slice(&digits);
    i256::from_le_bytes(bytes)
}
