//! Accumulators and multiplicities as differences, and the layout of slots.
//!
//! An [`Accumulator`] is a semigroup, so differential dataflow adds it up in its traces: one update of
//! state per group, however many events there were.

use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::error::ArrowError;
use differential_dataflow::difference::{Abelian, IsZero, Monoid, Semigroup};

use super::delta::Delta;
use crate::aggregate::{Accumulator, AnyAggregate, BatchGroups};
use crate::model::multiplicity::Multiplicity;
use crate::plan::ir::Aggregate;

impl IsZero for Multiplicity {
    #[inline]
    fn is_zero(&self) -> bool {
        Multiplicity::is_zero(*self)
    }
}

impl Semigroup for Multiplicity {
    #[inline]
    fn plus_equals(&mut self, other: &Self) {
        *self = self.plus(*other);
    }
}

impl Monoid for Multiplicity {
    #[inline]
    fn zero() -> Self {
        Multiplicity::default()
    }
}

impl Abelian for Multiplicity {
    #[inline]
    fn negate(&mut self) {
        *self = self.negated();
    }
}

impl IsZero for Accumulator {
    fn is_zero(&self) -> bool {
        Accumulator::is_zero(self)
    }
}

impl Semigroup for Accumulator {
    #[inline]
    fn plus_equals(&mut self, other: &Self) {
        self.merge(other);
    }
}

/// The slots of a reduce's accumulators, and where its aggregates find theirs.
pub struct AccumulatorLayout {
    slots: Vec<SlotPlan>,
    aggregates: Vec<SlotReading>,
    /// The accumulator of a group without rows.
    empty: Accumulator,
}

/// The input of a slot: a column, added as the aggregate defines.
struct SlotPlan {
    column: usize,
    aggregate: Rc<dyn AnyAggregate>,
}

/// The slots from which an aggregate's value is read.
enum SlotReading {
    /// The number of rows.
    Rows,
    /// This slot.
    Slot(usize, Rc<dyn AnyAggregate>),
}

/// A value that its declared type cannot hold.
#[derive(Debug)]
pub struct Overflow {
    /// The row in question.
    pub row: usize,
    /// Index of the aggregate.
    pub aggregate: usize,
    /// The reason, as a text.
    pub reason: String,
}

impl AccumulatorLayout {
    /// The layout for these aggregates. Aggregates that keep the same state of the same column share a slot.
    pub fn new(aggregates: &[Aggregate]) -> Result<Self, ArrowError> {
        let mut layout = AccumulatorLayout {
            slots: Vec::new(),
            aggregates: Vec::new(),
            empty: Accumulator::default(),
        };
        for aggregate in aggregates {
            let reading = match aggregate.input {
                None => SlotReading::Rows,
                Some(column) => {
                    let (input, output) = (&aggregate.input_type, &aggregate.output_type);
                    let aggregate: Rc<dyn AnyAggregate> =
                        (aggregate.function.typed)(input, output)?.into();
                    SlotReading::Slot(layout.slot(column, &aggregate), aggregate)
                }
            };
            layout.aggregates.push(reading);
        }
        Ok(layout)
    }

    /// The slot to which a column is added in the way of this aggregate.
    fn slot(&mut self, column: usize, aggregate: &Rc<dyn AnyAggregate>) -> usize {
        let empty = aggregate.empty_slot();
        let mut known = self.slots.iter().zip(&self.empty.slots);
        let place = known.position(|(plan, slot)| plan.column == column && *slot == empty);
        place.unwrap_or_else(|| {
            self.slots.push(SlotPlan { column, aggregate: Rc::clone(aggregate) });
            self.empty.slots.push(empty);
            self.slots.len() - 1
        })
    }

    /// The accumulator of a group without rows.
    pub fn empty(&self) -> &Accumulator {
        &self.empty
    }

    /// Adds a batch to the accumulators of its rows' groups.
    pub fn add(
        &self,
        delta: &Delta,
        accumulators: &mut [Accumulator],
        members: &[usize],
    ) -> Result<(), ArrowError> {
        for (member, diff) in members.iter().zip(delta.diffs.iter()) {
            let rows = &mut accumulators[*member].rows;
            *rows = rows.plus(Multiplicity::new(*diff));
        }
        for (slot, plan) in self.slots.iter().enumerate() {
            let groups = BatchGroups { accumulators, members, diffs: &delta.diffs };
            plan.aggregate.fold(delta.rows.column(plan.column), groups, slot)?;
        }
        Ok(())
    }

    /// One column per aggregate, and the values that overflow (NULL in their columns).
    pub fn columns(
        &self,
        accumulators: &[&Accumulator],
    ) -> Result<(Vec<ArrayRef>, Vec<Overflow>), ArrowError> {
        let mut columns = Vec::new();
        let mut overflows = Vec::new();
        for (index, reading) in self.aggregates.iter().enumerate() {
            columns.push(match reading {
                SlotReading::Rows => {
                    let rows = accumulators.iter().map(|a| a.rows.known().unwrap_or(i64::MAX));
                    Arc::new(Int64Array::from_iter_values(rows))
                }
                SlotReading::Slot(slot, aggregate) => {
                    let mut failed = Vec::new();
                    let column = aggregate.results(accumulators, *slot, &mut failed)?;
                    let overflow = |(row, reason)| Overflow { row, aggregate: index, reason };
                    overflows.extend(failed.into_iter().map(overflow));
                    column
                }
            });
        }
        Ok((columns, overflows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Computation;
    use arrow::array::{AsArray, Decimal128Array, RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Decimal128Type, Field, Int64Type, Schema};

    fn aggregate(name: &str, column: usize, input: &DataType, output: &DataType) -> Aggregate {
        let Computation::Folded(function) = Computation::of(name) else { panic!("{name}") };
        Aggregate {
            function,
            input: Some(column),
            input_type: input.clone(),
            output_type: output.clone(),
            text: name.into(),
        }
    }

    fn delta(columns: Vec<ArrayRef>, diffs: &[i64]) -> Delta {
        let field = |c: &ArrayRef| Field::new("c", c.data_type().clone(), true);
        let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
        let rows = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
        Delta { rows, diffs: diffs.into(), positions: None, tick: 1 }
    }

    #[test]
    fn aggregates_share_a_slot_only_if_column_and_state_are_the_same() {
        let (int, decimal) = (DataType::Int64, DataType::Decimal128(38, 19));
        let aggregates = [
            aggregate("sum", 0, &int, &int),
            aggregate("avg", 0, &int, &decimal),
            aggregate("sum", 1, &int, &int),
            aggregate("min", 0, &int, &int),
            aggregate("max", 0, &int, &int),
            aggregate("stddev", 0, &int, &decimal),
            aggregate("var_pop", 0, &int, &decimal),
        ];
        let layout = AccumulatorLayout::new(&aggregates).unwrap();
        let slot = |reading: &SlotReading| match reading {
            SlotReading::Rows => None,
            SlotReading::Slot(slot, _) => Some(*slot),
        };
        let slots: Vec<Option<usize>> = layout.aggregates.iter().map(slot).collect();
        assert_eq!(slots, [0, 0, 1, 2, 3, 4, 4].map(Some));
    }

    #[test]
    fn groups_without_values_have_null_but_count_zero() {
        let (int, text) = (DataType::Int64, DataType::Utf8);
        let aggregates = [
            aggregate("count", 0, &int, &int),
            aggregate("sum", 0, &int, &int),
            aggregate("min", 0, &int, &int),
            aggregate("max", 1, &text, &text),
        ];
        let layout = AccumulatorLayout::new(&aggregates).unwrap();
        let mut groups = vec![layout.empty().clone(); 2];
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(-7), Some(3)]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![None, Some("a"), Some("b")]));
        let delta = delta(vec![numbers, texts], &[1, 1, 1]);
        layout.add(&delta, &mut groups, &[0, 1, 1]).unwrap();
        // A group that nothing was added to has no slots.
        let nothing = Accumulator::default();
        let (columns, overflows) = layout.columns(&[&groups[0], &groups[1], &nothing]).unwrap();
        assert!(overflows.is_empty());
        assert_eq!(columns[0].as_primitive::<Int64Type>().values(), &[0, 2, 0]);
        let numbers = |index: usize| columns[index].as_primitive::<Int64Type>().clone();
        assert_eq!(numbers(1), Int64Array::from(vec![None, Some(-4), None]));
        assert_eq!(numbers(2), Int64Array::from(vec![None, Some(-7), None]));
        assert_eq!(columns[3].as_string::<i32>(), &StringArray::from(vec![None, Some("b"), None]));
    }

    #[test]
    fn sum_beyond_its_type_is_null_and_told_until_rows_are_taken_back() {
        let decimal = DataType::Decimal128(3, 0);
        let aggregates =
            [aggregate("avg", 0, &decimal, &decimal), aggregate("sum", 0, &decimal, &decimal)];
        let layout = AccumulatorLayout::new(&aggregates).unwrap();
        let mut groups = vec![layout.empty().clone()];
        let values = Decimal128Array::from(vec![600, 601]).with_precision_and_scale(3, 0).unwrap();
        let delta = delta(vec![Arc::new(values)], &[2, -1]);
        layout.add(&delta, &mut groups, &[0, 0]).unwrap();
        let (_, overflows) = layout.columns(&[&groups[0]]).unwrap();
        assert!(overflows.is_empty(), "{overflows:?}");
        layout.add(&delta, &mut groups, &[0, 0]).unwrap();
        let (columns, overflows) = layout.columns(&[&groups[0]]).unwrap();
        assert!(columns[1].is_null(0));
        assert_eq!(columns[0].as_primitive::<Decimal128Type>().value(0), 599);
        let told: Vec<_> = overflows.iter().map(|o| (o.row, o.aggregate)).collect();
        assert_eq!(told, [(0, 1)]);
        assert!(overflows[0].reason.contains("out of range"), "{}", overflows[0].reason);
    }
}
