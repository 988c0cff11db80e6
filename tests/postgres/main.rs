//! Every function, operator, cast and aggregate that PostgreSQL has over the types of views, over a grid of
//! values (`matrix.rs`), and every language inside of values (`languages.rs`), there and here: each cell is equal,
//! or an error in both, or the entry is refused by `check`.
//!
//! `entries.txt` is what PostgreSQL has, `refused.txt` what is refused here, `partly_refused.txt` which forms of
//! other entries are, `different.txt`, while it is not empty, what still differs, and `errors.txt` why rows fail
//! here, with the class of PostgreSQL's SQLSTATE for the same. `HELIOSTAT_BLESS=1` writes them. `HELIOSTAT_ENTRIES`
//! selects entries by a part of their line, and `postgres.txt` in the target's `tmp` tells each differing cell.

mod answers;
mod cells;
mod compare;
mod corpora;
mod entries;
mod exact;
mod forms;
mod grid;
mod languages;
mod matrix;
mod values;
#[path = "../common/postgres.rs"]
mod common_postgres;
#[path = "../common/rng.rs"]
mod rng;
#[path = "../common/ulps.rs"]
mod ulps;
