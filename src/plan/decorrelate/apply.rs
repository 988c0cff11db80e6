//! A correlated plan → a plan without outer references, whose rows begin with the outer columns'
//! values that they belong to.
//!
//! The algorithm is that of Neumann and Kemper, "Unnesting Arbitrary Queries" (BTW 2015): the
//! distinct values of the outer columns (the domain) are joined in where the correlation begins, and
//! every operator on the way up keeps them apart. Where a filter equates each outer column with an
//! expression of its own input, that expression takes the domain's place, and nothing is joined.

use std::sync::Arc;

use datafusion_common::{
    Column, JoinType, NullEquality, Result, ScalarValue, TableReference, plan_err,
};
use datafusion_expr::utils::{conjunction, split_conjunction_owned};
use datafusion_expr::{
    Aggregate, BinaryExpr, Distinct, Expr, Extension, FetchType, Filter, Join, JoinConstraint,
    Limit, LogicalPlan, LogicalPlanBuilder, Operator, Projection, SkipType, SortExpr, Union,
    Values, Window, col, when,
};

use datafusion_functions::expr_fn::coalesce;

use super::outer::{self, Renaming};
use super::{FreshColumns, null_safe_join};
use crate::plan::functions;
use crate::plan::group_keys;
use crate::plan::top_rows::TopRows;
use crate::plan::unnest::{UnnestRelation, UnnestRows};

/// The values of the outer columns that a sub-query is to be computed for.
#[derive(Clone)]
pub struct Domain {
    /// The distinct values, one column for each of `renaming`.
    pub plan: LogicalPlan,
    /// Which outer column each of them is.
    pub renaming: Renaming,
}

impl Domain {
    /// The domain's columns.
    pub fn columns(&self) -> Vec<Column> {
        self.renaming.iter().map(|(_, to)| to.clone()).collect()
    }

    /// The same values under new names.
    fn renamed(&self, names: &FreshColumns) -> Result<Domain> {
        let fresh: Vec<Column> = self.renaming.iter().map(|_| names.column("d")).collect();
        let exprs = self.columns().into_iter().zip(&fresh);
        let exprs: Vec<Expr> = exprs.map(|(c, n)| Expr::Column(c).alias(&n.name)).collect();
        let plan = LogicalPlanBuilder::from(self.plan.clone()).project(exprs)?.build()?;
        let renaming = self.renaming.iter().map(|(from, _)| from.clone()).zip(fresh).collect();
        Ok(Domain { plan, renaming })
    }
}

/// Pushes a domain through a plan.
pub struct Apply<'a> {
    pub names: &'a FreshColumns,
}

impl Apply<'_> {
    /// The plan's rows for each value of the domain: the domain's columns, then the plan's own.
    ///
    /// There may be rows for values that the domain does not have. `nulls_are_enough`: whoever reads
    /// the result takes a missing row for one of NULLs.
    pub fn apply(
        &self,
        plan: &LogicalPlan,
        domain: &Domain,
        nulls_are_enough: bool,
    ) -> Result<LogicalPlan> {
        if domain.renaming.is_empty() {
            return Ok(plan.clone());
        }
        if outer::references(plan)?.is_empty() {
            return cross(domain.plan.clone(), plan.clone());
        }
        match plan {
            LogicalPlan::Projection(projection) => {
                let strict = nulls_are_enough && projection.expr.iter().all(is_strict);
                let input = self.apply(&projection.input, domain, strict)?;
                let exprs = self.bind_all(&projection.expr, domain, &[&projection.input])?;
                // A column keeps its name, whatever its expression refers to now.
                let named = exprs.into_iter().zip(&projection.expr).zip(projection.schema.iter());
                let named =
                    named.map(|((expr, before), (qualifier, field))| match expr == *before {
                        true => expr,
                        false => expr.alias_qualified(qualifier.cloned(), field.name()),
                    });
                project(input, domain, named.collect())
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let input = self.apply(&alias.input, domain, nulls_are_enough)?;
                let inner = alias.input.schema().columns().into_iter();
                let named = inner.zip(alias.schema.iter()).map(|(column, (qualifier, field))| {
                    Expr::Column(column).alias_qualified(qualifier.cloned(), field.name())
                });
                project(input, domain, named.collect())
            }
            LogicalPlan::Filter(filter) => self.filter(filter, domain),
            LogicalPlan::Aggregate(aggregate) => {
                self.aggregate(aggregate, domain, nulls_are_enough)
            }
            LogicalPlan::Join(join) => self.join(join, domain),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let input = self.apply(input, domain, false)?;
                LogicalPlanBuilder::from(input).distinct()?.build()
            }
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
                self.apply(&sort.input, domain, false)
            }
            LogicalPlan::Limit(limit) => self.limit(limit, domain),
            LogicalPlan::Window(window) => self.window(window, domain),
            LogicalPlan::Union(union) => {
                let inputs = union.inputs.iter().map(|input| self.apply(input, domain, false));
                let names = plan.schema().iter().map(|(q, f)| (q.cloned(), f.name().clone()));
                union_of(inputs.collect::<Result<_>>()?, domain, names)
            }
            LogicalPlan::Values(values) => self.values(values, domain),
            LogicalPlan::RecursiveQuery(query) => self.recursion(query, domain),
            LogicalPlan::Unnest(unnest) => {
                let input = self.apply(&unnest.input, domain, false)?;
                let (columns, options) = (unnest.exec_columns.clone(), unnest.options.clone());
                let plan = LogicalPlanBuilder::from(input)
                    .unnest_columns_with_options(columns, options)?
                    .build()?;
                let own = unnest.schema.columns().into_iter().map(Expr::Column).collect();
                project(plan, domain, own)
            }
            LogicalPlan::Extension(extension) => self.extension(extension, domain),
            LogicalPlan::Subquery(subquery) => {
                self.apply(&subquery.subquery, domain, nulls_are_enough)
            }
            other => plan_err!(
                "a sub-query cannot refer to the outer query beneath {}",
                other.display().to_string().split(':').next().unwrap_or("this")
            ),
        }
    }

    pub(super) fn bind_all(
        &self,
        exprs: &[Expr],
        domain: &Domain,
        inputs: &[&LogicalPlan],
    ) -> Result<Vec<Expr>> {
        exprs.iter().map(|e| outer::bind(e.clone(), &domain.renaming, inputs)).collect()
    }

    /// Each row of VALUES for each value of the domain.
    fn values(&self, values: &Values, domain: &Domain) -> Result<LogicalPlan> {
        let mut rows = Vec::new();
        for row in &values.values {
            let names = values.schema.iter();
            let exprs = self.bind_all(row, domain, &[])?.into_iter().zip(names);
            let exprs = exprs.map(|(e, (q, field))| e.alias_qualified(q.cloned(), field.name()));
            let exprs = exprs.collect();
            rows.push(Arc::new(project(domain.plan.clone(), domain, exprs)?));
        }
        match rows.len() {
            1 => Ok(Arc::unwrap_or_clone(rows.remove(0))),
            _ => Ok(LogicalPlan::Union(Union::try_new_with_loose_types(rows)?)),
        }
    }

    fn filter(&self, filter: &Filter, domain: &Domain) -> Result<LogicalPlan> {
        let input = filter.input.as_ref();
        let conditions = split_conjunction_owned(filter.predicate.clone());
        if outer::references(input)?.is_empty()
            && let Some(lifted) = self.lift(input, &conditions, domain)?
        {
            return Ok(lifted);
        }
        let applied = self.apply(input, domain, false)?;
        let conditions = self.bind_all(&conditions, domain, &[input])?;
        filtered(applied, conditions)
    }

    /// The filtered input with expressions of its own in the domain's place, if the conditions equate
    /// every column of the domain with one.
    fn lift(
        &self,
        input: &LogicalPlan,
        conditions: &[Expr],
        domain: &Domain,
    ) -> Result<Option<LogicalPlan>> {
        let mut rest = Vec::new();
        let mut found: Vec<Option<Expr>> = vec![None; domain.renaming.len()];
        for condition in conditions {
            let place = equated(condition, input)?.and_then(|(column, inner)| {
                let index = domain.renaming.iter().position(|(from, _)| *from == column)?;
                found[index].is_none().then_some((index, inner))
            });
            match place {
                Some((index, inner)) => found[index] = Some(inner),
                None => rest.push(condition.clone()),
            }
        }
        let Some(found) = found.into_iter().collect::<Option<Vec<Expr>>>() else {
            return Ok(None);
        };
        // A condition that does not refer to the outer query stays below, where it may be a key of joins.
        let (mut below, mut above) = (Vec::new(), Vec::new());
        for condition in rest {
            let refers = outer::refers(&condition, &[input])?;
            (if refers { &mut above } else { &mut below }).push(condition);
        }
        below.extend(found.iter().cloned().map(Expr::is_not_null));
        let plan = filtered(input.clone(), below)?;
        let named = found.into_iter().zip(domain.columns()).map(|(e, c)| e.alias(c.name));
        let own = input.schema().columns().into_iter().map(Expr::Column);
        let exprs: Vec<Expr> = named.chain(own).collect();
        let plan = LogicalPlanBuilder::from(plan).project(exprs)?.build()?;
        filtered(plan, self.bind_all(&above, domain, &[input])?).map(Some)
    }

    fn aggregate(
        &self,
        aggregate: &Aggregate,
        domain: &Domain,
        nulls_are_enough: bool,
    ) -> Result<LogicalPlan> {
        if let Some(sets) = group_keys::sets(&aggregate.group_expr)? {
            return self.grouping_sets(aggregate, sets, domain);
        }
        let input = self.apply(&aggregate.input, domain, false)?;
        let own = self.bind_all(&aggregate.group_expr, domain, &[&aggregate.input])?;
        let calls = self.bind_all(&aggregate.aggr_expr, domain, &[&aggregate.input])?;
        let group: Vec<Expr> = domain.columns().into_iter().map(Expr::Column).chain(own).collect();
        let grouped = Aggregate::try_new(Arc::new(input), group, calls)?;
        let schema = Arc::clone(&grouped.schema);
        let grouped = LogicalPlan::Aggregate(grouped);
        let width = domain.renaming.len();
        let names = aggregate.schema.iter().map(|(q, f)| (q.cloned(), f.name().clone()));
        if !aggregate.group_expr.is_empty() {
            let columns = schema.columns().into_iter().skip(width).zip(names);
            let named = columns.map(|(c, (q, name))| Expr::Column(c).alias_qualified(q, name));
            return project(grouped, domain, named.collect());
        }
        let defaults = aggregate
            .aggr_expr
            .iter()
            .zip(aggregate.schema.fields())
            .map(|(call, field)| empty_value(call, field.data_type()))
            .collect::<Result<Vec<_>>>()?;
        if nulls_are_enough && defaults.iter().all(ScalarValue::is_null) {
            let columns = schema.columns().into_iter().skip(width).zip(names);
            let named = columns.map(|(c, (q, name))| Expr::Column(c).alias_qualified(q, name));
            return project(grouped, domain, named.collect());
        }
        // A value without rows has a group all the same: what aggregates of nothing are.
        let inner = domain.renamed(self.names)?;
        let mut exprs: Vec<Expr> = domain
            .columns()
            .into_iter()
            .zip(inner.columns())
            .map(|(c, n)| Expr::Column(c).alias(n.name))
            .collect();
        let values: Vec<Column> = defaults.iter().map(|_| self.names.column("a")).collect();
        let found = self.names.column("a");
        let calls = schema.columns().into_iter().skip(width).zip(&values);
        exprs.extend(calls.map(|(c, n)| Expr::Column(c).alias(&n.name)));
        exprs.push(datafusion_expr::lit(true).alias(&found.name));
        let grouped = LogicalPlanBuilder::from(grouped).project(exprs)?.build()?;
        let joined = null_safe_join(
            domain.plan.clone(),
            grouped,
            domain.columns().into_iter().zip(inner.columns()).collect(),
            JoinType::Left,
        )?;
        let mut named = Vec::new();
        for ((value, default), (qualifier, name)) in values.into_iter().zip(defaults).zip(names) {
            let value = Expr::Column(value);
            let value = if default.is_null() {
                value
            } else {
                let missing = Expr::Column(found.clone()).is_null();
                when(missing, Expr::Literal(default, None)).otherwise(value)?
            };
            named.push(value.alias_qualified(qualifier, name));
        }
        project(joined, domain, named)
    }

    fn join(&self, join: &Join, domain: &Domain) -> Result<LogicalPlan> {
        let (left, right) = (join.left.as_ref(), join.right.as_ref());
        if outer::lateral(right).is_some() {
            return self.lateral(join, domain);
        }
        let left_refers = !outer::references(left)?.is_empty();
        let right_refers = !outer::references(right)?.is_empty();
        let conditions = join.filter.iter().flat_map(|f| split_conjunction_owned(f.clone()));
        let conditions: Vec<Expr> = conditions.collect();
        let conditions = self.bind_all(&conditions, domain, &[left, right])?;
        let own = join.schema.columns().into_iter().map(Expr::Column).collect();
        let keeps_left = matches!(
            join.join_type,
            JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti
        );
        let joined = |left, right, on, filter| {
            let (left, right) = (Arc::new(left), Arc::new(right));
            let (kind, nulls) = (join.join_type, join.null_equality);
            Join::try_new(left, right, on, filter, kind, JoinConstraint::On, nulls, false)
        };
        let (on, filter) = (join.on.clone(), conjunction(conditions.iter().cloned()));
        let joined = if !right_refers && keeps_left {
            joined(self.apply(left, domain, false)?, right.clone(), on, filter)?
        } else if !left_refers && join.join_type == JoinType::Inner {
            joined(left.clone(), self.apply(right, domain, false)?, on, filter)?
        } else if keeps_left {
            // Values of the domain meet NULL and NULL, keys of the join do not.
            let other = domain.renamed(self.names)?;
            let on = on.into_iter().map(|(l, r)| l.eq(r));
            let same = domain.columns().into_iter().zip(other.columns()).map(same_value);
            let filter = conjunction(on.chain(same).chain(conditions));
            let right = self.apply(right, &other, false)?;
            joined(self.apply(left, domain, false)?, right, Vec::new(), filter)?
        } else {
            return self.shown_alone(join, domain, conditions);
        };
        project(LogicalPlan::Join(joined), domain, own)
    }

    /// A join whose right rows are there without a left one: those have the domain's values from the
    /// right side.
    fn shown_alone(
        &self,
        join: &Join,
        domain: &Domain,
        conditions: Vec<Expr>,
    ) -> Result<LogicalPlan> {
        if !matches!(join.join_type, JoinType::Right | JoinType::Full) {
            return plan_err!(
                "a sub-query cannot refer to the outer query beneath a {} JOIN",
                join.join_type
            );
        }
        let other = domain.renamed(self.names)?;
        let left = self.apply(&join.left, domain, false)?;
        let right = self.apply(&join.right, &other, false)?;
        let on = join.on.iter().map(|(l, r)| l.clone().eq(r.clone()));
        let pairs = || domain.columns().into_iter().zip(other.columns());
        let same = pairs().map(same_value);
        let joined = LogicalPlanBuilder::from(left)
            .join_on(right, join.join_type, on.chain(same).chain(conditions))?
            .build()?;
        let values = pairs().map(|(own, other)| {
            let name = own.name.clone();
            coalesce(vec![Expr::Column(own), Expr::Column(other)]).alias(name)
        });
        let own = join.schema.columns().into_iter().map(Expr::Column);
        let exprs = values.chain(own).collect();
        Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(joined))?))
    }

    /// A LATERAL join inside a sub-query: its left side takes the domain, and the lateral relation
    /// refers to that.
    fn lateral(&self, join: &Join, domain: &Domain) -> Result<LogicalPlan> {
        let left = match outer::references(&join.left)?.is_empty() {
            true => cross(domain.plan.clone(), join.left.as_ref().clone())?,
            false => self.apply(&join.left, domain, false)?,
        };
        let right = super::map_lateral(join.right.as_ref().clone(), &|subquery| {
            outer::pass_down(subquery, &domain.renaming, &[&join.left])
        })?;
        let filter = match &join.filter {
            Some(f) => Some(outer::bind(f.clone(), &domain.renaming, &[&join.left, &join.right])?),
            None => None,
        };
        let joined = Join::try_new(
            Arc::new(left),
            Arc::new(right),
            join.on.clone(),
            filter,
            join.join_type,
            JoinConstraint::On,
            join.null_equality,
            false,
        )?;
        let own = join.schema.columns().into_iter().map(Expr::Column).collect();
        project(LogicalPlan::Join(joined), domain, own)
    }

    /// LIMIT inside a sub-query counts for each value of the domain.
    fn limit(&self, limit: &Limit, domain: &Domain) -> Result<LogicalPlan> {
        if let Some(nearest) = self.nearest(limit, domain)? {
            return Ok(nearest);
        }
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) =
            (limit.get_skip_type()?, limit.get_fetch_type()?)
        else {
            return plan_err!("LIMIT and OFFSET take numbers");
        };
        let none: Vec<SortExpr> = Vec::new();
        let (order, source) = match limit.input.as_ref() {
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => (&sort.expr, &sort.input),
            _ => (&none, &limit.input),
        };
        let input = self.apply(source, domain, false)?;
        let order = bind_order(order, domain, source)?;
        let partition = domain.columns().into_iter().map(Expr::Column).collect();
        let top = TopRows::new(input, partition, order, skip, fetch);
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(top) }))
    }

    fn window(&self, window: &Window, domain: &Domain) -> Result<LogicalPlan> {
        let input = self.apply(&window.input, domain, false)?;
        let keys: Vec<Expr> = domain.columns().into_iter().map(Expr::Column).collect();
        let exprs = self.bind_all(&window.window_expr, domain, &[&window.input])?;
        let mut names = Vec::new();
        let exprs = exprs
            .into_iter()
            .map(|expr| partitioned(expr, &keys))
            .inspect(|expr| names.push(expr.schema_name().to_string()))
            .collect();
        let plan = LogicalPlan::Window(Window::try_new(exprs, Arc::new(input))?);
        let width = window.input.schema().fields().len();
        let mut own: Vec<Expr> =
            window.input.schema().columns().into_iter().map(Expr::Column).collect();
        let shown = window.schema.iter().skip(width).zip(names);
        own.extend(shown.map(|((qualifier, field), name)| {
            Expr::Column(Column::new_unqualified(name))
                .alias_qualified(qualifier.cloned(), field.name())
        }));
        project(plan, domain, own)
    }

    fn extension(&self, extension: &Extension, domain: &Domain) -> Result<LogicalPlan> {
        let any = extension.node.as_any();
        if let Some(relation) = any.downcast_ref::<UnnestRelation>() {
            let array = outer::bind(relation.array.clone(), &domain.renaming, &[])?;
            let rows = relation.of(domain.plan.clone(), array, false)?;
            return Ok(LogicalPlan::Extension(Extension { node: Arc::new(rows) }));
        }
        if let Some(unnest) = any.downcast_ref::<UnnestRows>() {
            let input = self.apply(&unnest.input, domain, false)?;
            let array = outer::bind(unnest.array.clone(), &domain.renaming, &[&unnest.input])?;
            let rows = unnest.of(input, array)?;
            return Ok(LogicalPlan::Extension(Extension { node: Arc::new(rows) }));
        }
        if let Some(top) = any.downcast_ref::<TopRows>() {
            let input = self.apply(&top.input, domain, false)?;
            let own = self.bind_all(&top.partition, domain, &[&top.input])?;
            let partition = domain.columns().into_iter().map(Expr::Column).chain(own).collect();
            let order = bind_order(&top.order, domain, &top.input)?;
            let top = TopRows::new(input, partition, order, top.skip, top.fetch);
            return Ok(LogicalPlan::Extension(Extension { node: Arc::new(top) }));
        }
        plan_err!("a sub-query cannot refer to the outer query beneath {}", extension.node.name())
    }
}

fn partitioned(expr: Expr, keys: &[Expr]) -> Expr {
    match expr {
        Expr::WindowFunction(mut function) => {
            function.params.partition_by.extend(keys.iter().cloned());
            Expr::WindowFunction(function)
        }
        Expr::Alias(mut alias) => {
            alias.expr = Box::new(partitioned(*alias.expr, keys));
            Expr::Alias(alias)
        }
        other => other,
    }
}

/// `outer = inner` or `inner = outer`, when the inner side has no outer reference.
pub(super) fn equated(condition: &Expr, input: &LogicalPlan) -> Result<Option<(Column, Expr)>> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = condition else {
        return Ok(None);
    };
    for (one, other) in [(left, right), (right, left)] {
        if let Expr::OuterReferenceColumn(_, column) = one.as_ref()
            && !outer::refers(other, &[input])?
            && !other.column_refs().is_empty()
        {
            return Ok(Some((column.clone(), other.as_ref().clone())));
        }
    }
    Ok(None)
}

/// NULL when one of its columns is.
fn is_strict(expr: &Expr) -> bool {
    let constant = |e: &Expr| matches!(e, Expr::Literal(..));
    match expr {
        // Operators on decimals and floats are functions of our own.
        Expr::ScalarFunction(call) if functions::is_arithmetic(call.name()) => {
            call.args.iter().any(is_strict)
                && call.args.iter().all(|arg| is_strict(arg) || constant(arg))
        }
        Expr::Column(_) => true,
        Expr::Alias(alias) => is_strict(&alias.expr),
        Expr::Cast(cast) => is_strict(&cast.expr),
        Expr::Negative(expr) => is_strict(expr),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let arithmetic = matches!(
                op,
                Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide
            );
            arithmetic
                && (is_strict(left) && (is_strict(right) || constant(right))
                    || constant(left) && is_strict(right))
        }
        _ => false,
    }
}

/// The value of an aggregate of no rows.
fn empty_value(call: &Expr, data_type: &arrow::datatypes::DataType) -> Result<ScalarValue> {
    match call {
        Expr::Alias(alias) => empty_value(&alias.expr, data_type),
        Expr::AggregateFunction(aggregate) => aggregate.func.default_value(data_type),
        _ => ScalarValue::try_from(data_type),
    }
}

pub(super) fn filtered(plan: LogicalPlan, conditions: Vec<Expr>) -> Result<LogicalPlan> {
    match conjunction(conditions) {
        Some(condition) => Ok(LogicalPlan::Filter(Filter::try_new(condition, Arc::new(plan))?)),
        None => Ok(plan),
    }
}

/// The rows of all inputs, which begin with the domain's columns; the others get these names.
pub(super) fn union_of(
    inputs: Vec<LogicalPlan>,
    domain: &Domain,
    names: impl Iterator<Item = (Option<TableReference>, String)>,
) -> Result<LogicalPlan> {
    let union = Union::try_new_with_loose_types(inputs.into_iter().map(Arc::new).collect())?;
    let columns = union.schema.columns().into_iter().skip(domain.renaming.len());
    let named = columns.zip(names).map(|(c, (q, name))| Expr::Column(c).alias_qualified(q, name));
    let named = named.collect();
    project(LogicalPlan::Union(union), domain, named)
}

fn bind_order(order: &[SortExpr], domain: &Domain, input: &LogicalPlan) -> Result<Vec<SortExpr>> {
    let bound = |sort: &SortExpr| {
        let expr = outer::bind(sort.expr.clone(), &domain.renaming, &[input])?;
        Ok(SortExpr { expr, ..sort.clone() })
    };
    order.iter().map(bound).collect()
}

pub(super) fn project(input: LogicalPlan, domain: &Domain, own: Vec<Expr>) -> Result<LogicalPlan> {
    let columns = domain.columns().into_iter().map(Expr::Column);
    let exprs = columns.chain(own).collect();
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
}

/// Both are the same value, or both are NULL.
pub fn same_value((a, b): (Column, Column)) -> Expr {
    let (a, b) = (Box::new(Expr::Column(a)), Box::new(Expr::Column(b)));
    Expr::BinaryExpr(BinaryExpr::new(a, Operator::IsNotDistinctFrom, b))
}

fn cross(left: LogicalPlan, right: LogicalPlan) -> Result<LogicalPlan> {
    let join = Join::try_new(
        Arc::new(left),
        Arc::new(right),
        Vec::new(),
        None,
        JoinType::Inner,
        JoinConstraint::On,
        NullEquality::NullEqualsNothing,
        false,
    )?;
    Ok(LogicalPlan::Join(join))
}

/// The distinct values of some columns of a plan.
pub fn domain_of(plan: &LogicalPlan, columns: &[Column], names: &FreshColumns) -> Result<Domain> {
    let renaming: Renaming = columns.iter().map(|c| (c.clone(), names.column("d"))).collect();
    if columns.is_empty() {
        let plan = LogicalPlanBuilder::empty(true).build()?;
        return Ok(Domain { plan, renaming });
    }
    let exprs: Vec<Expr> =
        renaming.iter().map(|(from, to)| col(from.clone()).alias(&to.name)).collect();
    let plan = LogicalPlanBuilder::from(plan.clone()).project(exprs)?.distinct()?.build()?;
    Ok(Domain { plan, renaming })
}
