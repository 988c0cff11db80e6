//! The reference for aggregates of floats: PostgreSQL's answer from exact sums. Beside each column of floats
//! is one of NUMERIC with the very numbers that the floats are, all of their digits; sums and products of
//! those are exact.

use super::entries::{Entry, Kind};
use super::grid::Grid;
use super::matrix::column;

/// The digits behind the point that the least float has.
const DIGITS: usize = 1074;

pub fn is_float(grid: &str) -> bool {
    matches!(grid, "double precision" | "real")
}

/// The number that the float at this index is.
pub fn literal(grid: &Grid, at: usize) -> String {
    let Some(text) = grid.value(at) else { return "NULL".to_string() };
    let value: f64 = match grid.name {
        "real" => text.parse::<f32>().expect("it is a float").into(),
        _ => text.parse().expect("it is a float"),
    };
    match value.is_finite() {
        true => format!("trim_scale({value:.DIGITS$})"),
        false => format!("'{text}'"),
    }
}

/// The exact form of an aggregate of floats.
pub fn of(entry: &Entry, template: &str) -> Option<String> {
    let is_float = entry.arguments.iter().all(|t| is_float(t)) && !entry.arguments.is_empty();
    if entry.kind != Kind::Aggregate || !is_float {
        return None;
    }
    let exact = |position: usize| {
        let of = &entry.arguments[position - 1];
        format!("{}_exact", column(of, false, position))
    };
    if entry.arguments.len() == 1 {
        let distinct = if template.contains("DISTINCT") { "DISTINCT " } else { "" };
        let filter = template.find(" FILTER").map_or("", |at| &template[at..]);
        let x = exact(1);
        let n = format!("(count({distinct}{x}){filter})");
        let sum = format!("(sum({distinct}{x}){filter})");
        let squares = format!("(sum({x} * {x}){filter})");
        let around = format!("CAST({n} * {squares} - {sum} * {sum} AS double precision)");
        let population = format!("({around} / nullif({n}, 0) / {n})");
        let sample = format!("({around} / nullif({n}, 0) / nullif({n} - 1, 0))");
        return Some(match entry.name.as_str() {
            "sum" => format!("CAST({sum} AS {})", entry.result),
            "avg" => format!("CAST({sum} AS double precision) / nullif({n}, 0)"),
            "var_pop" => population,
            "var_samp" | "variance" => sample,
            "stddev_pop" => format!("sqrt{population}"),
            "stddev" | "stddev_samp" => format!("sqrt{sample}"),
            _ => return None,
        });
    }
    let (y, x) = (exact(1), exact(2));
    let filter = format!("FILTER (WHERE {y} IS NOT NULL AND {x} IS NOT NULL)");
    let n = format!("(count(*) {filter})");
    let sum = |of: &str| format!("(sum({of}) {filter})");
    let around = |a: &str, b: &str| {
        let products = sum(&format!("{a} * {b}"));
        format!("CAST({n} * {products} - {} * {} AS double precision)", sum(a), sum(b))
    };
    let (xx, yy, xy) = (around(&x, &x), around(&y, &y), around(&x, &y));
    let slope = format!("({xy} / nullif({xx}, 0))");
    let float = |of: &str| format!("CAST({} AS double precision)", sum(of));
    Some(match entry.name.as_str() {
        "corr" => {
            format!("CASE WHEN {xx} <> 0 AND {yy} <> 0 THEN {xy} / (sqrt({xx}) * sqrt({yy})) END")
        }
        "covar_pop" => format!("{xy} / nullif({n}, 0) / {n}"),
        "covar_samp" => format!("{xy} / nullif({n}, 0) / nullif({n} - 1, 0)"),
        "regr_avgx" => format!("{} / nullif({n}, 0)", float(&x)),
        "regr_avgy" => format!("{} / nullif({n}, 0)", float(&y)),
        "regr_intercept" => format!("({} - {} * {slope}) / {n}", float(&y), float(&x)),
        "regr_r2" => format!(
            "CASE WHEN {xx} = 0 THEN NULL WHEN {yy} = 0 THEN 1 ELSE ({xy} / {xx}) * ({xy} / {yy}) END"
        ),
        "regr_slope" => slope,
        "regr_sxx" => format!("{xx} / nullif({n}, 0)"),
        "regr_sxy" => format!("{xy} / nullif({n}, 0)"),
        "regr_syy" => format!("{yy} / nullif({n}, 0)"),
        _ => return None,
    })
}
