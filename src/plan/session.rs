//! Session windows: the rows of a key whose times are less than a gap apart.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, TimestampNanosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, FieldRef, IntervalMonthDayNanoType, TimestampNanosecondType,
};
use datafusion_common::{Result, exec_err};
use datafusion_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion_expr::{
    Expr, LimitEffect, PartitionEvaluator, Signature, Volatility, WindowUDF, WindowUDFImpl,
};
use datafusion_physical_expr::PhysicalExpr;

const NANOSECONDS_PER_DAY: i64 = 86_400_000_000_000;

/// The beginning of the session that a row is in: the time of its first row.
pub fn session_start(time: Expr, gap: Expr) -> Expr {
    call(SessionBound::Start, time, gap)
}

/// The end of the session that a row is in: the time of its last row and the gap.
pub fn session_end(time: Expr, gap: Expr) -> Expr {
    call(SessionBound::End, time, gap)
}

fn call(bound: SessionBound, time: Expr, gap: Expr) -> Expr {
    let signature = Signature::any(2, Volatility::Immutable);
    WindowUDF::new_from_impl(Session { bound, signature }).call(vec![time, gap])
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum SessionBound {
    Start,
    End,
}

/// The begin or end of the session that a row is in, over rows in the order of their times.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Session {
    bound: SessionBound,
    signature: Signature,
}

impl WindowUDFImpl for Session {
    fn name(&self) -> &str {
        match self.bound {
            SessionBound::Start => "session_start",
            SessionBound::End => "session_end",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn partition_evaluator(
        &self,
        _: PartitionEvaluatorArgs,
    ) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(Evaluator { bound: self.bound }))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        let time = args.get_input_field(0);
        let data_type = time.map_or(DataType::Null, |field| field.data_type().clone());
        Ok(Arc::new(Field::new(args.name(), data_type, true)))
    }

    fn limit_effect(&self, _: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        LimitEffect::Unknown
    }
}

#[derive(Debug)]
struct Evaluator {
    bound: SessionBound,
}

impl PartitionEvaluator for Evaluator {
    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let [times, gaps] = values else {
            return exec_err!("a session has a time and a gap");
        };
        let data_type = times.data_type();
        let nanoseconds = DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, None);
        let times = cast(times, &nanoseconds)?;
        let times = times.as_primitive::<TimestampNanosecondType>();
        let gaps = gaps.as_primitive::<IntervalMonthDayNanoType>();
        let mut bounds = vec![0_i64; rows];
        let mut first = 0;
        for row in 0..rows {
            let gap = gaps.value(row);
            let gap = i64::from(gap.days) * NANOSECONDS_PER_DAY + gap.nanoseconds;
            let next = (row + 1 < rows).then(|| times.value(row + 1));
            if next.is_some_and(|next| next - times.value(row) < gap) {
                continue;
            }
            let bound = match self.bound {
                SessionBound::Start => times.value(first),
                SessionBound::End => times.value(row) + gap,
            };
            bounds[first..=row].fill(bound);
            first = row + 1;
        }
        let bounds: ArrayRef = Arc::new(TimestampNanosecondArray::from(bounds));
        Ok(cast(&bounds, data_type)?)
    }
}
