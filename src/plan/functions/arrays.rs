//! Functions of arrays. A NULL inside equals nothing.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion_common::{Result, internal_err, plan_err};
use datafusion_expr::type_coercion::binary::comparison_coercion;
use datafusion_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion_sql::sqlparser::ast::BinaryOperator;

use super::limits::check_elements;

/// `a @> b`: whether each element of the second array is one of the first.
pub fn contains() -> ScalarUDF {
    ScalarUDF::new_from_impl(Elements::new("array_contains", true))
}

/// `a < b` and the like: element by element, NULL after all others; a shorter array comes first.
pub fn compared(op: &BinaryOperator, left: Expr, right: Expr) -> Expr {
    let (name, less) = match op {
        BinaryOperator::Lt | BinaryOperator::Gt => ("array_lt", true),
        _ => ("array_le", false),
    };
    let function = ScalarUDF::new_from_impl(Compared {
        name,
        less,
        signature: Signature::user_defined(Volatility::Immutable),
    });
    match op {
        BinaryOperator::Gt | BinaryOperator::GtEq => function.call(vec![right, left]),
        _ => function.call(vec![left, right]),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Compared {
    name: &'static str,
    less: bool,
    signature: Signature,
}

impl ScalarUDFImpl for Compared {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        two_arrays(self.name, types)
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [left, right] = arrays.as_slice() else {
            return internal_err!("it has two arguments");
        };
        let right = cast(right, left.data_type())?;
        let (left, right) = (left.as_list::<i32>(), right.as_list::<i32>());
        let options = SortOptions { descending: false, nulls_first: false };
        let items = arrow::array::make_comparator(
            left.values().as_ref(),
            right.values().as_ref(),
            options,
        )?;
        let (of_left, of_right) = (left.value_offsets(), right.value_offsets());
        let result = |row: usize| {
            if left.is_null(row) || right.is_null(row) {
                return None;
            }
            let here = of_left[row] as usize..of_left[row + 1] as usize;
            let there = of_right[row] as usize..of_right[row + 1] as usize;
            let lengths = here.len().cmp(&there.len());
            let order = here.zip(there).map(|(a, b)| items(a, b)).find(|order| order.is_ne());
            let order = order.unwrap_or(lengths);
            Some(order.is_lt() || (!self.less && order.is_eq()))
        };
        let result: ArrayRef = Arc::new((0..left.len()).map(result).collect::<BooleanArray>());
        Ok(ColumnarValue::Array(result))
    }
}

/// The type that the elements of two arrays agree on.
fn two_arrays(name: &str, types: &[DataType]) -> Result<Vec<DataType>> {
    let item = |t: &DataType| match t {
        DataType::List(item) => Some(item.data_type().clone()),
        _ => None,
    };
    let common = match types {
        [left, right] => match (item(left), item(right)) {
            (Some(left), Some(right)) => comparison_coercion(&left, &right),
            _ => None,
        },
        _ => None,
    };
    match common {
        Some(common) => {
            let list = DataType::List(Arc::new(Field::new("item", common, true)));
            Ok(vec![list; 2])
        }
        None => plan_err!("{name} takes two arrays of one type"),
    }
}

/// `a && b`: whether they share an element.
pub fn overlaps() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Elements::new("array_overlaps", false)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Elements {
    name: &'static str,
    /// All elements of the second array, or any.
    all: bool,
    signature: Signature,
}

impl Elements {
    fn new(name: &'static str, all: bool) -> Self {
        Elements { name, all, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Elements {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        two_arrays(self.name, types)
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [left, right] = arrays.as_slice() else {
            return internal_err!("it has two arguments");
        };
        let right = cast(right, left.data_type())?;
        let (left, right) = (left.as_list::<i32>(), right.as_list::<i32>());
        let compare = arrow::array::make_comparator(
            left.values().as_ref(),
            right.values().as_ref(),
            SortOptions::default(),
        )?;
        let (of_left, of_right) = (left.value_offsets(), right.value_offsets());
        let result = |row: usize| {
            if left.is_null(row) || right.is_null(row) {
                return None;
            }
            let here = of_left[row] as usize..of_left[row + 1] as usize;
            let has = |other: usize| {
                right.values().is_valid(other)
                    && here
                        .clone()
                        .any(|at| left.values().is_valid(at) && compare(at, other).is_eq())
            };
            let mut others = of_right[row] as usize..of_right[row + 1] as usize;
            Some(if self.all { others.all(has) } else { others.any(has) })
        };
        let result: ArrayRef = Arc::new((0..left.len()).map(result).collect::<BooleanArray>());
        Ok(ColumnarValue::Array(result))
    }
}

/// The function in the place of DataFusion's: an empty array has no dimensions, and results have limits.
pub fn beside(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match inner.name() {
        "array_length" | "array_ndims" | "cardinality" => {
            Arc::new(ScalarUDF::new_from_impl(Narrow { inner }))
        }
        "array_repeat" | "array_resize" | "array_concat" | "array_append" | "array_prepend" => {
            Arc::new(ScalarUDF::new_from_impl(Limited { inner }))
        }
        _ => inner,
    }
}

/// A function of DataFusion that makes arrays, no longer than arrays may be.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Limited {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for Limited {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        if matches!(self.name(), "array_repeat" | "array_resize")
            && let Some(counts) = args.args.get(1)
        {
            let counts = cast(&counts.clone().into_array(rows)?, &DataType::Int64)?;
            for count in counts.as_primitive::<Int64Type>().iter().flatten() {
                check_elements(usize::try_from(count).unwrap_or(0))?;
            }
        }
        let made = self.inner.invoke_with_args(args)?.into_array(rows)?;
        if let Some(lists) = made.as_list_opt::<i32>() {
            for length in lists.offsets().lengths() {
                check_elements(length)?;
            }
        }
        Ok(ColumnarValue::Array(made))
    }
}

/// A count of DataFusion's as INT, with NULL for what an empty array has not.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Narrow {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for Narrow {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)?;
        Ok(DataType::Int32)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let array = args.args[0].clone().into_array(rows)?;
        let of_inner = self
            .inner
            .return_type(&args.args.iter().map(ColumnarValue::data_type).collect::<Vec<_>>())?;
        let return_field = Arc::new(Field::new(self.name(), of_inner, true));
        let counts = self.inner.invoke_with_args(ScalarFunctionArgs { return_field, ..args })?;
        let counts = cast(&counts.into_array(rows)?, &DataType::Int32)?;
        if !matches!(self.name(), "array_length" | "array_ndims") {
            return Ok(ColumnarValue::Array(counts));
        }
        let empty: BooleanArray = (0..rows)
            .map(|row| {
                Some(
                    array.is_valid(row)
                        && array.as_list_opt::<i32>().is_some_and(|l| l.value_length(row) == 0),
                )
            })
            .collect();
        Ok(ColumnarValue::Array(arrow::compute::nullif(&counts, &empty)?))
    }
}
