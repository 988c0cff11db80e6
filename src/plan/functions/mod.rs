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
mod jsonb_equal;
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

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use datafusion_common::Result;
use datafusion_expr::planner::ExprPlanner;
use datafusion_expr::registry::{FunctionRegistry, MemoryFunctionRegistry};
use datafusion_sql::sqlparser::ast::VisitMut;

use super::applicable::has_signature;
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

/// All functions, and their further names. If two functions share a name, the later one counts.
pub fn registry() -> Result<(MemoryFunctionRegistry, Aliases)> {
    let mut registry = MemoryFunctionRegistry::new();
    let mut aliases = Aliases::default();
    for udf in datafusion_functions::all_default_functions()
        .into_iter()
        .chain(datafusion_functions_nested::all_default_nested_functions())
        .filter(|udf| is_known(udf.name(), udf.aliases()))
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
    let higher_order = datafusion_functions_nested::all_default_higher_order_functions();
    for udf in higher_order.into_iter().filter(|udf| is_known(udf.name(), udf.aliases())) {
        learn(&mut aliases.higher_order, udf.name(), udf.aliases());
        registry.register_higher_order_function(udf)?;
    }
    for udaf in datafusion_functions_aggregate::all_default_aggregate_functions()
        .into_iter()
        .filter(|udaf| is_known(udaf.name(), udaf.aliases()))
        .chain(ordered_set::functions())
        .chain(json_build::aggregates())
        .chain(aggregates::functions())
        .chain([string_agg::string_agg()])
    {
        learn(&mut aliases.aggregate, udaf.name(), udaf.aliases());
        registry.register_udaf(udaf)?;
    }
    let window = datafusion_functions_window::all_default_window_functions();
    let window = window.into_iter().filter(|udwf| is_known(udwf.name(), udwf.aliases()));
    for udwf in window.map(signed::window) {
        learn(&mut aliases.window, udwf.name(), udwf.aliases());
        registry.register_udwf(udwf)?;
    }
    // PostgreSQL's names.
    learn(&mut aliases.aggregate, "bool_and", &["every".to_string()]);
    Ok((registry, aliases))
}

/// The planners of operators that DataFusion reads otherwise, tried before its own.
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

/// The function that `find` knows under this name, or under the one that it is an alias of.
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

/// The functions that PostgreSQL does not have, by name, with what they take and what they give.
const OURS: &str = include_str!("ours.txt");

/// Functions for constructs of PostgreSQL's language, or for operations that it calls by no name; functions
/// that only the planner writes; and functions that are known in order to be refused.
const CONSTRUCTS: [&str; 25] = [
    "bitwise_not",
    "coalesce",
    "cume_dist",
    "current_date",
    "current_time",
    "dense_rank",
    "get_field",
    "greatest",
    "grouping",
    "json_member",
    "json_member_text",
    "json_path",
    "json_path_text",
    "least",
    "make_array",
    "named_struct",
    "now",
    "nullif",
    "percent_rank",
    "random",
    "rank",
    "row",
    "row_number",
    "struct",
    "uuid",
];

/// Whether a function may be called under one of these names: PostgreSQL has it, so that both were compared,
/// or it is listed as ours.
fn is_known(name: &str, others: &[String]) -> bool {
    static NAMES: LazyLock<HashSet<&str>> = LazyLock::new(|| {
        let ours = OURS.lines().filter_map(|line| line.split_once('(').map(|(name, _)| name));
        ours.chain(CONSTRUCTS).collect()
    });
    let is_known = |name: &str| NAMES.contains(name) || has_signature(name);
    is_known(name) || others.iter().any(|other| is_known(other))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// The functions that the tests against PostgreSQL have compared: the names of one kind, each with the
    /// types that it takes.
    fn entries(file: &str, kind: &str) -> BTreeMap<String, Vec<String>> {
        let path = format!("{}/tests/postgres/{file}", env!("CARGO_MANIFEST_DIR"));
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let entry = line.strip_prefix(kind).and_then(|rest| rest.strip_prefix(' '));
            let Some((name, types)) = entry.and_then(|entry| entry.split_once('(')) else {
                continue;
            };
            let types = types.rsplit_once(')').map_or(types, |(types, _)| types);
            found.entry(name.to_string()).or_default().push(types.to_string());
        }
        found
    }

    fn table(out: &mut String, rows: impl Iterator<Item = (String, String)>) {
        out.push_str("| | |\n|---|---|\n");
        for (name, text) in rows {
            *out += &format!("| `{name}` | {} |\n", text.replace('|', "\\|"));
        }
        out.push('\n');
    }

    /// The page of functions, from the registry and from what was compared with PostgreSQL.
    fn page() -> String {
        let (registry, aliases) = registry().unwrap();
        let mut out = String::from(
            "# Functions\n\nThis page is generated from the functions that the planner knows, and from the lists of what was \
             compared with PostgreSQL. Those under PostgreSQL's names have PostgreSQL's values: every one of the forms \
             below was called with a grid of values, there and here. A form that is refused is an error of \
             `heliostat check`. What operators and casts do is in [Types](types.md), constructs are in the \
             [SQL reference](sql-reference.md).\n\n",
        );
        for (kind, title) in [
            ("function", "Functions of PostgreSQL"),
            ("aggregate", "Aggregates of PostgreSQL"),
            ("ordered-set aggregate", "Aggregates of PostgreSQL with WITHIN GROUP"),
        ] {
            let (all, refused) = (entries("entries.txt", kind), entries("refused.txt", kind));
            out += &format!("## {title}\n\n");
            let rows = all.into_iter().map(|(name, forms)| {
                let none = Vec::new();
                let refused = refused.get(&name).unwrap_or(&none);
                let shown = |form: &String| match form.as_str() {
                    "" => "()".to_string(),
                    form => format!("({form})"),
                };
                let taken: Vec<String> =
                    forms.iter().filter(|form| !refused.contains(form)).map(shown).collect();
                let mut text = taken.join(", ");
                if !refused.is_empty() {
                    let not: Vec<String> = refused.iter().map(shown).collect();
                    text += if text.is_empty() { "refused: " } else { "; refused: " };
                    text += &not.join(", ");
                }
                (name, text)
            });
            table(&mut out, rows);
        }
        out += "## Window functions\n\nAll aggregates, and\n\n";
        let mut windows: Vec<String> = registry.udwfs().into_iter().collect();
        windows.sort();
        out += &windows.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        out += ".\n\n## Functions that PostgreSQL does not have\n\nThey are DataFusion's, and mean what they mean there.\n\n";
        let mut further: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (other, name) in [&aliases.scalar, &aliases.higher_order, &aliases.aggregate]
            .into_iter()
            .flatten()
            .filter(|(other, _)| !has_signature(other))
        {
            further.entry(name).or_default().push(other);
        }
        for part in OURS.split("# ").skip(1) {
            let (title, lines) = part.split_once('\n').unwrap();
            out += &format!("### {title}\n\n");
            let rows = lines.lines().map(|line| {
                let (call, meaning) = line.split_once("): ").unwrap();
                let (name, _) = call.split_once('(').unwrap();
                let mut others = further.remove(name).unwrap_or_default();
                others.sort_unstable();
                let others: Vec<String> = others.iter().map(|name| format!("`{name}`")).collect();
                let others = match others.is_empty() {
                    true => String::new(),
                    false => format!("; also {}", others.join(", ")),
                };
                (format!("{call})"), format!("{meaning}{others}"))
            });
            table(&mut out, rows);
        }
        out += "## Further names\n\n";
        let rows = further.into_iter().filter(|(name, _)| has_signature(name)).map(
            |(name, mut others)| {
                others.sort_unstable();
                let others: Vec<String> = others.iter().map(|name| format!("`{name}`")).collect();
                (name.to_string(), format!("also {}", others.join(", ")))
            },
        );
        table(&mut out, rows);
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }

    #[test]
    fn page_of_functions_is_what_the_planner_knows() {
        let path = format!("{}/docs/functions.md", env!("CARGO_MANIFEST_DIR"));
        let page = page();
        if std::env::var_os("HELIOSTAT_BLESS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap() == page,
            "make bless writes docs/functions.md"
        );
    }

    #[test]
    fn every_function_is_postgres_own_or_listed_as_ours() {
        let (registry, _) = registry().unwrap();
        let all = [registry.udfs(), registry.higher_order_function_names(), registry.udafs()];
        let names: BTreeSet<String> = all.into_iter().flatten().chain(registry.udwfs()).collect();
        let called = |name: &str| {
            let scalar = registry.udf(name).map(|f| f.aliases().to_vec());
            let higher = || registry.higher_order_function(name).map(|f| f.aliases().to_vec());
            let aggregate = || registry.udaf(name).map(|f| f.aliases().to_vec());
            let window = || registry.udwf(name).map(|f| f.aliases().to_vec());
            scalar.or_else(|_| higher()).or_else(|_| aggregate()).or_else(|_| window()).unwrap()
        };
        let mut compared = BTreeSet::new();
        for kind in ["function", "aggregate", "ordered-set aggregate", "window"] {
            compared.extend(entries("entries.txt", kind).into_keys());
        }
        // Only the planner can write a name with a space in it.
        let unknown = names.iter().filter(|name| {
            !name.contains(' ') && !compared.contains(*name) && !is_known(name, &called(name))
        });
        let unknown: Vec<&String> = unknown.collect();
        assert!(
            unknown.is_empty(),
            "neither compared with PostgreSQL nor in ours.txt: {unknown:?}"
        );
        // Every listed function is registered.
        let listed = OURS.lines().filter_map(|line| line.split_once('(').map(|(name, _)| name));
        let missing: Vec<&str> = listed.filter(|name| !names.contains(*name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        // And every function that PostgreSQL has was compared.
        let of_postgres = names.iter().filter(|name| has_signature(name));
        let not: Vec<&String> = of_postgres.filter(|name| !compared.contains(*name)).collect();
        assert!(not.is_empty(), "registered, and not compared: {not:?}");
    }
}
