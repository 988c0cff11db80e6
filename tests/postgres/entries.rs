//! PostgreSQL's functions, operators, casts and aggregates, and how each is tried: entries become expressions
//! over columns of the grid.

use super::{exact, forms};
use crate::common_postgres::Postgres;

/// One function, operator, cast or aggregate at given types.
#[derive(Clone, Debug)]
pub struct Entry {
    pub kind: Kind,
    /// The name in the lists.
    pub title: String,
    pub name: String,
    pub arguments: Vec<String>,
    pub result: String,
    pub returns_set: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Function,
    Operator,
    Cast,
    Construct,
    Aggregate,
    OrderedSetAggregate,
    /// A window function, or an aggregate over a window.
    Window,
}

impl Kind {
    pub fn is_aggregate(self) -> bool {
        matches!(self, Kind::Aggregate | Kind::OrderedSetAggregate)
    }
}

/// The types that stand for any.
const ANY: [&str; 3] = ["integer", "text", "numeric"];

/// Arguments for functions that take any number and type.
const REPEATED: [&[&str]; 5] = [
    &["text"],
    &["text", "integer"],
    &["numeric", "boolean", "text"],
    &["double precision", "timestamp without time zone", "integer[]"],
    &["date", "timestamp with time zone", "json"],
];

/// Names and values in turn.
const PAIRS: [&[&str]; 3] = [
    &["text", "integer"],
    &["text", "numeric", "integer", "text"],
    &["text", "timestamp without time zone", "text", "integer[]"],
];

/// All entries, in the order of their titles.
pub fn all(postgres: &Postgres) -> Vec<Entry> {
    let rows = postgres.rows(include_str!("entries.sql"));
    let mut entries = Vec::new();
    for row in rows {
        let [kind, name, types, result, many, repeated]: [Option<String>; 6] =
            row.try_into().expect("the query has six columns");
        let kind = match kind.as_deref() {
            Some("function") => Kind::Function,
            Some("operator") => Kind::Operator,
            Some("cast") => Kind::Cast,
            Some("aggregate") => Kind::Aggregate,
            Some("ordered-set aggregate") => Kind::OrderedSetAggregate,
            Some("window function") => Kind::Window,
            other => panic!("{other:?} is no kind"),
        };
        let types: Vec<String> = array(&types.expect("it has types"));
        let entry = Entry {
            kind,
            title: String::new(),
            name: name.unwrap_or_default(),
            arguments: types,
            result: result.expect("it has a result"),
            returns_set: many.as_deref() == Some("t"),
        };
        entries.extend(instances(entry, repeated.as_deref() == Some("any")));
    }
    // Over a window too, but for those whose sums PostgreSQL rounds after each addition.
    let aggregates = entries.iter().filter(|entry| entry.kind == Kind::Aggregate);
    let exact = aggregates.filter(|entry| !entry.arguments.iter().any(|t| exact::is_float(t)));
    let over_windows = exact.map(|entry| Entry { kind: Kind::Window, ..entry.clone() });
    entries.extend(over_windows.collect::<Vec<_>>());
    entries.extend(forms::constructs());
    for entry in &mut entries {
        entry.title = title(entry);
    }
    entries.sort_by(|a, b| a.title.cmp(&b.title));
    entries.dedup_by(|a, b| a.title == b.title);
    entries
}

/// The elements of an array's text; they have no escapes but quotes around them.
fn array(text: &str) -> Vec<String> {
    let inner = text.trim_matches(['{', '}']);
    let items = inner.split(',').filter(|item| !item.is_empty());
    items.map(|item| item.replace(['"', '\\'], "")).collect()
}

fn instances(entry: Entry, repeated: bool) -> Vec<Entry> {
    if repeated && entry.kind == Kind::Function {
        let fixed: Vec<String> = entry.arguments[..entry.arguments.len() - 1].to_vec();
        let lists: &[&[&str]] = if entry.name.ends_with("_object") { &PAIRS } else { &REPEATED };
        let with = |list: &&[&str]| {
            let arguments =
                fixed.iter().cloned().chain(list.iter().map(|t| t.to_string())).collect();
            Entry { arguments, ..entry.clone() }
        };
        return lists.iter().map(with).collect();
    }
    let is_any = |t: &String| t.starts_with("any");
    if !entry.arguments.iter().any(is_any) {
        return vec![entry];
    }
    let at = |concrete: &str| {
        let fit = |t: &String| match t.as_str() {
            "any" | "anyelement" | "anynonarray" | "anycompatible" | "anycompatiblenonarray" => {
                concrete.to_string()
            }
            "anyarray" | "anycompatiblearray" => format!("{concrete}[]"),
            other => other.to_string(),
        };
        Entry {
            arguments: entry.arguments.iter().map(fit).collect(),
            result: fit(&entry.result),
            ..entry.clone()
        }
    };
    ANY.iter().map(|concrete| at(concrete)).collect()
}

fn title(entry: &Entry) -> String {
    let arguments = entry.arguments.join(", ");
    match entry.kind {
        Kind::Function => format!("function {}({arguments}) → {}", entry.name, entry.result),
        Kind::Aggregate => format!("aggregate {}({arguments}) → {}", entry.name, entry.result),
        Kind::OrderedSetAggregate => {
            format!("ordered-set aggregate {}({arguments}) → {}", entry.name, entry.result)
        }
        Kind::Window => format!("window {}({arguments}) → {}", entry.name, entry.result),
        Kind::Cast => format!("cast {} as {}", entry.arguments[0], entry.arguments[1]),
        Kind::Construct => format!("construct {}", entry.name),
        Kind::Operator => match entry.arguments.as_slice() {
            [only] => format!("operator {} {only} → {}", entry.name, entry.result),
            [left, right] => format!("operator {left} {} {right} → {}", entry.name, entry.result),
            other => panic!("an operator of {other:?}"),
        },
    }
}
