//! SQL → DataFusion's logical plan, analysed and optimised by an explicit list of rules.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion_common::alias::AliasGenerator;
use datafusion_common::config::ConfigOptions;
use datafusion_common::{Column, DataFusionError, Result};
use datafusion_expr::planner::ContextProvider;
use datafusion_expr::registry::FunctionRegistry;
use datafusion_expr::{Expr, Extension, LogicalPlan, LogicalPlanBuilder, TableSource, col, lit};
use datafusion_functions::expr_fn::coalesce;
use datafusion_optimizer::analyzer::AnalyzerRule;
use datafusion_optimizer::analyzer::resolve_grouping_function::ResolveGroupingFunction;
use datafusion_optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion_optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion_optimizer::optimize_projections::OptimizeProjections;
use datafusion_optimizer::optimize_unions::OptimizeUnions;
use datafusion_optimizer::simplify_expressions::SimplifyExpressions;
use datafusion_optimizer::{Optimizer, OptimizerConfig, OptimizerRule};
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::{
    ExcludeSelectItem, Expr as SqlExpr, Ident, ObjectName, Query, Select, SelectItem, SetExpr,
    Statement, TableFactor, Visit, VisitMut, Visitor, VisitorMut,
};
use datafusion_sql::sqlparser::parser::Parser;

use super::context::{Functions, PlannedRelation, ScannedTable, Scope};
use super::decorrelate::decorrelate;
use super::dialect::PostgresLike;
use super::functions::{self, cast, literals};
use super::join_order::JoinOrder;
use super::lambda::read_lambdas;
use super::push_filter::PushFilterThroughJoin;
use super::required::required;
use super::resolve::{self, Known};
use super::top_rows::{RowNumberLimit, TopRows, sink_limits};
use super::{
    applicable, array_literal, at_time_zone, distinct_on, group_keys, row_values, sugar, unnest,
    window_tables, windows,
};
use crate::model::schema::{EventTable, TableMode};
use crate::model::source::{SYSTEM_COLUMNS, SourceTable, SystemColumn};

/// Plans the queries of one set of files.
pub struct QueryPlanner {
    functions: Functions,
}

impl QueryPlanner {
    /// A planner with all functions.
    pub fn new() -> Result<Self> {
        Ok(QueryPlanner { functions: Functions::new()? })
    }

    /// The options that expressions are evaluated with.
    pub fn options(&self) -> &Arc<ConfigOptions> {
        &self.functions.options
    }

    /// The plan of a query, not yet optimised; `relations` are the tables and views it may name, and
    /// `renamed` whether its columns are given other names afterwards.
    pub fn plan(
        &self,
        query: &Query,
        relations: HashMap<String, Arc<dyn TableSource>>,
        renamed: bool,
    ) -> Result<LogicalPlan> {
        let scope = Scope { functions: &self.functions, relations };
        let planner = SqlToRel::new_with_options(&scope, self.parser_options());
        let mut query = query.clone();
        read_lambdas(&mut query, |name| scope.get_higher_order_meta(name).is_some());
        at_time_zone::as_calls(&mut query);
        functions::name_calls(&mut query);
        let columns = |name: &str| {
            let schema = scope.relations.get(name)?.schema();
            Some(schema.fields().iter().map(|field| field.name().clone()).collect())
        };
        let is_aggregate = |name: &str| scope.get_aggregate_meta(name).is_some();
        let known = Known { columns: &columns, is_aggregate: &is_aggregate, renamed };
        let query = windows::written_out(sugar::desugar(query)?, &is_aggregate)?;
        let query = resolve::resolved(row_values::by_column(query)?, &known)?;
        let query = array_literal::as_calls(query)?;
        let plan = planner.sql_statement_to_plan(Statement::Query(Box::new(query)))?;
        let plan = distinct_on::as_top_rows(unnest::attach(group_keys::once(plan)?)?)?;
        applicable::check(&plan)?;
        decorrelate(sink_limits(plan)?)
    }

    /// The relation that an upsert table is, of all its events: the latest per key, unless it means
    /// "deleted".
    fn upsert(&self, table: &Arc<EventTable>, events: LogicalPlan) -> Result<LogicalPlan> {
        let TableMode::Upsert { key, delete_when } = &table.mode else { return Ok(events) };
        let column = |name: &str| col(Column::new(Some(table.name.as_str()), name));
        let keys = key.iter().map(|i| column(&table.columns[*i].field.name)).collect();
        let position = column(&SystemColumn::Position.field().name);
        let latest = TopRows::new(events, keys, vec![position.sort(false, false)], 0, Some(1));
        let latest = LogicalPlan::Extension(Extension { node: Arc::new(latest) });
        let latest = LogicalPlanBuilder::from(latest);
        let deleted = match (delete_when, table.format.tells_deletion()) {
            (None, false) => return latest.build(),
            (None, true) => column(&SystemColumn::Deleted.field().name),
            (Some(text), _) => self.condition(text, latest.schema())?,
        };
        let left = latest.filter(coalesce(vec![deleted, lit(false)]).eq(lit(false)))?;
        // A column that only events which do not delete must have is checked once that is known.
        let columns = left.schema().columns().into_iter().map(|c| {
            let index = table.columns.iter().position(|declared| declared.field.name == c.name);
            let unchecked = |i: &usize| !table.columns[*i].field.nullable && !table.requires(*i);
            match index.filter(unchecked) {
                Some(_) => {
                    let (relation, name) = (c.relation.clone(), c.name.clone());
                    required(col(c), &name).alias_qualified(relation, name)
                }
                None => col(c),
            }
        });
        let columns: Vec<Expr> = columns.collect();
        left.project(columns)?.build()
    }

    /// A boolean expression over the columns of `schema`.
    fn condition(&self, text: &str, schema: &datafusion_common::DFSchema) -> Result<Expr> {
        let mut parsed: SqlExpr =
            Parser::new(&PostgresLike).try_with_sql(text).and_then(|mut p| p.parse_expr())?;
        at_time_zone::as_calls(&mut parsed);
        functions::name_calls(&mut parsed);
        let scope = Scope { functions: &self.functions, relations: HashMap::new() };
        let planner = SqlToRel::new_with_options(&scope, self.parser_options());
        planner.sql_to_expr(parsed, schema, &mut PlannerContext::new())
    }

    /// The source that a name in FROM stands for, when it names this table. `events` is the plan of all of
    /// the table's events, those that upcasts bring included.
    ///
    /// `system` are the system columns that the query names: only those are visible, so that
    /// `SELECT *` leaves them out.
    pub fn table_relation(
        &self,
        table: &Arc<EventTable>,
        events: LogicalPlan,
        system: &BTreeSet<SystemColumn>,
    ) -> Result<Arc<dyn TableSource>> {
        let plan = self.upsert(table, events)?;
        visible(plan, table.columns.iter().map(|c| c.field.name.clone()), system)
    }

    /// The source that the name of the table of all events stands for.
    pub fn events_relation(&self, system: &BTreeSet<SystemColumn>) -> Result<Arc<dyn TableSource>> {
        let plain = [SystemColumn::Type, SystemColumn::Version, SystemColumn::Data];
        let names = plain.into_iter().map(|c| c.field().name);
        visible(scan(SourceTable::Events)?, names, system)
    }

    fn parser_options(&self) -> ParserOptions {
        ParserOptions::from(&self.functions.options.sql_parser)
    }

    /// The plan of the view `name`: types made to agree, joins ordered, unread columns dropped.
    #[cfg_attr(not(feature = "failpoints"), expect(unused_variables, reason = "for failpoints"))]
    pub fn optimize(&self, name: &str, plan: LogicalPlan) -> Result<LogicalPlan> {
        let config =
            PlannerConfig { functions: &self.functions, aliases: Arc::new(AliasGenerator::new()) };
        let plan = literals::in_plan(plan)?;
        let plan = ResolveGroupingFunction::new().analyze(plan, &self.functions.options)?;
        let plan = TypeCoercion::new().analyze(plan, &self.functions.options)?;
        let plan = cast::in_plan(plan)?;
        // Called by the optimizer after each rule: where tests let it panic.
        let after_rule = |_: &LogicalPlan, _: &dyn OptimizerRule| {
            #[cfg(feature = "failpoints")]
            fail::fail_point!(&format!("optimizing view {name}"));
        };
        let plan = Optimizer::with_rules(rules()).optimize(plan, &config, after_rule)?;
        // Dropping columns has put projections between LIMITs and their ORDER BY.
        sink_limits(plan)
    }
}

/// The plan of what a table itself reads.
pub fn scan(table: SourceTable) -> Result<LogicalPlan> {
    let name = table.name().to_string();
    LogicalPlanBuilder::scan(name, Arc::new(ScannedTable::new(table)), None)?.build()
}

fn visible(
    plan: LogicalPlan,
    declared: impl Iterator<Item = String>,
    system: &BTreeSet<SystemColumn>,
) -> Result<Arc<dyn TableSource>> {
    let names = declared.chain(system.iter().map(|c| c.field().name));
    let wanted: Vec<String> = names.collect();
    let columns = plan.schema().columns();
    let columns = columns.into_iter().filter(|c| wanted.contains(&c.name)).map(Expr::Column);
    let plan = LogicalPlanBuilder::from(plan).project(columns.collect::<Vec<_>>())?.build()?;
    Ok(Arc::new(PlannedRelation::new(plan)))
}

/// The rules, in the order in which they run, each with its reason.
fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    vec![
        // Nested UNION ALLs become one node with many inputs.
        Arc::new(OptimizeUnions::new()),
        // Constants are folded once, here, not per batch.
        Arc::new(SimplifyExpressions::new()),
        // `ON a.k = b.k AND …` tells which columns to arrange by.
        Arc::new(ExtractEquijoinPredicate::new()),
        // `FROM a, b WHERE a.k = b.k` is an equi-join, not a product.
        Arc::new(JoinOrder),
        // Less goes into the state of joins.
        Arc::new(PushFilterThroughJoin),
        // A ranking that is cut off is kept as far as it is read.
        Arc::new(RowNumberLimit),
        // Only the columns that are read are decoded and kept.
        Arc::new(OptimizeProjections::new()),
    ]
}

/// The optimizer's surroundings: our functions, and no start time, so that `now()` stays unfolded.
struct PlannerConfig<'a> {
    functions: &'a Functions,
    aliases: Arc<AliasGenerator>,
}

impl OptimizerConfig for PlannerConfig<'_> {
    fn query_execution_start_time(&self) -> Option<DateTime<Utc>> {
        None
    }

    fn alias_generator(&self) -> &Arc<AliasGenerator> {
        &self.aliases
    }

    fn options(&self) -> Arc<ConfigOptions> {
        Arc::clone(&self.functions.options)
    }

    fn function_registry(&self) -> Option<&dyn FunctionRegistry> {
        Some(&self.functions.registry)
    }
}

/// The relations that a query names, CTEs of its own included.
pub fn relations_of(query: &Query) -> BTreeSet<String> {
    struct NamedRelations(BTreeSet<String>);
    impl NamedRelations {
        /// `TABLE t` is a query that names a relation without FROM.
        fn body(&mut self, body: &SetExpr) {
            match body {
                SetExpr::Table(table) => {
                    let name = table.table_name.as_deref().map(Ident::new);
                    self.0.extend(name.as_ref().map(super::names::fold));
                }
                SetExpr::SetOperation { left, right, .. } => {
                    self.body(left);
                    self.body(right);
                }
                _ => {}
            }
        }
    }
    impl Visitor for NamedRelations {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            self.body(&query.body);
            ControlFlow::Continue(())
        }
        fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
            if let [part] = relation.0.as_slice()
                && let Some(ident) = part.as_ident()
            {
                self.0.insert(super::names::fold(ident));
            }
            ControlFlow::Continue(())
        }
        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
            self.0.extend(window_tables::table_of(factor).map(super::names::fold));
            ControlFlow::Continue(())
        }
    }
    let mut names = NamedRelations(BTreeSet::new());
    let _ = query.visit(&mut names);
    names.0
}

/// The system columns that a query names.
pub fn system_columns_of(query: &Query) -> BTreeSet<SystemColumn> {
    struct NamedSystemColumns(BTreeSet<SystemColumn>);
    impl NamedSystemColumns {
        fn see(&mut self, ident: &Ident) {
            let name = super::names::fold(ident);
            self.0.extend(SYSTEM_COLUMNS.iter().filter(|c| c.field().name == name));
        }
    }
    impl Visitor for NamedSystemColumns {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &SqlExpr) -> ControlFlow<()> {
            match expr {
                SqlExpr::Identifier(ident) => self.see(ident),
                SqlExpr::CompoundIdentifier(parts) => parts.iter().for_each(|p| self.see(p)),
                _ => {}
            }
            ControlFlow::Continue(())
        }
    }
    let mut names = NamedSystemColumns(BTreeSet::new());
    let _ = query.visit(&mut names);
    names.0
}

/// The query with system columns left out of every `*` over a table, which shows them because the
/// query names them elsewhere.
pub fn without_system_columns(
    query: &Query,
    system: &BTreeSet<SystemColumn>,
    tables: &dyn Fn(&str) -> bool,
) -> Query {
    struct Exclude<'a> {
        names: Vec<ObjectName>,
        tables: &'a dyn Fn(&str) -> bool,
    }
    impl Exclude<'_> {
        fn body(&self, body: &mut SetExpr) {
            match body {
                SetExpr::Select(select) => self.select(select),
                SetExpr::SetOperation { left, right, .. } => {
                    self.body(left);
                    self.body(right);
                }
                _ => {}
            }
        }

        fn select(&self, select: &mut Select) {
            // Only a SELECT from one table: with several, DataFusion takes an excluded name for ambiguous.
            let [from] = select.from.as_slice() else { return };
            let TableFactor::Table { name, .. } = &from.relation else { return };
            let single = name.0.as_slice().first().and_then(|part| part.as_ident());
            let is_table = single.is_some_and(|ident| (self.tables)(&super::names::fold(ident)));
            if !is_table || !from.joins.is_empty() {
                return;
            }
            for item in &mut select.projection {
                if let SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) =
                    item
                    && options.opt_exclude.is_none()
                {
                    options.opt_exclude = Some(ExcludeSelectItem::Multiple(self.names.clone()));
                }
            }
        }
    }
    impl VisitorMut for Exclude<'_> {
        type Break = ();
        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            self.body(&mut query.body);
            ControlFlow::Continue(())
        }
    }
    let mut query = query.clone();
    if !system.is_empty() {
        let name = |c: &SystemColumn| ObjectName::from(vec![Ident::new(c.field().name)]);
        let mut exclude = Exclude { names: system.iter().map(name).collect(), tables };
        let _ = VisitMut::visit(&mut query, &mut exclude);
    }
    query
}

/// A planner's error that names a place in the SQL, when it knows one.
pub fn error_location(
    error: &DataFusionError,
) -> Option<datafusion_sql::sqlparser::tokenizer::Location> {
    let diagnostic = error.diagnostic()?;
    let span = diagnostic.span?;
    Some(datafusion_sql::sqlparser::tokenizer::Location::new(span.start.line, span.start.column))
}
