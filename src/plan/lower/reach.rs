//! The rows that a window function's value depends on, so that a change computes no others anew.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};
use datafusion_physical_expr::expressions::Literal;
use datafusion_physical_expr::window::WindowExpr;
use datafusion_physical_expr::{PhysicalExpr, PhysicalSortExpr};

use crate::aggregate;
use crate::plan::ir::{Extent, Rank, Reach, WindowEvaluation};

/// `nth_value` keeps the whole partition in view beyond this row.
const NTH_MAX: u64 = 64;

/// The rows that a function other than an aggregate depends on, and how it goes on from rows before.
pub enum FunctionReach {
    Rank(Rank, Extent),
    Nth(u64, Extent),
    Other(Reach),
}

/// The evaluation that belongs to a reach.
pub fn function_evaluation(
    reach: FunctionReach,
    expr: Arc<dyn WindowExpr>,
) -> (WindowEvaluation, Reach) {
    match reach {
        FunctionReach::Rank(rank, after) => {
            (WindowEvaluation::Rank(rank, expr), Reach::Before { after })
        }
        FunctionReach::Nth(n, after) => {
            (WindowEvaluation::Nth { n, expr }, Reach::Before { after })
        }
        FunctionReach::Other(reach) => (WindowEvaluation::Whole(expr), reach),
    }
}

/// The reach of a function that is not an aggregate.
pub fn of_function(
    name: &str,
    args: &[Arc<dyn PhysicalExpr>],
    ignore_nulls: bool,
    frame: &WindowFrame,
    order: &[PhysicalSortExpr],
) -> FunctionReach {
    let whole = FunctionReach::Other(Reach::Partition);
    let near = |before, after| FunctionReach::Other(Reach::Near { before, after });
    let shifted = || literal(args.get(1)).map(i64::unsigned_abs);
    match name {
        "row_number" => FunctionReach::Rank(Rank::Rows, Extent::Rows(0)),
        "rank" => FunctionReach::Rank(Rank::Rows, Extent::Peers(0)),
        "dense_rank" => FunctionReach::Rank(Rank::Peers, Extent::Peers(0)),
        "lag" | "lead" if !ignore_nulls => match shifted() {
            Some(rows) => near(Extent::Rows(rows), Extent::Rows(rows)),
            None => whole,
        },
        "first_value" | "last_value" | "nth_value" => {
            let n = if name == "nth_value" { literal(args.get(1)) } else { Some(1) };
            match (bounds(frame, order), n) {
                (Some((Some(before), Some(after))), _) => near(before, after),
                (Some((None, Some(after))), _) if name == "last_value" && !ignore_nulls => {
                    near(after.clone(), after)
                }
                (Some((None, Some(after))), Some(n @ 1..)) if !ignore_nulls => {
                    let n = n.unsigned_abs();
                    if n <= NTH_MAX { FunctionReach::Nth(n, after) } else { whole }
                }
                _ => whole,
            }
        }
        _ => whole,
    }
}

/// The reach of an aggregate.
pub fn of_aggregate(
    name: &str,
    distinct: bool,
    frame: &WindowFrame,
    order: &[PhysicalSortExpr],
) -> Reach {
    match bounds(frame, order) {
        Some((Some(before), Some(after))) => Reach::Near { before, after },
        Some((None, Some(after))) if !distinct && aggregate::has_small_state(name) => {
            Reach::Before { after }
        }
        _ => Reach::Partition,
    }
}

/// An argument that is a number; without the argument it is 1.
fn literal(arg: Option<&Arc<dyn PhysicalExpr>>) -> Option<i64> {
    let Some(arg) = arg else { return Some(1) };
    let value = arg.downcast_ref::<Literal>()?.value().cast_to(&DataType::Int64).ok()?;
    match value {
        ScalarValue::Int64(value) => value,
        _ => None,
    }
}

/// The reach of frames before and behind their row; `None` for a side is all of it. There is no answer for
/// frames that end before their row though they begin at the start, and for frames whose reach cannot be
/// told.
fn bounds(
    frame: &WindowFrame,
    order: &[PhysicalSortExpr],
) -> Option<(Option<Extent>, Option<Extent>)> {
    let row = match frame.units {
        WindowFrameUnits::Rows => Extent::Rows(0),
        // Without an order all rows are peers.
        _ if order.is_empty() => return None,
        _ => Extent::Peers(0),
    };
    let before = match &frame.start_bound {
        WindowFrameBound::CurrentRow | WindowFrameBound::Following(_) => Some(row.clone()),
        WindowFrameBound::Preceding(by) if by.is_null() => None,
        WindowFrameBound::Preceding(by) => Some(extent(frame.units, by)?),
    };
    let after = match &frame.end_bound {
        WindowFrameBound::CurrentRow => Some(row),
        WindowFrameBound::Preceding(_) if before.is_none() => return None,
        WindowFrameBound::Preceding(_) => Some(row),
        WindowFrameBound::Following(by) if by.is_null() => None,
        WindowFrameBound::Following(by) => Some(extent(frame.units, by)?),
    };
    Some((before, after))
}

fn extent(units: WindowFrameUnits, by: &ScalarValue) -> Option<Extent> {
    let count = || match by.cast_to(&DataType::UInt64).ok()? {
        ScalarValue::UInt64(count) => count,
        _ => None,
    };
    Some(match units {
        WindowFrameUnits::Rows => Extent::Rows(count()?),
        WindowFrameUnits::Groups => Extent::Peers(count()?),
        WindowFrameUnits::Range if is_exact(by) => Extent::Value(by.clone()),
        WindowFrameUnits::Range => return None,
    })
}

/// Whether a sum with this is undone by taking it away: not so of floats, which are rounded, and of
/// months, whose lengths differ.
fn is_exact(by: &ScalarValue) -> bool {
    match by {
        ScalarValue::IntervalMonthDayNano(Some(by)) => by.months == 0,
        ScalarValue::IntervalYearMonth(_) => false,
        other => !other.data_type().is_floating(),
    }
}
