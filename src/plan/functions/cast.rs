//! Casts as in PostgreSQL, in the place of Arrow's where those differ: floats and decimals round to integers,
//! text is read and written in PostgreSQL's forms, VARCHAR(n) cuts.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array,
    Decimal256Array, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array,
    IntervalMonthDayNanoArray, ListBuilder, StringArray, StringBuilder, Time64MicrosecondArray,
};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{
    DataType, Date32Type, Decimal256Type, Field, FieldRef, Float32Type, Float64Type, Int64Type,
    IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, TimeUnit,
    i256,
};
use arrow::util::display::FormatOptions;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, Result, exec_datafusion_err, exec_err, internal_err};
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility, expr_rewriter::NamePreserver,
};

use super::calendar::MICROS_PER_DAY;
use super::{arithmetic, interval, jsonb, like, read, regex, written};
use crate::model::schema::{SqlField, SqlType};

/// An error, not NULL, where a value does not fit.
const STRICT: CastOptions<'static> =
    CastOptions { safe: false, format_options: FormatOptions::new() };

/// The significant digits of a float's text when it becomes a decimal.
const DOUBLE_DIGITS: usize = 15;
const REAL_DIGITS: usize = 6;

/// Puts PostgreSQL's meaning in the place of Arrow's, in a plan whose types agree.
pub fn in_plan(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mended = plan.transform_up_with_subqueries(|plan| {
        let schema = merge_schema(&plan.inputs());
        let names = NamePreserver::new(&plan);
        let mended = plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let mended = expr.transform_up(|expr| in_expr(expr, &schema))?;
            Ok(mended.update_data(|expr| name.restore(expr)))
        })?;
        mended.map_data(interval::in_plan)?.map_data(LogicalPlan::recompute_schema)
    })?;
    Ok(mended.data)
}

fn in_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::Cast(written) = &expr else {
        let read = regex::in_expr(expr, schema)?;
        if read.transformed {
            return Ok(read);
        }
        let like = like::in_expr(read.data, schema)?;
        if like.transformed {
            return Ok(like);
        }
        return arithmetic::in_expr(like.data, schema);
    };
    let from = written.expr.to_field(schema)?.1;
    if !differs(&from, &written.field) {
        return Ok(Transformed::no(expr));
    }
    let Expr::Cast(cast) = expr else { return internal_err!("it was a cast before") };
    let function = ScalarUDF::new_from_impl(Cast::new(&from, cast.field));
    Ok(Transformed::yes(function.call(vec![*cast.expr])))
}

/// The type that a function casts to, when it is one of these casts.
pub fn target(function: &ScalarUDF) -> Option<SqlType> {
    let any: &dyn Any = function.inner().as_ref();
    let cast = any.downcast_ref::<Cast>()?;
    Some(SqlField::from_arrow(&cast.to).map_or(SqlType::Text, |field| field.sql_type))
}

/// Number of characters that a cast to VARCHAR keeps.
fn length(to: &Field) -> Option<usize> {
    let note = to.metadata().get(crate::model::schema::SQL_TYPE_KEY)?;
    note.strip_prefix("varchar(")?.strip_suffix(')')?.parse().ok()
}

fn is_jsonb(field: &Field) -> bool {
    field.metadata().get(crate::model::schema::SQL_TYPE_KEY).is_some_and(|note| note == "jsonb")
}

fn sql_type(field: &Field) -> Option<SqlType> {
    SqlField::from_arrow(field).ok().map(|field| field.sql_type)
}

fn is_decimal(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Decimal128(..) | DataType::Decimal256(..))
}

fn differs(from: &Field, to: &Field) -> bool {
    let (source, target) = (from.data_type(), to.data_type());
    if source.is_null() {
        return false;
    }
    let is_text = |t: &DataType| t.is_string();
    let note =
        |field: &Field| sql_type(field).filter(|t| matches!(t, SqlType::Uuid | SqlType::Json));
    match (source, target) {
        (s, t) if is_text(s) && is_text(t) => {
            length(to).is_some() || is_jsonb(to) || note(from) != note(to)
        }
        (s, t) if is_text(s) => {
            t.is_floating()
                || is_decimal(t)
                || note(from).is_some()
                || matches!(
                    t,
                    DataType::Boolean
                        | DataType::Date32
                        | DataType::Timestamp(..)
                        | DataType::Interval(_)
                        | DataType::Time64(_)
                        | DataType::Binary
                        | DataType::List(_)
                )
        }
        (s, t) if is_text(t) => {
            length(to).is_some()
                || s.is_floating()
                || matches!(
                    s,
                    DataType::Date32
                        | DataType::Timestamp(..)
                        | DataType::Interval(_)
                        | DataType::Time64(_)
                        | DataType::Binary
                        | DataType::List(_)
                )
        }
        (DataType::Timestamp(..) | DataType::Interval(_), DataType::Time64(_))
        | (DataType::Time64(_), DataType::Interval(_)) => true,
        (s, t) if s.is_floating() || is_decimal(s) => {
            t.is_integer()
                || (s.is_floating() && is_decimal(t))
                || (is_decimal(s) && t.is_floating())
                || matches!((s, t), (DataType::Float64, DataType::Float32))
        }
        (DataType::Timestamp(..) | DataType::Date32, DataType::Timestamp(..)) => {
            digits(from) > digits(to)
        }
        _ => false,
    }
}

/// The digits of a second that a timestamp has.
fn digits(field: &Field) -> u8 {
    match sql_type(field) {
        Some(SqlType::Timestamp { precision, .. }) => precision,
        _ => 0,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Cast {
    from_json: bool,
    to: FieldRef,
    signature: Signature,
}

impl Cast {
    fn new(from: &Field, to: FieldRef) -> Self {
        let from_json = sql_type(from) == Some(SqlType::Json);
        Cast { from_json, to, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Cast {
    fn name(&self) -> &str {
        "cast"
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args[0].schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.data_type().clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let nullable = args.arg_fields[0].is_nullable();
        Ok(Arc::new(self.to.as_ref().clone().with_name("cast").with_nullable(nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let array = match arrays[0].data_type() {
            DataType::LargeUtf8 | DataType::Utf8View => cast(&arrays[0], &DataType::Utf8)?,
            _ => Arc::clone(&arrays[0]),
        };
        let value = match array.data_type() {
            DataType::Utf8 if self.from_json && !self.to.data_type().is_string() => {
                self.json(array.as_string())?
            }
            DataType::Utf8 => self.text(array.as_string())?,
            _ if self.to.data_type().is_string() => self.to_text(&array)?,
            _ => self.number(&array)?,
        };
        Ok(ColumnarValue::Array(value))
    }
}

/// One value for each that is not NULL.
fn each<'a, T, V>(
    values: impl Iterator<Item = Option<T>> + 'a,
    of: impl Fn(T) -> Result<V> + 'a,
) -> impl Iterator<Item = Result<Option<V>>> + 'a {
    values.map(move |value| value.map(&of).transpose())
}

impl Cast {
    fn to_text(&self, array: &ArrayRef) -> Result<ArrayRef> {
        let texts = written::texts(array, false)?;
        self.cut(texts)
    }

    fn cut(&self, texts: StringArray) -> Result<ArrayRef> {
        let Some(length) = length(&self.to) else { return Ok(Arc::new(texts)) };
        let cut = |text: &str| match text.char_indices().nth(length) {
            Some((end, _)) => text[..end].to_string(),
            None => text.to_string(),
        };
        let texts: StringArray = texts.iter().map(|text| text.map(cut)).collect();
        Ok(Arc::new(texts))
    }

    fn text(&self, texts: &StringArray) -> Result<ArrayRef> {
        let values = texts.iter();
        Ok(match self.to.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => match sql_type(&self.to) {
                Some(SqlType::Uuid) => {
                    Arc::new(each(values, read::uuid).collect::<Result<StringArray>>()?)
                }
                Some(SqlType::Json) if is_jsonb(&self.to) => {
                    Arc::new(each(values, jsonb::canonical).collect::<Result<StringArray>>()?)
                }
                Some(SqlType::Json) => {
                    let json = |text: &str| -> Result<String> {
                        let valid = serde_json::from_str::<serde::de::IgnoredAny>(text);
                        match valid {
                            Ok(_) => Ok(text.to_string()),
                            Err(_) => exec_err!("invalid input syntax for type json: \"{text}\""),
                        }
                    };
                    Arc::new(each(values, json).collect::<Result<StringArray>>()?)
                }
                _ => self.cut(texts.clone())?,
            },
            DataType::Boolean => {
                Arc::new(each(values, read::boolean).collect::<Result<BooleanArray>>()?)
            }
            DataType::Float64 => {
                Arc::new(each(values, read::double).collect::<Result<Float64Array>>()?)
            }
            DataType::Float32 => {
                Arc::new(each(values, read::real).collect::<Result<Float32Array>>()?)
            }
            DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
                let of = |text: &str| read::decimal(text, *precision, *scale);
                decimals(each(values, of), self.to.data_type())?
            }
            DataType::Date32 => {
                Arc::new(each(values, read::date).collect::<Result<Date32Array>>()?)
            }
            DataType::Timestamp(_, zone) => {
                let of = if zone.is_some() { read::timestamptz } else { read::timestamp };
                let micros = each(values, of).collect::<Result<Int64Array>>()?;
                self.timestamps(&micros)?
            }
            DataType::Time64(_) => {
                Arc::new(each(values, read::time).collect::<Result<Time64MicrosecondArray>>()?)
            }
            DataType::Interval(_) => {
                let values = each(values, read::interval);
                Arc::new(values.collect::<Result<IntervalMonthDayNanoArray>>()?)
            }
            DataType::Binary => {
                let bytes = each(values, read::bytes).collect::<Result<Vec<_>>>()?;
                Arc::new(BinaryArray::from_iter(bytes))
            }
            DataType::List(item) => self.list(texts, item)?,
            other => cast_with_options(texts, other, &STRICT)?,
        })
    }

    /// The array of what is read as texts, of which each is read as an item.
    fn list(&self, texts: &StringArray, item: &FieldRef) -> Result<ArrayRef> {
        let field = Field::new(item.name(), DataType::Utf8, true);
        let mut lists = ListBuilder::new(StringBuilder::new()).with_field(field);
        for text in texts {
            match text {
                None => lists.append_null(),
                Some(text) => {
                    for item in read::array(text)? {
                        lists.values().append_option(item);
                    }
                    lists.append(true);
                }
            }
        }
        let lists = lists.finish();
        let text = Field::new("text", DataType::Utf8, true);
        let of_item = Cast::new(&text, Arc::clone(item));
        let values = of_item.text(lists.values().as_string())?;
        let (_, offsets, _, nulls) = lists.into_parts();
        let list = arrow::array::ListArray::try_new(Arc::clone(item), offsets, values, nulls)?;
        Ok(Arc::new(list))
    }

    /// A JSON number or truth value as one of SQL.
    fn json(&self, texts: &StringArray) -> Result<ArrayRef> {
        let to = self.to.data_type();
        let scalar = |text: &str| -> Result<String> {
            let text = text.trim();
            let fits = match to {
                DataType::Boolean => text == "true" || text == "false",
                t if t.is_numeric() => text.starts_with(|c: char| c == '-' || c.is_ascii_digit()),
                _ => false,
            };
            if fits {
                return Ok(text.to_string());
            }
            exec_err!(
                "cannot cast jsonb {text} to type {}",
                SqlField::from_arrow(&self.to).map_or(SqlType::Text, |f| f.sql_type)
            )
        };
        let texts = each(texts.iter(), scalar).collect::<Result<StringArray>>()?;
        if to.is_integer() {
            // As a number first, which then rounds.
            let number: FieldRef =
                Arc::new(Field::new("number", DataType::Decimal256(76, 20), true));
            let from = Field::new("text", DataType::Utf8, true);
            return self.number(&Cast::new(&from, number).text(&texts)?);
        }
        self.text(&texts)
    }

    /// Numbers and times, of each other.
    fn number(&self, array: &ArrayRef) -> Result<ArrayRef> {
        let to = self.to.data_type();
        let (source, target) = (array.data_type(), to);
        match (source, target) {
            (DataType::Float16 | DataType::Float32 | DataType::Float64, t) if t.is_integer() => {
                let values = cast(array, &DataType::Float64)?;
                let round = |value: f64| -> Result<i64> {
                    let rounded = value.round_ties_even();
                    // 2^63 itself is out of range, -2^63 is not.
                    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0)
                        .contains(&rounded)
                    {
                        Ok(rounded as i64)
                    } else {
                        exec_err!("{} out of range", self.type_name())
                    }
                };
                let values = each(values.as_primitive::<Float64Type>().iter(), round);
                self.integers(&values.collect::<Result<Int64Array>>()?)
            }
            (s, t) if is_decimal(s) && t.is_integer() => {
                let scale = scale(s);
                let values = wide(array)?;
                let round = |value: i256| -> Result<i64> {
                    match rounded(value, scale).to_i128().and_then(|v| i64::try_from(v).ok()) {
                        Some(value) => Ok(value),
                        None => exec_err!("{} out of range", self.type_name()),
                    }
                };
                let values = each(values.as_primitive::<Decimal256Type>().iter(), round);
                self.integers(&values.collect::<Result<Int64Array>>()?)
            }
            (DataType::Float32, t) if is_decimal(t) => {
                let values = array.as_primitive::<Float32Type>();
                let of = |value: f32| {
                    self.decimal(f64::from(value), &format!("{value:.*e}", REAL_DIGITS - 1))
                };
                decimals(each(values.iter(), of), t)
            }
            (DataType::Float64, t) if is_decimal(t) => {
                let values = array.as_primitive::<Float64Type>();
                let of =
                    |value: f64| self.decimal(value, &format!("{value:.*e}", DOUBLE_DIGITS - 1));
                decimals(each(values.iter(), of), t)
            }
            (s, DataType::Float64) if is_decimal(s) => {
                let texts = written::texts(array, false)?;
                Ok(Arc::new(each(texts.iter(), read::double).collect::<Result<Float64Array>>()?))
            }
            (s, DataType::Float32) if is_decimal(s) => {
                let texts = written::texts(array, false)?;
                Ok(Arc::new(each(texts.iter(), read::real).collect::<Result<Float32Array>>()?))
            }
            (DataType::Float64, DataType::Float32) => {
                let narrow = |value: f64| -> Result<f32> {
                    let narrow = value as f32;
                    if narrow.is_infinite() && value.is_finite() {
                        return exec_err!("value out of range: overflow");
                    }
                    if narrow == 0.0 && value != 0.0 {
                        return exec_err!("value out of range: underflow");
                    }
                    Ok(narrow)
                };
                let values = each(array.as_primitive::<Float64Type>().iter(), narrow);
                Ok(Arc::new(values.collect::<Result<Float32Array>>()?))
            }
            (DataType::Date32, DataType::Timestamp(..)) => {
                let days = array.as_primitive::<Date32Type>();
                let micros = |days: i32| Ok(i64::from(days) * MICROS_PER_DAY);
                self.timestamps(&each(days.iter(), micros).collect::<Result<Int64Array>>()?)
            }
            (DataType::Timestamp(..), DataType::Timestamp(..)) => {
                let micros = written::micros_of(array)?;
                self.timestamps(micros.as_primitive::<Int64Type>())
            }
            (DataType::Timestamp(..), DataType::Time64(_)) => {
                let micros = written::micros_of(array)?;
                let of = |micros: i64| Ok(micros.rem_euclid(MICROS_PER_DAY));
                let times = each(micros.as_primitive::<Int64Type>().iter(), of);
                Ok(Arc::new(times.collect::<Result<Time64MicrosecondArray>>()?))
            }
            (DataType::Interval(_), DataType::Time64(_)) => {
                let spans = cast(array, &DataType::Interval(IntervalUnit::MonthDayNano))?;
                let of =
                    |v: IntervalMonthDayNano| Ok((v.nanoseconds / 1000).rem_euclid(MICROS_PER_DAY));
                let times = each(spans.as_primitive::<IntervalMonthDayNanoType>().iter(), of);
                Ok(Arc::new(times.collect::<Result<Time64MicrosecondArray>>()?))
            }
            (DataType::Time64(_), DataType::Interval(_)) => {
                let micros = cast(array, &DataType::Time64(TimeUnit::Microsecond))?;
                let of = |micros: i64| Ok(IntervalMonthDayNano::new(0, 0, micros * 1000));
                let spans = each(micros.as_primitive::<Time64MicrosecondType>().iter(), of);
                Ok(Arc::new(spans.collect::<Result<IntervalMonthDayNanoArray>>()?))
            }
            _ => Ok(cast_with_options(array, to, &STRICT)?),
        }
    }

    fn type_name(&self) -> String {
        sql_type(&self.to).map_or_else(String::new, |t| t.to_string().to_lowercase())
    }

    fn decimal(&self, value: f64, text: &str) -> Result<i256> {
        let (precision, scale) = match self.to.data_type() {
            DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
                (*precision, *scale)
            }
            other => return internal_err!("{other} is no decimal"),
        };
        if !value.is_finite() {
            return exec_err!("{} is no value of a DECIMAL column", written::double(value));
        }
        read::decimal(text, precision, scale)
    }

    fn integers(&self, values: &Int64Array) -> Result<ArrayRef> {
        let out_of_range = || exec_datafusion_err!("{} out of range", self.type_name());
        let values = values.iter();
        Ok(match self.to.data_type() {
            DataType::Int16 => {
                let of = |v: i64| i16::try_from(v).map_err(|_| out_of_range());
                Arc::new(each(values, of).collect::<Result<Int16Array>>()?)
            }
            DataType::Int32 => {
                let of = |v: i64| i32::try_from(v).map_err(|_| out_of_range());
                Arc::new(each(values, of).collect::<Result<Int32Array>>()?)
            }
            DataType::Int64 => Arc::new(values.collect::<Int64Array>()),
            other => {
                let values: ArrayRef = Arc::new(values.collect::<Int64Array>());
                cast_with_options(&values, other, &STRICT)?
            }
        })
    }

    /// Microseconds as timestamps of the type's digits, rounded.
    fn timestamps(&self, micros: &Int64Array) -> Result<ArrayRef> {
        let DataType::Timestamp(unit, zone) = self.to.data_type() else {
            return internal_err!("it casts to a timestamp");
        };
        let step = 10_i64.pow(6 - u32::from(digits(&self.to).min(6)));
        // Half away from the epoch, as PostgreSQL rounds.
        let round = |value: i64| match value >= 0 {
            true => (value + step / 2) / step * step,
            false => -((-value + step / 2) / step * step),
        };
        let rounded: ArrayRef = Arc::new(micros.unary::<_, Int64Type>(round));
        let as_micros = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
        let rounded = cast(&rounded, &as_micros)?;
        let to = DataType::Timestamp(*unit, zone.clone());
        Ok(cast_with_options(&rounded, &to, &STRICT)?)
    }
}

fn scale(data_type: &DataType) -> i8 {
    match data_type {
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => *scale,
        _ => 0,
    }
}

/// Decimals in 256 bits.
fn wide(array: &ArrayRef) -> Result<ArrayRef> {
    let scale = scale(array.data_type());
    Ok(cast_with_options(array, &DataType::Decimal256(76, scale), &STRICT)?)
}

/// An unscaled number without its digits behind the point, half away from zero.
fn rounded(value: i256, scale: i8) -> i256 {
    let unit = i256::from_i128(10).wrapping_pow(scale.max(0) as u32);
    let half = unit / i256::from_i128(2);
    let away = if value >= i256::ZERO { half } else { half.wrapping_neg() };
    value.wrapping_add(away) / unit
}

fn decimals(
    values: impl Iterator<Item = Result<Option<i256>>>,
    data_type: &DataType,
) -> Result<ArrayRef> {
    let values: Vec<Option<i256>> = values.collect::<Result<_>>()?;
    Ok(match data_type {
        DataType::Decimal128(precision, scale) => {
            let narrow = values.into_iter().map(|value| value.map(|v| v.as_i128()));
            let array: Decimal128Array = narrow.collect();
            Arc::new(array.with_precision_and_scale(*precision, *scale)?)
        }
        DataType::Decimal256(precision, scale) => {
            let array: Decimal256Array = values.into_iter().collect();
            Arc::new(array.with_precision_and_scale(*precision, *scale)?)
        }
        other => return internal_err!("{other} is no decimal"),
    })
}
