//! The whole path, measured: stored log → view, HTTP → disk → view → ClickHouse, freshness,
//! acknowledgements.
//!
//! `cargo bench --bench pipeline [-- SECTION…]` with the sections `machine`, `replay`, `ingest`, `secured`,
//! `identities`, `fresh`, `acks`, `outage`, `restart`, `views`, `budget`, `final`; all but `budget` by default.
//! `HELIOSTAT_BENCH_IDS` sets how many events `identities` stores, `HELIOSTAT_BENCH_KEYS` how many keys `restart`
//! has, `HELIOSTAT_BENCH_SECONDS` how long `ingest` (60), `fresh` (20) and each half of `budget` (900) run.

mod acks;
mod bids;
mod budget;
#[path = "../../tests/common/mod.rs"]
mod common;
mod final_reads;
mod fresh;
mod identities;
mod ingest;
mod machine;
mod numbers;
mod outage;
mod replay;
mod restart;
mod server;
mod views;

use std::path::Path;

use numbers::setting;
use server::Protection;

fn main() {
    let seconds = setting("HELIOSTAT_BENCH_SECONDS");
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wants = |section: &str| wanted.is_empty() || wanted.iter().any(|w| w == section);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    assert!(Path::new(env!("CARGO_BIN_EXE_heliostat")).exists());
    if wants("machine") {
        machine::machine();
    }
    runtime.block_on(async {
        if wants("replay") {
            replay::replay(2_700_000).await;
        }
        if wants("ingest") {
            let plain = ingest::ingest(seconds.unwrap_or(60), false, Protection::Nothing).await;
            let named = ingest::ingest(seconds.unwrap_or(60), true, Protection::Nothing).await;
            println!("ids and streams keep {:.0} % of the rate", 100.0 * named / plain);
        }
        if wants("secured") {
            ingest::secured(3, 20).await;
        }
        if wants("identities") {
            identities::identities(setting("HELIOSTAT_BENCH_IDS").unwrap_or(20_000_000)).await;
        }
        if wants("fresh") {
            fresh::fresh(seconds.unwrap_or(20)).await;
        }
        if wants("acks") {
            acks::acks(5).await;
        }
        if wants("outage") {
            outage::outage(60).await;
        }
        if wants("restart") {
            restart::restart(setting("HELIOSTAT_BENCH_KEYS").unwrap_or(1_000_000)).await;
        }
        if wants("views") {
            views::views(60).await;
        }
        // Half an hour.
        if wanted.iter().any(|section| section == "budget") {
            budget::budget(seconds.unwrap_or(900)).await;
        }
        if wants("final") {
            final_reads::final_reads().await;
        }
    });
}
