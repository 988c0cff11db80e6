//! Functions in FROM that unnest an array: `json_array_elements(j)`, `json_each(j)`,
//! `generate_series(a, b)` and the like.

use datafusion_sql::sqlparser::ast::TableFactor;

use super::call as call_of;

/// The functions, beside UNNEST itself.
pub const FUNCTIONS: [&str; 15] = [
    "generate_series",
    "generate_subscripts",
    "regexp_matches",
    "regexp_split_to_table",
    "string_to_table",
    "json_array_elements",
    "json_array_elements_text",
    "json_each",
    "json_each_text",
    "json_object_keys",
    "jsonb_array_elements",
    "jsonb_array_elements_text",
    "jsonb_each",
    "jsonb_each_text",
    "jsonb_object_keys",
];

/// Such a function is UNNEST of the array that it gives.
pub(super) fn unnested(relation: &mut TableFactor) {
    let (call, alias, with_ordinality) = match &*relation {
        TableFactor::Table { name, args: Some(args), alias, with_ordinality, .. } => {
            ((name, &args.args), alias, *with_ordinality)
        }
        TableFactor::Function { name, args, alias, .. } => ((name, args), alias, false),
        _ => return,
    };
    let (name, args) = (call.0.to_string().to_lowercase(), call.1.as_slice());
    let arguments = match name.as_str() {
        "generate_series"
        | "generate_subscripts"
        | "regexp_matches"
        | "regexp_split_to_table"
        | "string_to_table" => 2..=3,
        _ => 1..=1,
    };
    if !FUNCTIONS.contains(&name.as_str()) || !arguments.contains(&args.len()) {
        return;
    }
    let Ok(array) = call_of(&name, args.to_vec()) else { return };
    *relation = TableFactor::UNNEST {
        alias: alias.clone(),
        array_exprs: vec![array],
        with_offset: false,
        with_offset_alias: None,
        with_ordinality,
    };
}
