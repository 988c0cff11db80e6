//! The context of DataFusion's planner: the tables and views in scope, the functions, the options.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{DataFusionError, Result, TableReference, plan_err};
use datafusion_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion_expr::registry::{FunctionRegistry, MemoryFunctionRegistry};
use datafusion_expr::{
    AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableProviderFilterPushDown,
    TableSource, WindowUDF,
};

use super::functions::{self, Aliases, named};
use super::set_operation::SetOperationPlanner;
use super::types::CastTypes;
use super::unnest::UnnestPlanner;
use super::window_tables::WindowTablePlanner;
use crate::model::source::SourceTable;

/// The functions, planners and options, which are the same for every view.
pub struct Functions {
    pub registry: MemoryFunctionRegistry,
    pub options: Arc<ConfigOptions>,
    aliases: Aliases,
    expr_planners: Vec<Arc<dyn ExprPlanner>>,
    relation_planners: Vec<Arc<dyn RelationPlanner>>,
    type_planner: Arc<dyn TypePlanner>,
}

impl Functions {
    /// All functions of DataFusion.
    pub fn new() -> Result<Self> {
        let (registry, aliases) = functions::registry()?;
        let mut options = ConfigOptions::default();
        options.sql_parser.map_string_types_to_utf8view = false;
        options.sql_parser.parse_float_as_decimal = true;
        options.sql_parser.collect_spans = true;
        Ok(Functions {
            registry,
            options: Arc::new(options),
            aliases,
            expr_planners: functions::operators()
                .into_iter()
                .chain::<[Arc<dyn ExprPlanner>; 7]>([
                    Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
                    Arc::new(datafusion_functions_nested::planner::NestedFunctionPlanner),
                    Arc::new(datafusion_functions_nested::planner::FieldAccessPlanner),
                    Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
                    Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
                    Arc::new(datafusion_functions_aggregate::planner::AggregateFunctionPlanner),
                    Arc::new(datafusion_functions_window::planner::WindowFunctionPlanner),
                ])
                .collect(),
            relation_planners: vec![
                Arc::new(UnnestPlanner),
                Arc::new(SetOperationPlanner),
                Arc::new(WindowTablePlanner),
            ],
            type_planner: Arc::new(CastTypes),
        })
    }
}

/// The scope that one query is planned in.
pub struct Scope<'a> {
    pub functions: &'a Functions,
    pub relations: HashMap<String, Arc<dyn TableSource>>,
}

impl ContextProvider for Scope<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        match self.relations.get(name.table()) {
            Some(source) if name.schema().is_none() => Ok(Arc::clone(source)),
            _ => plan_err!("table '{name}' not found"),
        }
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.functions.expr_planners
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.functions.relation_planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::clone(&self.functions.type_planner))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        let functions = self.functions;
        named(&functions.aliases.scalar, name, |name| functions.registry.udf(name))
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        let functions = self.functions;
        named(&functions.aliases.higher_order, name, |name| {
            functions.registry.higher_order_function(name)
        })
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        let functions = self.functions;
        named(&functions.aliases.aggregate, name, |name| functions.registry.udaf(name))
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        let functions = self.functions;
        named(&functions.aliases.window, name, |name| functions.registry.udwf(name))
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> Result<Arc<dyn TableSource>> {
        Ok(Arc::new(WorkTableSource { name: name.to_string(), schema }))
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.functions.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.functions.registry.udfs().into_iter().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.functions.registry.higher_order_function_names().into_iter().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.functions.registry.udafs().into_iter().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.functions.registry.udwfs().into_iter().collect()
    }
}

/// An event table as DataFusion's planner sees it.
#[derive(Debug)]
pub struct ScannedTable {
    pub table: SourceTable,
    schema: SchemaRef,
}

impl ScannedTable {
    /// The planner's handle for a table.
    pub fn new(table: SourceTable) -> Self {
        let fields: Vec<_> = table.columns().iter().map(|c| table.field(*c).to_arrow()).collect();
        ScannedTable { schema: Arc::new(Schema::new(fields)), table }
    }
}

impl TableSource for ScannedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Unsupported; filters.len()])
    }
}

/// The rows of a recursion so far, as its recursive term reads them.
#[derive(Debug)]
pub struct WorkTableSource {
    pub name: String,
    schema: SchemaRef,
}

impl WorkTableSource {
    /// The rows of the recursion of this name.
    pub fn new(name: &str, schema: SchemaRef) -> Self {
        WorkTableSource { name: name.to_string(), schema }
    }
}

impl TableSource for WorkTableSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// A view, or a table made from events by more than reading them: a plan in place of its name.
pub struct PlannedRelation {
    plan: LogicalPlan,
    schema: SchemaRef,
}

impl PlannedRelation {
    /// A relation that stands for `plan`.
    pub fn new(plan: LogicalPlan) -> Self {
        let schema = Arc::new(plan.schema().as_arrow().clone());
        PlannedRelation { plan, schema }
    }
}

impl TableSource for PlannedRelation {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }
}

/// The message of a planner's error without the wrapping that only its developers need.
pub fn plain_message(error: &DataFusionError) -> String {
    let root = error.find_root();
    let text = root.strip_backtrace();
    let text = text.split("\n\nbacktrace:").next().unwrap_or(&text);
    let text = [
        "Error during planning: ",
        "Schema error: ",
        "SQL error: ",
        "Execution error: ",
        "This feature is not implemented: ",
        "type_coercion\ncaused by\n",
    ]
    .iter()
    .fold(text, |text, prefix| text.strip_prefix(prefix).unwrap_or(text));
    text.trim().trim_end_matches('.').to_string()
}
