//! The functions that views may call: DataFusion's, and ours where it lacks one or answers otherwise
//! than PostgreSQL. One file a family.

/// Functions of one Rust type are told apart, shown and hashed by their names.
macro_rules! by_name {
    ($function:ty) => {
        impl std::fmt::Debug for $function {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name)
            }
        }

        impl PartialEq for $function {
            fn eq(&self, other: &Self) -> bool {
                self.name == other.name
            }
        }

        impl Eq for $function {}

        impl std::hash::Hash for $function {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.name.hash(state);
            }
        }
    };
}

mod aggregates;
mod any_all;
pub mod arithmetic;
mod array_has;
mod arrays;
mod array_build;
mod bitwise;
mod calendar;
pub mod cast;
mod decimal;
mod float;
mod format;
mod interval;
mod json;
mod json_build;
mod jsonb;
mod jsonb_change;
mod jsonb_tree;
mod like;
pub mod limits;
pub mod literals;
pub mod lockstep;
mod merged;
mod numeric;
mod ordered_set;
mod parse_time;
mod read;
mod regex;
mod regex_calls;
mod row;
mod row_limit;
mod series;
mod signed;
mod string_agg;
mod subscripts;
mod texts;
mod times;
mod to_char;
mod to_char_number;
mod written;
mod zone;

use std::collections::HashMap;
use std::sync::Arc;

use datafusion_common::Result;
use datafusion_expr::planner::ExprPlanner;
use datafusion_expr::registry::{FunctionRegistry, MemoryFunctionRegistry};
use datafusion_sql::sqlparser::ast::VisitMut;

pub use aggregates::pair;
pub use interval::order as interval_order;
pub use json::elements as json_elements;
pub use merged::with as merged_with;
pub use row_limit::ROW_LIMIT;

/// Rewrites what has no function of its own name: comparisons with arrays, and aggregates under the names of window
/// functions.
pub fn name_calls(sql: &mut impl VisitMut) {
    any_all::as_calls(sql);
    ordered_set::tell_from_window_functions(sql);
}

/// All functions, and their further names. Of two of one name the later one counts.
pub fn registry() -> Result<(MemoryFunctionRegistry, Aliases)> {
    let mut registry = MemoryFunctionRegistry::new();
    let mut aliases = Aliases::default();
    for udf in datafusion_functions::all_default_functions()
        .into_iter()
        .chain(datafusion_functions_nested::all_default_nested_functions())
        .chain(json::functions())
        .chain(json_build::functions())
        // In the place of DataFusion's own.
        .chain([array_has::array_has()])
        .map(signed::scalar)
        .map(float::beside)
        .map(texts::beside)
        .map(arrays::beside)
        .map(interval::beside)
        .chain(float::functions())
        .chain(texts::functions())
        .chain(times::functions())
        .chain([to_char::to_char(), arrays::overlaps()])
        .chain(array_build::functions())
        .chain(format::functions())
        .chain(json::extract_path())
        .chain(any_all::functions())
        .chain(series::functions())
        .chain(regex_calls::functions())
        .chain(jsonb_change::functions())
        .chain([parse_time::to_date(), bitwise::not(), row_limit::row_limit()])
    {
        learn(&mut aliases.scalar, udf.name(), udf.aliases());
        registry.register_udf(udf)?;
    }
    for udf in numeric::functions(&|name| registry.udf(name).ok()) {
        learn(&mut aliases.scalar, udf.name(), udf.aliases());
        registry.register_udf(udf)?;
    }
    for udf in datafusion_functions_nested::all_default_higher_order_functions() {
        learn(&mut aliases.higher_order, udf.name(), udf.aliases());
        registry.register_higher_order_function(udf)?;
    }
    for udaf in datafusion_functions_aggregate::all_default_aggregate_functions()
        .into_iter()
        .chain(ordered_set::functions())
        .chain(json_build::aggregates())
        .chain(aggregates::functions())
        .chain([string_agg::string_agg()])
    {
        learn(&mut aliases.aggregate, udaf.name(), udaf.aliases());
        registry.register_udaf(udaf)?;
    }
    let window = datafusion_functions_window::all_default_window_functions();
    for udwf in window.into_iter().map(signed::window) {
        learn(&mut aliases.window, udwf.name(), udwf.aliases());
        registry.register_udwf(udwf)?;
    }
    // What PostgreSQL calls them.
    learn(&mut aliases.aggregate, "bool_and", &["every".to_string()]);
    Ok((registry, aliases))
}

/// What operators mean that DataFusion reads otherwise, tried before its own meanings.
pub fn operators() -> [Arc<dyn ExprPlanner>; 7] {
    [
        Arc::new(merged::MergedColumns),
        Arc::new(subscripts::Subscripts),
        Arc::new(json::JsonOperators),
        Arc::new(texts::Calls),
        Arc::new(interval::IntervalArithmetic),
        Arc::new(arithmetic::Operands),
        Arc::new(times::Extract),
    ]
}

/// The further names of functions, each with the name that the registry knows.
#[derive(Default)]
pub struct Aliases {
    pub scalar: HashMap<String, String>,
    pub higher_order: HashMap<String, String>,
    pub aggregate: HashMap<String, String>,
    pub window: HashMap<String, String>,
}

fn learn(aliases: &mut HashMap<String, String>, name: &str, others: &[String]) {
    aliases.extend(others.iter().map(|other| (other.clone(), name.to_string())));
}

/// What `find` knows under this name, or under the one that it is an alias of.
pub fn named<T>(
    aliases: &HashMap<String, String>,
    name: &str,
    find: impl Fn(&str) -> Result<T>,
) -> Option<T> {
    find(name).ok().or_else(|| find(aliases.get(name)?).ok())
}

/// Whether a function stands for `+`, `-`, `*`, `/` or `%` of decimals or floats, and so is NULL where an
/// argument is.
pub fn is_arithmetic(name: &str) -> bool {
    let operator = name.strip_prefix("decimal_").or_else(|| name.strip_prefix("float_"));
    operator.is_some_and(|op| ["plus", "minus", "times", "divide", "modulo"].contains(&op))
}
