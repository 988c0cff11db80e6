//! An optimizer rule: conditions on one side of a join are tested before the join.
//!
//! DataFusion's own rule merges a filter into the filters below it and tests the upper one first,
//! so that a guard in an inner query no longer guards. Here a moved condition stays above, and so is
//! tested after, everything that was below it.

use std::sync::Arc;

use datafusion_common::tree_node::Transformed;
use datafusion_common::{JoinType, Result};
use datafusion_expr::utils::{conjunction, split_conjunction_owned};
use datafusion_expr::{Expr, Filter, Join, LogicalPlan};
use datafusion_optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// See the module's description.
#[derive(Debug)]
pub struct PushFilterThroughJoin;

impl OptimizerRule for PushFilterThroughJoin {
    fn name(&self) -> &str {
        "push_filter_through_join"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Filter(filter) = plan else { return Ok(Transformed::no(plan)) };
        match Arc::unwrap_or_clone(filter.input) {
            LogicalPlan::Join(join) => push(filter.predicate, join),
            input => Ok(Transformed::no(LogicalPlan::Filter(Filter::try_new(
                filter.predicate,
                Arc::new(input),
            )?))),
        }
    }
}

fn push(predicate: Expr, mut join: Join) -> Result<Transformed<LogicalPlan>> {
    let (to_left, to_right) = match join.join_type {
        JoinType::Inner => (true, true),
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti => (true, false),
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti => (false, true),
        _ => (false, false),
    };
    let (mut left, mut right, mut above) = (Vec::new(), Vec::new(), Vec::new());
    for condition in split_conjunction_owned(predicate) {
        let columns = condition.column_refs();
        let within = |plan: &LogicalPlan| {
            !columns.is_empty() && columns.iter().all(|c| plan.schema().has_column(c))
        };
        if to_left && within(&join.left) {
            left.push(condition);
        } else if to_right && within(&join.right) {
            right.push(condition);
        } else {
            above.push(condition);
        }
    }
    let moved = !left.is_empty() || !right.is_empty();
    join.left = filtered(join.left, left)?;
    join.right = filtered(join.right, right)?;
    let plan = filtered(Arc::new(LogicalPlan::Join(join)), above)?;
    let plan = Arc::unwrap_or_clone(plan);
    Ok(if moved { Transformed::yes(plan) } else { Transformed::no(plan) })
}

fn filtered(input: Arc<LogicalPlan>, conditions: Vec<Expr>) -> Result<Arc<LogicalPlan>> {
    match conjunction(conditions) {
        None => Ok(input),
        Some(condition) => Ok(Arc::new(LogicalPlan::Filter(Filter::try_new(condition, input)?))),
    }
}
