//! GROUPING SETS, ROLLUP and CUBE: each row once per set, with NULLs for what the set leaves out.

use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion_common::ScalarValue;
use datafusion_expr::utils::grouping_set_to_exprlist;
use datafusion_expr::{Aggregate as LogicalAggregate, Expr};

use super::aggregate::{calls, prepared_schema};
use super::call::Prepared;
use super::{Lowering, Result, expr};
use crate::plan::ir::{NodeId, Scalar};

impl Lowering {
    pub(super) fn grouping_sets(
        &mut self,
        plan: &LogicalAggregate,
        sets: &[Vec<Expr>],
    ) -> Result<NodeId> {
        let exprs: Vec<Expr> =
            grouping_set_to_exprlist(&plan.group_expr)?.into_iter().cloned().collect();
        let width = exprs.len();
        // For each set whether each of the expressions is in it.
        let sets: Vec<Vec<bool>> =
            sets.iter().map(|set| exprs.iter().map(|e| set.contains(e)).collect()).collect();
        let input = self.plan(&plan.input)?;
        let input_schema = plan.input.schema();
        let mut prepared = Prepared {
            exprs,
            schema: input_schema,
            apart: width,
            with_empty_group: sets.iter().any(|set| set.iter().all(|present| !present)),
        };
        // Behind the columns stands the number that grouping() reads; it is part of the key, and so
        // is the set's own number, since a set can be written twice.
        let id_type = plan.schema.as_arrow().field(width).data_type().clone();
        let mut calls = calls(plan, width + 1, &mut prepared)?;
        let arguments = prepared.exprs.len();
        for call in &mut calls {
            call.shift(width, 2);
        }
        let schema = prepared_schema(&prepared.exprs, input_schema)?;
        let node = self.project(input, &prepared.exprs, input_schema, Arc::clone(&schema))?;
        let mut fields: Vec<Field> =
            schema.fields()[..width].iter().map(|f| f.as_ref().clone()).collect();
        fields.push(Field::new("__grouping_id", id_type.clone(), true));
        fields.push(Field::new("__grouping_set", DataType::Int64, true));
        fields.extend(schema.fields()[width..].iter().map(|f| f.as_ref().clone()));
        let wide = Arc::new(Schema::new(fields));
        let mut inputs = Vec::new();
        for (number, set) in sets.iter().enumerate() {
            let id = set.iter().fold(0_u64, |id, present| id << 1 | u64::from(!present));
            let id = ScalarValue::UInt64(Some(id)).cast_to(&id_type)?;
            let number = ScalarValue::Int64(Some(number as i64));
            let mut columns: Vec<Scalar> = Vec::new();
            for (index, present) in set.iter().enumerate() {
                columns.push(match present {
                    true => expr::column(&schema, index),
                    false => expr::null(schema.field(index).data_type())?,
                });
            }
            columns.extend([expr::constant(id.clone()), expr::constant(number.clone())]);
            columns.extend((width..arguments).map(|index| expr::column(&schema, index)));
            let mut rows = self.project_scalars(node, columns, Arc::clone(&wide));
            if set.iter().all(|present| !present) {
                let mut key: Vec<ArrayRef> = schema.fields()[..width]
                    .iter()
                    .map(|f| new_null_array(f.data_type(), 1))
                    .collect();
                key.extend([id.to_array()?, number.to_array()?]);
                rows = self.with_empty_row(rows, &key)?;
            }
            inputs.push(rows);
        }
        let all = self.union(inputs, wide);
        let node = self.aggregated(all, width + 2, &calls)?;
        let columns: Vec<usize> = (0..=width).chain(width + 2..width + 2 + calls.len()).collect();
        Ok(self.select(node, &columns))
    }
}
