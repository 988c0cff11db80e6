//! SQL files → catalog → logical plan → [`ir`]. Pure: no I/O but reading files, no timely.

mod applicable;
mod array_literal;
mod at_time_zone;
mod balance;
pub mod catalog;
mod context;
mod decorrelate;
mod delta_join;
pub mod diagnostic;
mod dialect;
mod distinct_on;
mod exclusion;
pub mod explain;
pub mod ir;
pub mod functions;
mod generation;
mod group_keys;
pub mod group_rows;
mod hop;
mod join_order;
mod lambda;
mod logical;
mod lower;
pub use lower::{column, relaxed};
mod names;
mod nearest;
mod parse;
mod push_filter;
mod refuse;
mod required;
mod resolve;
mod row_values;
pub mod scan;
mod semantics;
mod session;
mod set_operation;
mod share;
mod size;
pub mod step;
mod sugar;
mod top_rows;
mod types;
mod unnest;
mod upcast;
mod varchar;
mod view;
mod window_tables;
mod windows;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use datafusion_common::DataFusionError;
use datafusion_expr::{LogicalPlan, LogicalPlanBuilder, TableSource, col};
use datafusion_sql::sqlparser::tokenizer::{Location, Span};

use crate::model::schema::EventTable;
use crate::model::sink::SinkKinds;
use crate::model::source::EVENTS_TABLE;
use catalog::{Catalog, ViewDef};
use diagnostic::{Diagnostic, Refusal, SourceFile, Unplannable};
use generation::GenerationSubject;
use logical::QueryPlanner;
pub use parse::read_files;
use step::{Stage, Steps};
use view::Shape;
pub use view::ViewPlan;

/// Number of iterations after which a recursion fails, unless its view says another number.
const ITERATIONS_MAX_DEFAULT: u64 = 1_000;

/// Everything below a queries directory, planned.
#[derive(Debug, Default)]
pub struct QuerySet {
    /// The declared event tables, by name.
    pub tables: Vec<Arc<EventTable>>,
    /// The materialized views, by name.
    pub views: Vec<ViewPlan>,
    /// The errors. Views and tables that are not part of them are planned all the same.
    pub diagnostics: Vec<Diagnostic>,
}

/// Checks and plans these files; `log_id` becomes part of the views' generations.
pub fn plan_files(files: &[Arc<SourceFile>], log_id: &str, sinks: SinkKinds) -> QuerySet {
    plan_steps(files, log_id, sinks, &Steps::new(&[], &|_| {}), None)
}

/// Builds a view's dataflow without feeding it: an error says why that cannot be done.
pub type BuildOnTrial = fn(&ViewPlan) -> Result<(), Unplannable>;

/// Checks and plans these files in steps that somebody watches. With `build`, each materialized view
/// is also built on trial; one that cannot be built is left out, with a diagnostic.
///
/// Needs the stack that [`step::on_large_stack`] gives where the files have not been tried.
pub fn plan_steps(
    files: &[Arc<SourceFile>],
    log_id: &str,
    sinks: SinkKinds,
    steps: &Steps<'_>,
    build: Option<BuildOnTrial>,
) -> QuerySet {
    let mut set = QuerySet::default();
    let mut catalog = Catalog { sinks, ..Catalog::default() };
    for file in files {
        set.diagnostics.extend(parse::declare_file(file, steps, &mut catalog));
    }
    set.tables = catalog.tables.values().map(|def| Arc::clone(&def.table)).collect();
    match QueryPlanner::new() {
        Ok(queries) => Planning::new(&catalog, &queries, log_id, steps).run(&mut set, build),
        Err(error) => unreachable!("DataFusion's own functions register: {error}"),
    }
    set.diagnostics
        .sort_by(|a, b| (&a.file.path, a.line, a.column).cmp(&(&b.file.path, b.line, b.column)));
    set
}

/// A view's logical plan; `None` when it has errors, which are reported once, where they are.
type Planned = Option<LogicalPlan>;

struct Planning<'a> {
    catalog: &'a Catalog,
    queries: &'a QueryPlanner,
    log_id: &'a str,
    steps: &'a Steps<'a>,
    tables: Vec<Arc<EventTable>>,
    /// The plan of each table's events.
    events: BTreeMap<String, LogicalPlan>,
    planned: BTreeMap<String, Planned>,
    /// The views being planned, outermost first: a name that is met again is a cycle.
    path: Vec<String>,
    diagnostics: Vec<Diagnostic>,
}

impl<'a> Planning<'a> {
    fn new(
        catalog: &'a Catalog,
        queries: &'a QueryPlanner,
        log_id: &'a str,
        steps: &'a Steps<'a>,
    ) -> Self {
        let mut diagnostics = Vec::new();
        let events = upcast::plan_events(catalog, queries, steps, &mut diagnostics);
        let tables = catalog.tables.values().map(|def| Arc::clone(&def.table)).collect();
        let (planned, path) = (BTreeMap::new(), Vec::new());
        Planning { catalog, queries, log_id, steps, tables, events, planned, path, diagnostics }
    }

    fn run(mut self, set: &mut QuerySet, build: Option<BuildOnTrial>) {
        for (name, def) in &self.catalog.tables {
            let events = self.events[name].clone();
            let relation = self.steps.run(&def.file, def.span.start, Stage::Plan, || {
                self.queries.table_relation(&def.table, events, &BTreeSet::new())
            });
            match relation {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    let message = context::plain_message(&error);
                    let message = format!("delete_when of {name}: {message}");
                    self.diagnostics.push(Refusal::new(def.span, message).in_file(&def.file));
                }
                Err(diagnostic) => self.diagnostics.push(diagnostic),
            }
        }
        for (name, def) in &self.catalog.views {
            let history = format!("{name}_history");
            if def.options.history
                && (self.catalog.views.contains_key(&history)
                    || self.catalog.tables.contains_key(&history))
            {
                let message = format!("{history} is the name of the history of {name}");
                self.diagnostics.push(Refusal::new(def.span, message).in_file(&def.file));
            }
            let Some(plan) = self.view(name) else { continue };
            // Plain views are lowered too: what nobody reads yet is checked all the same.
            let materialized = self
                .steps
                .run(&def.file, def.span.start, Stage::Plan, || self.materialize(def, plan));
            let in_file = |message| Refusal::new(def.span, message).in_file(&def.file);
            let view = materialized.and_then(|view| view.map_err(in_file));
            // Nothing is ever built of a plain view by itself.
            let built = view.and_then(|view| match build {
                Some(build) if def.materialized => {
                    let start = def.span.start;
                    let built = self.steps.run(&def.file, start, Stage::Build, || build(&view));
                    built?.map_err(in_file).map(|()| view)
                }
                _ => Ok(view),
            });
            match built {
                Ok(view) if def.materialized => set.views.push(view),
                Ok(_) => {}
                Err(diagnostic) => self.diagnostics.push(diagnostic),
            }
        }
        set.diagnostics.append(&mut self.diagnostics);
    }

    fn materialize(&self, def: &ViewDef, plan: LogicalPlan) -> Result<ViewPlan, Unplannable> {
        let optimized = self.queries.optimize(&def.name, plan);
        let plan = optimized.map_err(|e| Unplannable(context::plain_message(&e)))?;
        size::check_constants(&plan)?;
        let iterations_max = def.options.max_iterations.unwrap_or(ITERATIONS_MAX_DEFAULT);
        let lowered = lower::lower(&plan, self.queries.options(), iterations_max)
            .map_err(|e| Unplannable(e.to_string()))?;
        let columns = view::output_columns(def, plan.schema())?;
        let subject = GenerationSubject {
            catalog: self.catalog,
            log_id: self.log_id,
            def,
            columns: &columns,
        };
        let generation = subject.generation(semantics::CHANGED);
        let shape =
            Shape { def, columns, tables: &self.tables, sinks: self.catalog.sinks, generation };
        shape.of(lowered)
    }

    /// The logical plan of a view and, before it, of the views that it reads.
    fn view(&mut self, name: &str) -> Planned {
        if let Some(planned) = self.planned.get(name) {
            return planned.clone();
        }
        let def = &self.catalog.views[name];
        self.path.push(name.to_string());
        let steps = self.steps;
        let planned = steps.run(&def.file, def.span.start, Stage::Plan, || self.plan_view(def));
        let planned = planned.unwrap_or_else(|diagnostic| {
            self.diagnostics.push(diagnostic);
            None
        });
        self.path.pop();
        self.planned.insert(name.to_string(), planned.clone());
        planned
    }

    fn plan_view(&mut self, def: &ViewDef) -> Planned {
        let refusals = refuse::refusals(&def.query);
        if !refusals.is_empty() {
            self.diagnostics.extend(refusals.into_iter().map(|r| r.in_file(&def.file)));
            return None;
        }
        let relations = self.relations(def)?;
        let system = logical::system_columns_of(&def.query);
        let is_table = |name: &str| self.catalog.tables.contains_key(name);
        let query = logical::without_system_columns(&def.query, &system, &is_table);
        let plan = self
            .queries
            .plan(&query, relations, !def.columns.is_empty())
            .and_then(|p| renamed(p, &def.columns));
        let checked = plan.map_err(|error| diagnose(def, &error)).and_then(|plan| {
            let checked = size::check_operators(&plan);
            checked.map_err(|message| Refusal::new(def.span, message).in_file(&def.file))?;
            Ok(plan)
        });
        checked.map_err(|diagnostic| self.diagnostics.push(diagnostic)).ok()
    }

    /// The relations that the names in the query's FROM stand for; `None` when one of them has errors.
    fn relations(&mut self, def: &ViewDef) -> Option<HashMap<String, Arc<dyn TableSource>>> {
        let system = logical::system_columns_of(&def.query);
        let mut relations: HashMap<String, Arc<dyn TableSource>> = HashMap::new();
        for name in logical::relations_of(&def.query) {
            if self.path.contains(&name) {
                let message = format!("view {} reads itself: {}", def.name, self.cycle(&name));
                self.diagnostics.push(Refusal::new(def.span, message).in_file(&def.file));
                return None;
            }
            let source = if let Some(table) = self.catalog.tables.get(&name) {
                let events = self.events[&name].clone();
                self.queries.table_relation(&table.table, events, &system).ok()?
            } else if name == EVENTS_TABLE {
                self.queries.events_relation(&system).ok()?
            } else if self.catalog.views.contains_key(&name) {
                Arc::new(context::PlannedRelation::new(self.view(&name)?))
            } else {
                // A CTE, or a name that the planner will report where it stands.
                continue;
            };
            relations.insert(name, source);
        }
        Some(relations)
    }

    fn cycle(&self, name: &str) -> String {
        let from = self.path.iter().position(|p| p == name).unwrap_or(0);
        let mut names: Vec<&str> = self.path[from..].iter().map(String::as_str).collect();
        names.push(name);
        names.join(" → ")
    }
}

fn renamed(plan: LogicalPlan, names: &[String]) -> Result<LogicalPlan, DataFusionError> {
    let columns = plan.schema().columns();
    if names.is_empty() || names.len() != columns.len() {
        // A wrong number of names is reported with the view's shape.
        return Ok(plan);
    }
    let exprs: Vec<_> = columns.into_iter().zip(names).map(|(c, n)| col(c).alias(n)).collect();
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

fn diagnose(def: &ViewDef, error: &DataFusionError) -> Diagnostic {
    let message = context::plain_message(error);
    let at = logical::error_location(error).unwrap_or(def.span.start);
    Refusal::new(Span::new(at, Location::empty()), message).in_file(&def.file)
}
