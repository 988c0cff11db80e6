//! Functions that are computed row by row: what they take, what they give, and a function from one row's values
//! to the result. NULL among the arguments gives NULL, unless the function asks for it.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Float64Array, Int32Array,
    Int64Array, IntervalMonthDayNanoArray, ListArray, ListBuilder, StringArray, StringBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Field, FieldRef, Float64Type, Int64Type, IntervalMonthDayNano,
    IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
};
use datafusion_common::{Result, exec_datafusion_err, exec_err, internal_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::written;
use crate::model::schema::{SqlField, SqlType};

/// The days of PostgreSQL's dates: from 4714-11-24 BC to 5874897-12-31.
const DATE_MIN: i64 = -2_440_588;
const DATE_MAX: i64 = 2_145_042_905;

/// The digits of a decimal that a function makes of a number of 64 bits.
const DIGITS: u8 = 20;

/// The type of an argument or a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Text,
    Bytes,
    Boolean,
    /// Read as 64 bits; as a result in 32.
    Int,
    BigInt,
    Double,
    /// A decimal of this scale, as a result only: the number of its last digit.
    Decimal(i8),
    Date,
    Timestamp,
    TimestampTz,
    Interval,
    /// A time of day.
    Time,
    /// JSON as text; a result is of the type JSON.
    Json,
    /// An array of texts.
    Texts,
}

/// A value of a row.
#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Text(String),
    Bytes(Vec<u8>),
    Boolean(bool),
    /// Integers, days, microseconds since the epoch or midnight, unscaled decimals.
    Int(i64),
    Double(f64),
    Interval(IntervalMonthDayNano),
    Texts(Vec<Option<String>>),
}

/// Computes the result for one row.
pub type Of = fn(&CallRow<'_>) -> Result<Value>;

/// The types that a function takes and gives, and its computation.
pub struct Overload {
    pub arguments: &'static [Type],
    pub result: Type,
    pub of: Of,
}

pub const fn overload(arguments: &'static [Type], result: Type, of: Of) -> Overload {
    Overload { arguments, result, of }
}

/// The function of these overloads, the most specific ones first; what none takes goes to `inner`.
pub fn function(
    name: &'static str,
    aliases: &[&str],
    overloads: &'static [Overload],
    inner: Option<Arc<ScalarUDF>>,
) -> Arc<ScalarUDF> {
    let aliases = aliases.iter().map(|alias| alias.to_string()).collect();
    let signature = Signature::user_defined(Volatility::Immutable);
    let strict = true;
    let function = RowFunction { name, aliases, overloads, inner, strict, signature };
    Arc::new(ScalarUDF::new_from_impl(function))
}

/// A function that is called for NULLs, too.
pub fn function_of_nulls(name: &'static str, overloads: &'static [Overload]) -> Arc<ScalarUDF> {
    let (aliases, inner, strict) = (Vec::new(), None, false);
    let signature = Signature::user_defined(Volatility::Immutable);
    let function = RowFunction { name, aliases, overloads, inner, strict, signature };
    Arc::new(ScalarUDF::new_from_impl(function))
}

impl Type {
    fn arrow(self) -> DataType {
        let micros = |zone: Option<Arc<str>>| DataType::Timestamp(TimeUnit::Microsecond, zone);
        match self {
            Type::Text | Type::Json => DataType::Utf8,
            Type::Texts => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
            Type::Bytes => DataType::Binary,
            Type::Boolean => DataType::Boolean,
            Type::Int => DataType::Int32,
            Type::BigInt => DataType::Int64,
            Type::Double => DataType::Float64,
            Type::Decimal(scale) => DataType::Decimal128(DIGITS, scale),
            Type::Date => DataType::Date32,
            Type::Timestamp => micros(None),
            Type::TimestampTz => micros(Some("UTC".into())),
            Type::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            Type::Time => DataType::Time64(TimeUnit::Microsecond),
        }
    }

    /// As what an argument of this type is read. The width of an integer stays, since it decides what the
    /// function is.
    fn read(self, given: &DataType) -> DataType {
        match self {
            Type::Int if *given == DataType::Int64 => DataType::Int64,
            other => other.arrow(),
        }
    }

    /// Whether it takes values of this type: exactly, or with a conversion that PostgreSQL makes, too.
    fn takes(self, given: &DataType, exactly: bool) -> bool {
        if given.is_null() {
            return true;
        }
        match self {
            Type::Text | Type::Json => given.is_string(),
            Type::Texts => match given {
                DataType::List(item) => item.data_type().is_string() || item.data_type().is_null(),
                _ => false,
            },
            Type::Bytes => {
                matches!(given, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
            }
            Type::Boolean => *given == DataType::Boolean,
            Type::Int => {
                matches!(given, DataType::Int8 | DataType::Int16 | DataType::Int32)
                    || (!exactly && *given == DataType::Int64)
            }
            Type::BigInt => given.is_integer(),
            Type::Double => given.is_floating() || (!exactly && given.is_numeric()),
            Type::Decimal(_) => given.is_decimal(),
            Type::Date => matches!(given, DataType::Date32 | DataType::Date64),
            Type::Timestamp => {
                matches!(given, DataType::Timestamp(_, None))
                    || (!exactly && *given == DataType::Date32)
            }
            Type::TimestampTz => matches!(given, DataType::Timestamp(_, Some(_))),
            Type::Time => matches!(given, DataType::Time32(_) | DataType::Time64(_)),
            Type::Interval => {
                matches!(given, DataType::Interval(_))
                    || (!exactly && matches!(given, DataType::Duration(_)))
            }
        }
    }
}

enum Column {
    Text(StringArray),
    Bytes(BinaryArray),
    Boolean(BooleanArray),
    Int(Int64Array),
    Double(Float64Array),
    Interval(IntervalMonthDayNanoArray),
    Texts(ListArray),
}

/// The arguments' values in a row.
pub struct CallRow<'a> {
    columns: &'a [Column],
    at: usize,
}

impl<'a> CallRow<'a> {
    pub fn text(&self, argument: usize) -> &'a str {
        match &self.columns[argument] {
            Column::Text(values) => values.value(self.at),
            _ => "",
        }
    }

    /// The elements of an array.
    pub fn texts(&self, argument: usize) -> Vec<Option<String>> {
        match &self.columns[argument] {
            Column::Texts(lists) => {
                let items = lists.value(self.at);
                items.as_string::<i32>().iter().map(|item| item.map(str::to_string)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Number of arguments.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    pub fn is_array(&self, argument: usize) -> bool {
        matches!(self.columns[argument], Column::Texts(_))
    }

    pub fn is_null(&self, argument: usize) -> bool {
        self.columns[argument].is_null(self.at)
    }

    pub fn bytes(&self, argument: usize) -> &'a [u8] {
        match &self.columns[argument] {
            Column::Bytes(values) => values.value(self.at),
            _ => &[],
        }
    }

    /// An integer, a day, or microseconds since the epoch.
    pub fn int(&self, argument: usize) -> i64 {
        match &self.columns[argument] {
            Column::Int(values) => values.value(self.at),
            Column::Boolean(values) => i64::from(values.value(self.at)),
            _ => 0,
        }
    }

    /// The same of an argument that may be left out.
    pub fn int_or(&self, argument: usize, otherwise: i64) -> i64 {
        if argument < self.columns.len() { self.int(argument) } else { otherwise }
    }

    pub fn double(&self, argument: usize) -> f64 {
        match &self.columns[argument] {
            Column::Double(values) => values.value(self.at),
            _ => 0.0,
        }
    }

    pub fn interval(&self, argument: usize) -> IntervalMonthDayNano {
        match &self.columns[argument] {
            Column::Interval(values) => values.value(self.at),
            _ => IntervalMonthDayNano::default(),
        }
    }
}

impl Column {
    fn new(array: &ArrayRef, of: Type) -> Result<Column> {
        let array = &match of {
            Type::Int | Type::BigInt => cast(array, &DataType::Int64)?,
            of => cast(array, &of.arrow())?,
        };
        Ok(match of {
            Type::Text | Type::Json => Column::Text(array.as_string::<i32>().clone()),
            Type::Texts => Column::Texts(array.as_list::<i32>().clone()),
            Type::Bytes => Column::Bytes(array.as_binary::<i32>().clone()),
            Type::Boolean => Column::Boolean(array.as_boolean().clone()),
            Type::Int | Type::BigInt => Column::Int(array.as_primitive::<Int64Type>().clone()),
            Type::Double => Column::Double(array.as_primitive::<Float64Type>().clone()),
            Type::Date => {
                let days = array.as_primitive::<Date32Type>();
                Column::Int(days.unary::<_, Int64Type>(i64::from))
            }
            Type::Timestamp | Type::TimestampTz => {
                Column::Int(written::micros_of(array)?.as_primitive::<Int64Type>().clone())
            }
            Type::Time => Column::Int(cast(array, &DataType::Int64)?.as_primitive().clone()),
            Type::Interval => {
                Column::Interval(array.as_primitive::<IntervalMonthDayNanoType>().clone())
            }
            Type::Decimal(_) => return internal_err!("no function takes a decimal"),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Column::Text(values) => values.is_null(row),
            Column::Bytes(values) => values.is_null(row),
            Column::Boolean(values) => values.is_null(row),
            Column::Int(values) => values.is_null(row),
            Column::Double(values) => values.is_null(row),
            Column::Interval(values) => values.is_null(row),
            Column::Texts(values) => values.is_null(row),
        }
    }
}

struct RowFunction {
    name: &'static str,
    aliases: Vec<String>,
    overloads: &'static [Overload],
    inner: Option<Arc<ScalarUDF>>,
    /// NULL among the arguments gives NULL.
    strict: bool,
    signature: Signature,
}

by_name!(RowFunction);

impl RowFunction {
    fn overload(&self, types: &[DataType]) -> Option<&'static Overload> {
        let find = |exactly: bool| {
            self.overloads.iter().find(|overload| {
                overload.arguments.len() == types.len()
                    && overload.arguments.iter().zip(types).all(|(of, t)| of.takes(t, exactly))
            })
        };
        find(true).or_else(|| find(false))
    }
}

impl ScalarUDFImpl for RowFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if let Some(overload) = self.overload(types) {
            return Ok(overload
                .arguments
                .iter()
                .zip(types)
                .map(|(of, given)| of.read(given))
                .collect());
        }
        let bytes = |t: &DataType| Type::Bytes.takes(t, true) && !t.is_null();
        if let Some(inner) = &self.inner
            && !types.iter().any(bytes)
        {
            let fields: Vec<_> =
                types.iter().map(|t| Arc::new(Field::new("argument", t.clone(), true))).collect();
            let coerced = datafusion_expr::type_coercion::functions::fields_with_udf(
                &fields,
                inner.as_ref(),
            )?;
            return Ok(coerced.iter().map(|field| field.data_type().clone()).collect());
        }
        let types: Vec<String> = types.iter().map(DataType::to_string).collect();
        plan_err!("there is no function {}({})", self.name, types.join(", "))
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match (self.overload(types), &self.inner) {
            (Some(overload), _) => Ok(overload.result.arrow()),
            (None, Some(inner)) => inner.return_type(types),
            (None, None) => internal_err!("{} of types that it does not take", self.name),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<DataType> =
            args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        match (self.overload(&types), &self.inner) {
            (Some(Overload { result: Type::Json, .. }), _) => {
                Ok(Arc::new(SqlField::new(self.name, SqlType::Json, true).to_arrow()))
            }
            (None, Some(inner)) => inner.return_field_from_args(args),
            _ => Ok(Arc::new(Field::new(self.name, self.return_type(&types)?, true))),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let types: Vec<DataType> = args.args.iter().map(ColumnarValue::data_type).collect();
        let Some(overload) = self.overload(&types) else {
            return match &self.inner {
                Some(inner) => inner.invoke_with_args(args),
                None => internal_err!("{} of types that it does not take", self.name),
            };
        };
        let rows = args.number_rows;
        let columns: Vec<Column> = args
            .args
            .into_iter()
            .zip(overload.arguments)
            .map(|(value, of)| Column::new(&value.into_array(rows)?, *of))
            .collect::<Result<_>>()?;
        let value = |at: usize| match self.strict && columns.iter().any(|column| column.is_null(at))
        {
            true => Ok(Value::Null),
            false => (overload.of)(&CallRow { columns: &columns, at }),
        };
        let values: Vec<Value> = (0..rows).map(value).collect::<Result<_>>()?;
        Ok(ColumnarValue::Array(array(values, overload.result)?))
    }
}

fn array(values: Vec<Value>, of: Type) -> Result<ArrayRef> {
    let ints = |values: Vec<Value>| -> Int64Array {
        let int = |value| match value {
            Value::Int(value) => Some(value),
            _ => None,
        };
        values.into_iter().map(int).collect()
    };
    Ok(match of {
        Type::Texts => {
            let mut lists = ListBuilder::new(StringBuilder::new());
            for value in values {
                match value {
                    Value::Texts(items) => {
                        items.into_iter().for_each(|item| lists.values().append_option(item));
                        lists.append(true);
                    }
                    _ => lists.append_null(),
                }
            }
            Arc::new(lists.finish())
        }
        Type::Text | Type::Json => {
            let text = |value| match value {
                Value::Text(value) => Some(value),
                _ => None,
            };
            Arc::new(values.into_iter().map(text).collect::<StringArray>())
        }
        Type::Bytes => {
            let bytes = |value| match value {
                Value::Bytes(value) => Some(value),
                _ => None,
            };
            Arc::new(values.into_iter().map(bytes).collect::<BinaryArray>())
        }
        Type::Boolean => {
            let boolean = |value| match value {
                Value::Boolean(value) => Some(value),
                _ => None,
            };
            Arc::new(values.into_iter().map(boolean).collect::<BooleanArray>())
        }
        Type::Double => {
            let double = |value| match value {
                Value::Double(value) => Some(value),
                _ => None,
            };
            Arc::new(values.into_iter().map(double).collect::<Float64Array>())
        }
        Type::Interval => {
            let interval = |value| match value {
                Value::Interval(value) => Some(value),
                _ => None,
            };
            Arc::new(values.into_iter().map(interval).collect::<IntervalMonthDayNanoArray>())
        }
        Type::Int => {
            let narrow = |value: Option<i64>| {
                value
                    .map(|v| {
                        i32::try_from(v).map_err(|_| exec_datafusion_err!("integer out of range"))
                    })
                    .transpose()
            };
            Arc::new(ints(values).iter().map(narrow).collect::<Result<Int32Array>>()?)
        }
        Type::BigInt => Arc::new(ints(values)),
        Type::Date => {
            let narrow = |value: Option<i64>| {
                let fits = |v: &i64| (DATE_MIN..=DATE_MAX).contains(v);
                let narrow = |v: i64| match i32::try_from(v).ok().filter(|_| fits(&v)) {
                    Some(day) => Ok(day),
                    None => exec_err!("date out of range"),
                };
                value.map(narrow).transpose()
            };
            Arc::new(ints(values).iter().map(narrow).collect::<Result<Date32Array>>()?)
        }
        Type::Timestamp | Type::TimestampTz | Type::Time => cast(&ints(values), &of.arrow())?,
        Type::Decimal(_) => {
            let unscaled = ints(values)
                .iter()
                .map(|v| v.map(i128::from))
                .collect::<arrow::array::Decimal128Array>();
            Arc::new(unscaled.with_data_type(of.arrow()))
        }
    })
}
