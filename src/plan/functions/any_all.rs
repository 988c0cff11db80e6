//! `x < ANY (array)` and `x < ALL (array)`: unknown where an element that is NULL could decide it.

use std::cmp::Ordering;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, make_comparator};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type};
use datafusion_common::{Result, internal_err, plan_err};
use datafusion_expr::type_coercion::binary::comparison_coercion;
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr as SqlExpr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, VisitMut, visit_expressions_mut,
};

use super::interval;

const OPERATORS: [(&str, &str, fn(Ordering) -> bool); 6] = [
    ("= any", "= all", Ordering::is_eq),
    ("<> any", "<> all", Ordering::is_ne),
    ("< any", "< all", Ordering::is_lt),
    ("<= any", "<= all", Ordering::is_le),
    ("> any", "> all", Ordering::is_gt),
    (">= any", ">= all", Ordering::is_ge),
];

pub fn functions() -> Vec<Arc<ScalarUDF>> {
    let function = |name: &'static str, all: bool, holds: fn(Ordering) -> bool| {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(Quantified { name, all, holds, signature }))
    };
    OPERATORS
        .iter()
        .flat_map(|(any, all, holds)| [function(any, false, *holds), function(all, true, *holds)])
        .collect()
}

/// Makes calls of the comparisons with an array; those with a sub-query stay.
pub fn as_calls(sql: &mut impl VisitMut) {
    let _ = visit_expressions_mut(sql, |expr| {
        let (left, op, right, quantifier) = match expr {
            SqlExpr::AnyOp { left, compare_op, right, .. } => (left, compare_op, right, "any"),
            SqlExpr::AllOp { left, compare_op, right } => (left, compare_op, right, "all"),
            _ => return ControlFlow::<Infallible>::Continue(()),
        };
        use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
        if matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq)
            && !matches!(right.as_ref(), SqlExpr::Subquery(_))
            && !matches!(left.as_ref(), SqlExpr::Tuple(_))
        {
            let argument =
                |expr: &SqlExpr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr.clone()));
            let name = format!("{op} {quantifier}");
            *expr = SqlExpr::Function(Function {
                name: ObjectName::from(vec![Ident::with_quote('"', name)]),
                uses_odbc_syntax: false,
                parameters: FunctionArguments::None,
                args: FunctionArguments::List(FunctionArgumentList {
                    duplicate_treatment: None,
                    args: vec![argument(left), argument(right)],
                    clauses: Vec::new(),
                }),
                filter: None,
                null_treatment: None,
                over: None,
                within_group: Vec::new(),
            });
        }
        ControlFlow::Continue(())
    });
}

struct Quantified {
    name: &'static str,
    all: bool,
    holds: fn(Ordering) -> bool,
    signature: Signature,
}

by_name!(Quantified);

impl ScalarUDFImpl for Quantified {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [one, DataType::List(item)] = types else {
            return plan_err!("{} takes an array", self.name.to_uppercase());
        };
        match comparison_coercion(one, item.data_type()) {
            Some(common) => {
                let list = DataType::List(Arc::new(Field::new("item", common.clone(), true)));
                Ok(vec![common, list])
            }
            None => plan_err!("{one} and {} do not compare", item.data_type()),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays: Vec<ArrayRef> =
            args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<_>>()?;
        let [one, lists] = arrays.as_slice() else {
            return internal_err!("it has two arguments");
        };
        let lists = lists.as_list::<i32>();
        let items = comparable(lists.values())?;
        let one = comparable(&cast(one, lists.values().data_type())?)?;
        let compare = make_comparator(one.as_ref(), items.as_ref(), SortOptions::default())?;
        let offsets = lists.value_offsets();
        let value = |row: usize| {
            if lists.is_null(row) {
                return None;
            }
            let mut unknown = false;
            for item in offsets[row] as usize..offsets[row + 1] as usize {
                if one.is_null(row) || items.is_null(item) {
                    unknown = true;
                } else if (self.holds)(compare(row, item)) != self.all {
                    return Some(!self.all);
                }
            }
            (!unknown).then_some(self.all)
        };
        let values: BooleanArray = (0..rows).map(value).collect();
        Ok(ColumnarValue::Array(Arc::new(values)))
    }
}

/// Values whose order in Arrow is SQL's: one zero, one NaN, intervals by their lengths.
pub fn comparable(array: &ArrayRef) -> Result<ArrayRef> {
    Ok(match array.data_type() {
        DataType::Float64 => Arc::new(
            array
                .as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(|v| if v.is_nan() { f64::NAN } else { v + 0.0 }),
        ),
        DataType::Float32 => Arc::new(
            array
                .as_primitive::<Float32Type>()
                .unary::<_, Float32Type>(|v| if v.is_nan() { f32::NAN } else { v + 0.0 }),
        ),
        DataType::Interval(_) => interval::lengths(array)?,
        _ => Arc::clone(array),
    })
}
