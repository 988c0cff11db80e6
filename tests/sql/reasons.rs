//! Why a view's rows are not DataFusion's: every reason there is. A file gives one of these, and one
//! that no file gives has to go.

use super::script::Engine;

/// The reason of random programs: one engine answers all of them, in a process of its own.
pub const RANDOM: &str = "the program is random";

/// DuckDB answers instead.
const OF_DUCKDB: &[&str] = &[
    RANDOM,
    "datafusion does not decorrelate this",
    "datafusion has no ordinality",
    "datafusion cannot name a recursion twice",
    "datafusion leaves DISTINCT out of bit_xor",
    "datafusion compares no rows",
    "datafusion has no JSON operators",
    "datafusion has no FETCH",
    "datafusion has no mod()",
    "datafusion binds these operators otherwise",
    "datafusion merges no columns",
    "datafusion has no percentile_disc",
    "datafusion orders NULL inside of arrays in another way",
    "datafusion does not know these short forms",
    "datafusion orders DISTINCT ON only as far as its keys",
];

/// DataFusion answers other words.
const OF_DATAFUSION: &[&str] = &["datafusion formats times by other patterns"];

/// Only the file knows.
const OF_NOBODY: &[&str] = &[
    "json is written with other spaces elsewhere",
    "batch engines count the dimensions of an empty array",
    "batch engines fail as a whole where a row fails",
    "batch engines have no rows that only some queries can read",
    "engines approximate in an order of their own",
    "duckdb takes NULLs in rows for values",
    "only postgresql takes this for what it is",
    "no engine spells these JSON operators so",
    "json of times and numbers is spelled in ways of their own",
];

/// What can be given for an engine.
pub fn of(engine: Engine) -> &'static [&'static str] {
    match engine {
        Engine::DataFusion => OF_DATAFUSION,
        Engine::DuckDb => OF_DUCKDB,
        Engine::Nobody => OF_NOBODY,
    }
}

/// Reasons that are in the list, and in no file.
pub fn unused(given: &[&str]) -> Vec<&'static str> {
    let listed = OF_DUCKDB.iter().chain(OF_DATAFUSION).chain(OF_NOBODY).copied();
    listed.filter(|reason| *reason != RANDOM && !given.contains(reason)).collect()
}
