//! Rows → accumulators, a whole batch at a time: each group is sent on once, however many rows it
//! has in the batch.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, Decimal256Type, Float64Type, Int64Type,
    SchemaRef, UInt64Type,
};
use arrow::error::ArrowError;
use hashbrown::HashTable;
use num_bigint::BigInt;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::accumulator::{Accumulator, Int128, Slot};
use super::arrange::{GroupUpdate, Key};
use super::delta::Delta;
use crate::model::Tick;
use crate::model::row::{EncodedRows, RowCodec};
use crate::plan::ir::{Aggregate, AggregateFunction};

/// Decimals of this many digits can be summed in 128 bits: 10^10 of them.
const NARROW_DECIMAL_DIGITS_MAX: u8 = 28;

/// What is summed of which column.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotPlan {
    pub kind: SlotKind,
    pub column: usize,
    pub input_type: DataType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    Count,
    Sum,
    WideSum,
    Floats,
    Moments,
    Booleans,
    /// The least value, or the greatest: then of complements.
    Least {
        greatest: bool,
    },
    LeastBytes {
        greatest: bool,
    },
}

/// The slots of a reduce, and which one each aggregate is read from (`None`: the row count).
#[derive(Clone, Debug)]
pub struct SlotPlans {
    pub slots: Vec<SlotPlan>,
    pub of_aggregate: Vec<Option<usize>>,
}

impl SlotPlans {
    /// Aggregates that need the same sum share it.
    pub fn new(aggregates: &[Aggregate]) -> Self {
        let mut slots: Vec<SlotPlan> = Vec::new();
        let mut of_aggregate = Vec::new();
        for aggregate in aggregates {
            of_aggregate.push(aggregate.input.map(|column| {
                let input_type = aggregate.input_type.clone();
                let kind = slot_kind(aggregate.function, &input_type);
                let plan = SlotPlan { kind, column, input_type };
                slots.iter().position(|s| *s == plan).unwrap_or_else(|| {
                    slots.push(plan);
                    slots.len() - 1
                })
            }));
        }
        SlotPlans { slots, of_aggregate }
    }
}

fn slot_kind(function: AggregateFunction, input_type: &DataType) -> SlotKind {
    match function {
        AggregateFunction::Count => SlotKind::Count,
        AggregateFunction::BoolAnd | AggregateFunction::BoolOr => SlotKind::Booleans,
        AggregateFunction::Variance { .. } => SlotKind::Moments,
        AggregateFunction::Min | AggregateFunction::Max => {
            let greatest = function == AggregateFunction::Max;
            match input_type {
                DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::UInt16
                | DataType::UInt32
                | DataType::UInt64
                | DataType::Date32
                | DataType::Timestamp(_, _) => SlotKind::Least { greatest },
                _ => SlotKind::LeastBytes { greatest },
            }
        }
        AggregateFunction::Sum | AggregateFunction::Avg => match input_type {
            DataType::Float64 | DataType::Float32 => SlotKind::Floats,
            DataType::Decimal128(precision, _) if *precision > NARROW_DECIMAL_DIGITS_MAX => {
                SlotKind::WideSum
            }
            DataType::Decimal256(_, _) => SlotKind::WideSum,
            _ => SlotKind::Sum,
        },
    }
}

/// A slot that nothing was added to.
pub fn empty_slot(kind: SlotKind) -> Slot {
    match kind {
        SlotKind::Count => Slot::Count(0),
        SlotKind::Sum => Slot::Sum { count: 0, sum: Int128::default() },
        SlotKind::WideSum => Slot::WideSum(Box::default()),
        SlotKind::Floats => Slot::Floats(Box::default()),
        SlotKind::Moments => Slot::Moments(Box::default()),
        SlotKind::Booleans => Slot::Booleans { yes: 0, no: 0 },
        SlotKind::Least { .. } => Slot::Least(None),
        SlotKind::LeastBytes { .. } => Slot::LeastBytes(None),
    }
}

/// The codec of the bytes in a [`Slot::LeastBytes`].
pub fn least_codec(input_type: &DataType, greatest: bool) -> Result<RowCodec, ArrowError> {
    let options = arrow::compute::SortOptions { descending: greatest, nulls_first: false };
    let field = arrow::row::SortField::new_with_options(input_type.clone(), options);
    RowCodec::with_fields(std::slice::from_ref(input_type), vec![field])
}

/// Folds batches into groups.
pub struct Grouper {
    key_columns: Vec<usize>,
    key: RowCodec,
    plans: Vec<SlotPlan>,
    codecs: Vec<Option<RowCodec>>,
    groups: Groups,
}

/// The groups of the batches so far, all at one tick.
#[derive(Default)]
struct Groups {
    table: HashTable<usize>,
    entries: Vec<(Key, Accumulator)>,
    tick: Tick,
}

impl Grouper {
    /// A grouper of rows of this schema by these columns.
    pub fn new(schema: &SchemaRef, key: &[usize], plans: &[SlotPlan]) -> Result<Self, ArrowError> {
        let types: Vec<DataType> =
            key.iter().map(|c| schema.field(*c).data_type().clone()).collect();
        let codecs = plans
            .iter()
            .map(|plan| match plan.kind {
                SlotKind::LeastBytes { greatest } => {
                    least_codec(&plan.input_type, greatest).map(Some)
                }
                _ => Ok(None),
            })
            .collect::<Result<_, _>>()?;
        Ok(Grouper {
            key_columns: key.to_vec(),
            key: RowCodec::new(&types)?,
            plans: plans.to_vec(),
            codecs,
            groups: Groups::default(),
        })
    }

    /// Adds a batch; groups of an earlier tick go to `out` first.
    pub fn push(&mut self, delta: &Delta, out: &mut Vec<GroupUpdate>) -> Result<(), ArrowError> {
        if delta.tick != self.groups.tick {
            self.flush(out);
            self.groups.tick = delta.tick;
        }
        let columns: Vec<ArrayRef> =
            self.key_columns.iter().map(|c| Arc::clone(delta.rows.column(*c))).collect();
        let keys = self.key.encode(&columns, delta.len())?;
        let members = self.groups.assign(&keys, &self.plans);
        for (member, diff) in members.iter().zip(delta.diffs.iter()) {
            self.groups.entries[*member].1.rows += diff;
        }
        for (slot, (plan, codec)) in self.plans.iter().zip(&self.codecs).enumerate() {
            let column = delta.rows.column(plan.column);
            let mut fold =
                Fold { groups: &mut self.groups, members: &members, diffs: &delta.diffs, slot };
            fold.column(plan, column, codec.as_ref())?;
        }
        Ok(())
    }

    /// Sends on all groups.
    pub fn flush(&mut self, out: &mut Vec<GroupUpdate>) {
        let tick = self.groups.tick;
        self.groups.table.clear();
        out.extend(self.groups.entries.drain(..).map(|(key, acc)| ((key, ()), tick, acc)));
    }
}

impl Groups {
    /// The index of each row's group; new ones are added empty.
    fn assign(&mut self, keys: &EncodedRows, plans: &[SlotPlan]) -> Vec<usize> {
        let Groups { table, entries, .. } = self;
        let mut members = Vec::with_capacity(keys.len());
        for index in 0..keys.len() {
            let bytes = keys.bytes(index);
            let hash = xxh3_64(bytes);
            let entry =
                table.entry(hash, |at| *entries[*at].0.row == *bytes, |at| entries[*at].0.hash());
            let at = match entry {
                hashbrown::hash_table::Entry::Occupied(entry) => *entry.get(),
                hashbrown::hash_table::Entry::Vacant(entry) => {
                    let at = entries.len();
                    entry.insert(at);
                    let slots: SmallVec<[Slot; 2]> =
                        plans.iter().map(|plan| empty_slot(plan.kind)).collect();
                    entries.push((Key::with_hash(hash, bytes), Accumulator { rows: 0, slots }));
                    at
                }
            };
            members.push(at);
        }
        members
    }
}

/// Adds one column to one slot of every row's group.
struct Fold<'a> {
    groups: &'a mut Groups,
    members: &'a [usize],
    diffs: &'a [i64],
    slot: usize,
}

impl Fold<'_> {
    fn column(
        &mut self,
        plan: &SlotPlan,
        column: &ArrayRef,
        codec: Option<&RowCodec>,
    ) -> Result<(), ArrowError> {
        match plan.kind {
            SlotKind::Count => self.each(column.as_ref(), |slot, _, diff| {
                if let Slot::Count(count) = slot {
                    *count += diff;
                }
            }),
            SlotKind::Sum => match column.data_type() {
                DataType::Decimal128(_, _) => {
                    self.sum(column.as_primitive::<Decimal128Type>(), |v| v);
                }
                DataType::UInt64 => self.sum(column.as_primitive::<UInt64Type>(), i128::from),
                _ => {
                    let column = cast(column, &DataType::Int64)?;
                    self.sum(column.as_primitive::<Int64Type>(), i128::from);
                }
            },
            SlotKind::WideSum => self.wide_sum(column),
            SlotKind::Floats => {
                let column = cast(column, &DataType::Float64)?;
                let values = column.as_primitive::<Float64Type>();
                self.each(values, |slot, row, diff| {
                    if let Slot::Floats(floats) = slot {
                        floats.count += diff;
                        floats.sum.add(values.value(row), diff);
                    }
                });
            }
            SlotKind::Moments => {
                let column = cast(column, &DataType::Float64)?;
                let values = column.as_primitive::<Float64Type>();
                self.each(values, |slot, row, diff| {
                    if let Slot::Moments(moments) = slot {
                        moments.count += diff;
                        moments.sum.add(values.value(row), diff);
                        moments.squares.add_square(values.value(row), diff);
                    }
                });
            }
            SlotKind::Booleans => {
                let values = column.as_boolean();
                self.each(values, |slot, row, diff| {
                    if let Slot::Booleans { yes, no } = slot {
                        *(if values.value(row) { yes } else { no }) += diff;
                    }
                });
            }
            SlotKind::Least { greatest } => self.least(column, greatest)?,
            SlotKind::LeastBytes { .. } => {
                let Some(codec) = codec else { unreachable!("slots of bytes have a codec") };
                let rows = codec.encode(std::slice::from_ref(column), column.len())?;
                self.each(column.as_ref(), |slot, row, _| {
                    if let Slot::LeastBytes(least) = slot {
                        let bytes = rows.bytes(row);
                        if least.as_ref().is_none_or(|least| bytes < least.as_ref()) {
                            *least = Some(bytes.into());
                        }
                    }
                });
            }
        }
        Ok(())
    }

    /// Runs `add` for every value that is not NULL.
    #[inline]
    fn each(&mut self, column: &dyn Array, mut add: impl FnMut(&mut Slot, usize, i64)) {
        let nulls = column.logical_nulls();
        for (row, (member, diff)) in self.members.iter().zip(self.diffs).enumerate() {
            if nulls.as_ref().is_none_or(|n| n.is_valid(row)) {
                add(&mut self.groups.entries[*member].1.slots[self.slot], row, *diff);
            }
        }
    }

    fn sum<T: ArrowPrimitiveType>(
        &mut self,
        values: &PrimitiveArray<T>,
        widen: impl Fn(T::Native) -> i128,
    ) {
        self.each(values, |slot, row, diff| {
            if let Slot::Sum { count, sum } = slot {
                *count += diff;
                sum.add(widen(values.value(row)) * i128::from(diff));
            }
        });
    }

    fn wide_sum(&mut self, column: &ArrayRef) {
        let value = |row: usize| match column.data_type() {
            DataType::Decimal256(_, _) => {
                let bytes = column.as_primitive::<Decimal256Type>().value(row).to_le_bytes();
                BigInt::from_signed_bytes_le(&bytes)
            }
            _ => BigInt::from(column.as_primitive::<Decimal128Type>().value(row)),
        };
        self.each(column.as_ref(), |slot, row, diff| {
            if let Slot::WideSum(wide) = slot {
                wide.count += diff;
                wide.sum += value(row) * diff;
            }
        });
    }

    fn least(&mut self, column: &ArrayRef, greatest: bool) -> Result<(), ArrowError> {
        let mut fold = |column: &dyn Array, bits: &dyn Fn(usize) -> u64| {
            self.each(column, |slot, row, _| {
                let bits = if greatest { !bits(row) } else { bits(row) };
                if let Slot::Least(least) = slot {
                    *least = Some(least.map_or(bits, |l| l.min(bits)));
                }
            });
        };
        if column.data_type() == &DataType::UInt64 {
            let values = column.as_primitive::<UInt64Type>();
            fold(values, &|row| values.value(row));
        } else {
            let column = match column.data_type() {
                DataType::Date32 => cast(&cast(column, &DataType::Int32)?, &DataType::Int64)?,
                _ => cast(column, &DataType::Int64)?,
            };
            let values = column.as_primitive::<Int64Type>();
            fold(values, &|row| (values.value(row) as u64) ^ (1 << 63));
        }
        Ok(())
    }
}
