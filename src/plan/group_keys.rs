//! `GROUP BY a, a` is `GROUP BY a`. The planner's aggregate has a column for each key that differs and
//! yet all keys in its list, so that whoever counts the list takes a key for an aggregate.

use std::sync::Arc;

use datafusion_common::Result;
use datafusion_common::tree_node::Transformed;
use datafusion_expr::{Aggregate, Expr, LogicalPlan};

/// The plan with each group key once, sub-queries included.
pub fn once(plan: LogicalPlan) -> Result<LogicalPlan> {
    let of_one = |plan: LogicalPlan| {
        let LogicalPlan::Aggregate(aggregate) = &plan else { return Ok(Transformed::no(plan)) };
        let mut keys: Vec<Expr> = Vec::new();
        for key in &aggregate.group_expr {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        if keys.len() == aggregate.group_expr.len() {
            return Ok(Transformed::no(plan));
        }
        let (input, calls) = (Arc::clone(&aggregate.input), aggregate.aggr_expr.clone());
        let aggregate = Aggregate::try_new(input, keys, calls)?;
        Ok(Transformed::yes(LogicalPlan::Aggregate(aggregate)))
    };
    Ok(plan.transform_up_with_subqueries(of_one)?.data)
}
