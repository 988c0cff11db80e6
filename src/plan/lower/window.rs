//! Window functions: one node per partitioning and order.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion_common::{Result as DataFusionResult, ScalarValue};
use datafusion_expr::expr::{NullTreatment, WindowFunctionParams};
use datafusion_expr::function::{ExpressionArgs, PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion_expr::{
    Expr, LimitEffect, LogicalPlan, PartitionEvaluator, Window, WindowFrameBound, WindowFrameUnits,
    WindowFunctionDefinition, WindowUDF,
};
use datafusion_functions_aggregate::first_last::{first_value_udaf, last_value_udaf};
use datafusion_functions_aggregate::nth_value::nth_value_udaf;
use datafusion_physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion_physical_expr::expressions::{Column, Literal};
use datafusion_physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, StandardWindowExpr,
    StandardWindowFunctionExpr, WindowExpr,
};
use datafusion_physical_expr::{PhysicalExpr, PhysicalSortExpr};

use super::rank::order_columns;
use super::reach;
use super::{Lowering, Result, refuse};
use crate::plan::exclusion;
use crate::plan::ir::{
    Exclusion, FrameAggregate, NodeId, Op, OrderColumn, Reach, Scalar, WindowEvaluation,
    WindowFunction,
};

/// A window function of the SELECT, taken apart.
struct WindowCall<'a> {
    function: &'a WindowFunctionDefinition,
    params: WindowFunctionParams,
    exclusion: Option<Exclusion>,
    output: Field,
    text: Arc<str>,
}

impl Lowering {
    pub(super) fn window(&mut self, window: &Window) -> Result<NodeId> {
        // The planner takes windows apart that differ only in the rows that their frames leave out. Each of
        // several equal rows has the same place in all of them.
        let (mut exprs, mut below) = (window.window_expr.clone(), &window.input);
        while let LogicalPlan::Window(inner) = below.as_ref() {
            let refers = |expr: &Expr| {
                let columns = expr.column_refs();
                columns.into_iter().any(|c| !inner.input.schema().has_column(c))
            };
            if exprs.iter().any(refers) {
                break;
            }
            exprs.splice(0..0, inner.window_expr.iter().cloned());
            below = &inner.input;
        }
        let input = self.plan(below)?;
        let width = self.width(input);
        let schema = window.schema.as_arrow();
        let mut calls = Vec::new();
        for (index, expr) in exprs.iter().enumerate() {
            calls.push(taken_apart(expr, schema.field(width + index).clone())?);
        }
        // Expressions that the functions need become columns behind the input's.
        let mut prepared: Vec<Expr> =
            below.schema().columns().into_iter().map(Expr::Column).collect();
        for call in &calls {
            let params = &call.params;
            let order = params.order_by.iter().map(|s| &s.expr);
            let args = params.args.iter().filter(|a| !matches!(a, Expr::Literal(..)));
            let filter = params.filter.as_deref();
            for expr in params.partition_by.iter().chain(order).chain(args).chain(filter) {
                if !prepared.contains(expr) {
                    prepared.push(expr.clone());
                }
            }
        }
        let mut node = self.with_columns(input, &prepared, below)?;
        let prepared_width = prepared.len();
        // Functions over the same partitions in the same order share a node.
        let mut places = Vec::new();
        let mut rest: Vec<usize> = (0..calls.len()).collect();
        while let Some(first) = rest.first().copied() {
            let same = |i: &usize| {
                let (a, b) = (&calls[*i].params, &calls[first].params);
                a.partition_by == b.partition_by && a.order_by == b.order_by
            };
            let (together, others): (Vec<usize>, Vec<usize>) = rest.into_iter().partition(same);
            rest = others;
            node = self.window_node(node, &prepared, &calls, &together)?;
            places.extend(together);
        }
        let columns = (0..calls.len())
            .filter_map(|call| places.iter().position(|p| *p == call))
            .map(|place| prepared_width + place);
        let columns: Vec<usize> = (0..width).chain(columns).collect();
        Ok(self.select(node, &columns))
    }

    fn window_node(
        &mut self,
        input: NodeId,
        prepared: &[Expr],
        calls: &[WindowCall],
        together: &[usize],
    ) -> Result<NodeId> {
        let params = &calls[together[0]].params;
        let place = |expr: &Expr| prepared.iter().position(|p| p == expr);
        let key: Vec<usize> = params.partition_by.iter().filter_map(place).collect();
        let mut order = order_columns(&params.order_by, 0);
        for (column, sort) in order.iter_mut().zip(&params.order_by) {
            column.column = place(&sort.expr).unwrap_or(0);
        }
        let node = self.nodes[input].clone();
        let mut fields: Vec<FieldRef> = node.schema.fields().iter().cloned().collect();
        let mut functions = Vec::new();
        for call in together.iter().map(|i| &calls[*i]) {
            functions.push(window_function(call, &node.schema, &order, &place)?);
            fields.push(Arc::new(call.output.clone()));
        }
        // The numbers of rows that are the first of their partition are known where those are kept.
        let op = match node.op {
            Op::First { input, key: by, order: first, limit, numbered: false }
                if (&by, &first) == (&key, &order)
                    && matches!(together, [only] if is_row_number(&calls[*only])) =>
            {
                Op::First { input, key, order, limit, numbered: true }
            }
            _ => Op::Window { input, key, order, functions },
        };
        Ok(self.add(op, Arc::new(Schema::new(fields)), node.keys, false))
    }
}

/// Whether a call gives the number of a row in its partition.
fn is_row_number(call: &WindowCall) -> bool {
    let function = matches!(call.function, WindowFunctionDefinition::WindowUDF(function) if function.name() == "row_number");
    function && call.params.filter.is_none() && call.exclusion.is_none()
}

fn taken_apart(expr: &Expr, output: Field) -> Result<WindowCall<'_>> {
    match expr {
        Expr::Alias(alias) => taken_apart(&alias.expr, output),
        Expr::WindowFunction(function) => {
            let mut shown = function.as_ref().clone();
            let exclusion = exclusion::take_planned(&mut shown.params.partition_by);
            let (function, params) = (&function.fun, shown.params.clone());
            let mut text = Expr::from(shown).human_display().to_string();
            if let Some(exclusion) = exclusion {
                text.push_str(&format!(" {exclusion}"));
            }
            Ok(WindowCall { function, params, exclusion, output, text: text.into() })
        }
        other => refuse(format!("{other} is not a window function")),
    }
}

fn window_function(
    call: &WindowCall,
    schema: &SchemaRef,
    order: &[OrderColumn],
    place: &dyn Fn(&Expr) -> Option<usize>,
) -> Result<WindowFunction> {
    let column = |index: usize| -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(schema.field(index).name(), index))
    };
    let args: Vec<Arc<dyn PhysicalExpr>> = call
        .params
        .args
        .iter()
        .map(|arg| match (arg, place(arg)) {
            (Expr::Literal(value, _), _) => {
                let literal: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(value.clone()));
                Ok(literal)
            }
            (_, Some(index)) => Ok(column(index)),
            (other, None) => refuse(format!("{other} is not a column")),
        })
        .collect::<Result<_>>()?;
    let order: Vec<PhysicalSortExpr> = order
        .iter()
        .map(|by| PhysicalSortExpr {
            expr: column(by.column),
            options: arrow::compute::SortOptions {
                descending: by.descending,
                nulls_first: by.nulls_first,
            },
        })
        .collect();
    check_range(call, schema, &order)?;
    check_function(call, &args, schema)?;
    let ignore_nulls = call.params.null_treatment == Some(NullTreatment::IgnoreNulls);
    let frame = Arc::new(call.params.window_frame.clone());
    let filter = call.params.filter.as_deref().and_then(place).map(column);
    let excluding = call.exclusion.map(|_| excluding(call.function)).transpose()?;
    let function = excluding.as_ref().unwrap_or(call.function);
    let (evaluation, reach) = match function {
        WindowFunctionDefinition::WindowUDF(function) => {
            let reach = reach::of_function(function.name(), &args, ignore_nulls, &frame, &order);
            let function = Partitioned::new(function, args, schema, &call.text, ignore_nulls)?;
            let expr = StandardWindowExpr::new(Arc::new(function), &[], &order, frame);
            reach::function_evaluation(reach, Arc::new(expr))
        }
        WindowFunctionDefinition::AggregateUDF(function) => {
            let builder = AggregateExprBuilder::new(Arc::clone(function), args)
                .schema(Arc::clone(schema))
                .alias(call.text.as_ref())
                .with_ignore_nulls(ignore_nulls)
                .with_distinct(call.params.distinct);
            let reach = reach::of_aggregate(function.name(), call.params.distinct, &frame, &order);
            let aggregate = Arc::new(builder.build()?);
            match call.exclusion {
                Some(exclusion) => {
                    let filter = filter.map(|expr| Scalar { expr, text: Arc::clone(&call.text) });
                    let of = each_frame(aggregate, &order, frame, filter, Some(exclusion));
                    let near = matches!(reach, Reach::Near { .. });
                    let reach = if near { reach } else { Reach::Partition };
                    (WindowEvaluation::EachFrame(of), reach)
                }
                None => {
                    let text = &call.text;
                    (aggregate_evaluation(aggregate, &order, frame, filter, &reach, text), reach)
                }
            }
        }
    };
    Ok(WindowFunction { evaluation, reach, text: Arc::clone(&call.text) })
}

/// The aggregate that gives what a function of the frame does, of frames that leave rows out.
fn excluding(function: &WindowFunctionDefinition) -> Result<WindowFunctionDefinition> {
    let WindowFunctionDefinition::WindowUDF(of_frame) = function else {
        return Ok(function.clone());
    };
    Ok(WindowFunctionDefinition::AggregateUDF(match of_frame.name() {
        "first_value" => first_value_udaf(),
        "last_value" => last_value_udaf(),
        "nth_value" => nth_value_udaf(),
        other => return refuse(format!("EXCLUDE is not supported for {other}")),
    }))
}

fn each_frame(
    aggregate: Arc<AggregateFunctionExpr>,
    order: &[PhysicalSortExpr],
    frame: Arc<datafusion_expr::WindowFrame>,
    filter: Option<Scalar>,
    exclusion: Option<Exclusion>,
) -> FrameAggregate {
    let expr = filter.as_ref().map(|filter| Arc::clone(&filter.expr));
    let sliding = SlidingAggregateWindowExpr::new(Arc::clone(&aggregate), &[], order, frame, expr);
    FrameAggregate { aggregate, frame: Arc::new(sliding), filter, exclusion }
}

/// Refuses functions over windows that have another value than in PostgreSQL.
fn check_function(
    call: &WindowCall,
    args: &[Arc<dyn PhysicalExpr>],
    schema: &SchemaRef,
) -> Result<()> {
    let name = call.function.name();
    let first = args.first().map(|arg| arg.data_type(schema)).transpose()?;
    let second = match call.params.args.get(1) {
        Some(Expr::Literal(value, _)) => Some(value),
        _ => None,
    };
    let is_positive = |value: &ScalarValue| {
        let number = value.cast_to(&DataType::Int64);
        matches!(number, Ok(ScalarValue::Int64(Some(number))) if number > 0)
    };
    match (name, first, second) {
        ("min" | "max", Some(DataType::Interval(_)), _) => refuse(format!(
            "{name} of intervals is not supported over a window: take seconds, extract(epoch FROM …)"
        )),
        ("array_agg", Some(DataType::List(_)), _) => refuse(
            "array_agg of arrays is not supported: an array of arrays is no array of two dimensions",
        ),
        ("bit_xor", ..) => refuse("bit_xor is not supported over a window"),
        ("lag" | "lead", _, Some(offset)) if offset.is_null() => {
            refuse(format!("the offset of {name} is NULL"))
        }
        ("nth_value", _, Some(place)) if !is_positive(place) => {
            refuse("argument of nth_value must be greater than zero")
        }
        _ => Ok(()),
    }
}

/// Distances are measured in numbers and times alone.
fn check_range(call: &WindowCall, schema: &SchemaRef, order: &[PhysicalSortExpr]) -> Result<()> {
    let frame = &call.params.window_frame;
    let is_distance = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::Preceding(offset) | WindowFrameBound::Following(offset) => {
            !offset.is_null()
        }
        WindowFrameBound::CurrentRow => false,
    };
    let measures = is_distance(&frame.start_bound) || is_distance(&frame.end_bound);
    let ([by], true) = (order, measures && frame.units == WindowFrameUnits::Range) else {
        return Ok(());
    };
    let data_type = by.expr.data_type(schema)?;
    if data_type.is_numeric() || data_type.is_temporal() {
        return Ok(());
    }
    refuse(format!("RANGE with an offset is not supported for a column of type {data_type}"))
}

fn aggregate_evaluation(
    aggregate: Arc<AggregateFunctionExpr>,
    order: &[PhysicalSortExpr],
    frame: Arc<datafusion_expr::WindowFrame>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    reach: &Reach,
    text: &Arc<str>,
) -> WindowEvaluation {
    let takes_out = !aggregate.field().data_type().is_floating()
        && aggregate.create_sliding_accumulator().is_ok_and(|a| a.supports_retract_batch());
    let kept = filter.clone().map(|expr| Scalar { expr, text: Arc::clone(text) });
    if frame.is_ever_expanding() {
        let expr: Arc<dyn WindowExpr> = Arc::new(PlainAggregateWindowExpr::new(
            Arc::clone(&aggregate),
            &[],
            order,
            frame,
            filter,
        ));
        return match reach {
            Reach::Before { .. } => {
                let exclusion = None;
                let of = FrameAggregate { aggregate, frame: expr, filter: kept, exclusion };
                WindowEvaluation::Growing(of)
            }
            _ => WindowEvaluation::Whole(expr),
        };
    }
    let of = each_frame(aggregate, order, frame, kept, None);
    if takes_out { WindowEvaluation::Whole(of.frame) } else { WindowEvaluation::EachFrame(of) }
}

/// A window function of DataFusion over its arguments.
#[derive(Debug)]
struct Partitioned {
    function: Arc<WindowUDF>,
    args: Vec<Arc<dyn PhysicalExpr>>,
    fields: Vec<FieldRef>,
    name: String,
    ignore_nulls: bool,
}

impl Partitioned {
    fn new(
        function: &Arc<WindowUDF>,
        args: Vec<Arc<dyn PhysicalExpr>>,
        schema: &Schema,
        name: &str,
        ignore_nulls: bool,
    ) -> DataFusionResult<Self> {
        let fields =
            args.iter().map(|a| a.return_field(schema)).collect::<DataFusionResult<_>>()?;
        let (function, name) = (Arc::clone(function), name.to_string());
        let partitioned = Partitioned { function, args, fields, name, ignore_nulls };
        // Says now, rather than at the first row, what is wrong with the arguments.
        partitioned.create_evaluator()?;
        Ok(partitioned)
    }
}

impl StandardWindowFunctionExpr for Partitioned {
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn field(&self) -> DataFusionResult<FieldRef> {
        self.function.field(WindowUDFFieldArgs::new(&self.fields, &self.name))
    }

    fn expressions(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        self.function.expressions(ExpressionArgs::new(&self.args, &self.fields))
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn create_evaluator(&self) -> DataFusionResult<Box<dyn PartitionEvaluator>> {
        self.function.partition_evaluator_factory(PartitionEvaluatorArgs::new(
            &self.args,
            &self.fields,
            false,
            self.ignore_nulls,
        ))
    }

    fn limit_effect(&self) -> LimitEffect {
        self.function.inner().limit_effect(&self.args)
    }
}
