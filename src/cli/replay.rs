//! `heliostat replay`: a view as it was at some time, from the log alone.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use chrono::DateTime;

use super::{DONE, ENVIRONMENT, QueriesArg, WRONG_INPUT, golden, report};
use crate::engine::local::LocalRun;
use crate::engine::trial;
use crate::http::{RenderOptions, write_rows};
use crate::log::{self, Frame, LogError};
use crate::model::Tick;
use crate::plan::ViewPlan;

/// How many bytes of events are read at once.
const CHUNK_BYTES: usize = 8 << 20;

/// Arguments of `heliostat replay`.
#[derive(clap::Args)]
pub struct ReplayArgs {
    /// The time: `2026-11-23T10:00:00Z`, or a tick (milliseconds since 1970).
    #[arg(long, value_parser = tick)]
    until: Tick,
    /// The view.
    #[arg(long)]
    view: String,
    #[command(flatten)]
    queries: QueriesArg,
    /// The data directory; a server may have it open.
    #[arg(long, env = "HELIOSTAT_DATA_DIR", default_value = "data")]
    data_dir: PathBuf,
    /// CSV with a header (empty is NULL), or a JSON object a line.
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Csv,
    Json,
}

fn tick(text: &str) -> Result<Tick, String> {
    if let Ok(tick) = text.parse() {
        return Ok(tick);
    }
    let instant = DateTime::parse_from_rfc3339(text)
        .map_err(|_| "expected 2026-11-23T10:00:00Z or milliseconds since 1970".to_string())?;
    u64::try_from(instant.timestamp_millis()).map_err(|_| "it is before 1970".to_string())
}

/// Prints the view's rows; returns the exit code.
pub fn run(args: &ReplayArgs) -> u8 {
    let set = match trial::try_and_plan(&args.queries.queries) {
        Ok(set) => set,
        Err(error) => {
            report(&error);
            return ENVIRONMENT;
        }
    };
    let Some(view) = set.views.into_iter().find(|view| view.schema.name == args.view) else {
        for diagnostic in &set.diagnostics {
            eprintln!("{diagnostic}");
        }
        eprintln!("error: there is no materialized view {} without an error", args.view);
        return WRONG_INPUT;
    };
    match replay(args, view) {
        Ok(()) => DONE,
        Err(ReplayError::Log(error @ LogError::Io { .. })) => {
            report(&error);
            ENVIRONMENT
        }
        Err(ReplayError::Log(error)) => {
            report(&error);
            WRONG_INPUT
        }
        Err(ReplayError::Run(message)) => {
            eprintln!("error: {message}");
            ENVIRONMENT
        }
    }
}

enum ReplayError {
    Log(LogError),
    Run(String),
}

fn replay(args: &ReplayArgs, view: ViewPlan) -> Result<(), ReplayError> {
    let failed = |error: String| ReplayError::Run(error);
    let mut run = LocalRun::start(&[view], 1).map_err(|error| failed(error.to_string()))?;
    let mut frames: Vec<Frame> = Vec::new();
    let (mut bytes, mut last) = (0, 0);
    log::verify(&log::directory(&args.data_dir), |frame| {
        if frame.tick() <= args.until {
            last = frame.tick();
            bytes += frame.raw_bytes();
            frames.push(frame.clone());
            if bytes >= CHUNK_BYTES {
                bytes = 0;
                run.feed_frames(std::mem::take(&mut frames));
            }
        }
        Ok(())
    })
    .map_err(ReplayError::Log)?;
    run.feed_frames(frames);
    if args.until > last {
        // What depends on time goes on after the last event.
        run.feed(args.until, &[]).map_err(failed)?;
    }
    let rows = run.rows(0).map_err(failed)?;
    let failures: i64 = run.failures(0).iter().map(|failure| failure.count).sum();
    if failures > 0 {
        eprintln!("{failures} rows fail and are left out: see /v1/dead-letters");
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    match args.format {
        Format::Csv => {
            let text = golden::to_csv(&rows).map_err(failed)?;
            // A reader that has seen enough closes its end.
            let _ = out.write_all(text.as_bytes());
        }
        Format::Json => {
            for row in 0..rows.num_rows() {
                let mut line = Vec::new();
                write_rows(&rows.slice(row, 1), RenderOptions::default(), &mut true, &mut line);
                line.push(b'\n');
                let _ = out.write_all(&line);
            }
        }
    }
    let _ = out.flush();
    Ok(())
}
