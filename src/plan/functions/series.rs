//! `generate_series(from, to [, step])` as an array, with the types that PostgreSQL has; and `range`, without the end.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, PrimitiveArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType,
    IntervalUnit, TimeUnit,
};
use datafusion_common::{Result, exec_err, internal_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::decimal::Digits;
use super::limits::{check_series, check_series_of_batch};
use super::{calendar, interval, written};

pub fn functions() -> Vec<Arc<ScalarUDF>> {
    let function = |name: &'static str| {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(Series { name, signature }))
    };
    ["generate_series", "range"].into_iter().map(function).collect()
}

struct Series {
    name: &'static str,
    signature: Signature,
}

by_name!(Series);

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

fn micros(zone: bool) -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, zone.then(|| "UTC".into()))
}

impl ScalarUDFImpl for Series {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let refused = || {
            let types: Vec<String> = types.iter().map(DataType::to_string).collect();
            plan_err!("there is no function {}({})", self.name, types.join(", "))
        };
        let of_numbers = |t: &DataType| t.is_integer() || t.is_decimal() || t.is_null();
        if (2..=3).contains(&types.len()) && types.iter().all(of_numbers) {
            let common = match types.iter().any(DataType::is_decimal) {
                true => {
                    let all = types.iter().filter_map(Digits::of);
                    let all = all.reduce(Digits::both).map(|all| all.data_type(all.scale));
                    match all {
                        Some(narrow @ DataType::Decimal128(..)) => narrow,
                        _ => return refused(),
                    }
                }
                false if types.iter().any(|t| Digits::of(t).is_some_and(|d| d.whole > 10)) => {
                    DataType::Int64
                }
                false => DataType::Int32,
            };
            return Ok(vec![common; types.len()]);
        }
        let is_time =
            |t: &DataType| t.is_null() || matches!(t, DataType::Date32 | DataType::Timestamp(..));
        match types {
            [from, to, DataType::Interval(_) | DataType::Null] if is_time(from) && is_time(to) => {
                let local = |t: &DataType| matches!(t, DataType::Timestamp(_, None));
                let instant = micros(!local(from) && !local(to));
                Ok(vec![instant.clone(), instant, INTERVAL])
            }
            _ => refused(),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new("item", types[0].clone(), true))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays: Vec<ArrayRef> =
            args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<_>>()?;
        let of = arrays[0].data_type().clone();
        let list = match &of {
            DataType::Int32 | DataType::Int64 => {
                let columns: Vec<ArrayRef> = arrays
                    .iter()
                    .map(|array| Ok(cast(array, &DataType::Int64)?))
                    .collect::<Result<_>>()?;
                let column =
                    |n: usize| columns.get(n).map(|c| c.as_primitive::<Int64Type>().clone());
                let last = i64::from(i32::MAX);
                let last = if of == DataType::Int32 { last } else { i64::MAX };
                self.of_numbers(rows, &arrays, |row| {
                    let value = |n: usize| column(n).map_or(1, |c| c.value(row));
                    let (from, to) = (i128::from(value(0)), i128::from(value(1)));
                    (from, to.min(last.into()), i128::from(value(2)))
                })?
            }
            DataType::Decimal128(_, scale) => {
                let one = 10_i128.pow(scale.unsigned_abs().into());
                let column = |n: usize| arrays.get(n).map(|c| c.as_primitive::<Decimal128Type>());
                self.of_numbers(rows, &arrays, |row| {
                    let value = |n: usize| column(n).map_or(one, |c| c.value(row));
                    (value(0), value(1), value(2))
                })?
            }
            DataType::Timestamp(..) => self.of_times(rows, &arrays)?,
            other => return internal_err!("a series of {other}"),
        };
        let (numbers, lengths, valid) = list;
        let values: ArrayRef = match &of {
            DataType::Decimal128(..) => {
                let values: PrimitiveArray<Decimal128Type> =
                    numbers.into_iter().map(Some).collect();
                Arc::new(values.with_data_type(of.clone()))
            }
            of => {
                let values = numbers.into_iter().map(|number| number as i64);
                cast(&Int64Array::from_iter_values(values), of)?
            }
        };
        let field = Arc::new(Field::new("item", of, true));
        let (offsets, nulls) = (OffsetBuffer::from_lengths(lengths), NullBuffer::from(valid));
        let lists = ListArray::try_new(field, offsets, values, Some(nulls))?;
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}

/// The numbers of all rows, how many each row has, and whether it has a series at all.
type SeriesLists = (Vec<i128>, Vec<usize>, Vec<bool>);

impl Series {
    fn is_beyond(&self, value: i128, to: i128, up: bool) -> bool {
        match self.name {
            "range" if value == to => true,
            _ => {
                if up {
                    value > to
                } else {
                    value < to
                }
            }
        }
    }

    fn of_numbers(
        &self,
        rows: usize,
        arrays: &[ArrayRef],
        of: impl Fn(usize) -> (i128, i128, i128),
    ) -> Result<SeriesLists> {
        let (mut all, mut lengths, mut valid) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..rows {
            let before = all.len();
            let is_there = arrays.iter().all(|array| array.is_valid(row));
            if is_there {
                let (from, to, step) = of(row);
                if step == 0 {
                    return exec_err!("step size cannot equal zero");
                }
                let mut value = from;
                let length = to.saturating_sub(from) / step;
                if length > 0 {
                    check_series(usize::try_from(length).unwrap_or(usize::MAX))?;
                }
                while !self.is_beyond(value, to, step > 0) {
                    all.push(value);
                    check_series(all.len() - before)?;
                    let Some(next) = value.checked_add(step) else { break };
                    value = next;
                }
            }
            check_series_of_batch(all.len() - before)?;
            lengths.push(all.len() - before);
            valid.push(is_there);
        }
        Ok((all, lengths, valid))
    }

    fn of_times(&self, rows: usize, arrays: &[ArrayRef]) -> Result<SeriesLists> {
        let (from, to) = (written::micros_of(&arrays[0])?, written::micros_of(&arrays[1])?);
        let (from, to) = (from.as_primitive::<Int64Type>(), to.as_primitive::<Int64Type>());
        let steps = arrays[2].as_primitive::<IntervalMonthDayNanoType>();
        let (mut all, mut lengths, mut valid) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..rows {
            let before = all.len();
            let is_there = arrays.iter().all(|array| array.is_valid(row));
            if is_there {
                let step: IntervalMonthDayNano = steps.value(row);
                let length = interval::nanoseconds(step);
                if length == 0 {
                    return exec_err!("step size cannot equal zero");
                }
                let mut value = from.value(row);
                while !self.is_beyond(value.into(), to.value(row).into(), length > 0) {
                    all.push(value.into());
                    check_series(all.len() - before)?;
                    value = calendar::plus(value, step)?;
                }
            }
            check_series_of_batch(all.len() - before)?;
            lengths.push(all.len() - before);
            valid.push(is_there);
        }
        Ok((all, lengths, valid))
    }
}
