//! The known suites. TPC-H and Nexmark: each query as a materialized view over events, against
//! DataFusion over the same rows, and its plan against the one that was seen last. TPC-DS: against
//! PostgreSQL.
//!
//! `HELIOSTAT_BLESS=1` writes the plans. A file `qNN.oracle` says what is asked of DataFusion where it
//! does not have the view's words.

#[path = "../sql/cells.rs"]
#[allow(dead_code, reason = "the SQL files' own tests use all of it")]
mod cells;
#[path = "../common/postgres.rs"]
mod common_postgres;
mod nexmark_events;
#[path = "../sql/postgres.rs"]
#[allow(dead_code, reason = "the SQL files' own tests use all of it")]
mod postgres;
#[path = "../postgres/cells.rs"]
#[allow(dead_code, reason = "the functions' own tests use all of it")]
mod postgres_cells;
mod tpcds;
mod tpch_events;
#[path = "../sql/typed.rs"]
#[allow(dead_code, reason = "the SQL files' own tests use all of it")]
mod typed;
#[path = "../common/ulps.rs"]
mod ulps;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::prelude::{SessionConfig, SessionContext};
use heliostat::internals::dataflow::LocalRun;
use heliostat::internals::decode::TableDecoder;
use heliostat::internals::log::Frame;
use heliostat::internals::model::NewEvent;
use heliostat::internals::model::SourceTable;
use heliostat::internals::model::TableMode;
use heliostat::internals::plan::SourceFile;
use heliostat::internals::plan::{QuerySet, explain, plan_files};

/// Events that enter at a tick.
const TICK_EVENTS: usize = 20_000;

struct Suite {
    directory: PathBuf,
    set: QuerySet,
    /// The oracle's queries, by view.
    questions: Vec<String>,
}

impl Suite {
    fn load(name: &str) -> Suite {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suites").join(name);
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "sql"));
        paths.sort();
        let file = |path: &PathBuf| {
            Arc::new(SourceFile {
                path: path.clone(),
                text: std::fs::read_to_string(path).unwrap(),
            })
        };
        let files: Vec<Arc<SourceFile>> = paths.iter().map(file).collect();
        let set = plan_files(&files, "suite", heliostat::internals::sink::KINDS);
        let told: Vec<String> = set.diagnostics.iter().map(ToString::to_string).collect();
        assert!(told.is_empty(), "{}", told.join("\n"));
        let question = |view: &str| {
            let number: u32 = view[1..].parse().unwrap();
            let oracle = directory.join(format!("q{number:02}.oracle"));
            std::fs::read_to_string(oracle).unwrap_or_else(|_| {
                let text = std::fs::read_to_string(directory.join(format!("q{number:02}.sql")));
                let text = text.unwrap();
                let (_, select) = text.split_once(" AS ").unwrap();
                in_floats(select.trim_end().trim_end_matches(';'))
            })
        };
        let questions = set.views.iter().map(|view| question(&view.schema.name)).collect();
        Suite { directory, set, questions }
    }

    /// Compares each view's plan with the file beside its SQL, and what its state is known by: where that
    /// changes, a release replays the view.
    fn check_plans(&self) {
        let mut changed = Vec::new();
        for view in &self.set.views {
            let path = self.directory.join("plans").join(format!("{}.txt", view.schema.name));
            let (generation, fingerprint) = (&view.schema.generation, view.fingerprint());
            let plan = explain::explain(view) + &format!("state {generation}-{fingerprint}\n");
            if std::env::var_os("HELIOSTAT_BLESS").is_some() {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, plan).unwrap();
            } else if std::fs::read_to_string(&path).unwrap_or_default() != plan {
                changed.push(format!("{}:\n{plan}", path.display()));
            }
        }
        assert!(
            changed.is_empty(),
            "plans are others (`make bless` takes them over):\n{}",
            changed.join("\n")
        );
    }

    /// The tables with these events in them, for the oracle.
    async fn oracle(&self, events: &[NewEvent]) -> SessionContext {
        let mut config = SessionConfig::new().with_target_partitions(2);
        config.options_mut().sql_parser.map_string_types_to_utf8view = false;
        config.options_mut().sql_parser.parse_float_as_decimal = true;
        let context = SessionContext::new_with_config(config);
        let frame = Frame::new(1, 1, events.iter()).unwrap();
        let decompressed = frame.decompress().unwrap();
        for table in &self.set.tables {
            let source = SourceTable::Declared(Arc::clone(table));
            let mut decoder = TableDecoder::new(source.clone(), source.columns());
            for event in decompressed.iter() {
                if decoder.reads(&event) {
                    decoder.push(&event);
                }
            }
            let rows = decoder.finish().rows;
            let TableMode::Upsert { key, delete_when } = &table.mode else {
                let declared: Vec<usize> = (0..table.columns.len()).collect();
                context.register_batch(&table.name, rows.project(&declared).unwrap()).unwrap();
                continue;
            };
            context.register_batch("events_of_table", rows).unwrap();
            let key: Vec<&str> =
                key.iter().map(|i| table.columns[*i].field.name.as_str()).collect();
            let latest = format!(
                "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY {} ORDER BY _position DESC) AS rn \
                 FROM events_of_table) WHERE rn = 1 AND NOT coalesce({}, false)",
                key.join(", "),
                delete_when.as_deref().unwrap_or("false"),
            );
            let latest = context.sql(&latest).await.unwrap().cache().await.unwrap();
            context.register_table(table.name.as_str(), latest.into_view()).unwrap();
            context.deregister_table("events_of_table").unwrap();
        }
        context
    }

    /// Compares all views with the oracle.
    async fn compare(&self, run: &LocalRun, events: &[NewEvent], when: &str) {
        let context = self.oracle(events).await;
        let mut wrong = Vec::new();
        let mut rows_in_all = 0;
        for (index, view) in self.set.views.iter().enumerate() {
            let name = &view.schema.name;
            let failures = run.failures(index);
            assert!(failures.is_empty(), "{name} {when}: {failures:?}");
            let mut ours = cells::rows(&run.rows(index).unwrap());
            let theirs = match context.sql(&self.questions[index]).await {
                Ok(frame) => frame.collect().await,
                Err(error) => Err(error),
            };
            let mut theirs: cells::Rows = match theirs {
                Ok(batches) => batches.iter().flat_map(cells::rows).collect(),
                Err(error) => panic!("{name}: {error}"),
            };
            cells::sort(&mut ours);
            cells::sort(&mut theirs);
            rows_in_all += ours.len();
            if let Err(difference) = cells::compare(&ours, &theirs) {
                wrong.push(format!("{name} {when}: {difference}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(rows_in_all > 100, "the views have rows");
    }
}

/// The question with averages and quotients in floats: DataFusion cuts those of decimals.
fn in_floats(question: &str) -> String {
    let mut text = String::new();
    let mut rest = question;
    while let Some((before, after)) = rest.split_once("avg(") {
        let (column, after) = after.split_once(')').unwrap();
        text += &format!("{before}avg(CAST({column} AS DOUBLE))");
        rest = after;
    }
    text += rest;
    text.replace("select 100.00 * sum(", "select CAST(100 AS DOUBLE) * sum(")
}

fn feed(run: &mut LocalRun, tick: &mut u64, events: &[NewEvent]) {
    for events in events.chunks(TICK_EVENTS) {
        *tick += 1;
        run.feed(*tick, &[events.to_vec()]).unwrap();
    }
}

#[tokio::test]
async fn tpch_is_what_a_batch_engine_answers_before_and_after_changes() {
    let suite = Suite::load("tpch");
    assert_eq!(suite.set.views.len(), 22);
    for workers in [1, 2] {
        let mut events = tpch_events::generate(0.01);
        let mut run = LocalRun::start(&suite.set.views, workers).unwrap();
        let mut tick = 0;
        feed(&mut run, &mut tick, &events);
        suite.compare(&run, &events, "after the load").await;
        let changes = tpch_events::changes(&events);
        assert!(changes.len() > 1_000);
        feed(&mut run, &mut tick, &changes);
        events.extend(changes);
        suite.compare(&run, &events, "after a tenth of the orders has changed").await;
    }
}

#[tokio::test]
async fn nexmark_is_what_a_batch_engine_answers() {
    let suite = Suite::load("nexmark");
    assert_eq!(suite.set.views.len(), 22, "q0 to q22 without q10, which writes files");
    let events = nexmark_events::generate(12_000);
    for (workers, parts) in [(1, 1), (2, 7)] {
        let mut run = LocalRun::start(&suite.set.views, workers).unwrap();
        let mut tick = 0;
        for part in events.chunks(events.len().div_ceil(parts)) {
            tick += 1;
            run.feed(tick, &[part.to_vec()]).unwrap();
        }
        suite.compare(&run, &events, &format!("on {workers} workers")).await;
    }
}

#[test]
fn plans_are_those_that_were_seen_last() {
    for name in ["tpch", "nexmark"] {
        Suite::load(name).check_plans();
    }
}
