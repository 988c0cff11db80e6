//! The aggregates over ordered sets that DataFusion lacks, as PostgreSQL has them:
//! `percentile_disc(p) WITHIN GROUP (ORDER BY x)` and `mode() WITHIN GROUP (ORDER BY x)`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::{SortOptions, concat, filter, is_not_null, partition, sort};
use arrow::datatypes::DataType;
use datafusion_common::{Result, ScalarValue, plan_err};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use datafusion_physical_expr::expressions::Literal;

/// Both functions.
pub fn functions() -> Vec<Arc<AggregateUDF>> {
    let function = |kind: Kind| {
        let signature = Signature::any(kind.arguments(), Volatility::Immutable);
        Arc::new(AggregateUDF::new_from_impl(OrderedSet { kind, signature }))
    };
    [Kind::PercentileDisc, Kind::Mode].into_iter().map(function).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// The first value that at least this share of the values is not behind.
    PercentileDisc,
    /// The most frequent value; of several the first.
    Mode,
}

impl Kind {
    /// The ordered expression is the first of them.
    fn arguments(self) -> usize {
        match self {
            Kind::PercentileDisc => 2,
            Kind::Mode => 1,
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OrderedSet {
    kind: Kind,
    signature: Signature,
}

impl AggregateUDFImpl for OrderedSet {
    fn name(&self) -> &str {
        match self.kind {
            Kind::PercentileDisc => "percentile_disc",
            Kind::Mode => "mode",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments.first() {
            Some(value) => Ok(value.clone()),
            None => plan_err!("{} takes WITHIN GROUP (ORDER BY …)", self.name()),
        }
    }

    fn state_fields(&self, _: StateFieldsArgs) -> Result<Vec<arrow::datatypes::FieldRef>> {
        plan_err!("{} is computed from all of its values", self.name())
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let share = match self.kind {
            Kind::PercentileDisc => Some(share(&args)?),
            Kind::Mode => None,
        };
        let data_type = args.expr_fields[0].data_type().clone();
        let descending = args.order_bys.first().is_some_and(|by| by.options.descending);
        Ok(Box::new(Values { share, data_type, descending, parts: Vec::new() }))
    }

    fn supports_within_group_clause(&self) -> bool {
        true
    }
}

fn share(args: &AccumulatorArgs) -> Result<f64> {
    let literal = args.exprs.get(1).and_then(|e| e.downcast_ref::<Literal>());
    let share = literal.map(|l| l.value().cast_to(&DataType::Float64)).transpose()?;
    match share {
        Some(ScalarValue::Float64(Some(share))) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => plan_err!("percentile_disc takes a number from 0 to 1"),
    }
}

/// The values of a group, as they come.
#[derive(Debug)]
struct Values {
    share: Option<f64>,
    data_type: DataType,
    descending: bool,
    parts: Vec<ArrayRef>,
}

impl Accumulator for Values {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.parts.push(filter(&values[0], &is_not_null(&values[0])?)?);
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let parts: Vec<&dyn Array> = self.parts.iter().map(AsRef::as_ref).collect();
        let values = match parts.is_empty() {
            true => arrow::array::new_empty_array(&self.data_type),
            false => concat(&parts)?,
        };
        if values.is_empty() {
            return ScalarValue::try_from(&self.data_type);
        }
        let options = SortOptions { descending: self.descending, nulls_first: false };
        let values = sort(&values, Some(options))?;
        let index = match self.share {
            Some(share) => ((share * values.len() as f64).ceil() as usize).max(1) - 1,
            None => most_frequent(&values)?,
        };
        ScalarValue::try_from_array(&values, index)
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

/// Where in sorted values the first of the longest runs begins.
fn most_frequent(values: &ArrayRef) -> Result<usize> {
    let runs = partition(std::slice::from_ref(values))?.ranges();
    let longest = runs.into_iter().reduce(|a, b| if b.len() > a.len() { b } else { a });
    Ok(longest.map_or(0, |run| run.start))
}
