//! Upcasts, `INSERT INTO new (…) SELECT … FROM old`: how events of an older version are read as
//! events of a newer one.
//!
//! An upcast is a projection: one event stays one event, with its position and whatever else its
//! envelope says. The events of a table are its own and, through upcasts, those of older versions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DataFusionError, Result as DataFusionResult, ScalarValue};
use datafusion_expr::expr::Cast;
use datafusion_expr::{
    Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, TableSource, Volatility, lit,
};
use datafusion_sql::sqlparser::ast::{
    Expr as SqlExpr, Ident, Insert, Query, Select, SelectItem, SetExpr, TableFactor, TableObject,
};
use datafusion_sql::sqlparser::tokenizer::Span;

use super::catalog::{Catalog, TableDef};
use super::context::{self, PlannedRelation, ScannedTable};
use super::diagnostic::{Diagnostic, Refusal, SourceFile, Unplannable};
use super::logical::{self, QueryPlanner};
use super::step::{Stage, Steps};
use super::varchar::within;
use super::{names, refuse};
use crate::model::schema::{EventTable, SqlField, SqlType};
use crate::model::source::{SourceTable, SystemColumn};

/// A declared upcast.
#[derive(Debug)]
pub struct UpcastDef {
    /// The table of the newer version.
    pub target: String,
    /// The table of the older version.
    pub source: String,
    /// The target's columns that the SELECT gives, in its order.
    columns: Vec<String>,
    pub query: Box<Query>,
    pub file: Arc<SourceFile>,
    pub span: Span,
    /// See [`TableDef::canonical`].
    pub canonical: String,
}

impl UpcastDef {
    /// The upcast that a statement declares.
    pub fn new(insert: Insert, file: Arc<SourceFile>, canonical: String) -> Result<Self, Refusal> {
        let span = insert.insert_token.0.span;
        let refuse = |message: &str| {
            Refusal::new(span, message)
                .with_hint("an upcast is INSERT INTO new (column, …) SELECT expression, … FROM old")
        };
        let TableObject::TableName(target) = &insert.table else {
            return Err(refuse("INSERT INTO names no table"));
        };
        let target = names::relation(target)?;
        let plain = insert.on.is_none() && insert.returning.is_none() && !insert.overwrite;
        let Some(query) = insert.source.filter(|_| plain && insert.assignments.is_empty()) else {
            return Err(refuse("this is no upcast"));
        };
        let columns: Vec<String> = insert
            .columns
            .iter()
            .filter_map(|name| name.0.last().and_then(|part| part.as_ident()).map(names::fold))
            .collect();
        if columns.is_empty() {
            return Err(refuse("an upcast names its columns"));
        }
        let source = match plain_select(&query).map(|select| select.from.as_slice()) {
            Some([from]) if from.joins.is_empty() => match &from.relation {
                TableFactor::Table { name, args: None, .. } => names::relation(name)?,
                _ => return Err(refuse("an upcast reads one table")),
            },
            _ => {
                return Err(refuse(
                    "an upcast is one SELECT from one table: one event stays one event",
                ));
            }
        };
        Ok(UpcastDef { target, source, columns, query, file, span, canonical })
    }

    fn refusal(&self, message: impl Into<String>) -> Refusal {
        Refusal::new(self.span, message)
    }
}

fn plain_select(query: &Query) -> Option<&Select> {
    match query.body.as_ref() {
        SetExpr::Select(select) if query.with.is_none() => Some(select),
        _ => None,
    }
}

/// The plan of each table's events, its own and those that upcasts bring.
///
/// Errors of upcasts go to `diagnostics`; these upcasts are left out.
pub fn plan_events(
    catalog: &Catalog,
    queries: &QueryPlanner,
    steps: &Steps<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> BTreeMap<String, LogicalPlan> {
    let mut valid: Vec<&UpcastDef> = Vec::new();
    for upcast in &catalog.upcasts {
        match check_tables(catalog, upcast, &valid) {
            Ok(()) => valid.push(upcast),
            Err(refusal) => diagnostics.push(refusal.in_file(&upcast.file)),
        }
    }
    diagnostics.extend(unreachable_versions(catalog, &valid));
    let mut tables: Vec<&TableDef> = catalog.tables.values().collect();
    // Upcasts lead from older versions to newer ones.
    tables.sort_by_key(|def| def.table.version);
    let mut events: BTreeMap<String, LogicalPlan> = BTreeMap::new();
    for def in tables {
        let table = &def.table;
        let own = match logical::scan(SourceTable::Declared(Arc::clone(table))) {
            Ok(plan) => plan,
            Err(error) => unreachable!("a table can be scanned: {error}"),
        };
        let mut branches = vec![own];
        for upcast in valid.iter().filter(|upcast| upcast.target == table.name) {
            let old = &catalog.tables[&upcast.source].table;
            let upcasting = Upcasting { upcast, old, new: table, queries };
            let planned = steps.run(&upcast.file, upcast.span.start, Stage::Plan, || {
                upcasting.plan(&events[&old.name])
            });
            match planned {
                Ok(Ok(plan)) => branches.push(plan),
                Ok(Err(refusal)) => diagnostics.push(refusal.in_file(&upcast.file)),
                Err(diagnostic) => diagnostics.push(diagnostic),
            }
        }
        match union(branches, &table.name) {
            Ok(plan) => drop(events.insert(table.name.clone(), plan)),
            Err(error) => unreachable!("upcasts have the columns of their table: {error}"),
        }
    }
    events
}

fn union(branches: Vec<LogicalPlan>, name: &str) -> DataFusionResult<LogicalPlan> {
    let mut branches = branches.into_iter();
    let Some(first) = branches.next() else { unreachable!("a table has events of its own") };
    let mut plan = LogicalPlanBuilder::from(first);
    let mut alone = true;
    for branch in branches {
        plan = plan.union(branch)?;
        alone = false;
    }
    if alone { plan.build() } else { plan.alias(name)?.build() }
}

/// Whether an upcast's tables are there, in the right order, and no event comes twice.
fn check_tables(
    catalog: &Catalog,
    upcast: &UpcastDef,
    others: &[&UpcastDef],
) -> Result<(), Refusal> {
    let table = |name: &String| {
        let table = catalog.tables.get(name).map(|def| &def.table);
        table.ok_or_else(|| upcast.refusal(format!("there is no event table {name}")))
    };
    let (old, new) = (table(&upcast.source)?, table(&upcast.target)?);
    if old.event_type != new.event_type || old.version >= new.version {
        let of = |t: &EventTable| format!("{} is {} version {}", t.name, t.event_type, t.version);
        let message = format!(
            "an upcast leads from an older version to a newer one of the same event type: {}, {}",
            of(old),
            of(new)
        );
        return Err(upcast.refusal(message));
    }
    if old.format != new.format {
        let message = format!("{} and {} have different formats", old.name, new.name);
        return Err(upcast.refusal(message));
    }
    let with_this: Vec<&UpcastDef> = others.iter().copied().chain([upcast]).collect();
    for name in reached_from(&with_this, &upcast.target) {
        let mut versions = Vec::new();
        gather_versions(catalog, &with_this, &name, &mut versions);
        versions.sort_unstable();
        if let Some(twice) = versions.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(upcast
                .refusal(format!("{name} would have each event of version {} twice", twice[0]))
                .with_hint("there is one way of upcasts from each version to a table"));
        }
    }
    Ok(())
}

/// A table and all that its upcasts lead to.
fn reached_from(upcasts: &[&UpcastDef], table: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut todo = vec![table.to_string()];
    while let Some(name) = todo.pop() {
        let next = upcasts.iter().filter(|upcast| upcast.source == name);
        todo.extend(next.map(|upcast| upcast.target.clone()));
        reached.insert(name);
    }
    reached
}

/// The versions whose events come to a table, each as often as they come.
fn gather_versions(
    catalog: &Catalog,
    upcasts: &[&UpcastDef],
    table: &str,
    versions: &mut Vec<u32>,
) {
    if let Some(def) = catalog.tables.get(table) {
        versions.push(def.table.version);
    }
    for upcast in upcasts.iter().filter(|upcast| upcast.target == table) {
        gather_versions(catalog, upcasts, &upcast.source, versions);
    }
}

/// Every declared version of an event type reaches the newest one.
fn unreachable_versions(catalog: &Catalog, upcasts: &[&UpcastDef]) -> Vec<Diagnostic> {
    let mut newest: BTreeMap<&str, u32> = BTreeMap::new();
    for def in catalog.tables.values() {
        let version = newest.entry(&def.table.event_type).or_default();
        *version = (*version).max(def.table.version);
    }
    let version_of = |name: &String| catalog.tables.get(name).map(|def| def.table.version);
    let mut reaching: BTreeSet<(&str, u32)> = BTreeSet::new();
    for def in catalog.tables.values() {
        let (event_type, version) = (def.table.event_type.as_str(), def.table.version);
        let reached = reached_from(upcasts, &def.table.name);
        if reached.iter().any(|name| version_of(name) == Some(newest[event_type])) {
            reaching.insert((event_type, version));
        }
    }
    let mut diagnostics = Vec::new();
    for def in catalog.tables.values() {
        let EventTable { name, event_type, version, .. } = def.table.as_ref();
        if reaching.contains(&(event_type.as_str(), *version)) {
            continue;
        }
        let newest = newest[event_type.as_str()];
        let refusal = Refusal::new(
            def.span,
            format!("version {version} of {event_type} has no upcast to version {newest}"),
        );
        let hint = format!("add INSERT INTO … (column, …) SELECT expression, … FROM {name}");
        diagnostics.push(refusal.with_hint(hint).in_file(&def.file));
    }
    diagnostics
}

/// One upcast between its tables.
struct Upcasting<'a> {
    upcast: &'a UpcastDef,
    old: &'a Arc<EventTable>,
    new: &'a Arc<EventTable>,
    queries: &'a QueryPlanner,
}

impl Upcasting<'_> {
    /// The old table's events as the new one's; `events` is the plan of the old table's events.
    fn plan(&self, events: &LogicalPlan) -> Result<LogicalPlan, Refusal> {
        let upcast = self.upcast;
        if let Some(refusal) = refuse::refusals(&upcast.query).into_iter().next() {
            return Err(refusal);
        }
        let (query, system) = self.with_envelope()?;
        let failed = |error: DataFusionError| {
            let message = context::plain_message(&error);
            let at = logical::error_location(&error).unwrap_or(upcast.span.start);
            Refusal { at, ..upcast.refusal(message) }
        };
        let over = |query: &Query, source: Arc<dyn TableSource>| {
            let relations = HashMap::from([(upcast.source.clone(), source)]);
            self.queries.plan(query, relations, false).map_err(failed)
        };
        // First as it is and over the bare table, to see what the upcast itself does.
        let bare = ScannedTable::new(SourceTable::Declared(Arc::clone(self.old)));
        let plan = over(&named(&upcast.query), Arc::new(bare))?;
        check_shape(&plan).map_err(|message| upcast.refusal(message))?;
        let plan = over(&query, Arc::new(PlannedRelation::new(events.clone())))?;
        let columns = self.columns(&plan, &system)?;
        LogicalPlanBuilder::from(plan).project(columns).and_then(|p| p.build()).map_err(failed)
    }

    /// The query with the envelope's columns behind its own, and those columns.
    fn with_envelope(&self) -> Result<(Query, Vec<SystemColumn>), Refusal> {
        let system: Vec<SystemColumn> = SourceTable::Declared(Arc::clone(self.old))
            .columns()
            .into_iter()
            .filter_map(|column| match column {
                crate::model::source::SourceColumn::System(column) => Some(column),
                crate::model::source::SourceColumn::Declared(_) => None,
            })
            .collect();
        let excluded = system.iter().copied().collect();
        let is_table = |name: &str| name == self.upcast.source;
        let mut query =
            logical::without_system_columns(&named(&self.upcast.query), &excluded, &is_table);
        if let SetExpr::Select(select) = query.body.as_mut() {
            let item = |c: &SystemColumn| SelectItem::ExprWithAlias {
                expr: SqlExpr::Identifier(Ident::new(c.field().name)),
                alias: Ident::new(envelope_alias(*c)),
            };
            select.projection.extend(system.iter().map(item));
        }
        Ok((query, system))
    }

    /// The new table's columns, from those of the upcast's plan.
    fn columns(&self, plan: &LogicalPlan, system: &[SystemColumn]) -> Result<Vec<Expr>, Refusal> {
        let (upcast, new) = (self.upcast, self.new);
        let schema = plan.schema();
        let selected = schema.columns();
        let (named, given) = (upcast.columns.len(), selected.len() - system.len());
        if named != given {
            let message = format!("INSERT names {named} columns, its SELECT has {given}");
            return Err(upcast.refusal(message));
        }
        for (index, name) in upcast.columns.iter().enumerate() {
            if !new.columns.iter().any(|column| column.field.name == *name) {
                return Err(upcast.refusal(format!("{} has no column {name}", new.name)));
            }
            if upcast.columns[..index].contains(name) {
                return Err(upcast.refusal(format!("column {name} twice")));
            }
        }
        let mut columns = Vec::new();
        for (index, column) in new.columns.iter().enumerate() {
            let name = &column.field.name;
            let place = upcast.columns.iter().position(|n| n == name);
            let value = match place {
                Some(place) => self.value(schema, &selected[place], &column.field, index)?,
                None if new.requires(index) => {
                    let message = format!(
                        "{name} is NOT NULL in {}, and the upcast gives it no value",
                        new.name
                    );
                    return Err(upcast.refusal(message));
                }
                None => {
                    let field = Arc::new(column.field.to_arrow());
                    Expr::Cast(Cast::new_from_field(Box::new(lit(ScalarValue::Null)), field))
                }
            };
            columns.push(value.alias(name));
        }
        for (column, selected) in system.iter().zip(&selected[given..]) {
            columns.push(Expr::Column(selected.clone()).alias(column.field().name));
        }
        Ok(columns)
    }

    /// A selected value as a value of the new table's column.
    fn value(
        &self,
        schema: &datafusion_common::DFSchema,
        selected: &Column,
        column: &SqlField,
        index: usize,
    ) -> Result<Expr, Refusal> {
        let (upcast, new) = (self.upcast, self.new);
        let name = &column.name;
        let value = Expr::Column(selected.clone());
        let (_, field) = value
            .to_field(schema)
            .map_err(|error| upcast.refusal(context::plain_message(&error)))?;
        let sql_type = if field.data_type().is_null() {
            None
        } else {
            let found = SqlField::from_arrow(&field).map_err(|found| {
                upcast.refusal(format!("{name} has type {found} here: CAST it"))
            })?;
            Some(found.sql_type)
        };
        if let Some(found) = sql_type.as_ref().filter(|f| !assignable(f, &column.sql_type)) {
            let wanted = &column.sql_type;
            return Err(upcast
                .refusal(format!("{name} is {wanted} in {}, and {found} here", new.name))
                .with_hint(format!("CAST(… AS {wanted}) says that it is meant")));
        }
        if field.is_nullable() && new.requires(index) {
            return Err(upcast
                .refusal(format!("{name} may be NULL here, and is NOT NULL in {}", new.name))
                .with_hint(format!("coalesce({name}, …) gives it a value")));
        }
        if sql_type.as_ref() == Some(&column.sql_type) {
            return Ok(value);
        }
        if sql_type.is_some() && column.sql_type.mentions_length() {
            return Ok(within(value, column));
        }
        Ok(Expr::Cast(Cast::new_from_field(Box::new(value), Arc::new(column.to_arrow()))))
    }
}

/// The query with a name of its own for each value: an upcast may well give the same one twice.
fn named(query: &Query) -> Query {
    let mut query = query.clone();
    if let SetExpr::Select(select) = query.body.as_mut() {
        for (index, given) in select.projection.iter_mut().enumerate() {
            if let SelectItem::UnnamedExpr(expr) = given {
                let alias = Ident::new(format!("__value{index}"));
                *given = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
            }
        }
    }
    query
}

/// The name of an envelope's column behind the upcast's own, which may have taken it for something.
fn envelope_alias(column: SystemColumn) -> String {
    format!("__envelope{}", column.field().name)
}

/// Only expressions over one table: no operator that would make more or fewer rows of an event.
fn check_shape(plan: &LogicalPlan) -> Result<(), Unplannable> {
    let mut wrong = None;
    let _ = plan.apply_with_subqueries(|node| {
        let what = match node {
            LogicalPlan::Projection(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::TableScan(_) => None,
            LogicalPlan::Filter(_) => Some("WHERE"),
            LogicalPlan::Aggregate(_) => Some("an aggregate"),
            LogicalPlan::Window(_) => Some("a window function"),
            LogicalPlan::Sort(_) => Some("ORDER BY"),
            LogicalPlan::Limit(_) => Some("LIMIT"),
            LogicalPlan::Distinct(_) => Some("DISTINCT"),
            LogicalPlan::Unnest(_) => Some("UNNEST"),
            _ => Some("a join or sub-query"),
        };
        wrong = wrong.or(what);
        Ok(TreeNodeRecursion::Continue)
    });
    if let Some(what) = wrong {
        let message = format!("an upcast has no place for {what}: one event stays one event");
        return Err(Unplannable(message));
    }
    let mut changing = None;
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::ScalarFunction(function) = expr
                    && function.func.signature().volatility != Volatility::Immutable
                    && changing.is_none()
                {
                    changing = Some(function.name().to_string());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    match changing {
        None => Ok(()),
        Some(name) => Err(Unplannable(format!(
            "{name}() changes as time passes, and an old event does not: _time and _recorded_at are \
             its own"
        ))),
    }
}

/// Whether a value of one type is stored as another without being asked for, as in PostgreSQL. A
/// value that does not fit after all fails, and its event is a dead letter.
fn assignable(from: &SqlType, to: &SqlType) -> bool {
    let is_integer = |t: &SqlType| {
        matches!(
            t,
            SqlType::SmallInt
                | SqlType::Int
                | SqlType::BigInt
                | SqlType::SmallIntUnsigned
                | SqlType::IntUnsigned
                | SqlType::BigIntUnsigned
        )
    };
    let is_fractional =
        |t: &SqlType| matches!(t, SqlType::Real | SqlType::Double | SqlType::Decimal { .. });
    match (from, to) {
        (from, to) if from == to => true,
        (from, to) if is_integer(from) => is_integer(to) || is_fractional(to),
        (from, to) if is_fractional(from) => is_fractional(to),
        (SqlType::Uuid | SqlType::Json, SqlType::Text) => true,
        (SqlType::Text | SqlType::Uuid | SqlType::Json, SqlType::Varchar(_)) => true,
        (SqlType::Date, SqlType::Timestamp { .. }) => true,
        (
            SqlType::Timestamp { with_time_zone: a, .. },
            SqlType::Timestamp { with_time_zone: b, .. },
        ) => a == b,
        (SqlType::Array(from), SqlType::Array(to)) => assignable(&from.sql_type, &to.sql_type),
        (SqlType::Struct(from), SqlType::Struct(to)) => {
            from.len() == to.len()
                && from
                    .iter()
                    .zip(to)
                    .all(|(f, t)| f.name == t.name && assignable(&f.sql_type, &t.sql_type))
        }
        _ => false,
    }
}
