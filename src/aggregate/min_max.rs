//! `min(x)` and `max(x)` of an input that only grows.

use std::borrow::Borrow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, UInt64Array, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use super::{
    AggregateFunction, AnyAggregate, Extreme, FoldedAggregate, Overflows, State, States, Stored,
};
use crate::model::packed::{put, put_bytes, put_signed, take, take_bytes, take_signed};
use crate::model::row::RowCodec;

pub static MIN: AggregateFunction = AggregateFunction {
    explain: "winner only",
    extreme: Some(Extreme::Least),
    ..AggregateFunction::accumulable("min", typed::<false>)
};
pub static MAX: AggregateFunction = AggregateFunction {
    explain: "winner only",
    extreme: Some(Extreme::Greatest),
    ..AggregateFunction::accumulable("max", typed::<true>)
};

fn typed<const GREATEST: bool>(
    input: &DataType,
    output: &DataType,
) -> Result<Box<dyn AnyAggregate>, ArrowError>
where
    Winner<u64, GREATEST>: Stored,
    Winner<Box<[u8]>, GREATEST>: Stored,
{
    Ok(match input {
        DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Date32
        | DataType::Timestamp(_, _) => {
            Box::new(WinnerOfIntegers::<GREATEST> { input: input.clone(), output: output.clone() })
        }
        _ => Box::new(WinnerOfBytes::<GREATEST> {
            codec: RowCodec::new(std::slice::from_ref(input))?,
            output: output.clone(),
        }),
    })
}

/// The least value, or the greatest one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Winner<V, const GREATEST: bool>(Option<V>);

pub type Least<V> = Winner<V, false>;
pub type Greatest<V> = Winner<V, true>;

impl<V, const GREATEST: bool> Winner<V, GREATEST> {
    /// Whether this value takes the place of the one that is kept.
    #[inline]
    fn loses_to<B: Ord + ?Sized>(&self, value: &B) -> bool
    where
        V: Borrow<B>,
    {
        self.0
            .as_ref()
            .is_none_or(|kept| if GREATEST { value > kept.borrow() } else { value < kept.borrow() })
    }
}

/// A value that can be kept.
pub trait WinnerValue {
    /// Its bytes on the heap.
    fn heap_bytes(&self) -> usize;
    /// Appends it in the form in which it is kept.
    fn pack(&self, out: &mut Vec<u8>);
    /// Takes one in that form off the front.
    fn unpack(from: &mut &[u8]) -> Self;
}

impl WinnerValue for u64 {
    fn heap_bytes(&self) -> usize {
        0
    }

    fn pack(&self, out: &mut Vec<u8>) {
        // Small signed integers have their sign turned here, and would take ten bytes.
        put_signed(out, (*self ^ SIGN) as i64);
    }

    fn unpack(from: &mut &[u8]) -> Self {
        take_signed(from) as u64 ^ SIGN
    }
}

impl WinnerValue for Box<[u8]> {
    fn heap_bytes(&self) -> usize {
        self.len()
    }

    fn pack(&self, out: &mut Vec<u8>) {
        put_bytes(out, self);
    }

    fn unpack(from: &mut &[u8]) -> Self {
        take_bytes(from).into()
    }
}

impl<V: Ord + Clone + WinnerValue, const GREATEST: bool> State for Winner<V, GREATEST>
where
    Self: Stored,
{
    const TAKES_BACK: bool = false;

    #[inline]
    fn merge(&mut self, other: &Self) {
        if let Some(value) = &other.0
            && self.loses_to(value)
        {
            self.0 = Some(value.clone());
        }
    }

    #[inline]
    fn is_zero(&self) -> bool {
        self.0.is_none()
    }

    fn heap_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, WinnerValue::heap_bytes)
    }

    fn pack(&self, out: &mut Vec<u8>) {
        put(out, u64::from(self.0.is_some()));
        if let Some(value) = &self.0 {
            value.pack(out);
        }
    }

    fn unpack(from: &mut &[u8]) -> Self {
        Winner((take(from) == 1).then(|| V::unpack(from)))
    }
}

/// The extreme of values that are mapped to unsigned integers of the same order.
struct WinnerOfIntegers<const GREATEST: bool> {
    input: DataType,
    output: DataType,
}

/// Turns the order of signed integers into that of unsigned ones, and back.
const SIGN: u64 = 1 << 63;

impl<const GREATEST: bool> FoldedAggregate for WinnerOfIntegers<GREATEST>
where
    Winner<u64, GREATEST>: Stored,
{
    type State = Winner<u64, GREATEST>;

    fn add(&self, column: &ArrayRef, winners: States<'_, Self::State>) -> Result<(), ArrowError> {
        if self.input == DataType::UInt64 {
            let values = column.as_primitive::<UInt64Type>();
            add_integers(values, winners, |row| values.value(row));
        } else {
            let column = match self.input {
                DataType::Date32 => cast(&cast(column, &DataType::Int32)?, &DataType::Int64)?,
                _ => cast(column, &DataType::Int64)?,
            };
            let values = column.as_primitive::<Int64Type>();
            add_integers(values, winners, |row| (values.value(row) as u64) ^ SIGN);
        }
        Ok(())
    }

    fn finish(&self, winners: &[&Self::State], _: &mut Overflows) -> Result<ArrayRef, ArrowError> {
        let values = winners.iter().map(|winner| winner.0);
        if self.input == DataType::UInt64 {
            let values: ArrayRef = Arc::new(values.collect::<UInt64Array>());
            return cast(&values, &self.output);
        }
        let values = values.map(|value| value.map(|v| (v ^ SIGN) as i64));
        let values: ArrayRef = Arc::new(values.collect::<Int64Array>());
        match self.output {
            DataType::Date32 => cast(&cast(&values, &DataType::Int32)?, &DataType::Date32),
            _ => cast(&values, &self.output),
        }
    }
}

#[inline]
fn add_integers<const GREATEST: bool>(
    column: &dyn Array,
    winners: States<'_, Winner<u64, GREATEST>>,
    value: impl Fn(usize) -> u64,
) where
    Winner<u64, GREATEST>: Stored,
{
    winners.each(column, |winner, row, _| {
        let value = value(row);
        if winner.loses_to(&value) {
            winner.0 = Some(value);
        }
    });
}

/// The extreme of values that are encoded as bytes of the same order.
struct WinnerOfBytes<const GREATEST: bool> {
    codec: RowCodec,
    output: DataType,
}

impl<const GREATEST: bool> FoldedAggregate for WinnerOfBytes<GREATEST>
where
    Winner<Box<[u8]>, GREATEST>: Stored,
{
    type State = Winner<Box<[u8]>, GREATEST>;

    fn add(&self, column: &ArrayRef, winners: States<'_, Self::State>) -> Result<(), ArrowError> {
        let rows = self.codec.encode(std::slice::from_ref(column), column.len())?;
        winners.each(column.as_ref(), |winner, row, _| {
            let bytes = rows.bytes(row);
            if winner.loses_to(bytes) {
                winner.0 = Some(bytes.into());
            }
        });
        Ok(())
    }

    fn finish(&self, winners: &[&Self::State], _: &mut Overflows) -> Result<ArrayRef, ArrowError> {
        let null = self.codec.encode(&[new_null_array(&self.output, 1)], 1)?;
        let bytes = winners.iter().map(|winner| winner.0.as_deref().unwrap_or(null.bytes(0)));
        let mut columns = self.codec.decode(bytes)?;
        columns
            .pop()
            .ok_or_else(|| ArrowError::ComputeError("a codec without a column".to_string()))
    }
}
