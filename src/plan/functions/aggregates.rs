//! The aggregates of `crate::aggregate` whose types or values are PostgreSQL's where DataFusion's are not: sums,
//! averages, variances and those of pairs. GROUP BY folds them; window functions accumulate them here, by the same
//! states.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalUnit};
use datafusion_common::{
    Result, ScalarValue, exec_datafusion_err, exec_err, internal_err, plan_err,
};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Expr, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::decimal::{Digits, NARROW_MAX, average};
use crate::aggregate::{self, AggregateFunction, BatchGroups, Computation, Slot};

/// The digits that a sum has more than its numbers: that of ten thousand million of them.
const SUM_DIGITS: u8 = 10;

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

/// The names, with PostgreSQL's further ones.
const NAMES: [(&str, &[&str]); 18] = [
    ("sum", &[]),
    ("avg", &["mean"]),
    ("var", &["var_samp", "var_sample", "variance"]),
    ("var_pop", &["var_population"]),
    ("stddev", &["stddev_samp"]),
    ("stddev_pop", &[]),
    ("corr", &[]),
    ("covar_pop", &[]),
    ("covar_samp", &["covar"]),
    ("regr_avgx", &[]),
    ("regr_avgy", &[]),
    ("regr_count", &[]),
    ("regr_intercept", &[]),
    ("regr_r2", &[]),
    ("regr_slope", &[]),
    ("regr_sxx", &[]),
    ("regr_sxy", &[]),
    ("regr_syy", &[]),
];

/// The aggregates in the place of DataFusion's.
pub fn functions() -> Vec<Arc<AggregateUDF>> {
    let function = |(name, aliases): &(&'static str, &[&str])| {
        let Computation::Folded(folded) = Computation::of(name) else { return None };
        let aliases = aliases.iter().map(|alias| alias.to_string()).collect();
        let signature = Signature::user_defined(Volatility::Immutable);
        Some(Arc::new(AggregateUDF::new_from_impl(Folded { name, aliases, folded, signature })))
    };
    NAMES.iter().filter_map(function).collect()
}

struct Folded {
    name: &'static str,
    aliases: Vec<String>,
    folded: &'static AggregateFunction,
    signature: Signature,
}

by_name!(Folded);

/// The type of the result of a number's aggregate.
fn result(name: &str, of: &DataType) -> Result<DataType> {
    if of.is_floating() {
        return Ok(match (name, of) {
            ("sum", of) => of.clone(),
            _ => DataType::Float64,
        });
    }
    let Some(digits) = Digits::of(of) else { return plan_err!("{name} takes numbers, not {of}") };
    Ok(match (name, of) {
        ("sum", DataType::Int16 | DataType::Int32) => DataType::Int64,
        ("sum", DataType::Int64) => DataType::Decimal128(NARROW_MAX, 0),
        ("sum", of) if of.is_integer() => DataType::UInt64,
        ("sum", _) => Digits { whole: digits.whole.saturating_add(SUM_DIGITS), ..digits }
            .data_type(digits.scale),
        ("avg", _) => average(digits.whole, digits.scale),
        // The deviation of a sample of two numbers at the ends of their range is greater than the range.
        ("stddev" | "stddev_pop", _) => {
            average(digits.whole.saturating_add(1), digits.scale.saturating_mul(2))
        }
        _ => {
            let whole = digits.whole.saturating_mul(2).saturating_add(1);
            average(whole, digits.scale.saturating_mul(2))
        }
    })
}

impl AggregateUDFImpl for Folded {
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
        if self.folded.pairs {
            let is_number = |t: &DataType| t.is_numeric() || t.is_null();
            return match types {
                [y, x] if is_number(y) && is_number(x) => Ok(vec![DataType::Float64; 2]),
                _ => plan_err!("{} takes two numbers", self.name),
            };
        }
        let [of] = types else { return plan_err!("{} takes one number", self.name) };
        Ok(vec![match of {
            DataType::Null => DataType::Int64,
            DataType::Interval(_) if ["sum", "avg"].contains(&self.name) => INTERVAL,
            DataType::Float16 => DataType::Float32,
            DataType::Int8 => DataType::Int16,
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => DataType::UInt64,
            of if of.is_numeric() => of.clone(),
            of => return plan_err!("{} takes numbers, not {of}", self.name),
        }])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match self.folded.pairs {
            true if self.name == "regr_count" => Ok(DataType::Int64),
            true => Ok(DataType::Float64),
            false if types[0] == INTERVAL => Ok(INTERVAL),
            false => result(self.name, &types[0]),
        }
    }

    fn is_nullable(&self) -> bool {
        self.name != "regr_count"
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(args.name, DataType::Binary, true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let input = match args.expr_fields {
            [only] => only.data_type().clone(),
            _ => DataType::Struct(pair_fields()),
        };
        let output = args.return_field.data_type().clone();
        let typed = (self.folded.typed)(&input, &output)?;
        let accumulator = aggregate::Accumulator {
            rows: crate::model::multiplicity::Multiplicity::default(),
            slots: std::iter::once(typed.empty_slot()).collect(),
        };
        let seen = args.is_distinct.then(HashMap::new);
        let folded = self.folded;
        Ok(Box::new(OneGroup { folded, input, output, accumulator, seen }))
    }
}

/// The values of one group, or of a window's frame.
struct OneGroup {
    folded: &'static AggregateFunction,
    input: DataType,
    output: DataType,
    accumulator: aggregate::Accumulator,
    /// For DISTINCT the number of times that each value is there.
    seen: Option<HashMap<ScalarValue, i64>>,
}

impl std::fmt::Debug for OneGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({})", self.folded.name, self.input)
    }
}

impl OneGroup {
    fn add(&mut self, values: &[ArrayRef], sign: i64) -> Result<()> {
        let column = match values {
            [only] => Arc::clone(only),
            [y, x] => pairs(y, x)?,
            _ => return internal_err!("{} has one or two arguments", self.folded.name),
        };
        let rows = column.len();
        let mut diffs = vec![sign; rows];
        if let Some(seen) = &mut self.seen {
            for (row, diff) in diffs.iter_mut().enumerate() {
                let count = seen.entry(ScalarValue::try_from_array(&column, row)?).or_insert(0);
                let before = *count > 0;
                *count += sign;
                *diff = i64::from(*count > 0) - i64::from(before);
            }
            seen.retain(|_, count| *count != 0);
        }
        let typed = (self.folded.typed)(&self.input, &self.output)?;
        let members = vec![0; rows];
        let accumulators = std::slice::from_mut(&mut self.accumulator);
        typed.fold(&column, BatchGroups { accumulators, members: &members, diffs: &diffs }, 0)?;
        Ok(())
    }
}

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(values, 1)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(values, -1)
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let typed = (self.folded.typed)(&self.input, &self.output)?;
        let mut overflows = Vec::new();
        let result = typed.results(&[&self.accumulator], 0, &mut overflows)?;
        match overflows.pop() {
            Some((_, reason)) => exec_err!("{reason}"),
            None => ScalarValue::try_from_array(&result, 0),
        }
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.seen.as_ref().map_or(0, |seen| seen.len() * 64)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        match serde_json::to_vec(&self.accumulator.slots[0]) {
            Ok(state) if self.seen.is_none() => Ok(vec![ScalarValue::Binary(Some(state))]),
            _ => internal_err!("{} has no state that can be told", self.folded.name),
        }
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for state in states[0].as_binary::<i32>().iter().flatten() {
            let slot: Slot = serde_json::from_slice(state)
                .map_err(|error| exec_datafusion_err!("the state of an aggregate: {error}"))?;
            self.accumulator.slots[0].merge(&slot);
        }
        Ok(())
    }
}

fn pair_fields() -> Fields {
    let float = |name: &str| Field::new(name, DataType::Float64, true);
    Fields::from(vec![float("y"), float("x")])
}

/// Pairs of floats; NULL where one of them is.
fn pairs(y: &ArrayRef, x: &ArrayRef) -> Result<ArrayRef> {
    let (y, x) = (cast(y, &DataType::Float64)?, cast(x, &DataType::Float64)?);
    let nulls = NullBuffer::union(y.nulls(), x.nulls());
    Ok(Arc::new(StructArray::try_new(pair_fields(), vec![y, x], nulls)?))
}

/// The pair of two arguments, as one column.
pub fn pair(y: Expr, x: Expr) -> Expr {
    let signature = Signature::any(2, Volatility::Immutable);
    ScalarUDF::new_from_impl(PairFunction { signature }).call(vec![y, x])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct PairFunction {
    signature: Signature,
}

impl ScalarUDFImpl for PairFunction {
    fn name(&self) -> &str {
        "pair"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(pair_fields()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        Ok(ColumnarValue::Array(pairs(&arrays[0], &arrays[1])?))
    }
}
