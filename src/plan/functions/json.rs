//! The JSON operators `->`, `->>`, `#>` and `#>>` and the functions around them, as PostgreSQL has
//! them for its type json.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, ListArray, ListBuilder, StringArray, StringBuilder,
    StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int64Type};
use datafusion_common::{DFSchema, Result, exec_err};
use datafusion_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion_sql::sqlparser::ast::BinaryOperator;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::model::schema::{SQL_TYPE_KEY, SqlField, SqlType};

/// All JSON functions.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    let kinds = [
        JsonFunctionKind::Member,
        JsonFunctionKind::MemberText,
        JsonFunctionKind::Path,
        JsonFunctionKind::PathText,
        JsonFunctionKind::Elements,
        JsonFunctionKind::ElementTexts,
        JsonFunctionKind::Keys,
        JsonFunctionKind::Each,
        JsonFunctionKind::EachText,
        JsonFunctionKind::ArrayLength,
        JsonFunctionKind::TypeOf,
    ];
    kinds.into_iter().map(function).collect()
}

fn function(kind: JsonFunctionKind) -> Arc<ScalarUDF> {
    let signature = Signature::any(kind.arguments(), Volatility::Immutable);
    let aliases = jsonb(kind.name());
    Arc::new(ScalarUDF::new_from_impl(JsonFunction { kind, signature, aliases }))
}

/// A function's further name: JSON is one type here, whatever PostgreSQL calls it.
pub fn jsonb(name: &str) -> Vec<String> {
    vec![name.replacen("json", "jsonb", 1)]
}

/// The array of a JSON array's elements.
pub fn elements(json: datafusion_expr::Expr) -> datafusion_expr::Expr {
    function(JsonFunctionKind::Elements).call(vec![json])
}

/// `json_extract_path(json, 'a', 'b')` and `json_extract_path_text`: `#>` and `#>>` with the steps as arguments.
struct ExtractPath {
    name: &'static str,
    aliases: Vec<String>,
    as_text: bool,
    signature: Signature,
}

by_name!(ExtractPath);

/// Both functions.
pub fn extract_path() -> [Arc<ScalarUDF>; 2] {
    [("json_extract_path", false), ("json_extract_path_text", true)].map(|(name, as_text)| {
        let signature = Signature::user_defined(Volatility::Immutable);
        let aliases = jsonb(name);
        Arc::new(ScalarUDF::new_from_impl(ExtractPath { name, aliases, as_text, signature }))
    })
}

impl ScalarUDFImpl for ExtractPath {
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
        if types.len() < 2 || !types.iter().all(|t| t.is_string() || t.is_null()) {
            return datafusion_common::plan_err!("{} takes JSON and texts", self.name);
        }
        Ok(vec![DataType::Utf8; types.len()])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> Result<FieldRef> {
        let kind = if self.as_text { JsonFunctionKind::PathText } else { JsonFunctionKind::Path };
        Ok(Arc::new(kind.return_field()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays: Vec<ArrayRef> =
            args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<_>>()?;
        let mut out = StringBuilder::new();
        for row in 0..rows {
            if arrays.iter().any(|array| array.is_null(row)) {
                out.append_null();
                continue;
            }
            let text = |n: usize| arrays[n].as_string::<i32>().value(row);
            let steps = (1..arrays.len()).map(|n| Some(text(n).to_string()));
            append(&mut out, walk(text(0), steps)?.as_deref(), self.as_text)?;
        }
        Ok(ColumnarValue::Array(Arc::new(out.finish())))
    }
}

/// Where a path leads.
fn walk(json: &str, steps: impl Iterator<Item = Option<String>>) -> Result<Option<String>> {
    let mut at = json.to_string();
    for step in steps {
        let Some(step) = step else { return Ok(None) };
        let found = match (first_of(&at), step.parse::<i64>()) {
            (Some('['), Ok(index)) => find(&at, PathStep::Index(index))?,
            _ => find(&at, PathStep::Name(&step))?,
        };
        match found {
            Some(found) => at = found.to_string(),
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// Adds a value as JSON, or as its text.
fn append(out: &mut StringBuilder, json: Option<&str>, as_text: bool) -> Result<()> {
    match json {
        Some("null") if as_text => out.append_null(),
        Some(json) if as_text && json.starts_with('"') => {
            out.append_value(serde_json::from_str::<String>(json).map_err(not_json)?);
        }
        other => out.append_option(other),
    }
    Ok(())
}

/// Plans the operators.
#[derive(Debug)]
pub struct JsonOperators;

impl ExprPlanner for JsonOperators {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        _schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let kind = match expr.op {
            BinaryOperator::Arrow => JsonFunctionKind::Member,
            BinaryOperator::LongArrow => JsonFunctionKind::MemberText,
            BinaryOperator::HashArrow => JsonFunctionKind::Path,
            BinaryOperator::HashLongArrow => JsonFunctionKind::PathText,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        Ok(PlannerResult::Planned(function(kind).call(vec![expr.left, expr.right])))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum JsonFunctionKind {
    Member,
    MemberText,
    Path,
    PathText,
    Elements,
    ElementTexts,
    Keys,
    Each,
    EachText,
    ArrayLength,
    TypeOf,
}

impl JsonFunctionKind {
    fn name(self) -> &'static str {
        match self {
            JsonFunctionKind::Member => "json_member",
            JsonFunctionKind::MemberText => "json_member_text",
            JsonFunctionKind::Path => "json_path",
            JsonFunctionKind::PathText => "json_path_text",
            JsonFunctionKind::Elements => "json_array_elements",
            JsonFunctionKind::ElementTexts => "json_array_elements_text",
            JsonFunctionKind::Keys => "json_object_keys",
            JsonFunctionKind::Each => "json_each",
            JsonFunctionKind::EachText => "json_each_text",
            JsonFunctionKind::ArrayLength => "json_array_length",
            JsonFunctionKind::TypeOf => "json_typeof",
        }
    }

    fn arguments(self) -> usize {
        match self {
            JsonFunctionKind::Member
            | JsonFunctionKind::MemberText
            | JsonFunctionKind::Path
            | JsonFunctionKind::PathText => 2,
            _ => 1,
        }
    }

    fn return_field(self) -> Field {
        let json = |name: &str| SqlField::new(name, SqlType::Json, true).to_arrow();
        match self {
            JsonFunctionKind::Member | JsonFunctionKind::Path => json(self.name()),
            JsonFunctionKind::MemberText
            | JsonFunctionKind::PathText
            | JsonFunctionKind::TypeOf => Field::new(self.name(), DataType::Utf8, true),
            JsonFunctionKind::ArrayLength => Field::new(self.name(), DataType::Int32, true),
            JsonFunctionKind::Elements => {
                Field::new(self.name(), DataType::List(Arc::new(json("item"))), true)
            }
            JsonFunctionKind::ElementTexts | JsonFunctionKind::Keys => {
                let item = Field::new("item", DataType::Utf8, true);
                Field::new(self.name(), DataType::List(Arc::new(item)), true)
            }
            JsonFunctionKind::Each | JsonFunctionKind::EachText => {
                let value = match self {
                    JsonFunctionKind::Each => json("value"),
                    _ => Field::new("value", DataType::Utf8, true),
                };
                let members = Fields::from(vec![Field::new("key", DataType::Utf8, true), value]);
                let item = Field::new("item", DataType::Struct(members), true);
                Field::new(self.name(), DataType::List(Arc::new(item)), true)
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonFunction {
    kind: JsonFunctionKind,
    signature: Signature,
    aliases: Vec<String>,
}

impl ScalarUDFImpl for JsonFunction {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn display_name(&self, args: &[datafusion_expr::Expr]) -> Result<String> {
        let operator = match self.kind {
            JsonFunctionKind::Member => "->",
            JsonFunctionKind::MemberText => "->>",
            JsonFunctionKind::Path => "#>",
            JsonFunctionKind::PathText => "#>>",
            _ => return Ok(format!("{}({})", self.name(), args[0].schema_name())),
        };
        Ok(format!("{} {operator} {}", args[0].schema_name(), args[1].schema_name()))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.kind.return_field().data_type().clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let json = args.arg_fields[0].data_type();
        if !json.is_string() && !json.is_null() {
            return datafusion_common::plan_err!("{} takes JSON, found {json}", self.name());
        }
        Ok(Arc::new(self.kind.return_field()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let json = cast(&arrays[0], &DataType::Utf8)?;
        let json: &StringArray = json.as_string();
        let result: ArrayRef = match self.kind {
            JsonFunctionKind::Member | JsonFunctionKind::MemberText => {
                self.members(json, &arrays[1], is_jsonb(&args.arg_fields[0]))?
            }
            JsonFunctionKind::Path | JsonFunctionKind::PathText => self.paths(json, &arrays[1])?,
            JsonFunctionKind::Elements | JsonFunctionKind::ElementTexts => self.elements(json)?,
            JsonFunctionKind::Keys | JsonFunctionKind::Each | JsonFunctionKind::EachText => {
                self.members_of(json)?
            }
            JsonFunctionKind::ArrayLength => {
                let length = |text: Option<&str>| match text {
                    Some(text) => Ok(Some(items(text)?.len() as i32)),
                    None => Ok(None),
                };
                Arc::new(json.iter().map(length).collect::<Result<Int32Array>>()?)
            }
            JsonFunctionKind::TypeOf => {
                let kind = |text: Option<&str>| text.map(type_of).transpose();
                Arc::new(json.iter().map(kind).collect::<Result<StringArray>>()?)
            }
        };
        Ok(ColumnarValue::Array(result))
    }
}

impl JsonFunction {
    fn as_text(&self) -> bool {
        matches!(
            self.kind,
            JsonFunctionKind::MemberText
                | JsonFunctionKind::PathText
                | JsonFunctionKind::ElementTexts
                | JsonFunctionKind::EachText
        )
    }

    /// A member by name, or an element by its number from 0 (negative: from the end).
    ///
    /// A scalar of the type jsonb is an array of one.
    fn members(&self, json: &StringArray, keys: &ArrayRef, jsonb: bool) -> Result<ArrayRef> {
        let mut out = StringBuilder::new();
        if keys.data_type().is_integer() {
            let keys = cast(keys, &DataType::Int64)?;
            let keys = keys.as_primitive::<Int64Type>();
            for (text, key) in json.iter().zip(keys.iter()) {
                let found = match (text, key) {
                    (Some(text), Some(0 | -1))
                        if jsonb && !matches!(first_of(text), Some('[' | '{')) =>
                    {
                        Some(text)
                    }
                    (Some(text), Some(key)) => find(text, PathStep::Index(key))?,
                    _ => None,
                };
                self.append(&mut out, found)?;
            }
        } else {
            let keys = cast(keys, &DataType::Utf8)?;
            for (text, key) in json.iter().zip(keys.as_string::<i32>().iter()) {
                let found = match (text, key) {
                    (Some(text), Some(key)) => find(text, PathStep::Name(key))?,
                    _ => None,
                };
                self.append(&mut out, found)?;
            }
        }
        Ok(Arc::new(out.finish()))
    }

    /// A path as an array of texts, or written as `'{a,b,0}'`.
    fn paths(&self, json: &StringArray, paths: &ArrayRef) -> Result<ArrayRef> {
        let mut out = StringBuilder::new();
        for row in 0..json.len() {
            let found = match json.is_valid(row) {
                true => self.follow(json.value(row), paths, row)?,
                false => None,
            };
            self.append(&mut out, found.as_deref())?;
        }
        Ok(Arc::new(out.finish()))
    }

    fn follow(&self, json: &str, paths: &ArrayRef, row: usize) -> Result<Option<String>> {
        if paths.is_null(row) {
            return Ok(None);
        }
        let steps: Vec<Option<String>> = match paths.as_list_opt::<i32>() {
            Some(lists) => {
                let steps = cast(&lists.value(row), &DataType::Utf8)?;
                steps.as_string::<i32>().iter().map(|s| s.map(str::to_string)).collect()
            }
            None => {
                let path = cast(&paths.slice(row, 1), &DataType::Utf8)?;
                let path = path.as_string::<i32>().value(0).trim().to_string();
                let inner = path.strip_prefix('{').and_then(|p| p.strip_suffix('}'));
                let Some(inner) = inner else {
                    return exec_err!("a JSON path is written {{a,b,0}}, found {path}");
                };
                let steps = inner.split(',').map(|s| s.trim().trim_matches('"'));
                steps.filter(|s| !s.is_empty()).map(|s| Some(s.to_string())).collect()
            }
        };
        walk(json, steps.into_iter())
    }

    fn elements(&self, json: &StringArray) -> Result<ArrayRef> {
        let DataType::List(item) = self.kind.return_field().data_type().clone() else {
            return exec_err!("the elements of an array are an array");
        };
        let mut out = ListBuilder::new(StringBuilder::new()).with_field(item);
        for text in json.iter() {
            let Some(text) = text else {
                out.append_null();
                continue;
            };
            for item in items(text)? {
                self.append(out.values(), Some(item.get()))?;
            }
            out.append(true);
        }
        Ok(Arc::new(out.finish()))
    }

    /// The names of an object's members, or the members themselves.
    fn members_of(&self, json: &StringArray) -> Result<ArrayRef> {
        let DataType::List(item) = self.kind.return_field().data_type().clone() else {
            return exec_err!("the members of an object are an array");
        };
        let (mut names, mut values) = (StringBuilder::new(), StringBuilder::new());
        let mut lengths = Vec::with_capacity(json.len());
        for text in json.iter() {
            let members = text.map(members).transpose()?.unwrap_or_default();
            lengths.push(members.len());
            for (name, value) in &members {
                names.append_value(name);
                self.append(&mut values, Some(value.get()))?;
            }
        }
        let names: ArrayRef = Arc::new(names.finish());
        let items = match item.data_type() {
            DataType::Struct(fields) => {
                let columns = vec![names, Arc::new(values.finish()) as ArrayRef];
                Arc::new(StructArray::try_new(fields.clone(), columns, None)?) as ArrayRef
            }
            _ => names,
        };
        let offsets = OffsetBuffer::from_lengths(lengths);
        Ok(Arc::new(ListArray::try_new(item, offsets, items, json.nulls().cloned())?))
    }

    fn append(&self, out: &mut StringBuilder, json: Option<&str>) -> Result<()> {
        append(out, json, self.as_text())
    }
}

/// Whether a value was cast to JSONB.
fn is_jsonb(field: &Field) -> bool {
    field.metadata().get(SQL_TYPE_KEY).is_some_and(|note| note == "jsonb")
}

fn not_json(error: serde_json::Error) -> datafusion_common::DataFusionError {
    datafusion_common::DataFusionError::Execution(format!("not JSON: {error}"))
}

fn first_of(json: &str) -> Option<char> {
    json.trim_start().chars().next()
}

/// The elements of a JSON array.
fn items(json: &str) -> Result<Vec<&RawValue>> {
    match first_of(json) {
        Some('[') => serde_json::from_str(json).map_err(not_json),
        _ => exec_err!("a JSON array is expected, found {}", type_of(json)?),
    }
}

/// The members of a JSON object, in their order; of those with the same name each.
pub fn members(json: &str) -> Result<Vec<(String, &RawValue)>> {
    struct MembersVisitor;
    impl<'de> Visitor<'de> for MembersVisitor {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    match first_of(json) {
        Some('{') => {
            let mut deserializer = serde_json::Deserializer::from_str(json);
            let members = deserializer.deserialize_map(MembersVisitor).map_err(not_json)?;
            deserializer.end().map_err(not_json)?;
            Ok(members)
        }
        _ => exec_err!("a JSON object is expected, found {}", type_of(json)?),
    }
}

fn type_of(json: &str) -> Result<&'static str> {
    serde_json::from_str::<IgnoredAny>(json).map_err(not_json)?;
    Ok(match first_of(json) {
        Some('{') => "object",
        Some('[') => "array",
        Some('"') => "string",
        Some('t' | 'f') => "boolean",
        Some('n') => "null",
        _ => "number",
    })
}

/// Where to go from a JSON value.
#[derive(Clone, Copy)]
enum PathStep<'a> {
    Name(&'a str),
    Index(i64),
}

/// The value one step further, if it is there.
fn find<'j>(json: &'j str, step: PathStep) -> Result<Option<&'j str>> {
    let step = match (step, first_of(json)) {
        (PathStep::Index(index), Some('[')) if index < 0 => {
            let items = items(json)?;
            let index = items.len() as i64 + index;
            return Ok(usize::try_from(index).ok().and_then(|i| items.get(i)).map(|i| i.get()));
        }
        (step @ PathStep::Name(_), Some('{')) | (step @ PathStep::Index(_), Some('[')) => step,
        _ => {
            type_of(json)?;
            return Ok(None);
        }
    };
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let found = step.deserialize(&mut deserializer).map_err(not_json)?;
    deserializer.end().map_err(not_json)?;
    Ok(found.map(RawValue::get))
}

impl<'de> DeserializeSeed<'de> for PathStep<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PathStep<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match self {
                // Members may share a name: the last one counts.
                PathStep::Name(name) if name == key => found = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let mut at = 0;
        loop {
            if matches!(self, PathStep::Index(index) if index == at) {
                match seq.next_element()? {
                    Some(item) => found = Some(item),
                    None => return Ok(found),
                }
            } else if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_go_where_postgres_goes() {
        let json = r#"{"a": {"b": [1, "x", null]}, "a b": 2, "é": "\u00e9"}"#;
        let name = |json, name| find(json, PathStep::Name(name)).unwrap();
        let index = |json, index| find(json, PathStep::Index(index)).unwrap();
        assert_eq!(name(json, "a b"), Some("2"));
        assert_eq!(name(json, "é"), Some(r#""\u00e9""#));
        assert_eq!(name(json, "none"), None);
        let list = name(name(json, "a").unwrap(), "b").unwrap();
        assert_eq!((index(list, 0), index(list, -1)), (Some("1"), Some("null")));
        assert_eq!((index(list, 3), index(list, -4)), (None, None));
        assert_eq!((index(json, 0), name("3", "a")), (None, None));
        assert!(find("{", PathStep::Name("a")).is_err());
        assert!(find(r#"{"a":1} x"#, PathStep::Name("a")).is_err());
    }
}
