//! Accumulators → the columns that the aggregates are.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Decimal256Array, Float64Array, Int64Array,
    UInt64Array, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, i256};
use arrow::error::ArrowError;
use num_bigint::BigInt;

use super::accumulator::{Accumulator, Slot};
use super::exact;
use super::groups::{SlotKind, SlotPlans, empty_slot, least_codec};
use crate::model::row::RowCodec;
use crate::plan::ir::{Aggregate, AggregateFunction};

/// Reads the aggregates of a reduce from its accumulators.
pub struct Results {
    aggregates: Vec<Aggregate>,
    plans: SlotPlans,
    codecs: Vec<Option<RowCodec>>,
}

/// A value that its declared type cannot hold.
#[derive(Debug)]
pub struct Overflow {
    /// The row in question.
    pub row: usize,
    /// Which aggregate.
    pub aggregate: usize,
    /// What happened.
    pub reason: String,
}

impl Results {
    /// A reader of these aggregates.
    pub fn new(aggregates: &[Aggregate], plans: SlotPlans) -> Result<Self, ArrowError> {
        let codecs = plans
            .slots
            .iter()
            .map(|plan| match plan.kind {
                SlotKind::LeastBytes { greatest } => {
                    least_codec(&plan.input_type, greatest).map(Some)
                }
                _ => Ok(None),
            })
            .collect::<Result<_, _>>()?;
        Ok(Results { aggregates: aggregates.to_vec(), plans, codecs })
    }

    /// One column per aggregate, and the values that overflow (NULL in their columns).
    pub fn columns(
        &self,
        accumulators: &[&Accumulator],
    ) -> Result<(Vec<ArrayRef>, Vec<Overflow>), ArrowError> {
        let mut overflows = Vec::new();
        let mut columns = Vec::new();
        for index in 0..self.aggregates.len() {
            columns.push(self.column(index, accumulators, &mut overflows)?);
        }
        Ok((columns, overflows))
    }

    fn column(
        &self,
        index: usize,
        accumulators: &[&Accumulator],
        overflows: &mut Vec<Overflow>,
    ) -> Result<ArrayRef, ArrowError> {
        let aggregate = &self.aggregates[index];
        let Some(slot) = self.plans.of_aggregate[index] else {
            let rows = accumulators.iter().map(|a| a.rows);
            return Ok(Arc::new(Int64Array::from_iter_values(rows)));
        };
        let empty = empty_slot(self.plans.slots[slot].kind);
        let slots: Vec<&Slot> =
            accumulators.iter().map(|a| a.slots.get(slot).unwrap_or(&empty)).collect();
        let mut overflow = |row: usize, reason: String| {
            overflows.push(Overflow { row, aggregate: index, reason });
        };
        match aggregate.function {
            AggregateFunction::Count => {
                let count = |slot: &&Slot| match slot {
                    Slot::Count(count) => *count,
                    other => unreachable!("{other:?} is no count"),
                };
                Ok(Arc::new(Int64Array::from_iter_values(slots.iter().map(count))))
            }
            AggregateFunction::Sum => sums(aggregate, &slots, &mut overflow),
            AggregateFunction::Avg => averages(aggregate, &slots, &mut overflow),
            AggregateFunction::BoolAnd | AggregateFunction::BoolOr => {
                let and = aggregate.function == AggregateFunction::BoolAnd;
                let value = |slot: &&Slot| match slot {
                    Slot::Booleans { yes: 0, no: 0 } => None,
                    Slot::Booleans { yes, no } => Some(if and { *no == 0 } else { *yes > 0 }),
                    other => unreachable!("{other:?} counts no booleans"),
                };
                Ok(Arc::new(slots.iter().map(value).collect::<BooleanArray>()))
            }
            AggregateFunction::Variance { sample, root } => {
                let value = |slot: &&Slot| match slot {
                    Slot::Moments(m) => {
                        let variance = exact::variance(m.count, &m.sum, &m.squares, sample);
                        variance.map(|v| if root { v.sqrt() } else { v })
                    }
                    other => unreachable!("{other:?} has no moments"),
                };
                Ok(Arc::new(slots.iter().map(value).collect::<Float64Array>()))
            }
            AggregateFunction::Min | AggregateFunction::Max => {
                let greatest = aggregate.function == AggregateFunction::Max;
                match &self.codecs[slot] {
                    Some(codec) => extremes_of_bytes(codec, &slots, &aggregate.output_type),
                    None => extremes(aggregate, &slots, greatest),
                }
            }
        }
    }
}

fn fits(value: &BigInt, data_type: &DataType) -> bool {
    match data_type {
        DataType::Int64 => i64::try_from(value).is_ok(),
        DataType::UInt64 => u64::try_from(value).is_ok(),
        DataType::Decimal128(precision, _) | DataType::Decimal256(precision, _) => {
            value.magnitude() < &num_bigint::BigUint::from(10_u8).pow(u32::from(*precision))
        }
        _ => false,
    }
}

/// A column of exact integers, scaled as a decimal type says.
fn integers(
    values: Vec<Option<BigInt>>,
    data_type: &DataType,
    overflow: &mut dyn FnMut(usize, String),
) -> Result<ArrayRef, ArrowError> {
    let values: Vec<Option<BigInt>> = values
        .into_iter()
        .enumerate()
        .map(|(row, value)| {
            let value = value?;
            if fits(&value, data_type) {
                return Some(value);
            }
            overflow(row, format!("the result is out of range of {data_type}"));
            None
        })
        .collect();
    let narrow = |v: &Option<BigInt>| v.as_ref().and_then(|v| i128::try_from(v).ok());
    Ok(match data_type {
        DataType::Int64 => {
            Arc::new(values.iter().map(|v| narrow(v).map(|v| v as i64)).collect::<Int64Array>())
        }
        DataType::UInt64 => {
            Arc::new(values.iter().map(|v| narrow(v).map(|v| v as u64)).collect::<UInt64Array>())
        }
        DataType::Decimal128(precision, scale) => Arc::new(
            values
                .iter()
                .map(narrow)
                .collect::<Decimal128Array>()
                .with_precision_and_scale(*precision, *scale)?,
        ),
        DataType::Decimal256(precision, scale) => Arc::new(
            values
                .iter()
                .map(|v| v.as_ref().map(wide))
                .collect::<Decimal256Array>()
                .with_precision_and_scale(*precision, *scale)?,
        ),
        other => {
            return Err(ArrowError::NotYetImplemented(format!("a sum of type {other}")));
        }
    })
}

fn wide(value: &BigInt) -> i256 {
    let mut bytes = if value.sign() == num_bigint::Sign::Minus { [0xff; 32] } else { [0; 32] };
    let digits = value.to_signed_bytes_le();
    bytes[..digits.len()].copy_from_slice(&digits);
    i256::from_le_bytes(bytes)
}

/// The count of values and their exact sum, where the slot holds integers.
fn exact_sum(slot: &Slot) -> Option<(i64, BigInt)> {
    match slot {
        Slot::Sum { count, sum } => Some((*count, BigInt::from(sum.get()))),
        Slot::WideSum(wide) => Some((wide.count, wide.sum.clone())),
        _ => None,
    }
}

fn sums(
    aggregate: &Aggregate,
    slots: &[&Slot],
    overflow: &mut dyn FnMut(usize, String),
) -> Result<ArrayRef, ArrowError> {
    if let Some(Slot::Floats(_)) = slots.first() {
        let value = |slot: &&Slot| match slot {
            Slot::Floats(floats) => (floats.count != 0).then(|| floats.sum.value()),
            other => unreachable!("{other:?} is no sum of floats"),
        };
        let array: ArrayRef = Arc::new(slots.iter().map(value).collect::<Float64Array>());
        return cast(&array, &aggregate.output_type);
    }
    let values = slots
        .iter()
        .map(|slot| exact_sum(slot).filter(|(count, _)| *count != 0).map(|(_, sum)| sum))
        .collect();
    integers(values, &aggregate.output_type, overflow)
}

fn averages(
    aggregate: &Aggregate,
    slots: &[&Slot],
    overflow: &mut dyn FnMut(usize, String),
) -> Result<ArrayRef, ArrowError> {
    let scale_of = |data_type: &DataType| match data_type {
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => Some(*scale),
        _ => None,
    };
    if let Some(scale) = scale_of(&aggregate.output_type) {
        let further = scale - scale_of(&aggregate.input_type).unwrap_or(0);
        let factor = BigInt::from(10).pow(further.max(0) as u32);
        let values = slots
            .iter()
            .map(|slot| {
                let (count, sum) = exact_sum(slot)?;
                (count != 0).then(|| sum * &factor / count)
            })
            .collect();
        return integers(values, &aggregate.output_type, overflow);
    }
    let value = |slot: &&Slot| match slot {
        Slot::Floats(floats) => {
            (floats.count != 0).then(|| floats.sum.value() / floats.count as f64)
        }
        Slot::Sum { count, sum } => (*count != 0).then(|| sum.get() as f64 / *count as f64),
        other => unreachable!("{other:?} has no average of floats"),
    };
    Ok(Arc::new(slots.iter().map(value).collect::<Float64Array>()))
}

fn extremes(
    aggregate: &Aggregate,
    slots: &[&Slot],
    greatest: bool,
) -> Result<ArrayRef, ArrowError> {
    let bits = |slot: &&Slot| match slot {
        Slot::Least(bits) => bits.map(|b| if greatest { !b } else { b }),
        other => unreachable!("{other:?} is no least value"),
    };
    if aggregate.input_type == DataType::UInt64 {
        let array: ArrayRef = Arc::new(slots.iter().map(bits).collect::<UInt64Array>());
        return cast(&array, &aggregate.output_type);
    }
    let signed = |slot| bits(slot).map(|b| (b ^ (1 << 63)) as i64);
    let array: ArrayRef = Arc::new(slots.iter().map(signed).collect::<Int64Array>());
    match &aggregate.output_type {
        DataType::Date32 => cast(&cast(&array, &DataType::Int32)?, &DataType::Date32),
        other => cast(&array, other),
    }
}

fn extremes_of_bytes(
    codec: &RowCodec,
    slots: &[&Slot],
    output_type: &DataType,
) -> Result<ArrayRef, ArrowError> {
    let nulls = new_null_array(output_type, 1);
    let null = codec.encode(&[nulls], 1)?;
    let bytes = slots.iter().map(|slot| match slot {
        Slot::LeastBytes(Some(bytes)) => bytes.as_ref(),
        Slot::LeastBytes(None) => null.bytes(0),
        other => unreachable!("{other:?} is no least value"),
    });
    let mut columns = codec.decode(bytes)?;
    columns.pop().ok_or_else(|| ArrowError::ComputeError("a codec without a column".to_string()))
}
