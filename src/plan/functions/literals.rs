//! Types before DataFusion makes them agree. Numbers that are written in SQL are, without a point, INT where that has
//! room, then BIGINT, then NUMERIC; and what DataFusion would make agree in a type without the room is cast here.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, IntervalUnit, TimeUnit};
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, Result, ScalarValue, TableReference, plan_err};
use datafusion_expr::expr::{Between, Cast};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{
    Expr, ExprSchemable, LogicalPlan, Projection, Union, Values, WindowFunctionDefinition, cast,
    lit, when,
};

use datafusion_optimizer::analyzer::type_coercion::TypeCoercionRewriter;

use super::decimal::Digits;
use crate::model::schema::{SqlField, SqlType};

/// Aggregates of DataFusion whose arguments are counts of theirs.
const COUNTING: [&str; 3] =
    ["nth_value", "approx_percentile_cont", "approx_percentile_cont_with_weight"];

/// Functions whose arguments agree in one type.
const SEVERAL: [&str; 4] = ["coalesce", "greatest", "least", "make_array"];
const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

/// A number as PostgreSQL reads it. (`-2147483648` is the negative of a BIGINT there.)
pub fn narrowed(expr: Expr) -> Expr {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(value)), None) => match i32::try_from(value) {
            Ok(narrow) if narrow != i32::MIN => lit(narrow),
            _ => lit(value),
        },
        Expr::Literal(ScalarValue::UInt64(Some(value)), None) => {
            lit(ScalarValue::Decimal128(Some(i128::from(value)), 20, 0))
        }
        other => other,
    }
}

/// The plan with all its numbers so. The numbers of LIMIT stay, and so do the columns of a recursion, whose
/// types were fixed when its name was read.
pub fn in_plan(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mended = plan.transform_down_up_with_subqueries(
        |plan| {
            Ok(match plan {
                LogicalPlan::RecursiveQuery(_) => {
                    Transformed::new(plan, false, TreeNodeRecursion::Jump)
                }
                plan => Transformed::no(plan),
            })
        },
        |plan| {
            let plan = match plan {
                LogicalPlan::Limit(_) => return Ok(Transformed::no(plan)),
                LogicalPlan::Values(values) => {
                    return Ok(Transformed::yes(LogicalPlan::Values(in_values(values)?)));
                }
                LogicalPlan::Union(union) => {
                    return Ok(Transformed::yes(LogicalPlan::Union(in_union(union)?)));
                }
                plan => plan,
            };
            let names = NamePreserver::new(&plan);
            let schema = merge_schema(&plan.inputs());
            let mended = plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let mended = expr
                    .transform_down(in_expr)?
                    .transform_data(|expr| expr.transform_up(|expr| agreeing(expr, &schema)))?;
                Ok(mended.update_data(|expr| name.restore(expr)))
            })?;
            match mended.transformed {
                true => mended.map_data(LogicalPlan::recompute_schema),
                false => Ok(Transformed::yes(mended.data.recompute_schema()?)),
            }
        },
    )?;
    Ok(mended.data)
}

/// A union whose inputs have columns of one type, where DataFusion would take another one than PostgreSQL.
fn in_union(union: Union) -> Result<Union> {
    let columns = union.schema.fields().len();
    let of = |column: usize| -> Option<DataType> {
        let types = union.inputs.iter().map(|i| i.schema().field(column).data_type().clone());
        common(&types.collect::<Vec<_>>())
    };
    let wanted: Vec<Option<DataType>> = (0..columns).map(of).collect();
    let inputs = union.inputs.into_iter().map(|input| {
        let schema = Arc::clone(input.schema());
        let fits = |(at, wanted): (usize, &Option<DataType>)| {
            wanted.as_ref().is_none_or(|wanted| schema.field(at).data_type() == wanted)
        };
        if wanted.iter().enumerate().all(fits) {
            return Ok(input);
        }
        let exprs = schema.columns().into_iter().zip(&wanted).map(|(column, wanted)| {
            let name = column.name.clone();
            match wanted {
                Some(wanted) => cast(Expr::Column(column), wanted.clone()).alias(name),
                None => Expr::Column(column),
            }
        });
        let plan = Projection::try_new(exprs.collect(), input)?;
        Ok(Arc::new(LogicalPlan::Projection(plan)))
    });
    Union::try_new_with_loose_types(inputs.collect::<Result<_>>()?)
}

/// VALUES whose columns of whole numbers are as wide as the widest number in them.
fn in_values(values: Values) -> Result<Values> {
    let Values { schema, mut values } = values;
    let mut fields: Vec<(Option<TableReference>, FieldRef)> =
        schema.iter().map(|(relation, field)| (relation.cloned(), Arc::clone(field))).collect();
    let nothing = DFSchema::empty();
    for (column, (_, field)) in fields.iter_mut().enumerate() {
        if *field.data_type() != DataType::Int64 {
            continue;
        }
        let exprs = values.iter().map(|row| Ok(row[column].clone().transform_down(in_expr)?.data));
        let exprs: Vec<Expr> = exprs.collect::<Result<_>>()?;
        let is_narrow = |expr: &Expr| {
            let data_type = expr.get_type(&nothing);
            data_type.is_ok_and(|t| t.is_null() || matches!(t, DataType::Int32 | DataType::Int16))
        };
        let null = |expr: &Expr| matches!(expr, Expr::Literal(value, _) if value.is_null());
        if !exprs.iter().all(|expr| null(expr) || is_narrow(expr)) || exprs.iter().all(null) {
            continue;
        }
        for (row, expr) in values.iter_mut().zip(exprs) {
            row[column] = match (null(&expr), expr.get_type(&nothing)?) {
                (true, _) => lit(ScalarValue::Int32(None)),
                (false, DataType::Int32) => expr,
                (false, _) => cast(expr, DataType::Int32),
            };
        }
        *field = Arc::new(field.as_ref().clone().with_data_type(DataType::Int32));
    }
    let schema = DFSchema::new_with_metadata(fields, schema.metadata().clone())?;
    Ok(Values { schema: Arc::new(schema), values })
}

/// The type that values of these types agree in, where DataFusion takes another one: a day is the first instant of its
/// timestamp, decimals may need more than 38 digits.
fn common(types: &[DataType]) -> Option<DataType> {
    let known = || types.iter().filter(|t| !t.is_null());
    // PostgreSQL prefers floats, and of those the longer ones.
    if known().any(DataType::is_floating) && known().any(DataType::is_decimal) {
        let numbers = known().all(DataType::is_numeric);
        let double = known().any(|t| *t == DataType::Float64);
        let float = if double { DataType::Float64 } else { DataType::Float32 };
        return numbers.then_some(float);
    }
    let times = known().filter(|t| matches!(t, DataType::Timestamp(..)));
    let is_time = |t: &DataType| matches!(t, DataType::Timestamp(..) | DataType::Date32);
    let zone = |t: &&DataType| matches!(t, DataType::Timestamp(_, Some(_)));
    let zones = times.clone().filter(zone).count();
    let differ =
        known().any(|t| *t == DataType::Date32) || (zones > 0 && zones < times.clone().count());
    if known().all(is_time) && differ {
        let finest = |t: &&DataType| match t {
            DataType::Timestamp(unit, _) => *unit,
            _ => TimeUnit::Second,
        };
        let finest = times.clone().map(|t| finest(&t)).max()?;
        // An instant where one of them is one.
        let zone = (zones > 0).then(|| "UTC".into());
        return Some(DataType::Timestamp(finest, zone));
    }
    if !known().any(DataType::is_decimal) {
        return None;
    }
    let digits = known().map(Digits::of).collect::<Option<Vec<_>>>()?;
    let both = digits.into_iter().reduce(Digits::both)?;
    let wide = both.data_type(both.scale);
    matches!(wide, DataType::Decimal256(..)).then_some(wide)
}

/// Casts those of the values that are not of the type that all agree in.
fn agree(mut values: Vec<&mut Expr>, schema: &DFSchema) -> bool {
    let is_interval = |e: &Expr| matches!(e.get_type(schema), Ok(DataType::Interval(_)));
    if values.iter().any(|value| is_interval(value)) {
        let mut changed = false;
        for value in &mut values {
            if is_quoted(value) {
                **value = cast(std::mem::take(*value), INTERVAL);
                changed = true;
            }
        }
        return changed;
    }
    let types: Option<Vec<DataType>> = values.iter().map(|e| e.get_type(schema).ok()).collect();
    let Some(types) = types else { return false };
    let Some(common) = common(&types) else { return false };
    for (value, of) in values.into_iter().zip(types) {
        if of != common {
            *value = cast(std::mem::take(value), common.clone());
        }
    }
    true
}

/// A literal in quotes.
pub fn is_quoted(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(ScalarValue::Utf8(Some(_)), _))
}

/// An expression of several values with the type that it will have, before something is made of it whose meaning
/// depends on the type.
pub fn settled(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let values: Vec<&Expr> = match &expr {
        Expr::Case(case) => {
            let results = case.when_then_expr.iter().map(|(_, then)| then.as_ref());
            results.chain(case.else_expr.as_deref()).collect()
        }
        Expr::ScalarFunction(call) if SEVERAL.contains(&call.func.name()) => {
            call.args.iter().collect()
        }
        _ => return Ok(expr),
    };
    let types: Vec<DataType> = values.iter().filter_map(|v| v.get_type(schema).ok()).collect();
    let mixed = types.iter().any(DataType::is_decimal)
        && types.iter().any(|t| t.is_integer() || t.is_floating());
    let is_query = |expr: &Expr| {
        Ok(matches!(
            expr,
            Expr::ScalarSubquery(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
        ))
    };
    if !mixed || expr.exists(is_query)? {
        return Ok(expr);
    }
    let expr = expr.transform_down(in_expr)?.data;
    let expr = expr.transform_up(|expr| agreeing(expr, schema))?.data;
    Ok(expr.rewrite(&mut TypeCoercionRewriter::new(schema))?.data)
}

/// The expression as one of the type that all its values have, where that is a text of a special kind: such a
/// type is forgotten on its way through CASE and the like.
fn of_one_kind(expr: Expr, values: &[Expr], schema: &DFSchema) -> Expr {
    let kind = |value: &Expr| {
        let field = value.to_field(schema).ok()?.1;
        let found = SqlField::from_arrow(&field).ok()?;
        matches!(found.sql_type, SqlType::Uuid | SqlType::Json).then_some(field)
    };
    let typed: Vec<&Expr> = values
        .iter()
        .filter(|value| !is_quoted(value) && !matches!(value, Expr::Literal(v, _) if v.is_null()))
        .collect();
    let kinds: Option<Vec<FieldRef>> = typed.into_iter().map(kind).collect();
    match kinds.as_deref() {
        Some([first, others @ ..]) if others.iter().all(|f| f.metadata() == first.metadata()) => {
            let field = first.as_ref().clone().with_nullable(true);
            Expr::Cast(Cast::new_from_field(Box::new(expr), Arc::new(field)))
        }
        _ => expr,
    }
}

fn agreeing(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::Case(mut case) => {
            let results = case.when_then_expr.iter_mut().map(|(_, then)| then.as_mut());
            let results = results.chain(case.else_expr.as_deref_mut()).collect();
            agree(results, schema);
            let results = case.when_then_expr.iter().map(|(_, then)| then.as_ref());
            let values: Vec<Expr> = results.chain(case.else_expr.as_deref()).cloned().collect();
            Transformed::yes(of_one_kind(Expr::Case(case), &values, schema))
        }
        Expr::Between(mut between) => {
            let Between { expr, low, high, .. } = &mut between;
            let changed = agree(vec![expr, low, high], schema);
            Transformed::new(Expr::Between(between), changed, TreeNodeRecursion::Continue)
        }
        Expr::InList(mut list) => {
            let values = std::iter::once(list.expr.as_mut()).chain(list.list.iter_mut()).collect();
            let changed = agree(values, schema);
            Transformed::new(Expr::InList(list), changed, TreeNodeRecursion::Continue)
        }
        Expr::ScalarFunction(mut call) if SEVERAL.contains(&call.func.name()) => {
            agree(call.args.iter_mut().collect(), schema);
            let values = call.args.clone();
            let is_one = call.func.name() != "make_array";
            let call = Expr::ScalarFunction(call);
            Transformed::yes(if is_one { of_one_kind(call, &values, schema) } else { call })
        }
        // The result has the type of the first argument.
        Expr::ScalarFunction(call) if call.func.name() == "nullif" && call.args.len() == 2 => {
            let mut args = call.args;
            let (Some(other), Some(value)) = (args.pop(), args.pop()) else {
                return plan_err!("nullif takes two arguments");
            };
            let (mut one, mut two) = (value.clone(), other);
            agree(vec![&mut one, &mut two], schema);
            let null = Expr::Literal(ScalarValue::try_from(&value.get_type(schema)?)?, None);
            let values = [value.clone()];
            let case = when(one.eq(two), null).otherwise(value)?;
            Transformed::yes(of_one_kind(case, &values, schema))
        }
        other => Transformed::no(other),
    })
}

fn in_expr(expr: Expr) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::WindowFunction(function)
            if matches!(function.fun, WindowFunctionDefinition::WindowUDF(_)) =>
        {
            // Its arguments are counts of rows.
            Transformed::new(Expr::WindowFunction(function), false, TreeNodeRecursion::Jump)
        }
        Expr::AggregateFunction(function) if COUNTING.contains(&function.func.name()) => {
            Transformed::new(Expr::AggregateFunction(function), false, TreeNodeRecursion::Jump)
        }
        Expr::Literal(ScalarValue::Int64(Some(_)) | ScalarValue::UInt64(Some(_)), None) => {
            Transformed::yes(narrowed(expr))
        }
        other => Transformed::no(other),
    })
}
