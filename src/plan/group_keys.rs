//! The keys of GROUP BY: the grouping sets written out, and each key once.
//!
//! `GROUP BY a, a` is `GROUP BY a`. The planner's aggregate has a column for each key that differs and
//! yet all keys in its list, so that whoever counts the list takes a key for an aggregate.

use std::sync::Arc;

use datafusion_common::Result;
use datafusion_common::tree_node::Transformed;
use datafusion_expr::utils::enumerate_grouping_sets;
use datafusion_expr::{Aggregate, Expr, GroupingSet, LogicalPlan};

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

/// The grouping sets that GROUPING SETS, ROLLUP or CUBE stand for; `None` where there are none.
pub fn sets(group: &[Expr]) -> Result<Option<Vec<Vec<Expr>>>> {
    let first = enumerate_grouping_sets(group.to_vec())?.into_iter().next();
    let Some(Expr::GroupingSet(sets)) = first else { return Ok(None) };
    Ok(Some(match sets {
        GroupingSet::GroupingSets(sets) => sets,
        GroupingSet::Rollup(all) => (0..=all.len()).rev().map(|n| all[..n].to_vec()).collect(),
        GroupingSet::Cube(all) => (0..1_usize << all.len())
            .map(|mask| {
                let chosen = all.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 0);
                chosen.map(|(_, e)| e.clone()).collect()
            })
            .collect(),
    }))
}
