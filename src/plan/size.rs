//! Limits on what a query becomes, so that what grows beyond any use is refused by name before it
//! costs the time and memory that a process has.

use datafusion_common::ScalarValue;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::{Expr, LogicalPlan};
use datafusion_sql::sqlparser::ast::{Expr as SqlExpr, GroupByExpr, SetExpr};

use super::diagnostic::Unplannable;

/// Most operators that a view may have, with the operators of all views that it reads, each as often as it is
/// read.
const OPERATORS_MAX: usize = 20_000;
/// Most bytes that the constants of a view may have in all.
pub const CONSTANT_BYTES_MAX: usize = 4 << 20;
/// Most grouping sets that one GROUP BY may have: each row is kept once for each of them.
pub const GROUPING_SETS_MAX: usize = 4_096;

/// Most set operations that one query may chain: planning them takes time that grows with the square.
pub const SET_OPERATIONS_MAX: usize = 1_000;
/// Deepest nesting of an expression, in a query and when it is evaluated: workers evaluate it, and other
/// threads drop it, on stacks of 2 MiB. A chain of operators has one level for each of them.
pub const EXPRESSION_DEPTH_MAX: usize = 400;

/// Refuses a plan with too many operators; takes no longer than it takes to count up to the limit.
pub fn check_operators(plan: &LogicalPlan) -> Result<(), Unplannable> {
    let mut todo = vec![plan];
    let mut count = 0_usize;
    while let Some(plan) = todo.pop() {
        count += 1;
        if count > OPERATORS_MAX {
            return Err(Unplannable(format!(
                "the view has more than {OPERATORS_MAX} operators, with those of the views that \
                 it reads, each as often as it is read"
            )));
        }
        todo.extend(plan.inputs());
    }
    Ok(())
}

/// Refuses constants, written or computed, that are too large to be kept in a plan.
pub fn check_constants(plan: &LogicalPlan) -> Result<(), Unplannable> {
    let mut bytes = 0_usize;
    let mut walk = |plan: &LogicalPlan| {
        plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::Literal(value, _) = expr {
                    bytes = bytes.saturating_add(heap_bytes(value));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    };
    let mut todo = vec![plan];
    while let Some(plan) = todo.pop() {
        // Counting does not fail.
        let _ = walk(plan);
        todo.extend(plan.inputs());
    }
    if bytes <= CONSTANT_BYTES_MAX {
        return Ok(());
    }
    let max = CONSTANT_BYTES_MAX >> 20;
    Err(Unplannable(format!("the view's constants have {} MiB, more than {max} MiB", bytes >> 20)))
}

fn heap_bytes(value: &ScalarValue) -> usize {
    value.size() - size_of_val(value)
}

/// Number of set operations that a query consists of, without those inside parentheses.
pub fn set_operations(body: &SetExpr) -> usize {
    let mut todo = vec![body];
    let mut count = 0;
    while let Some(body) = todo.pop() {
        if let SetExpr::SetOperation { left, right, .. } = body {
            count += 1;
            todo.extend([left.as_ref(), right.as_ref()]);
        }
    }
    count
}

/// Into how many sets a GROUP BY divides, as far as it can be told from its text.
pub fn grouping_sets(group_by: &GroupByExpr) -> usize {
    let GroupByExpr::Expressions(exprs, _) = group_by else { return 1 };
    let sets = exprs.iter().map(|expr| match expr {
        SqlExpr::Cube(elements) => {
            u32::try_from(elements.len()).ok().and_then(|n| 2_usize.checked_pow(n))
        }
        SqlExpr::Rollup(elements) => Some(elements.len() + 1),
        SqlExpr::GroupingSets(sets) => Some(sets.len()),
        _ => Some(1),
    });
    sets.fold(1, |product: usize, sets| product.saturating_mul(sets.unwrap_or(usize::MAX)))
}
