//! GROUP BY: which aggregates share a state, and which need a plan of their own.
//!
//! Aggregates are split into parts with the same groups, and the parts are joined on the group:
//! what accumulates is one `Reduce`, which also takes the distinct values of each column; min and
//! max of an input that can retract are the first row of a `TopK`; what needs all values is computed
//! from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::{Aggregate as LogicalAggregate, Expr, ExprSchemable};
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::{Column, Literal};
use datafusion_physical_expr::{PhysicalExpr, PhysicalSortExpr};

use super::call::{Argument, Call, Class, General, Prepared};
use super::{Lowering, Result, expr, refuse, relaxed};
use crate::aggregate::Extreme;
use crate::plan::group_keys;
use crate::plan::ir::{Aggregate, GeneralAggregate, JoinKeys, NodeId, Op, OrderColumn};

/// Some of the aggregates, computed: key columns first, then these calls' results in order.
struct ComputedCalls {
    node: NodeId,
    calls: Vec<usize>,
}

/// The calls by what they are computed from.
#[derive(Default)]
struct Classes {
    folded: Vec<usize>,
    distinct: BTreeMap<usize, Vec<usize>>,
    first: Vec<(usize, usize, Vec<OrderColumn>)>,
    general: Vec<(Vec<OrderColumn>, Vec<usize>)>,
}

impl Lowering {
    pub(super) fn aggregate(&mut self, plan: &LogicalAggregate) -> Result<NodeId> {
        if let Some(sets) = group_keys::sets(&plan.group_expr)? {
            return self.grouping_sets(plan, &sets);
        }
        let input = self.plan(&plan.input)?;
        let input_schema = plan.input.schema();
        let width = plan.group_expr.len();
        let mut prepared = Prepared {
            exprs: plan.group_expr.clone(),
            schema: input_schema,
            apart: 0,
            with_empty_group: width == 0,
        };
        let calls = calls(plan, width, &mut prepared)?;
        let schema = prepared_schema(&prepared.exprs, input_schema)?;
        let mut node = self.project(input, &prepared.exprs, input_schema, Arc::clone(&schema))?;
        if width == 0 {
            node = self.with_empty_row(node, &[])?;
        }
        self.aggregated(node, width, &calls)
    }

    /// The groups of a prepared input and their aggregates, in the order of the calls.
    pub(super) fn aggregated(
        &mut self,
        node: NodeId,
        width: usize,
        calls: &[Call],
    ) -> Result<NodeId> {
        let parts = self.parts(node, width, calls)?;
        self.combine(parts, width, calls)
    }

    /// A group without rows is there all the same: a row of NULLs behind the key, which no aggregate
    /// counts.
    pub(super) fn with_empty_row(
        &mut self,
        node: NodeId,
        key: &[arrow::array::ArrayRef],
    ) -> Result<NodeId> {
        let schema = relaxed(&self.nodes[node].schema);
        let nulls = schema.fields().iter().skip(key.len());
        let nulls = nulls.map(|f| new_null_array(f.data_type(), 1));
        let columns = key.iter().cloned().chain(nulls).collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(1));
        let row = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?;
        let row = self.constant(row);
        Ok(self.union(vec![row, node], schema))
    }

    fn parts(&mut self, input: NodeId, width: usize, calls: &[Call]) -> Result<Vec<ComputedCalls>> {
        let monotonic = self.nodes[input].monotonic;
        let classes = classes(calls, monotonic);
        let mut parts = Vec::new();
        if !classes.distinct.is_empty() {
            parts.push(self.with_distinct(input, width, calls, &classes)?);
        } else if !classes.folded.is_empty() || calls.is_empty() {
            let column = |index: usize| calls[index].folded_input();
            let node = self.reduce(input, width, calls, &classes.folded, &column)?;
            parts.push(ComputedCalls { node, calls: classes.folded });
        }
        for (index, value, order) in classes.first {
            let node = self.first_value(input, width, value, &order);
            parts.push(ComputedCalls { node, calls: vec![index] });
        }
        for (order, indexes) in classes.general {
            let node = self.general(input, width, calls, &indexes, &order)?;
            parts.push(ComputedCalls { node, calls: indexes });
        }
        Ok(parts)
    }

    /// Distinct aggregates and those that fold, in one accumulator per group.
    ///
    /// The rows and the distinct values of each column are put side by side, each with NULLs in the
    /// place of the others, which no aggregate counts.
    fn with_distinct(
        &mut self,
        input: NodeId,
        width: usize,
        calls: &[Call],
        classes: &Classes,
    ) -> Result<ComputedCalls> {
        let schema = relaxed(&self.nodes[input].schema);
        let distinct: Vec<usize> = classes.distinct.keys().copied().collect();
        let mut plain: Vec<usize> =
            classes.folded.iter().filter_map(|i| calls[*i].folded_input()).collect();
        plain.sort_unstable();
        plain.dedup();
        // Behind the key: the arguments, a mark for rows, the distinct columns.
        let marker = width + plain.len();
        let field = |column: &usize| schema.field(*column).clone();
        let mut fields: Vec<Field> = (0..width).map(|c| field(&c)).collect();
        fields.extend(plain.iter().map(field));
        fields.push(Field::new("row", DataType::Boolean, true));
        fields.extend(distinct.iter().map(field));
        let wide = Arc::new(Schema::new(fields));
        let row = |from: &Schema, places: &[(usize, usize)], marked: bool| {
            let column = |index: usize| match places.iter().find(|(place, _)| *place == index) {
                Some((_, column)) => Ok(expr::column(from, *column)),
                None if index == marker && marked => Ok(expr::constant(ScalarValue::from(true))),
                None => expr::null(wide.field(index).data_type()),
            };
            (0..wide.fields().len()).map(column).collect::<Result<Vec<_>>>()
        };
        let mut inputs = Vec::new();
        if !classes.folded.is_empty() {
            let mut places: Vec<(usize, usize)> = (0..width).map(|c| (c, c)).collect();
            places.extend(plain.iter().enumerate().map(|(i, c)| (width + i, *c)));
            let columns = row(&schema, &places, true)?;
            inputs.push(self.project_scalars(input, columns, Arc::clone(&wide)));
        }
        for (number, column) in distinct.iter().enumerate() {
            let columns: Vec<usize> = (0..width).chain([*column]).collect();
            let values = self.select(input, &columns);
            let values = self.distinct(values);
            let from = relaxed(&self.nodes[values].schema);
            let mut places: Vec<(usize, usize)> = (0..width).map(|c| (c, c)).collect();
            places.push((marker + 1 + number, width));
            let columns = row(&from, &places, false)?;
            inputs.push(self.project_scalars(values, columns, Arc::clone(&wide)));
        }
        let all = self.union(inputs, wide);
        let mut indexes = classes.folded.clone();
        indexes.extend(classes.distinct.values().flatten());
        let place = |index: usize| match &calls[index].class {
            Class::Folded { distinct: true, input: Some(column), .. }
                if !classes.folded.contains(&index) =>
            {
                distinct.iter().position(|c| c == column).map(|number| marker + 1 + number)
            }
            _ => match calls[index].folded_input() {
                Some(column) => plain.iter().position(|c| *c == column).map(|i| width + i),
                None => Some(marker),
            },
        };
        let node = self.reduce(all, width, calls, &indexes, &place)?;
        Ok(ComputedCalls { node, calls: indexes })
    }

    /// The key and the value in each group's first row.
    fn first_value(
        &mut self,
        input: NodeId,
        width: usize,
        value: usize,
        order: &[OrderColumn],
    ) -> NodeId {
        let mut columns: Vec<usize> = (0..width).chain([value]).collect();
        columns.extend(order.iter().map(|o| o.column));
        let node = self.select(input, &columns);
        let moved =
            |(index, by): (usize, &OrderColumn)| OrderColumn { column: width + 1 + index, ..*by };
        let order = order.iter().enumerate().map(moved).collect();
        let node = self.first(node, (0..width).collect(), order);
        self.select(node, &(0..=width).collect::<Vec<_>>())
    }

    fn general(
        &mut self,
        input: NodeId,
        width: usize,
        calls: &[Call],
        indexes: &[usize],
        order: &[OrderColumn],
    ) -> Result<NodeId> {
        let generals = || indexes.iter().filter_map(|i| calls[*i].general());
        let mut columns: Vec<usize> = (0..width).collect();
        let mut need = |column: usize| {
            if !columns.contains(&column) {
                columns.push(column);
            }
        };
        for general in generals() {
            for argument in &general.args {
                if let Argument::Column(column) = argument {
                    need(*column);
                }
            }
            general.filter.iter().for_each(|c| need(*c));
        }
        order.iter().for_each(|by| need(by.column));
        let node = self.select(input, &columns);
        let schema = relaxed(&self.nodes[node].schema);
        let place = |column: usize| columns.iter().position(|c| *c == column).unwrap_or(0);
        let order: Vec<OrderColumn> =
            order.iter().map(|by| OrderColumn { column: place(by.column), ..*by }).collect();
        let mut fields: Vec<Field> =
            schema.fields()[..width].iter().map(|f| f.as_ref().clone()).collect();
        let mut aggregates = Vec::new();
        for call in indexes.iter().map(|i| &calls[*i]) {
            let Some(general) = call.general() else { continue };
            aggregates.push(general_aggregate(general, call, &schema, &order, &place)?);
            fields.push(call.output.clone());
        }
        let key: Vec<usize> = (0..width).collect();
        let op = Op::Recompute { input: node, key: key.clone(), order, aggregates };
        Ok(self.add(op, Arc::new(Schema::new(fields)), vec![key], false))
    }

    fn reduce(
        &mut self,
        input: NodeId,
        width: usize,
        calls: &[Call],
        indexes: &[usize],
        column_of: &dyn Fn(usize) -> Option<usize>,
    ) -> Result<NodeId> {
        let input_schema = Arc::clone(&self.nodes[input].schema);
        let mut fields: Vec<Field> =
            input_schema.fields()[..width].iter().map(|f| f.as_ref().clone()).collect();
        let mut aggregates = Vec::new();
        for index in indexes {
            let call = &calls[*index];
            let Class::Folded { function, .. } = &call.class else { continue };
            let column = column_of(*index);
            let input_type =
                column.map_or(DataType::Null, |c| input_schema.field(c).data_type().clone());
            let output_type = call.output.data_type().clone();
            // Says now, rather than when the view runs, that there is none of these types.
            if column.is_some() && (function.typed)(&input_type, &output_type).is_err() {
                let text = &call.text;
                return refuse(format!("{text} is not supported over values of type {input_type}"));
            }
            fields.push(call.output.clone());
            aggregates.push(Aggregate {
                function,
                input: column,
                input_type,
                output_type,
                text: Arc::clone(&call.text),
            });
        }
        let key: Vec<usize> = (0..width).collect();
        let monotonic = aggregates.is_empty() && self.nodes[input].monotonic;
        let op = Op::Reduce { input, key: key.clone(), aggregates };
        Ok(self.add(op, Arc::new(Schema::new(fields)), vec![key], monotonic))
    }

    /// Joins the parts on the group and puts the columns in the order of the SELECT.
    fn combine(
        &mut self,
        parts: Vec<ComputedCalls>,
        width: usize,
        calls: &[Call],
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
        Ok(self.select(node, &columns))
    }
}

/// The aggregates of a plan whose groups are its first `width` columns.
pub(super) fn calls(
    plan: &LogicalAggregate,
    width: usize,
    prepared: &mut Prepared,
) -> Result<Vec<Call>> {
    let fields = plan.schema.as_arrow().fields().iter().skip(width);
    let calls = plan.aggr_expr.iter().zip(fields);
    calls.map(|(expr, field)| prepared.call(expr, field.as_ref().clone())).collect()
}

fn classes(calls: &[Call], monotonic: bool) -> Classes {
    let mut classes = Classes::default();
    for (index, call) in calls.iter().enumerate() {
        match &call.class {
            Class::Folded { function, distinct, input } => match (*input, function.extreme) {
                (Some(column), Some(extreme)) if !monotonic => {
                    let descending = extreme == Extreme::Greatest;
                    let order = vec![OrderColumn { column, descending, nulls_first: false }];
                    classes.first.push((index, column, order));
                }
                (Some(column), None) if *distinct => {
                    classes.distinct.entry(column).or_default().push(index);
                }
                _ => classes.folded.push(index),
            },
            Class::First { value, order } => classes.first.push((index, *value, order.clone())),
            Class::General(general) => {
                match classes.general.iter_mut().find(|(order, _)| *order == general.order) {
                    Some((_, indexes)) => indexes.push(index),
                    None => classes.general.push((general.order.clone(), vec![index])),
                }
            }
        }
    }
    classes
}

fn general_aggregate(
    general: &General,
    call: &Call,
    schema: &SchemaRef,
    order: &[OrderColumn],
    place: &dyn Fn(usize) -> usize,
) -> Result<GeneralAggregate> {
    let column = |index: usize| -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(schema.field(index).name(), index))
    };
    let args = general.args.iter().map(|argument| match argument {
        Argument::Column(index) => column(place(*index)),
        Argument::Constant(value) => Arc::new(Literal::new(value.clone())),
    });
    let mut builder = AggregateExprBuilder::new(Arc::clone(&general.function), args.collect())
        .schema(Arc::clone(schema))
        .alias(call.text.as_ref())
        .with_ignore_nulls(general.ignore_nulls);
    // Rows come in order; only an aggregate of ordered sets asks which way that is.
    if general.function.supports_within_group_clause() {
        let sort = order.iter().map(|by| PhysicalSortExpr {
            expr: column(by.column),
            options: arrow::compute::SortOptions {
                descending: by.descending,
                nulls_first: by.nulls_first,
            },
        });
        builder = builder.order_by(sort.collect());
    }
    let function = builder.build()?;
    // Says now, rather than at the first row, what is wrong with the arguments.
    function.create_accumulator()?;
    Ok(GeneralAggregate {
        function: Arc::new(function),
        filter: general.filter.map(place),
        distinct: general.distinct,
        text: Arc::clone(&call.text),
    })
}

/// The schema of prepared expressions, which are numbered.
pub(super) fn prepared_schema(exprs: &[Expr], input: &DFSchema) -> Result<SchemaRef> {
    let mut fields = Vec::new();
    for (index, expr) in exprs.iter().enumerate() {
        let (_, field) = expr.to_field(input)?;
        fields.push(field.as_ref().clone().with_name(format!("{index}")).with_nullable(true));
    }
    Ok(Arc::new(Schema::new(fields)))
}
