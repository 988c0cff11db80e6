//! Functions that make arrays of arrays' elements, or tell where elements are, as PostgreSQL has them. An element is
//! the same as another one if neither is distinct from the other, so NULL is the same as NULL.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, ListArray, StringArray, make_comparator, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{SortOptions, cast, interleave};
use arrow::datatypes::{DataType, Field, Int64Type};
use datafusion_common::{Result, exec_err, internal_err, plan_err};
use datafusion_expr::type_coercion::binary::comparison_coercion;
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::limits::check_elements;

const KINDS: [(ArrayFunctionKind, &str, &[&str]); 10] = [
    (ArrayFunctionKind::Remove, "array_remove", &["list_remove"]),
    (ArrayFunctionKind::Replace, "array_replace", &["list_replace"]),
    (ArrayFunctionKind::Positions, "array_positions", &["list_positions"]),
    (
        ArrayFunctionKind::Position,
        "array_position",
        &["list_position", "array_indexof", "list_indexof"],
    ),
    (ArrayFunctionKind::Fill, "array_fill", &[]),
    (ArrayFunctionKind::Lower, "array_lower", &[]),
    (ArrayFunctionKind::Upper, "array_upper", &[]),
    (ArrayFunctionKind::Dims, "array_dims", &["list_dims"]),
    (ArrayFunctionKind::Trim, "trim_array", &[]),
    (ArrayFunctionKind::Subscripts, "generate_subscripts", &[]),
];

pub fn functions() -> Vec<Arc<ScalarUDF>> {
    let function = |(kind, name, aliases): &(ArrayFunctionKind, &'static str, &[&str])| {
        let aliases = aliases.iter().map(|alias| alias.to_string()).collect();
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(ArrayFunction { kind: *kind, name, aliases, signature }))
    };
    KINDS.iter().map(function).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ArrayFunctionKind {
    Remove,
    Replace,
    Positions,
    Position,
    Fill,
    Lower,
    Upper,
    Dims,
    Trim,
    Subscripts,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ArrayFunction {
    kind: ArrayFunctionKind,
    name: &'static str,
    aliases: Vec<String>,
    signature: Signature,
}

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

fn item_of(list: &DataType) -> Option<&DataType> {
    match list {
        DataType::List(item) if !item.data_type().is_nested() => Some(item.data_type()),
        _ => None,
    }
}

impl ArrayFunction {
    fn refuse<T>(&self, types: &[DataType]) -> Result<T> {
        let types: Vec<String> = types.iter().map(DataType::to_string).collect();
        plan_err!("there is no function {}({})", self.name, types.join(", "))
    }
}

impl ScalarUDFImpl for ArrayFunction {
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
        let is_int = |t: &DataType| t.is_integer() || t.is_null();
        if self.kind == ArrayFunctionKind::Fill {
            return match types {
                [item, dims] | [item, dims, _] if !item.is_nested() && !item.is_null() => {
                    let is_ints = |t: &DataType| item_of(t).is_some_and(is_int);
                    if !is_ints(dims) || !types[2..].iter().all(is_ints) {
                        return self.refuse(types);
                    }
                    let mut all = vec![item.clone()];
                    all.resize(types.len(), list_of(DataType::Int64));
                    Ok(all)
                }
                _ => self.refuse(types),
            };
        }
        let Some(item) = types.first().and_then(item_of) else { return self.refuse(types) };
        let elements = match self.kind {
            ArrayFunctionKind::Remove | ArrayFunctionKind::Positions => 1,
            ArrayFunctionKind::Position => 1,
            ArrayFunctionKind::Replace => 2,
            _ => 0,
        };
        let rest = &types[1..];
        let counts = match self.kind {
            ArrayFunctionKind::Remove | ArrayFunctionKind::Positions => 1..=1,
            ArrayFunctionKind::Position => 1..=2,
            ArrayFunctionKind::Replace => 2..=2,
            ArrayFunctionKind::Dims => 0..=0,
            ArrayFunctionKind::Subscripts => 1..=2,
            _ => 1..=1,
        };
        if !counts.contains(&rest.len()) {
            return self.refuse(types);
        }
        let mut common = item.clone();
        for element in &rest[..elements] {
            match comparison_coercion(&common, element) {
                Some(wider) => common = wider,
                None => return self.refuse(types),
            }
        }
        let mut all = vec![list_of(common.clone())];
        all.extend(std::iter::repeat_n(common, elements));
        for (n, other) in rest.iter().enumerate().skip(elements) {
            let flag = self.kind == ArrayFunctionKind::Subscripts && n == 1;
            if if flag { *other != DataType::Boolean } else { !is_int(other) } {
                return self.refuse(types);
            }
            all.push(if flag { DataType::Boolean } else { DataType::Int64 });
        }
        Ok(all)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            ArrayFunctionKind::Remove | ArrayFunctionKind::Replace | ArrayFunctionKind::Trim => {
                types[0].clone()
            }
            ArrayFunctionKind::Positions | ArrayFunctionKind::Subscripts => {
                list_of(DataType::Int32)
            }
            ArrayFunctionKind::Position | ArrayFunctionKind::Lower | ArrayFunctionKind::Upper => {
                DataType::Int32
            }
            ArrayFunctionKind::Fill => list_of(types[0].clone()),
            ArrayFunctionKind::Dims => DataType::Utf8,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays: Vec<ArrayRef> =
            args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<_>>()?;
        if self.kind == ArrayFunctionKind::Fill {
            return Ok(ColumnarValue::Array(filled(&arrays)?));
        }
        let Some(lists) = arrays[0].as_list_opt::<i32>() else {
            return internal_err!("{} takes an array", self.name);
        };
        Ok(ColumnarValue::Array(match self.kind {
            ArrayFunctionKind::Remove => removed(lists, &arrays[1])?,
            ArrayFunctionKind::Replace => replaced(lists, &arrays[1], &arrays[2])?,
            ArrayFunctionKind::Trim => trimmed(lists, &arrays[1])?,
            ArrayFunctionKind::Positions => positions(lists, &arrays[1])?,
            ArrayFunctionKind::Position => position(lists, &arrays[1], arrays.get(2))?,
            ArrayFunctionKind::Subscripts => subscripts(lists, &arrays[1], arrays.get(2))?,
            ArrayFunctionKind::Dims => {
                let dims = |row: usize| match lists.is_valid(row) {
                    true if lists.value_length(row) > 0 => {
                        Some(format!("[1:{}]", lists.value_length(row)))
                    }
                    _ => None,
                };
                Arc::new((0..rows).map(dims).collect::<StringArray>())
            }
            _ => {
                let dimensions = arrays[1].as_primitive::<Int64Type>();
                let bound = |row: usize| {
                    let there = lists.is_valid(row)
                        && lists.value_length(row) > 0
                        && dimensions.is_valid(row)
                        && dimensions.value(row) == 1;
                    there.then(|| {
                        if self.kind == ArrayFunctionKind::Lower {
                            1
                        } else {
                            lists.value_length(row)
                        }
                    })
                };
                Arc::new((0..rows).map(bound).collect::<Int32Array>())
            }
        }))
    }
}

/// The elements of a row, as places among all values.
fn places(lists: &ListArray, row: usize) -> std::ops::Range<usize> {
    let offsets = lists.value_offsets();
    offsets[row] as usize..offsets[row + 1] as usize
}

/// Whether the element at a place is the same as a row's value.
fn sameness(lists: &ListArray, values: &ArrayRef) -> Result<impl Fn(usize, usize) -> bool + use<>> {
    let values = cast(values, lists.values().data_type())?;
    let compare =
        make_comparator(lists.values().as_ref(), values.as_ref(), SortOptions::default())?;
    Ok(move |place: usize, row: usize| compare(place, row).is_eq())
}

/// Lists of elements that are chosen from several arrays: of each element which array, and where in it.
struct Chosen {
    elements: Vec<(usize, usize)>,
    lengths: Vec<usize>,
    valid: Vec<bool>,
}

impl Chosen {
    fn new() -> Self {
        Chosen { elements: Vec::new(), lengths: Vec::new(), valid: Vec::new() }
    }

    fn push_null(&mut self) {
        self.lengths.push(0);
        self.valid.push(false);
    }

    /// Ends the list of elements that were put in since there were `before`.
    fn end(&mut self, before: usize) {
        self.lengths.push(self.elements.len() - before);
        self.valid.push(true);
    }

    fn lists(self, from: &[&dyn Array]) -> Result<ArrayRef> {
        let values = match self.elements.is_empty() {
            true => new_null_array(from[0].data_type(), 0),
            false => interleave(from, &self.elements)?,
        };
        let field = Arc::new(Field::new("item", values.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths(self.lengths);
        let nulls = NullBuffer::from(self.valid);
        Ok(Arc::new(ListArray::try_new(field, offsets, values, Some(nulls))?))
    }
}

fn removed(lists: &ListArray, element: &ArrayRef) -> Result<ArrayRef> {
    let same = sameness(lists, element)?;
    let mut chosen = Chosen::new();
    for row in 0..lists.len() {
        if lists.is_null(row) {
            chosen.push_null();
            continue;
        }
        let before = chosen.elements.len();
        let kept = places(lists, row).filter(|place| !same(*place, row));
        chosen.elements.extend(kept.map(|place| (0, place)));
        chosen.end(before);
    }
    chosen.lists(&[lists.values().as_ref()])
}

fn replaced(lists: &ListArray, from: &ArrayRef, to: &ArrayRef) -> Result<ArrayRef> {
    let same = sameness(lists, from)?;
    let to = cast(to, lists.values().data_type())?;
    let mut chosen = Chosen::new();
    for row in 0..lists.len() {
        if lists.is_null(row) {
            chosen.push_null();
            continue;
        }
        let before = chosen.elements.len();
        let elements =
            places(lists, row).map(|place| if same(place, row) { (1, row) } else { (0, place) });
        chosen.elements.extend(elements);
        chosen.end(before);
    }
    chosen.lists(&[lists.values().as_ref(), to.as_ref()])
}

fn trimmed(lists: &ListArray, counts: &ArrayRef) -> Result<ArrayRef> {
    let counts = counts.as_primitive::<Int64Type>();
    let mut chosen = Chosen::new();
    for row in 0..lists.len() {
        if lists.is_null(row) || counts.is_null(row) {
            chosen.push_null();
            continue;
        }
        let (all, count) = (places(lists, row), counts.value(row));
        if count < 0 || count > all.len() as i64 {
            return exec_err!("number of elements to trim must be between 0 and {}", all.len());
        }
        let before = chosen.elements.len();
        chosen.elements.extend((all.start..all.end - count as usize).map(|place| (0, place)));
        chosen.end(before);
    }
    chosen.lists(&[lists.values().as_ref()])
}

fn filled(arrays: &[ArrayRef]) -> Result<ArrayRef> {
    let (element, dims) = (&arrays[0], arrays[1].as_list::<i32>());
    let mut chosen = Chosen::new();
    for row in 0..element.len() {
        for lists in &arrays[1..] {
            if lists.is_null(row) {
                return exec_err!("dimension array or low bound array cannot be null");
            }
        }
        let numbers = |lists: &ArrayRef| -> Result<Vec<i64>> {
            let items = lists.as_list::<i32>().value(row);
            let items = items.as_primitive::<Int64Type>();
            match items.null_count() {
                0 => Ok(items.values().to_vec()),
                _ => exec_err!("dimension values cannot be null"),
            }
        };
        if let Some(bounds) = arrays.get(2) {
            let bounds = numbers(bounds)?;
            if bounds.len() != dims.value_length(row) as usize {
                return exec_err!("wrong number of array subscripts");
            }
            if bounds.iter().any(|bound| *bound != 1) {
                return exec_err!(
                    "arrays begin at 1: array_fill with another bound is not supported"
                );
            }
        }
        let count = match numbers(&arrays[1])?.as_slice() {
            [] => 0,
            [count] => *count,
            _ => return exec_err!("arrays of several dimensions are not supported"),
        };
        let Ok(count) = usize::try_from(count) else {
            return exec_err!("array size exceeds the maximum allowed");
        };
        check_elements(count)?;
        let before = chosen.elements.len();
        chosen.elements.extend(std::iter::repeat_n((0, row), count));
        chosen.end(before);
    }
    chosen.lists(&[element.as_ref()])
}

/// Lists of integers, one a row.
fn integers(rows: impl Iterator<Item = Result<Option<Vec<i32>>>>) -> Result<ArrayRef> {
    let mut lists = arrow::array::ListBuilder::new(arrow::array::Int32Builder::new())
        .with_field(Field::new("item", DataType::Int32, true));
    for row in rows {
        match row? {
            Some(items) => {
                lists.values().append_slice(&items);
                lists.append(true);
            }
            None => lists.append_null(),
        }
    }
    Ok(Arc::new(lists.finish()))
}

fn positions(lists: &ListArray, element: &ArrayRef) -> Result<ArrayRef> {
    let same = sameness(lists, element)?;
    integers((0..lists.len()).map(|row| {
        Ok(lists.is_valid(row).then(|| {
            let all = places(lists, row).enumerate();
            all.filter(|(_, place)| same(*place, row)).map(|(n, _)| n as i32 + 1).collect()
        }))
    }))
}

fn position(lists: &ListArray, element: &ArrayRef, start: Option<&ArrayRef>) -> Result<ArrayRef> {
    let same = sameness(lists, element)?;
    let of = |row: usize| -> Result<Option<i32>> {
        // Neither an empty array nor one without NULLs, of NULL, is searched at all.
        let is_there = |place: usize| lists.values().is_null(place);
        if lists.is_null(row)
            || places(lists, row).is_empty()
            || (element.is_null(row) && !places(lists, row).any(is_there))
        {
            return Ok(None);
        }
        let first = match start.map(|start| start.as_primitive::<Int64Type>()) {
            Some(start) if start.is_null(row) => {
                return exec_err!("initial position must not be null");
            }
            Some(start) => start.value(row),
            None => 1,
        };
        let mut all = places(lists, row).enumerate();
        let found = all.find(|(n, place)| *n as i64 + 1 >= first && same(*place, row));
        Ok(found.map(|(n, _)| n as i32 + 1))
    };
    Ok(Arc::new((0..lists.len()).map(of).collect::<Result<Int32Array>>()?))
}

fn subscripts(
    lists: &ListArray,
    dimension: &ArrayRef,
    reverse: Option<&ArrayRef>,
) -> Result<ArrayRef> {
    let dimension = dimension.as_primitive::<Int64Type>();
    let reverse = reverse.map(|reverse| reverse.as_boolean());
    integers((0..lists.len()).map(|row| {
        if lists.is_null(row) || dimension.is_null(row) || reverse.is_some_and(|r| r.is_null(row)) {
            return Ok(None);
        }
        let length = if dimension.value(row) == 1 { lists.value_length(row) } else { 0 };
        let mut all: Vec<i32> = (1..=length).collect();
        if reverse.is_some_and(|reverse| reverse.value(row)) {
            all.reverse();
        }
        Ok(Some(all))
    }))
}
