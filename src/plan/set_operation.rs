//! INTERSECT ALL and EXCEPT ALL: how often a row is on each side is counted, and it is repeated as
//! often as it is left over.

use datafusion_common::{Result, plan_err};
use datafusion_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion_expr::{Expr, Extension, LogicalPlan, LogicalPlanBuilder, col, lit};
use datafusion_functions::expr_fn::{greatest, least};
use datafusion_functions_aggregate::sum::sum;
use datafusion_sql::sqlparser::ast::TableFactor;
use std::sync::Arc;

use super::unnest::UnnestRows;

/// The alias that says which operation two relations side by side stand for.
pub const INTERSECT_ALL: &str = "__intersect_all";
/// See [`INTERSECT_ALL`].
pub const EXCEPT_ALL: &str = "__except_all";

/// Plans the relations that [`super::sugar`] makes of set operations.
#[derive(Debug)]
pub struct SetOperationPlanner;

impl RelationPlanner for SetOperationPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let intersect = match &relation {
            TableFactor::NestedJoin { alias: Some(alias), .. } => match alias.name.value.as_str() {
                INTERSECT_ALL => true,
                EXCEPT_ALL => false,
                _ => return Ok(RelationPlanning::Original(Box::new(relation))),
            },
            _ => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        let TableFactor::NestedJoin { table_with_joins, .. } = relation else {
            return plan_err!("a set operation has two sides");
        };
        let mut joins = table_with_joins.joins.into_iter();
        let Some(right) = joins.next() else { return plan_err!("a set operation has two sides") };
        let left = context.plan(table_with_joins.relation)?;
        let right = context.plan(right.relation)?;
        let plan = planned(left, right, intersect)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, None))))
    }
}

fn planned(left: LogicalPlan, right: LogicalPlan, intersect: bool) -> Result<LogicalPlan> {
    let names: Vec<String> = left.schema().fields().iter().map(|f| f.name().clone()).collect();
    let (l, r) = (left.schema().fields().len(), right.schema().fields().len());
    if l != r {
        return plan_err!("the sides of a set operation have {l} and {r} columns");
    }
    let union = LogicalPlanBuilder::from(counted(left, 1, 0)?).union(counted(right, 0, 1)?)?;
    let columns: Vec<Expr> = (0..names.len()).map(|i| col(format!("__c{i}"))).collect();
    let calls = vec![sum(col("__l")).alias("__l"), sum(col("__r")).alias("__r")];
    let grouped = union.aggregate(columns.clone(), calls)?;
    let copies = if intersect {
        least(vec![col("__l"), col("__r")])
    } else {
        greatest(vec![col("__l") - col("__r"), lit(0_i64)])
    };
    let shown: Vec<Expr> = columns.iter().cloned().chain([copies.alias("__n")]).collect();
    let counts = grouped.project(shown)?.filter(col("__n").gt(lit(0_i64)))?.build()?;
    let range = datafusion_functions_nested::range::range(lit(0_i64), col("__n"), lit(1_i64));
    let rows = UnnestRows::over(counts, range, "__copy")?;
    let rows = LogicalPlan::Extension(Extension { node: Arc::new(rows) });
    let named = columns.into_iter().zip(names).map(|(column, name)| column.alias(name));
    LogicalPlanBuilder::from(rows).project(named.collect::<Vec<_>>())?.build()
}

fn counted(plan: LogicalPlan, left: i64, right: i64) -> Result<LogicalPlan> {
    let columns = plan.schema().columns().into_iter().enumerate();
    let mut exprs: Vec<Expr> =
        columns.map(|(i, c)| Expr::Column(c).alias(format!("__c{i}"))).collect();
    exprs.extend([lit(left).alias("__l"), lit(right).alias("__r")]);
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}
