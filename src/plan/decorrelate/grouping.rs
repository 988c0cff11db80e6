//! GROUPING SETS, ROLLUP and CUBE inside a correlated sub-query.
//!
//! The domain's columns are part of each set. The empty set is an aggregate without keys, which has a
//! row for each value of the domain, whether the value has rows or not.

use std::sync::Arc;

use datafusion_common::{Result, ScalarValue, TableReference, plan_err};
use datafusion_expr::{Aggregate, Expr, GroupingSet, LogicalPlan, lit};

use super::apply::{Apply, Domain, project, union_of};

/// A column's qualifier and name.
type ColumnName = (Option<TableReference>, String);

impl Apply<'_> {
    /// An aggregate over grouping sets, for each value of the domain.
    pub(super) fn grouping_sets(
        &self,
        aggregate: &Aggregate,
        sets: Vec<Vec<Expr>>,
        domain: &Domain,
    ) -> Result<LogicalPlan> {
        let (empty, keyed): (Vec<_>, Vec<_>) = sets.into_iter().partition(Vec::is_empty);
        let mut parts = Vec::new();
        if !keyed.is_empty() {
            parts.push(self.keyed_sets(aggregate, keyed, domain)?);
        }
        for _ in empty {
            parts.push(self.empty_set(aggregate, domain)?);
        }
        match parts.len() {
            1 => Ok(parts.remove(0)),
            _ => union_of(parts, domain, own_columns(aggregate).map(|(_, name)| name)),
        }
    }

    fn keyed_sets(
        &self,
        aggregate: &Aggregate,
        sets: Vec<Vec<Expr>>,
        domain: &Domain,
    ) -> Result<LogicalPlan> {
        let input = self.apply(&aggregate.input, domain, false)?;
        let below = [aggregate.input.as_ref()];
        let mut bound = Vec::new();
        for set in sets {
            let own = self.bind_all(&set, domain, &below)?;
            bound.push(domain.columns().into_iter().map(Expr::Column).chain(own).collect());
        }
        let group = vec![Expr::GroupingSet(GroupingSet::GroupingSets(bound))];
        let calls = self.bind_all(&aggregate.aggr_expr, domain, &below)?;
        let grouped = Aggregate::try_new(Arc::new(input), group, calls)?;
        let columns = grouped.schema.columns();
        let width = domain.renaming.len();
        let named = own_columns(aggregate)
            .map(|(index, (relation, name))| {
                Expr::Column(columns[width + index].clone()).alias_qualified(relation, name)
            })
            .collect();
        project(LogicalPlan::Aggregate(grouped), domain, named)
    }

    fn empty_set(&self, aggregate: &Aggregate, domain: &Domain) -> Result<LogicalPlan> {
        let keys = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
        let calls = aggregate.aggr_expr.iter();
        let calls: Vec<Expr> =
            calls.filter(|call| grouping_arguments(call).is_none()).cloned().collect();
        let mut values = Vec::new();
        let applied = if calls.is_empty() {
            domain.plan.clone()
        } else {
            let whole = Aggregate::try_new(Arc::clone(&aggregate.input), Vec::new(), calls)?;
            values = whole.schema.columns();
            self.apply(&LogicalPlan::Aggregate(whole), domain, false)?
        };
        let mut values = values.into_iter();
        let mut named = Vec::new();
        for (index, (relation, name)) in own_columns(aggregate) {
            let call = index.checked_sub(keys).map(|call| &aggregate.aggr_expr[call]);
            let value = match call.map(grouping_arguments) {
                None => {
                    let data_type = aggregate.schema.field(index).data_type();
                    Expr::Literal(ScalarValue::try_from(data_type)?, None)
                }
                // No key is in the set, so that grouping() has a bit for each of its arguments.
                Some(Some(arguments)) => lit((1_i32 << arguments) - 1),
                Some(None) => match values.next() {
                    Some(column) => Expr::Column(column),
                    None => return plan_err!("an aggregate of the empty set is missing"),
                },
            };
            named.push(value.alias_qualified(relation, name));
        }
        project(applied, domain, named)
    }
}

/// The aggregate's columns, without the one in which it tells its sets apart.
fn own_columns(aggregate: &Aggregate) -> impl Iterator<Item = (usize, ColumnName)> {
    let columns = aggregate.schema.iter().enumerate();
    columns
        .filter(|(_, (_, field))| field.name() != Aggregate::INTERNAL_GROUPING_ID)
        .map(|(index, (relation, field))| (index, (relation.cloned(), field.name().clone())))
}

/// Number of arguments of a call of grouping(); `None` for other calls.
fn grouping_arguments(call: &Expr) -> Option<usize> {
    match call {
        Expr::Alias(alias) => grouping_arguments(&alias.expr),
        Expr::AggregateFunction(call) if call.func.name() == "grouping" => {
            Some(call.params.args.len())
        }
        _ => None,
    }
}
