//! `a[n]` and `a[m:n]`, counted from 1: an element that is not there is NULL, a slice has those that are there.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, UInt64Array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion_common::{DFSchema, Result, ScalarValue, internal_err, plan_err};
use datafusion_expr::planner::{ExprPlanner, PlannerResult, RawFieldAccessExpr};
use datafusion_expr::{
    ColumnarValue, Expr, ExprSchemable, GetFieldAccess, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// Plans subscripts of arrays.
#[derive(Debug)]
pub struct Subscripts;

impl ExprPlanner for Subscripts {
    fn plan_field_access(
        &self,
        expr: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        if !matches!(expr.expr.get_type(schema), Ok(DataType::List(_))) {
            return Ok(PlannerResult::Original(expr));
        }
        let RawFieldAccessExpr { field_access, expr: array } = expr;
        let is_integer = |e: &Expr| e.get_type(schema).is_ok_and(|t| t.is_integer() || t.is_null());
        Ok(match field_access {
            GetFieldAccess::ListIndex { key } if is_integer(&key) => {
                PlannerResult::Planned(call("array_subscript", vec![array, *key]))
            }
            GetFieldAccess::ListRange { start, stop, stride } => {
                let one = Expr::Literal(ScalarValue::Int64(Some(1)), None);
                if *stride != one || !is_integer(&start) || !is_integer(&stop) {
                    return plan_err!("a slice of an array is [from:to]");
                }
                PlannerResult::Planned(call("array_subscripts", vec![array, *start, *stop]))
            }
            field_access => {
                PlannerResult::Original(RawFieldAccessExpr { field_access, expr: array })
            }
        })
    }
}

fn call(name: &'static str, args: Vec<Expr>) -> Expr {
    let signature = Signature::user_defined(Volatility::Immutable);
    ScalarUDF::new_from_impl(Subscript { name, signature }).call(args)
}

struct Subscript {
    name: &'static str,
    signature: Signature,
}

by_name!(Subscript);

impl ScalarUDFImpl for Subscript {
    fn name(&self) -> &str {
        self.name
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let bounds: Vec<String> = args[1..].iter().map(|e| e.schema_name().to_string()).collect();
        Ok(format!("{}[{}]", args[0].schema_name(), bounds.join(":")))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let mut all = vec![DataType::Int64; types.len()];
        all[0] = types[0].clone();
        Ok(all)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match &types[0] {
            DataType::List(item) if types.len() == 2 => Ok(item.data_type().clone()),
            other => Ok(other.clone()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let array = &args.arg_fields[0];
        Ok(match array.data_type() {
            DataType::List(item) if args.arg_fields.len() == 2 => {
                Arc::new(item.as_ref().clone().with_name(self.name).with_nullable(true))
            }
            _ => Arc::new(array.as_ref().clone().with_nullable(true)),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays: Vec<ArrayRef> =
            args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<_>>()?;
        let (Some(lists), DataType::List(item)) =
            (arrays[0].as_list_opt::<i32>(), arrays[0].data_type())
        else {
            return internal_err!("a subscript of no array");
        };
        let bounds: Vec<ArrayRef> = arrays[1..]
            .iter()
            .map(|bound| Ok(cast(bound, &DataType::Int64)?))
            .collect::<Result<_>>()?;
        let bound = |n: usize, row: usize| bounds[n].as_primitive::<Int64Type>().value(row);
        let is_null =
            |row: usize| lists.is_null(row) || bounds.iter().any(|bound| bound.is_null(row));
        let offsets = lists.value_offsets();
        if bounds.len() == 1 {
            let place = |row: usize| {
                let length = i64::from(lists.value_length(row));
                let there = !is_null(row) && (1..=length).contains(&bound(0, row));
                there.then(|| (i64::from(offsets[row]) + bound(0, row) - 1) as u64)
            };
            let places: UInt64Array = (0..rows).map(place).collect();
            return Ok(ColumnarValue::Array(take(lists.values(), &places, None)?));
        }
        let (mut places, mut lengths, mut valid) = (Vec::new(), Vec::new(), Vec::new());
        for (row, start) in offsets.iter().enumerate().take(rows) {
            let before = places.len();
            if !is_null(row) {
                let from = bound(0, row).max(1);
                let to = bound(1, row).min(lists.value_length(row).into());
                places.extend((from..=to).map(|n| (i64::from(*start) + n - 1) as u64));
            }
            lengths.push(places.len() - before);
            valid.push(!is_null(row));
        }
        let values = take(lists.values(), &UInt64Array::from(places), None)?;
        let (offsets, nulls) = (OffsetBuffer::from_lengths(lengths), NullBuffer::from(valid));
        let slices = ListArray::try_new(Arc::clone(item), offsets, values, Some(nulls))?;
        Ok(ColumnarValue::Array(Arc::new(slices)))
    }
}
