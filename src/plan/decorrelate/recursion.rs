//! WITH RECURSIVE in a correlated sub-query: a recursion for all values of the domain at once, whose rows begin
//! with the value that they belong to. Its term reads those rows of one value only.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema};
use datafusion_common::tree_node::Transformed;
use datafusion_common::{Column, DFSchema, ExprSchema, Result};
use datafusion_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, Operator, RecursiveQuery, TableScan, binary_expr,
};

use super::apply::{Apply, Domain};
use crate::plan::context::WorkTableSource;

impl Apply<'_> {
    /// The recursion's rows for each value of the domain.
    pub(super) fn recursion(&self, query: &RecursiveQuery, domain: &Domain) -> Result<LogicalPlan> {
        let width = domain.renaming.len();
        // The domain stands beside them in the term, under its own names.
        let values: Vec<Column> = (0..width).map(|_| self.names.column("value")).collect();
        let first = named(self.apply(&query.static_term, domain, false)?, &values)?;
        let begins = first.schema().iter().take(width);
        let all = begins.chain(query.schema.iter());
        let all = all.map(|(relation, field)| (relation.cloned(), Arc::clone(field)));
        let schema = DFSchema::new_with_metadata(all.collect(), Default::default())?;

        let name = self.names.column("recursion").name;
        let fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        let source = WorkTableSource::new(&name, Arc::new(Schema::new(fields)));
        let rows = LogicalPlanBuilder::scan(name.as_str(), Arc::new(source), None)?.build()?;
        let term =
            query.recursive_term.as_ref().clone().transform_up_with_subqueries(
                |node| match &node {
                    LogicalPlan::TableScan(scan) if is_work_table(scan, &query.name) => {
                        Ok(Transformed::yes(of_one_value(&rows, scan, domain)?))
                    }
                    _ => Ok(Transformed::no(node)),
                },
            )?;
        let term = named(self.apply(&term.data, domain, false)?, &values)?;
        let schema = Arc::new(schema);
        let own: Vec<Column> = schema.columns().into_iter().skip(width).collect();
        let recursion = LogicalPlan::RecursiveQuery(RecursiveQuery {
            name,
            static_term: Arc::new(first),
            recursive_term: Arc::new(term),
            is_distinct: query.is_distinct,
            schema,
        });
        let values = values.into_iter().zip(domain.columns());
        let values = values.map(|(value, column)| Expr::Column(value).alias(column.name));
        let columns = values.chain(own.into_iter().map(Expr::Column));
        LogicalPlanBuilder::from(recursion).project(columns.collect::<Vec<_>>())?.build()
    }
}

/// The plan with these names for its first columns.
fn named(plan: LogicalPlan, names: &[Column]) -> Result<LogicalPlan> {
    let columns = plan.schema().columns().into_iter().enumerate();
    let columns = columns.map(|(at, column)| match names.get(at) {
        Some(name) => Expr::Column(column).alias(&name.name),
        None => Expr::Column(column),
    });
    let columns: Vec<Expr> = columns.collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

fn is_work_table(scan: &TableScan, name: &str) -> bool {
    scan.source.downcast_ref::<WorkTableSource>().is_some_and(|table| table.name == name)
}

/// The rows that belong to the value of the outer columns, as the scan in whose place they stand has them.
fn of_one_value(rows: &LogicalPlan, scan: &TableScan, domain: &Domain) -> Result<LogicalPlan> {
    let columns = rows.schema().columns();
    let (values, own) = columns.split_at(domain.renaming.len());
    let mut plan = LogicalPlanBuilder::from(rows.clone());
    for ((outer, _), value) in domain.renaming.iter().zip(values) {
        let field = Arc::clone(rows.schema().field_from_column(value)?);
        let outer = Expr::OuterReferenceColumn(field, outer.clone());
        let value = Expr::Column(value.clone());
        plan = plan.filter(binary_expr(value, Operator::IsNotDistinctFrom, outer))?;
    }
    let shown = scan.projected_schema.iter().map(|(relation, field)| {
        let place = own.iter().find(|column| column.name == *field.name());
        let column = place.cloned().unwrap_or_else(|| Column::from_name(field.name()));
        Expr::Column(column).alias_qualified(relation.cloned(), field.name())
    });
    plan.project(shown.collect::<Vec<_>>())?.build()
}
