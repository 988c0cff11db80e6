//! Operators without state: filter, project, unnest.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;

use super::{Deltas, Renderer, expect_planned, map};
use crate::dataflow::delta::Delta;
use crate::dataflow::eval;
use crate::dataflow::failure::FailureStream;
use crate::plan::ir::{NodeId, Scalar};

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn filter(&self, input: NodeId, conditions: &[Scalar]) -> Deltas<'scope> {
        let (conditions, failures) = (conditions.to_vec(), self.failures.clone());
        map(self.input(input), "Filter", move |delta| eval::filter(&conditions, delta, &failures))
    }

    pub(super) fn project(&self, id: NodeId, input: NodeId, columns: &[Scalar]) -> Deltas<'scope> {
        let (columns, failures) = (columns.to_vec(), self.failures.clone());
        let schema = self.schema(id);
        map(self.input(input), "Project", move |delta| {
            eval::project(&columns, &schema, &delta, &failures)
        })
    }

    pub(super) fn unnest(
        &self,
        id: NodeId,
        input: NodeId,
        array: &Scalar,
        outer: bool,
        ordinality: bool,
        unread: &[usize],
    ) -> Deltas<'scope> {
        let unnest = Unnest {
            input_schema: self.schema(input),
            schema: self.schema(id),
            array: array.clone(),
            outer,
            ordinality,
            unread: unread.to_vec(),
            failures: self.failures.clone(),
        };
        map(self.input(input), "Unnest", move |delta| unnest.run(&delta))
    }
}

/// Each row once per element of its array.
pub struct Unnest {
    pub input_schema: SchemaRef,
    pub schema: SchemaRef,
    pub array: Scalar,
    pub outer: bool,
    pub ordinality: bool,
    /// Columns of the row that are NULL beside its elements.
    pub unread: Vec<usize>,
    pub failures: FailureStream,
}

impl Unnest {
    /// The rows that a delta becomes.
    pub fn run(&self, delta: &Delta) -> Vec<Delta> {
        // The array is evaluated behind the row's own columns, so that rows which fail are left out
        // of both.
        let mut scalars: Vec<Scalar> = (0..self.input_schema.fields().len())
            .map(|i| crate::plan::column(&self.input_schema, i))
            .collect();
        scalars.push(self.array.clone());
        let Ok(array_type) = self.array.expr.data_type(&self.input_schema) else {
            unreachable!("the planner has typed this array")
        };
        let mut fields: Vec<_> = self.input_schema.fields().iter().cloned().collect();
        fields.push(Arc::new(arrow::datatypes::Field::new("array", array_type, true)));
        let schema = Arc::new(arrow::datatypes::Schema::new(fields));
        let deltas = eval::project(&scalars, &schema, delta, &self.failures);
        deltas.iter().map(|delta| self.spread(delta)).collect()
    }

    fn spread(&self, delta: &Delta) -> Delta {
        let width = self.input_schema.fields().len();
        let lists: &ListArray = delta.rows.column(width).as_list();
        let mut rows: Vec<u32> = Vec::new();
        let mut elements: Vec<Option<u32>> = Vec::new();
        let mut numbers: Vec<Option<i64>> = Vec::new();
        for row in 0..lists.len() {
            let offsets = lists.value_offsets();
            let range = if lists.is_valid(row) { offsets[row]..offsets[row + 1] } else { 0..0 };
            if range.is_empty() && self.outer {
                rows.push(row as u32);
                elements.push(None);
                numbers.push(None);
            }
            let first = range.start;
            for element in range {
                rows.push(row as u32);
                elements.push(Some(element as u32));
                numbers.push(Some(i64::from(element - first) + 1));
            }
        }
        // Each element has a copy of its row, which must not have the array in it.
        let beside = delta.rows.columns()[..width].iter().enumerate();
        let beside = beside.map(|(at, column)| match self.unread.contains(&at) {
            true => new_null_array(column.data_type(), column.len()),
            false => Arc::clone(column),
        });
        let beside = delta.with_columns(Arc::clone(&self.input_schema), beside.collect());
        let spread = expect_planned(expect_planned(beside).take(&rows));
        let mut columns: Vec<ArrayRef> = spread.rows.columns().to_vec();
        let values = expect_planned(take(lists.values(), &UInt32Array::from(elements), None));
        match values.as_struct_opt() {
            // A NULL element has NULL members, whatever lies beneath it.
            Some(structs) => {
                for member in structs.columns() {
                    columns.push(masked(member, structs));
                }
            }
            None => columns.push(values),
        }
        if self.ordinality {
            columns.push(Arc::new(Int64Array::from(numbers)));
        }
        expect_planned(spread.with_columns(Arc::clone(&self.schema), columns))
    }
}

fn masked(member: &ArrayRef, parent: &dyn Array) -> ArrayRef {
    match parent.nulls() {
        None => Arc::clone(member),
        Some(nulls) => {
            let is_null = arrow::array::BooleanArray::new(!nulls.inner(), None);
            expect_planned(arrow::compute::nullif(member.as_ref(), &is_null))
        }
    }
}
