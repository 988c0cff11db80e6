//! The aggregates over ordered sets, as PostgreSQL has them: `percentile_cont(p) WITHIN GROUP (ORDER BY x)`,
//! `percentile_disc`, `mode`, and those of a row that is not there: `rank(v) WITHIN GROUP (ORDER BY x)` and the like.

use std::cmp::Ordering;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, make_comparator};
use arrow::compute::{SortOptions, cast, concat, filter, is_not_null, partition, sort};
use arrow::datatypes::{
    DataType, Field, Float64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit,
};
use datafusion_common::{Result, ScalarValue, exec_err, plan_err};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::type_coercion::binary::comparison_coercion;
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use datafusion_physical_expr::expressions::Literal;
use datafusion_sql::sqlparser::ast::{
    Expr as SqlExpr, Ident, ObjectName, VisitMut, visit_expressions_mut,
};

use super::interval;

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

/// The aggregates of a row that is not there, under the names of window functions; here they have a name of their
/// own, which no query can write.
const OF_NO_ROW: [(&str, &str); 4] = [
    ("rank", "rank within group"),
    ("dense_rank", "dense_rank within group"),
    ("percent_rank", "percent_rank within group"),
    ("cume_dist", "cume_dist within group"),
];

/// The aggregates.
pub fn functions() -> Vec<Arc<AggregateUDF>> {
    let function = |kind: OrderedSetKind| {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(AggregateUDF::new_from_impl(OrderedSet { kind, signature }))
    };
    [
        OrderedSetKind::PercentileCont,
        OrderedSetKind::PercentileDisc,
        OrderedSetKind::Mode,
        OrderedSetKind::Rank,
        OrderedSetKind::DenseRank,
        OrderedSetKind::PercentRank,
        OrderedSetKind::CumeDist,
    ]
    .into_iter()
    .map(function)
    .collect()
}

/// Tells `rank(…) WITHIN GROUP (…)` and the like from the window functions of their names.
pub fn tell_from_window_functions(sql: &mut impl VisitMut) {
    let _ = visit_expressions_mut(sql, |expr| {
        if let SqlExpr::Function(function) = expr
            && !function.within_group.is_empty()
        {
            let name = function.name.to_string().to_ascii_lowercase();
            if let Some((_, own)) = OF_NO_ROW.iter().find(|(known, _)| *known == name) {
                function.name = ObjectName::from(vec![Ident::with_quote('"', *own)]);
            }
        }
        ControlFlow::<Infallible>::Continue(())
    });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum OrderedSetKind {
    /// Between the values on both sides of this share.
    PercentileCont,
    /// The first value such that at least this share of the values is at it or before it.
    PercentileDisc,
    /// The most frequent value; of several the first.
    Mode,
    /// The rank of a given value among the others.
    Rank,
    DenseRank,
    PercentRank,
    CumeDist,
}

impl OrderedSetKind {
    fn name(self) -> &'static str {
        match self {
            OrderedSetKind::PercentileCont => "percentile_cont",
            OrderedSetKind::PercentileDisc => "percentile_disc",
            OrderedSetKind::Mode => "mode",
            OrderedSetKind::Rank => OF_NO_ROW[0].1,
            OrderedSetKind::DenseRank => OF_NO_ROW[1].1,
            OrderedSetKind::PercentRank => OF_NO_ROW[2].1,
            OrderedSetKind::CumeDist => OF_NO_ROW[3].1,
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OrderedSet {
    kind: OrderedSetKind,
    signature: Signature,
}

impl AggregateUDFImpl for OrderedSet {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The ordered expression is the first argument.
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match (self.kind, types) {
            (OrderedSetKind::Mode, [value]) => Ok(vec![value.clone()]),
            (OrderedSetKind::PercentileDisc, [value, share]) => {
                Ok(vec![value.clone(), share.clone()])
            }
            (OrderedSetKind::PercentileCont, [value, share]) => match value {
                DataType::Interval(_) => Ok(vec![INTERVAL, share.clone()]),
                value if value.is_numeric() || value.is_null() => {
                    Ok(vec![DataType::Float64, share.clone()])
                }
                value => plan_err!("percentile_cont takes numbers or intervals, not {value}"),
            },
            (
                OrderedSetKind::Mode
                | OrderedSetKind::PercentileDisc
                | OrderedSetKind::PercentileCont,
                _,
            ) => {
                plan_err!("{} takes one value in WITHIN GROUP (ORDER BY …)", self.name())
            }
            (_, [value, one]) => match comparison_coercion(value, one) {
                Some(common) => Ok(vec![common.clone(), common]),
                None => plan_err!("{}: {value} and {one} do not compare", self.name()),
            },
            _ => plan_err!("{} takes one value and one order", self.name()),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let many =
            |value: &DataType| DataType::List(Arc::new(Field::new("item", value.clone(), true)));
        match (self.kind, arguments.first()) {
            (_, Some(value)) if matches!(arguments.get(1), Some(DataType::List(_))) => {
                Ok(many(value))
            }
            (OrderedSetKind::Rank | OrderedSetKind::DenseRank, _) => Ok(DataType::Int64),
            (OrderedSetKind::PercentRank | OrderedSetKind::CumeDist, _) => Ok(DataType::Float64),
            (_, Some(value)) => Ok(value.clone()),
            (_, None) => plan_err!("{} takes WITHIN GROUP (ORDER BY …)", self.name()),
        }
    }

    fn state_fields(&self, _: StateFieldsArgs) -> Result<Vec<arrow::datatypes::FieldRef>> {
        plan_err!("{} is computed from all of its values", self.name())
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let literal = args.exprs.get(1).and_then(|e| e.downcast_ref::<Literal>());
        let (share, one) = match self.kind {
            OrderedSetKind::Mode => (None, None),
            OrderedSetKind::PercentileCont | OrderedSetKind::PercentileDisc => {
                (Some(share(self.kind, literal.map(Literal::value))?), None)
            }
            _ => match literal {
                Some(literal) => (None, Some(literal.value().clone())),
                None => return plan_err!("{} takes a constant", self.name()),
            },
        };
        let data_type = args.expr_fields[0].data_type().clone();
        let options = args.order_bys.first().map_or_else(SortOptions::default, |by| by.options);
        Ok(Box::new(Values { kind: self.kind, share, one, data_type, options, parts: Vec::new() }))
    }

    fn supports_within_group_clause(&self) -> bool {
        true
    }
}

/// The share, or several of them; NULL gives NULL.
#[derive(Clone, Debug)]
enum Share {
    One(Option<f64>),
    Many(Vec<Option<f64>>),
}

fn share(kind: OrderedSetKind, literal: Option<&ScalarValue>) -> Result<Share> {
    let floats = |array: &ArrayRef| -> Result<Vec<Option<f64>>> {
        let shares = cast(array, &DataType::Float64)?;
        let shares: Vec<Option<f64>> = shares.as_primitive::<Float64Type>().iter().collect();
        match shares.iter().flatten().all(|share| (0.0..=1.0).contains(share)) {
            true => Ok(shares),
            false => plan_err!("{} takes numbers from 0 to 1", kind.name()),
        }
    };
    match literal {
        Some(ScalarValue::List(shares)) if shares.is_valid(0) => {
            Ok(Share::Many(floats(&shares.value(0))?))
        }
        Some(ScalarValue::List(_)) => Ok(Share::One(None)),
        Some(share) => {
            let shares = floats(&share.to_array()?)?;
            Ok(Share::One(shares.first().copied().flatten()))
        }
        None => plan_err!("{} takes a constant", kind.name()),
    }
}

/// The values of a group, as they come.
#[derive(Debug)]
struct Values {
    kind: OrderedSetKind,
    share: Option<Share>,
    one: Option<ScalarValue>,
    data_type: DataType,
    options: SortOptions,
    parts: Vec<ArrayRef>,
}

impl Values {
    fn all(&self) -> Result<ArrayRef> {
        let parts: Vec<&dyn Array> = self.parts.iter().map(AsRef::as_ref).collect();
        Ok(match parts.is_empty() {
            true => arrow::array::new_empty_array(&self.data_type),
            false => concat(&parts)?,
        })
    }

    /// The rank that a row with the value `one`, which is not there, would have among the values.
    fn of_no_row(&self, one: &ScalarValue) -> Result<ScalarValue> {
        let values = self.all()?;
        let one = cast(&one.to_array()?, values.data_type())?;
        let compare = make_comparator(values.as_ref(), one.as_ref(), self.options)?;
        let count_of = |wanted: fn(Ordering) -> bool| -> Vec<usize> {
            (0..values.len()).filter(|row| wanted(compare(*row, 0))).collect()
        };
        let before = count_of(Ordering::is_lt);
        let rows = values.len() as f64;
        Ok(match self.kind {
            OrderedSetKind::Rank => ScalarValue::from(before.len() as i64 + 1),
            OrderedSetKind::DenseRank => {
                let indices: arrow::array::UInt64Array =
                    before.iter().map(|row| Some(*row as u64)).collect();
                let before = sort(&arrow::compute::take(&values, &indices, None)?, None)?;
                let different = match before.is_empty() {
                    true => 0,
                    false => partition(&[before])?.ranges().len(),
                };
                ScalarValue::from(different as i64 + 1)
            }
            OrderedSetKind::PercentRank if values.is_empty() => ScalarValue::from(0.0),
            OrderedSetKind::PercentRank => ScalarValue::from(before.len() as f64 / rows),
            _ => {
                let to = count_of(Ordering::is_le).len() as f64;
                ScalarValue::from((to + 1.0) / (rows + 1.0))
            }
        })
    }
}

impl Accumulator for Values {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        // Only a row that is not there has its place among NULLs, too.
        self.parts.push(match self.one {
            Some(_) => Arc::clone(&values[0]),
            None => filter(&values[0], &is_not_null(&values[0])?)?,
        });
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if let Some(one) = &self.one {
            return self.of_no_row(one);
        }
        let values = self.all()?;
        let null = ScalarValue::try_from(&self.data_type)?;
        let options = SortOptions { nulls_first: false, ..self.options };
        let at = |share: Option<f64>| match share {
            None => Ok(null.clone()),
            Some(share) if self.kind == OrderedSetKind::PercentileCont => {
                continuous(&values, share, options.descending)
            }
            Some(share) => {
                let values = sort(&values, Some(options))?;
                let at = ((share * values.len() as f64).ceil() as usize).max(1) - 1;
                ScalarValue::try_from_array(&values, at)
            }
        };
        match &self.share {
            Some(Share::Many(shares)) if !values.is_empty() => {
                let all = shares.iter().map(|share| at(*share)).collect::<Result<Vec<_>>>()?;
                Ok(ScalarValue::List(ScalarValue::new_list(&all, &self.data_type, true)))
            }
            Some(Share::Many(_)) => {
                let item = Arc::new(Field::new("item", self.data_type.clone(), true));
                ScalarValue::try_from(&DataType::List(item))
            }
            _ if values.is_empty() => Ok(null),
            Some(Share::One(share)) => at(*share),
            None => {
                let values = sort(&values, Some(options))?;
                ScalarValue::try_from_array(&values, most_frequent(&values)?)
            }
        }
    }

    fn size(&self) -> usize {
        self.parts.iter().map(|part| part.get_array_memory_size()).sum()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        plan_err!("it is computed from all of its values")
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        plan_err!("it is computed from all of its values")
    }
}

/// The value at a share of the way, between two values in proportion.
fn continuous(values: &ArrayRef, share: f64, descending: bool) -> Result<ScalarValue> {
    let place = share * (values.len() - 1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    let part = place - place.floor();
    if let Some(intervals) = values.as_primitive_opt::<IntervalMonthDayNanoType>() {
        let mut all: Vec<IntervalMonthDayNano> = intervals.values().to_vec();
        all.sort_by_key(|value| interval::nanoseconds(*value));
        if descending {
            all.reverse();
        }
        let value = match low == high {
            true => all[low],
            false => interval::between(all[low], all[high], part)?,
        };
        return Ok(ScalarValue::IntervalMonthDayNano(Some(value)));
    }
    let Some(floats) = values.as_primitive_opt::<Float64Type>() else {
        return exec_err!("percentile_cont takes numbers or intervals");
    };
    let mut all: Vec<f64> = floats.values().to_vec();
    // NaN is greater than all others.
    all.sort_by(|a, b| (a + 0.0).partial_cmp(&(b + 0.0)).unwrap_or(a.is_nan().cmp(&b.is_nan())));
    if descending {
        all.reverse();
    }
    let value = if low == high { all[low] } else { all[low] + part * (all[high] - all[low]) };
    Ok(ScalarValue::from(value))
}

/// Where in sorted values the first of the longest runs begins.
fn most_frequent(values: &ArrayRef) -> Result<usize> {
    let runs = partition(std::slice::from_ref(values))?.ranges();
    let longest = runs.into_iter().reduce(|a, b| if b.len() > a.len() { b } else { a });
    Ok(longest.map_or(0, |run| run.start))
}
