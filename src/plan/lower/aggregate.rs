//! GROUP BY: which aggregates fold into one accumulator, and which need a plan of their own.
//!
//! Aggregates are split into parts with the same groups, and the parts are joined on the group:
//! what accumulates is one `Reduce`; a distinct aggregate is DISTINCT and then a `Reduce`; min and
//! max of an input that can retract are the first row of a `TopK`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::DFSchema;
use datafusion_expr::{Aggregate as LogicalAggregate, Expr, ExprSchemable, lit, when};

use super::{Lowering, Result, refuse, relaxed};
use crate::plan::ir::{Aggregate, AggregateFunction, JoinKeys, NodeId, Op, OrderColumn};

/// One aggregate of the SELECT, with its argument as a column of the prepared input.
struct Call {
    function: AggregateFunction,
    distinct: bool,
    input: Option<usize>,
    output: Field,
    text: Arc<str>,
}

/// Some of the aggregates, computed: key columns first, then these calls' results in order.
struct Part {
    node: NodeId,
    calls: Vec<usize>,
}

impl Lowering {
    pub(super) fn aggregate(&mut self, plan: &LogicalAggregate) -> Result<NodeId> {
        if matches!(plan.group_expr.first(), Some(Expr::GroupingSet(_))) {
            return refuse("GROUPING SETS, ROLLUP and CUBE are not supported yet");
        }
        let input = self.plan(&plan.input)?;
        let input_schema = plan.input.schema();
        let width = plan.group_expr.len();
        let global = width == 0;
        let mut prepared = plan.group_expr.clone();
        let mut calls = Vec::new();
        for (index, expr) in plan.aggr_expr.iter().enumerate() {
            let output = plan.schema.as_arrow().field(width + index).clone();
            calls.push(call(expr, output, &mut prepared, global, input_schema)?);
        }
        let schema = prepared_schema(&prepared, input_schema)?;
        let mut node = self.project(input, &prepared, input_schema, Arc::clone(&schema))?;
        if global {
            node = self.with_empty_row(node, schema)?;
        }
        let parts = self.parts(node, width, &calls);
        self.combine(parts, width, &calls, &Arc::new(plan.schema.as_arrow().clone()))
    }

    /// Without GROUP BY there is always one group: a row of NULLs, which no aggregate counts.
    fn with_empty_row(&mut self, node: NodeId, schema: SchemaRef) -> Result<NodeId> {
        let schema = relaxed(&schema);
        let nulls = schema.fields().iter().map(|f| new_null_array(f.data_type(), 1)).collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(1));
        let row = RecordBatch::try_new_with_options(Arc::clone(&schema), nulls, &options)?;
        let row = self.constant(row);
        Ok(self.union(vec![row, node], schema))
    }

    fn parts(&mut self, input: NodeId, width: usize, calls: &[Call]) -> Vec<Part> {
        let monotonic = self.nodes[input].monotonic;
        let mut folded = Vec::new();
        let mut distinct: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut extremes = Vec::new();
        for (index, call) in calls.iter().enumerate() {
            let extreme = matches!(call.function, AggregateFunction::Min | AggregateFunction::Max);
            match call.input {
                Some(column) if extreme && !monotonic => extremes.push((index, column)),
                Some(column) if call.distinct && !extreme => {
                    distinct.entry(column).or_default().push(index);
                }
                _ => folded.push(index),
            }
        }
        let mut parts = Vec::new();
        if !folded.is_empty() || calls.is_empty() {
            let node = self.reduce(input, width, calls, &folded, |call| call.input);
            parts.push(Part { node, calls: folded });
        }
        for (column, indexes) in distinct {
            let values = self.key_and(input, width, column);
            let values = self.distinct(values);
            let node = self.reduce(values, width, calls, &indexes, |_| Some(width));
            parts.push(Part { node, calls: indexes });
        }
        for (index, column) in extremes {
            let values = self.key_and(input, width, column);
            let descending = calls[index].function == AggregateFunction::Max;
            let order = vec![OrderColumn { column: width, descending, nulls_first: false }];
            let node = self.first(values, (0..width).collect(), order);
            parts.push(Part { node, calls: vec![index] });
        }
        parts
    }

    fn key_and(&mut self, input: NodeId, width: usize, column: usize) -> NodeId {
        let columns: Vec<usize> = (0..width).chain([column]).collect();
        self.select(input, &columns)
    }

    fn reduce(
        &mut self,
        input: NodeId,
        width: usize,
        calls: &[Call],
        indexes: &[usize],
        column_of: impl Fn(&Call) -> Option<usize>,
    ) -> NodeId {
        let input_schema = Arc::clone(&self.nodes[input].schema);
        let mut fields: Vec<Field> =
            input_schema.fields()[..width].iter().map(|f| f.as_ref().clone()).collect();
        let mut aggregates = Vec::new();
        for call in indexes.iter().map(|i| &calls[*i]) {
            let column = column_of(call);
            let input_type =
                column.map_or(DataType::Null, |c| input_schema.field(c).data_type().clone());
            fields.push(call.output.clone());
            aggregates.push(Aggregate {
                function: call.function,
                input: column,
                input_type,
                output_type: call.output.data_type().clone(),
                text: Arc::clone(&call.text),
            });
        }
        let key: Vec<usize> = (0..width).collect();
        let monotonic = aggregates.is_empty() && self.nodes[input].monotonic;
        let op = Op::Reduce { input, key: key.clone(), aggregates };
        self.add(op, Arc::new(Schema::new(fields)), vec![key], monotonic)
    }

    /// Joins the parts on the group and puts the columns in the order of the SELECT.
    fn combine(
        &mut self,
        parts: Vec<Part>,
        width: usize,
        calls: &[Call],
        schema: &SchemaRef,
    ) -> Result<NodeId> {
        let key: Vec<usize> = (0..width).collect();
        let mut parts = parts.into_iter();
        let Some(first) = parts.next() else { return refuse("an aggregate of nothing") };
        let mut node = first.node;
        let mut places = vec![0; calls.len()];
        for (offset, call) in first.calls.iter().enumerate() {
            places[*call] = width + offset;
        }
        for part in parts {
            let left_width = self.width(node);
            for (offset, call) in part.calls.iter().enumerate() {
                places[*call] = left_width + width + offset;
            }
            let on = JoinKeys { left: key.clone(), right: key.clone(), nulls_equal: true };
            node = self.inner_join(node, part.node, on, vec![key.clone()]);
        }
        let columns: Vec<usize> = key.into_iter().chain(places).collect();
        let node = self.select(node, &columns);
        debug_assert_eq!(self.width(node), schema.fields().len());
        Ok(node)
    }
}

fn prepared_schema(exprs: &[Expr], input: &DFSchema) -> Result<SchemaRef> {
    let mut fields = Vec::new();
    for (index, expr) in exprs.iter().enumerate() {
        let (_, field) = expr.to_field(input)?;
        fields.push(field.as_ref().clone().with_name(format!("{index}")).with_nullable(true));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The average of integers, which the planner casts to floats, is their exact sum over their
/// count: it shares its state with the sum.
fn is_integer(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|data_type| data_type.is_integer())
}

fn call(
    expr: &Expr,
    output: Field,
    prepared: &mut Vec<Expr>,
    global: bool,
    input_schema: &DFSchema,
) -> Result<Call> {
    let aggregate = match expr {
        Expr::Alias(alias) => return call(&alias.expr, output, prepared, global, input_schema),
        Expr::AggregateFunction(aggregate) => aggregate,
        other => return refuse(format!("{other} is not an aggregate")),
    };
    let name = aggregate.func.name();
    let params = &aggregate.params;
    let function = match name {
        "count" => AggregateFunction::Count,
        "sum" => AggregateFunction::Sum,
        "avg" => AggregateFunction::Avg,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "bool_and" => AggregateFunction::BoolAnd,
        "bool_or" => AggregateFunction::BoolOr,
        "stddev" => AggregateFunction::Variance { sample: true, root: true },
        "stddev_pop" => AggregateFunction::Variance { sample: false, root: true },
        "var" => AggregateFunction::Variance { sample: true, root: false },
        "var_pop" => AggregateFunction::Variance { sample: false, root: false },
        other => return refuse(format!("aggregate {other} is not supported yet")),
    };
    let argument = match params.args.as_slice() {
        [one] => one.clone(),
        _ => return refuse(format!("{name} of {} arguments is not supported", params.args.len())),
    };
    let argument = match argument {
        Expr::Cast(cast) if name == "avg" && is_integer(&cast.expr, input_schema) => *cast.expr,
        other => other,
    };
    let constant = matches!(&argument, Expr::Literal(value, _) if !value.is_null());
    let count_rows = name == "count" && constant && !params.distinct;
    let argument = match &params.filter {
        Some(filter) => when(filter.as_ref().clone(), argument).end()?,
        None => argument,
    };
    let input = if count_rows && params.filter.is_none() && !global {
        None
    } else {
        let argument = if count_rows && params.filter.is_none() { lit(1_i64) } else { argument };
        let known = prepared.iter().position(|e| *e == argument);
        Some(known.unwrap_or_else(|| {
            prepared.push(argument);
            prepared.len() - 1
        }))
    };
    let text = expr.human_display().to_string().into();
    Ok(Call { function, distinct: params.distinct, input, output, text })
}
