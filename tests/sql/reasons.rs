//! Why PostgreSQL is not asked for a view's rows in the view's words: every reason there is. A file gives one of these, and one
//! that no file gives has to go.

use super::script::Engine;

/// The reason of random programs for other words.
pub const RANDOM: &str = "the program is random";

/// PostgreSQL is asked in other words.
const OF_POSTGRES: &[&str] = &[
    RANDOM,
    "postgres fails as a whole where a row fails",
    "postgres has another name for it",
    "postgres has no ASOF joins",
    "postgres has no QUALIFY",
    "postgres has no tumble, hop and session",
    "postgres reads the members of a struct as (s).x",
    "postgres wants one type in both terms of a recursion",
];

/// PostgreSQL has another answer, and that is a fault here. The list only gets shorter.
const DIFFERENCES: &[&str] = &[];

/// DuckDB answers instead.
const OF_DUCKDB: &[&str] = &["postgres has no lambdas"];

/// Only the file knows.
const OF_NOBODY: &[&str] = &[
    "batch engines count the dimensions of an empty array",
    "batch engines fail as a whole where a row fails",
    "batch engines have no rows that only some queries can read",
    "engines approximate in an order of their own",
    "postgres does not unnest JSON",
];

/// The reasons that may be given for an engine.
pub fn of(engine: Engine) -> &'static [&'static str] {
    match engine {
        Engine::Postgres => OF_POSTGRES,
        Engine::Differs => DIFFERENCES,
        Engine::DuckDb => OF_DUCKDB,
        Engine::Nobody => OF_NOBODY,
    }
}

/// Reasons that are in the list, and in no file.
pub fn unused(given: &[&str]) -> Vec<&'static str> {
    let lists = [OF_POSTGRES, DIFFERENCES, OF_DUCKDB, OF_NOBODY];
    let listed = lists.into_iter().flatten().copied();
    listed.filter(|reason| *reason != RANDOM && !given.contains(reason)).collect()
}
