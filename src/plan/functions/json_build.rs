//! JSON made of values: `to_json`, `json_build_object`, `json_build_array`, `json_agg` and `json_object_agg`, with the
//! spaces that PostgreSQL puts in and members in their order; and the same of jsonb, in its canonical form.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion_common::{Result, ScalarValue, exec_err, plan_err};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, ReturnFieldArgs,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::jsonb::canonical;
use super::limits::check_bytes;
use super::written;
use crate::model::schema::{SqlField, SqlType};

/// The functions of single rows.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    let function = |kind: JsonBuildKind, signature: Signature, jsonb: bool| {
        Arc::new(ScalarUDF::new_from_impl(Build { kind, jsonb, signature }))
    };
    let some = || Signature::variadic_any(Volatility::Immutable);
    let or_none = |signature: Signature| {
        let alternatives = vec![signature.type_signature, datafusion_expr::TypeSignature::Nullary];
        Signature::one_of(alternatives, Volatility::Immutable)
    };
    [false, true]
        .into_iter()
        .flat_map(|jsonb| {
            [
                function(JsonBuildKind::Value, Signature::any(1, Volatility::Immutable), jsonb),
                function(JsonBuildKind::Object, or_none(some()), jsonb),
                function(JsonBuildKind::Array, or_none(some()), jsonb),
            ]
        })
        .chain([function(
            JsonBuildKind::OfArray,
            Signature::user_defined(Volatility::Immutable),
            false,
        )])
        .collect()
}

/// The aggregates.
pub fn aggregates() -> Vec<Arc<AggregateUDF>> {
    let aggregate = |of: Aggregated, arguments: usize, jsonb: bool| {
        let signature = Signature::any(arguments, Volatility::Immutable);
        Arc::new(AggregateUDF::new_from_impl(BuildAggregate { of, jsonb, signature }))
    };
    [false, true]
        .into_iter()
        .flat_map(|jsonb| {
            [aggregate(Aggregated::Array, 1, jsonb), aggregate(Aggregated::Object, 2, jsonb)]
        })
        .collect()
}

fn json(name: &str) -> FieldRef {
    Arc::new(SqlField::new(name, SqlType::Json, true).to_arrow())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum JsonBuildKind {
    Value,
    Object,
    Array,
    /// `array_to_json` of one array, with each element on a line if that is asked for.
    OfArray,
}

impl JsonBuildKind {
    fn name(self, jsonb: bool) -> &'static str {
        match (self, jsonb) {
            (JsonBuildKind::Value, false) => "to_json",
            (JsonBuildKind::Object, false) => "json_build_object",
            (JsonBuildKind::Array, false) => "json_build_array",
            (JsonBuildKind::Value, true) => "to_jsonb",
            (JsonBuildKind::Object, true) => "jsonb_build_object",
            (JsonBuildKind::Array, true) => "jsonb_build_array",
            (JsonBuildKind::OfArray, _) => "array_to_json",
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Build {
    kind: JsonBuildKind,
    jsonb: bool,
    signature: Signature,
}

impl ScalarUDFImpl for Build {
    fn name(&self) -> &str {
        self.kind.name(self.jsonb)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [DataType::List(_)] | [DataType::List(_), DataType::Boolean] => Ok(types.to_vec()),
            _ => plan_err!("{} takes an array", self.name()),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        if self.kind == JsonBuildKind::Object && args.arg_fields.len() % 2 == 1 {
            return plan_err!("json_build_object takes pairs: a name and its value");
        }
        Ok(json(self.name()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays: Vec<ArrayRef> =
            args.args.into_iter().map(|a| a.into_array(rows)).collect::<Result<_>>()?;
        let values: Vec<Encoder> = arrays
            .iter()
            .zip(&args.arg_fields)
            .map(|(array, field)| Encoder::new(array, field))
            .collect::<Result<_>>()?;
        let mut out = StringBuilder::new();
        let mut text = String::new();
        for row in 0..rows {
            text.clear();
            match self.kind {
                // NULL is NULL as JSON, too.
                JsonBuildKind::Value if arrays[0].is_null(row) => {
                    out.append_null();
                    continue;
                }
                JsonBuildKind::OfArray if arrays.iter().any(|array| array.is_null(row)) => {
                    out.append_null();
                    continue;
                }
                JsonBuildKind::OfArray => {
                    let lines = arrays.get(1).is_some_and(|lines| lines.as_boolean().value(row));
                    let comma = if lines { ",\n " } else { "," };
                    values[0].append_list(&mut text, comma, row)?;
                }
                JsonBuildKind::Value => values[0].append(&mut text, row)?,
                JsonBuildKind::Array => {
                    append_array(&mut text, ", ", values.iter().map(|v| (v, row)))?;
                }
                JsonBuildKind::Object => {
                    let pairs = values.chunks_exact(2).map(|pair| (&pair[0], &pair[1], row));
                    append_object(&mut text, pairs)?;
                }
            }
            match self.jsonb {
                true => out.append_value(canonical(&text)?),
                false => out.append_value(&text),
            }
        }
        Ok(ColumnarValue::Array(Arc::new(out.finish())))
    }
}

fn append_array<'a, 'b: 'a>(
    out: &mut String,
    comma: &str,
    values: impl Iterator<Item = (&'a Encoder<'b>, usize)>,
) -> Result<()> {
    out.push('[');
    for (index, (value, row)) in values.enumerate() {
        if index > 0 {
            out.push_str(comma);
        }
        value.append(out, row)?;
    }
    out.push(']');
    Ok(())
}

fn append_object<'a, 'b: 'a>(
    out: &mut String,
    pairs: impl Iterator<Item = (&'a Encoder<'b>, &'a Encoder<'b>, usize)>,
) -> Result<()> {
    out.push('{');
    for (index, (name, value, row)) in pairs.enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        name.append_name(out, row)?;
        out.push_str(" : ");
        value.append(out, row)?;
    }
    out.push('}');
    Ok(())
}

/// Writes the values of an array as JSON.
enum Encoder<'a> {
    Null,
    /// JSON as it is.
    Json(ArrayRef),
    Text(ArrayRef),
    /// Numbers and truth values, whose text is JSON.
    Plain(ArrayFormatter<'a>, &'a ArrayRef),
    /// Floats, of which some are no JSON.
    Float(ArrayRef),
    /// Values that are written as texts: dates, times, intervals.
    Quoted(written::Writer, &'a ArrayRef),
    Bytes(ArrayRef),
    /// Beside the lists the items of all of them.
    List(&'a ListArray, Box<Encoder<'a>>),
    Struct(&'a ArrayRef, Vec<(String, Encoder<'a>)>),
}

const FORMAT: FormatOptions = FormatOptions::new();

impl<'a> Encoder<'a> {
    fn new(array: &'a ArrayRef, field: &Field) -> Result<Self> {
        let is_json =
            SqlField::from_arrow(field).is_ok_and(|field| field.sql_type == SqlType::Json);
        Ok(match array.data_type() {
            DataType::Null => Encoder::Null,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                let text = cast(array, &DataType::Utf8)?;
                if is_json { Encoder::Json(text) } else { Encoder::Text(text) }
            }
            DataType::Float16 => Encoder::Float(cast(array, &DataType::Float32)?),
            DataType::Float32 | DataType::Float64 => Encoder::Float(Arc::clone(array)),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                Encoder::Bytes(cast(array, &DataType::Binary)?)
            }
            DataType::List(item) => {
                let lists = array.as_list::<i32>();
                Encoder::List(lists, Box::new(Encoder::new(lists.values(), item)?))
            }
            DataType::Struct(fields) => {
                let columns = array.as_struct().columns().iter().zip(fields);
                let members = columns
                    .map(|(column, f)| Ok((f.name().clone(), Encoder::new(column, f)?)))
                    .collect::<Result<_>>()?;
                Encoder::Struct(array, members)
            }
            t if t.is_numeric() || *t == DataType::Boolean => {
                Encoder::Plain(ArrayFormatter::try_new(array, &FORMAT)?, array)
            }
            _ => Encoder::Quoted(written::Writer::new(array, true)?, array),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Encoder::Null => true,
            Encoder::Json(array)
            | Encoder::Text(array)
            | Encoder::Float(array)
            | Encoder::Bytes(array) => array.is_null(row),
            Encoder::Plain(_, array) | Encoder::Quoted(_, array) | Encoder::Struct(array, _) => {
                array.is_null(row)
            }
            Encoder::List(lists, _) => lists.is_null(row),
        }
    }

    fn append(&self, out: &mut String, row: usize) -> Result<()> {
        if self.is_null(row) {
            out.push_str("null");
            return Ok(());
        }
        match self {
            Encoder::Null => out.push_str("null"),
            Encoder::Json(array) => out.push_str(array.as_string::<i32>().value(row)),
            Encoder::Text(array) => quote(out, array.as_string::<i32>().value(row)),
            Encoder::Plain(values, _) => values.value(row).write(out)?,
            Encoder::Float(array) => append_float(out, array, row)?,
            Encoder::Quoted(values, array) => {
                let text = values.text(row)?.unwrap_or_default();
                match array.data_type() {
                    // As ISO 8601 has it, with the minutes of the zone.
                    DataType::Timestamp(..) => {
                        quote(out, &text.replacen(' ', "T", 1).replacen("+00", "+00:00", 1));
                    }
                    _ => quote(out, &text),
                }
            }
            Encoder::Bytes(array) => {
                out.push_str("\"\\\\x");
                for byte in array.as_binary::<i32>().value(row) {
                    let _ = write!(out, "{byte:02x}");
                }
                out.push('"');
            }
            Encoder::List(..) => self.append_list(out, ",", row)?,
            Encoder::Struct(_, members) => {
                out.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    quote(out, name);
                    out.push(':');
                    value.append(out, row)?;
                }
                out.push('}');
            }
        }
        Ok(())
    }

    fn append_list(&self, out: &mut String, comma: &str, row: usize) -> Result<()> {
        let Encoder::List(lists, items) = self else { return exec_err!("it is no array") };
        let offsets = &lists.value_offsets()[row..=row + 1];
        let rows = offsets[0] as usize..offsets[1] as usize;
        append_array(out, comma, rows.map(|row| (items.as_ref(), row)))
    }

    /// A member's name: a text, or what the text of the value is.
    fn append_name(&self, out: &mut String, row: usize) -> Result<()> {
        if self.is_null(row) {
            return exec_err!("a member of a JSON object has no name: it is NULL");
        }
        let mut name = String::new();
        self.append(&mut name, row)?;
        match name.starts_with('"') {
            true => out.push_str(&name),
            false => quote(out, &name),
        }
        Ok(())
    }
}

fn append_float(out: &mut String, array: &ArrayRef, row: usize) -> Result<()> {
    let text = match array.as_primitive_opt::<Float64Type>() {
        Some(doubles) => number(doubles.value(row)),
        None => {
            let single = array.as_primitive::<Float32Type>().value(row);
            // The shortest text that means this single, not its double.
            if single.is_finite() { written::real(single) } else { number(f64::from(single)) }
        }
    };
    out.push_str(&text);
    Ok(())
}

/// NaN and the infinities are no JSON numbers: they are texts.
fn number(value: f64) -> String {
    match serde_json::Number::from_f64(value) {
        Some(_) => written::double(value),
        None if value.is_nan() => "\"NaN\"".to_string(),
        None if value > 0.0 => "\"Infinity\"".to_string(),
        None => "\"-Infinity\"".to_string(),
    }
}

fn quote(out: &mut String, text: &str) {
    out.push_str(&serde_json::Value::String(text.to_string()).to_string());
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Aggregated {
    Array,
    Object,
}

impl Aggregated {
    fn name(self, jsonb: bool) -> &'static str {
        match (self, jsonb) {
            (Aggregated::Array, false) => "json_agg",
            (Aggregated::Object, false) => "json_object_agg",
            (Aggregated::Array, true) => "jsonb_agg",
            (Aggregated::Object, true) => "jsonb_object_agg",
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct BuildAggregate {
    of: Aggregated,
    jsonb: bool,
    signature: Signature,
}

impl AggregateUDFImpl for BuildAggregate {
    fn name(&self) -> &str {
        self.of.name(self.jsonb)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field(&self, _: &[FieldRef]) -> Result<FieldRef> {
        Ok(json(self.name()))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(args.name, DataType::Utf8, true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let fields = args.expr_fields.to_vec();
        Ok(Box::new(JsonAggregateText {
            of: self.of,
            jsonb: self.jsonb,
            fields,
            text: String::new(),
        }))
    }
}

/// The text so far, without its end.
#[derive(Debug)]
struct JsonAggregateText {
    of: Aggregated,
    jsonb: bool,
    fields: Vec<FieldRef>,
    text: String,
}

impl Accumulator for JsonAggregateText {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let encoders: Vec<Encoder> = values
            .iter()
            .zip(&self.fields)
            .map(|(array, field)| Encoder::new(array, field))
            .collect::<Result<_>>()?;
        for row in 0..values[0].len() {
            if !self.text.is_empty() {
                self.text.push_str(", ");
            }
            // As PostgreSQL lays out what has parts of its own.
            if let (false, Aggregated::Array, [value]) =
                (self.text.is_empty(), self.of, encoders.as_slice())
                && matches!(value, Encoder::List(..) | Encoder::Struct(..))
                && !value.is_null(row)
            {
                self.text.push_str("\n ");
            }
            if let (Aggregated::Object, [name, _]) = (self.of, encoders.as_slice()) {
                name.append_name(&mut self.text, row)?;
                self.text.push_str(" : ");
            }
            if let Some(value) = encoders.last() {
                value.append(&mut self.text, row)?;
            }
            check_bytes(self.text.len())?;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.text.is_empty() {
            return Ok(ScalarValue::Utf8(None));
        }
        let text = match self.of {
            Aggregated::Array => format!("[{}]", self.text),
            Aggregated::Object => format!("{{ {} }}", self.text),
        };
        let text = if self.jsonb { canonical(&text)? } else { text };
        Ok(ScalarValue::from(text))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.text.capacity()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        exec_err!("{} is computed from all of its rows", self.of.name(self.jsonb))
    }
}
