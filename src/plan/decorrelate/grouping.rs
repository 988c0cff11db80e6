//! GROUPING SETS, ROLLUP and CUBE inside a correlated sub-query.
//!
//! The domain's columns are part of each set. The empty set is an aggregate without keys, which has a
//! row for each value of the domain, whether the value has rows or not.

use std::sync::Arc;

use datafusion_common::{Column, Result, ScalarValue};
use datafusion_expr::{Aggregate, Expr, GroupingSet, LogicalPlan, Union, lit};

use super::apply::{Apply, Domain, project};

/// A column's place among an aggregate's own, and what stands there.
type Named = (Option<datafusion_common::TableReference>, String);

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
        let only = match parts.len() {
            1 => parts.pop(),
            _ => None,
        };
        if let Some(only) = only {
            return Ok(only);
        }
        let union = Union::try_new_with_loose_types(parts.into_iter().map(Arc::new).collect())?;
        let columns = union.schema.columns().into_iter().skip(domain.renaming.len());
        let named = columns.zip(own_columns(aggregate)).map(|(c, (_, name))| under(c, name));
        let named = named.collect();
        project(LogicalPlan::Union(union), domain, named)
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
            .map(|(index, name)| under(columns[width + index].clone(), name))
            .collect();
        project(LogicalPlan::Aggregate(grouped), domain, named)
    }

    fn empty_set(&self, aggregate: &Aggregate, domain: &Domain) -> Result<LogicalPlan> {
        let keys = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
        let is_call = |index: usize| {
            index >= keys && grouping_arguments(&aggregate.aggr_expr[index - keys]).is_none()
        };
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
            let field = aggregate.schema.field(index);
            let value = match is_call(index).then(|| values.next()).flatten() {
                Some(column) => Expr::Column(column),
                None if index < keys => {
                    Expr::Literal(ScalarValue::try_from(field.data_type())?, None)
                }
                // No key is in the set, so that grouping() has a bit for each of its arguments.
                None => {
                    let arguments = grouping_arguments(&aggregate.aggr_expr[index - keys]);
                    lit((1_i32 << arguments.unwrap_or(0)) - 1)
                }
            };
            named.push(value.alias_qualified(relation, name));
        }
        project(applied, domain, named)
    }
}

/// The aggregate's columns, without the one in which it tells its sets apart.
fn own_columns(aggregate: &Aggregate) -> impl Iterator<Item = (usize, Named)> {
    let columns = aggregate.schema.iter().enumerate();
    columns
        .filter(|(_, (_, field))| field.name() != Aggregate::INTERNAL_GROUPING_ID)
        .map(|(index, (relation, field))| (index, (relation.cloned(), field.name().clone())))
}

fn under(column: Column, (relation, name): Named) -> Expr {
    Expr::Column(column).alias_qualified(relation, name)
}

/// How many arguments a call of grouping() has.
fn grouping_arguments(call: &Expr) -> Option<usize> {
    match call {
        Expr::Alias(alias) => grouping_arguments(&alias.expr),
        Expr::AggregateFunction(call) if call.func.name() == "grouping" => {
            Some(call.params.args.len())
        }
        _ => None,
    }
}
