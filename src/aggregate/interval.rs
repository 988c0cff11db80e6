//! Sums and averages of intervals: months, days and time each by themselves.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, IntervalMonthDayNanoArray};
use arrow::datatypes::{IntervalMonthDayNano, IntervalMonthDayNanoType};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use super::{FoldedAggregate, Overflows, State, States};
use crate::model::packed::{put_signed, put_wide, take_signed, take_wide};

const DAYS_PER_MONTH: f64 = 30.0;
const SECONDS_PER_DAY: f64 = 86_400.0;

/// Number of intervals, and the sums of their parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IntervalTotal {
    count: i64,
    months: i64,
    days: i64,
    nanoseconds: i128,
}

impl State for Box<IntervalTotal> {
    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.months += other.months;
        self.days += other.days;
        self.nanoseconds += other.nanoseconds;
    }

    fn is_zero(&self) -> bool {
        **self == IntervalTotal::default()
    }

    fn heap_bytes(&self) -> usize {
        size_of::<IntervalTotal>()
    }

    fn pack(&self, out: &mut Vec<u8>) {
        for part in [self.count, self.months, self.days] {
            put_signed(out, part);
        }
        put_wide(out, self.nanoseconds);
    }

    fn unpack(from: &mut &[u8]) -> Self {
        Box::new(IntervalTotal {
            count: take_signed(from),
            months: take_signed(from),
            days: take_signed(from),
            nanoseconds: take_wide(from),
        })
    }
}

impl IntervalTotal {
    fn sum(&self) -> Option<IntervalMonthDayNano> {
        let (months, days) = (i32::try_from(self.months), i32::try_from(self.days));
        match (months, days, i64::try_from(self.nanoseconds)) {
            (Ok(months), Ok(days), Ok(nanoseconds)) => {
                Some(IntervalMonthDayNano::new(months, days, nanoseconds))
            }
            _ => None,
        }
    }
}

/// The sum, or the average.
pub struct OfIntervals {
    pub average: bool,
}

impl FoldedAggregate for OfIntervals {
    type State = Box<IntervalTotal>;

    fn add(
        &self,
        column: &ArrayRef,
        totals: States<'_, Box<IntervalTotal>>,
    ) -> Result<(), ArrowError> {
        let values = column.as_primitive::<IntervalMonthDayNanoType>();
        totals.each(values, |total, row, diff| {
            let value = values.value(row);
            total.count += diff;
            total.months += i64::from(value.months) * diff;
            total.days += i64::from(value.days) * diff;
            total.nanoseconds += i128::from(value.nanoseconds) * i128::from(diff);
        });
        Ok(())
    }

    fn finish(
        &self,
        totals: &[&Box<IntervalTotal>],
        overflows: &mut Overflows,
    ) -> Result<ArrayRef, ArrowError> {
        let value = |(row, total): (usize, &&Self::State)| {
            if total.count == 0 {
                return None;
            }
            let value = match (total.sum(), self.average) {
                (Some(sum), true) => scaled(sum, total.count as f64, true),
                (sum, _) => sum,
            };
            if value.is_none() {
                overflows.push((row, "interval out of range".to_string()));
            }
            value
        };
        let values = totals.iter().enumerate().map(value);
        Ok(Arc::new(values.collect::<IntervalMonthDayNanoArray>()))
    }
}

/// A product or a quotient, as PostgreSQL has it: what is left of a month counts as days of which a month has 30, and
/// what is left of a day as time. Each part is scaled by itself, so that a quotient is not rounded twice. `None` where
/// no interval has it.
pub fn scaled(
    interval: IntervalMonthDayNano,
    factor: f64,
    divides: bool,
) -> Option<IntervalMonthDayNano> {
    let scale = |value: f64| if divides { value / factor } else { value * factor };
    let months = scale(f64::from(interval.months));
    let days = scale(f64::from(interval.days));
    let fits = |value: f64| value.is_finite() && value.abs() <= f64::from(i32::MAX);
    if !fits(months) || !fits(days) {
        return None;
    }
    let days_of_months = rounded((months - months.trunc()) * DAYS_PER_MONTH);
    let left_of_days = days - days.trunc() + days_of_months - days_of_months.trunc();
    let mut seconds = rounded(left_of_days * SECONDS_PER_DAY);
    let mut whole_days = days.trunc() + days_of_months.trunc();
    if seconds.abs() >= SECONDS_PER_DAY {
        let more = (seconds / SECONDS_PER_DAY).trunc();
        whole_days += more;
        seconds -= more * SECONDS_PER_DAY;
    }
    let micros = (scale((interval.nanoseconds / 1000) as f64) + seconds * 1e6).round_ties_even();
    if !fits(whole_days) || micros.is_nan() || micros.abs() >= i64::MAX as f64 / 1000.0 {
        return None;
    }
    let (months, days) = (months.trunc() as i32, whole_days as i32);
    Some(IntervalMonthDayNano::new(months, days, micros as i64 * 1000))
}

/// To microseconds.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round_ties_even() / 1e6
}
