//! Aggregates of pairs of floats: `corr(y, x)`, `covar_pop(y, x)`, `covar_samp(y, x)` and `regr_*(y, x)`. A pair in
//! which one is NULL does not count. The sums are exact.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array};
use arrow::datatypes::Float64Type;
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use super::exact::{FloatSum, co_moment};
use super::{AggregateFunction, FoldedAggregate, Overflows, State, States};
use crate::model::packed::{put_signed, take_signed};

/// The number of pairs, the sums of both columns, and the sums of their products.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CoMoments {
    count: i64,
    y: FloatSum,
    x: FloatSum,
    yy: FloatSum,
    xx: FloatSum,
    xy: FloatSum,
}

impl State for Box<CoMoments> {
    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.y.merge(&other.y);
        self.x.merge(&other.x);
        self.yy.merge(&other.yy);
        self.xx.merge(&other.xx);
        self.xy.merge(&other.xy);
    }

    fn is_zero(&self) -> bool {
        let sums = [&self.y, &self.x, &self.yy, &self.xx, &self.xy];
        self.count == 0 && sums.iter().all(|sum| sum.is_zero())
    }

    fn heap_bytes(&self) -> usize {
        size_of::<CoMoments>()
    }

    fn pack(&self, out: &mut Vec<u8>) {
        put_signed(out, self.count);
        for sum in [&self.y, &self.x, &self.yy, &self.xx, &self.xy] {
            sum.pack(out);
        }
    }

    fn unpack(from: &mut &[u8]) -> Self {
        Box::new(CoMoments {
            count: take_signed(from),
            y: FloatSum::unpack(from),
            x: FloatSum::unpack(from),
            yy: FloatSum::unpack(from),
            xx: FloatSum::unpack(from),
            xy: FloatSum::unpack(from),
        })
    }
}

impl CoMoments {
    fn add(&mut self, y: f64, x: f64, times: i64) {
        self.count += times;
        self.y.add(y, times);
        self.x.add(x, times);
        self.yy.add_product(y, y, times);
        self.xx.add_product(x, x, times);
        self.xy.add_product(x, y, times);
    }

    /// The count times the sum of squares around the mean, of each column and of both.
    fn around_means(&self) -> Around {
        let CoMoments { count, y, x, yy, xx, xy } = self;
        Around {
            xx: co_moment(*count, x, x, xx),
            yy: co_moment(*count, y, y, yy),
            xy: co_moment(*count, x, y, xy),
        }
    }
}

/// Sums around the means, times the count.
struct Around {
    xx: f64,
    yy: f64,
    xy: f64,
}

/// Computes an aggregate of the moments and the number of pairs, which is not zero. An infinity stands for a
/// finite result beyond the largest float.
type MomentsFunction = fn(&CoMoments, f64) -> Option<f64>;

struct OfPairs(MomentsFunction);

macro_rules! of_pairs {
    ($($name:ident = $function:literal: $of:expr;)*) => {
        $(
            pub static $name: AggregateFunction = AggregateFunction {
                pairs: true,
                ..AggregateFunction::accumulable($function, |_, _| Ok(Box::new(OfPairs($of))))
            };
        )*
    };
}

of_pairs! {
    CORR = "corr": |m, _| m.around_means().of_both(corr);
    COVAR_POP = "covar_pop": |m, n| Some(m.around_means().xy / n / n);
    COVAR_SAMP = "covar_samp": |m, n| (n > 1.0).then(|| m.around_means().xy / n / (n - 1.0));
    REGR_AVGX = "regr_avgx": |m, n| Some(m.x.value() / n);
    REGR_AVGY = "regr_avgy": |m, n| Some(m.y.value() / n);
    REGR_SXX = "regr_sxx": |m, n| Some(m.around_means().xx / n);
    REGR_SYY = "regr_syy": |m, n| Some(m.around_means().yy / n);
    REGR_SXY = "regr_sxy": |m, n| Some(m.around_means().xy / n);
    REGR_SLOPE = "regr_slope": |m, _| slope(m);
    REGR_INTERCEPT = "regr_intercept": |m, n| {
        Some((m.y.value() - m.x.value() * slope(m)?) / n)
    };
    REGR_R2 = "regr_r2": |m, _| m.around_means().of_both(|m| match m.yy {
        0.0 => Some(1.0),
        yy => Some((m.xy / m.xx) * (m.xy / yy)),
    });
}

impl Around {
    /// Applies `of`, unless the sums are beyond the largest float. NULL where x does not vary.
    fn of_both(&self, of: fn(&Around) -> Option<f64>) -> Option<f64> {
        match (self.xx, self.yy) {
            (0.0, _) => None,
            (xx, yy) if xx.is_infinite() || yy.is_infinite() => Some(f64::INFINITY),
            _ => of(self),
        }
    }
}

fn corr(around: &Around) -> Option<f64> {
    let Around { xx, yy, xy } = around;
    if *yy == 0.0 {
        return None;
    }
    let scale = match xx * yy {
        product if product.is_finite() && product != 0.0 => product.sqrt(),
        _ => xx.sqrt() * yy.sqrt(),
    };
    Some((xy / scale).clamp(-1.0, 1.0))
}

fn slope(m: &CoMoments) -> Option<f64> {
    let Around { xx, xy, .. } = m.around_means();
    match xx {
        0.0 => None,
        xx if xx.is_infinite() => Some(xx),
        xx => Some(xy / xx),
    }
}

impl FoldedAggregate for OfPairs {
    type State = Box<CoMoments>;

    fn add(&self, column: &ArrayRef, states: States<'_, Box<CoMoments>>) -> Result<(), ArrowError> {
        add_pairs(column, states)
    }

    fn finish(
        &self,
        states: &[&Box<CoMoments>],
        overflows: &mut Overflows,
    ) -> Result<ArrayRef, ArrowError> {
        let value = |(row, moments): (usize, &&Self::State)| {
            if moments.count == 0 {
                return None;
            }
            let value = (self.0)(moments, moments.count as f64)?;
            let is_special = |sum: &FloatSum| !sum.value().is_finite() && !sum.overflows();
            if value.is_infinite() && !is_special(&moments.x) && !is_special(&moments.y) {
                overflows.push((row, "value out of range: overflow".to_string()));
                return None;
            }
            Some(value)
        };
        Ok(Arc::new(states.iter().enumerate().map(value).collect::<Float64Array>()))
    }
}

fn add_pairs(column: &ArrayRef, states: States<'_, Box<CoMoments>>) -> Result<(), ArrowError> {
    let Some(pairs) = column.as_struct_opt() else {
        return Err(ArrowError::ComputeError("an aggregate of pairs is of pairs".to_string()));
    };
    let (y, x) = (
        pairs.column(0).as_primitive::<Float64Type>(),
        pairs.column(1).as_primitive::<Float64Type>(),
    );
    states.each(pairs as &dyn Array, |moments, row, diff| {
        moments.add(y.value(row), x.value(row), diff);
    });
    Ok(())
}

/// `regr_count(y, x)`.
struct CountOfPairs;

pub static REGR_COUNT: AggregateFunction = AggregateFunction {
    pairs: true,
    ..AggregateFunction::accumulable("regr_count", |_, _| Ok(Box::new(CountOfPairs)))
};

impl FoldedAggregate for CountOfPairs {
    type State = Box<CoMoments>;

    fn add(&self, column: &ArrayRef, states: States<'_, Box<CoMoments>>) -> Result<(), ArrowError> {
        add_pairs(column, states)
    }

    fn finish(
        &self,
        states: &[&Box<CoMoments>],
        _: &mut Overflows,
    ) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(Int64Array::from_iter_values(states.iter().map(|moments| moments.count))))
    }
}
