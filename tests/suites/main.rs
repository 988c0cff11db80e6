//! The known suites: each query as a materialized view over events, against PostgreSQL over the same rows.
//! Of TPC-H and Nexmark also each plan against the one that was seen last.
//!
//! `HELIOSTAT_BLESS=1` writes the plans. A file `qNN.oracle` says what is asked of PostgreSQL where it does
//! not have the view's words.

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

use heliostat::internals::dataflow::LocalRun;
use heliostat::internals::model::NewEvent;
use heliostat::internals::plan::SourceFile;
use heliostat::internals::plan::{QuerySet, explain, plan_files};
use postgres::Session;

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
                select.trim_end().trim_end_matches(';').to_string()
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

    /// Compares all views with PostgreSQL, which is told the events behind those that it has.
    fn compare(&self, run: &LocalRun, session: &mut Session, events: &[NewEvent], when: &str) {
        let answers = session.ask(events, 0, &self.questions);
        let mut wrong = Vec::new();
        let mut rows_in_all = 0;
        for ((index, view), answer) in self.set.views.iter().enumerate().zip(answers) {
            let name = &view.schema.name;
            let failures = run.failures(index);
            assert!(failures.is_empty(), "{name} {when}: {failures:?}");
            let ours = run.rows(index).unwrap();
            rows_in_all += ours.num_rows();
            let compared =
                answer.and_then(|theirs| typed::compare(&ours, &view.schema.columns, &theirs));
            if let Err(difference) = compared {
                wrong.push(format!("{name} {when}: {difference}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(rows_in_all > 100, "the views have rows");
    }
}

fn feed(run: &mut LocalRun, tick: &mut u64, events: &[NewEvent]) {
    for events in events.chunks(TICK_EVENTS) {
        *tick += 1;
        run.feed(*tick, &[events.to_vec()]).unwrap();
    }
}

#[test]
fn tpch_is_what_postgres_answers_before_and_after_changes() {
    let suite = Suite::load("tpch");
    assert_eq!(suite.set.views.len(), 22);
    for workers in [1, 2] {
        let mut events = tpch_events::generate(0.01);
        let mut run = LocalRun::start(&suite.set.views, workers).unwrap();
        let mut session = Session::with_kept_tables(&suite.set);
        // q20 asks for sums of these for each row of partsupp.
        session.execute("CREATE INDEX ON lineitem (l_partkey, l_suppkey)");
        let mut tick = 0;
        feed(&mut run, &mut tick, &events);
        suite.compare(&run, &mut session, &events, "after the load");
        let changes = tpch_events::changes(&events);
        assert!(changes.len() > 1_000);
        feed(&mut run, &mut tick, &changes);
        events.extend(changes);
        suite.compare(&run, &mut session, &events, "after a tenth of the orders has changed");
    }
}

#[test]
fn nexmark_is_what_postgres_answers() {
    let suite = Suite::load("nexmark");
    assert_eq!(suite.set.views.len(), 22, "q0 to q22 without q10, which writes files");
    let events = nexmark_events::generate(12_000);
    for (workers, parts) in [(1, 1), (2, 7)] {
        let mut run = LocalRun::start(&suite.set.views, workers).unwrap();
        let mut session = Session::with_kept_tables(&suite.set);
        let mut tick = 0;
        for part in events.chunks(events.len().div_ceil(parts)) {
            tick += 1;
            run.feed(tick, &[part.to_vec()]).unwrap();
        }
        suite.compare(&run, &mut session, &events, &format!("on {workers} workers"));
    }
}

#[test]
fn plans_are_those_that_were_seen_last() {
    for name in ["tpch", "nexmark"] {
        Suite::load(name).check_plans();
    }
}
