//! `heliostat replay`: a view as it was at some time, from the log alone.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use arrow::error::ArrowError;
use chrono::DateTime;

use super::{DONE, ENVIRONMENT, QueriesArg, WRONG_INPUT, golden, report};
use crate::engine::local::{LocalRun, LocalRunError};
use crate::engine::trial;
use crate::http::{RenderOptions, write_rows};
use crate::log::{self, Frame, LogError};
use crate::model::Tick;
use crate::plan::ViewPlan;

/// Bytes of events that are read at once.
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
    #[arg(long, value_enum, default_value_t = OutputFormat::Csv)]
    format: OutputFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OutputFormat {
    Csv,
    Json,
}

/// Why a text is not a time.
#[derive(Debug, thiserror::Error)]
pub enum UntilError {
    #[error("expected 2026-11-23T10:00:00Z or milliseconds since 1970")]
    NoInstant,
    #[error("it is before 1970")]
    Before1970,
}

/// Reads a time of the command line.
pub fn tick(text: &str) -> Result<Tick, UntilError> {
    if let Ok(tick) = text.parse() {
        return Ok(tick);
    }
    let instant = DateTime::parse_from_rfc3339(text).map_err(|_| UntilError::NoInstant)?;
    u64::try_from(instant.timestamp_millis()).map_err(|_| UntilError::Before1970)
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
        Err(error) => {
            report(&error);
            error.exit_code()
        }
    }
}

/// Why a view cannot be replayed.
#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Run(#[from] LocalRunError),
    /// The view's rows cannot be shown.
    #[error(transparent)]
    Rows(#[from] ArrowError),
}

impl ReplayError {
    fn exit_code(&self) -> u8 {
        match self {
            ReplayError::Log(LogError::Io { .. }) => ENVIRONMENT,
            ReplayError::Log(_) => WRONG_INPUT,
            ReplayError::Run(_) | ReplayError::Rows(_) => ENVIRONMENT,
        }
    }
}

fn replay(args: &ReplayArgs, view: ViewPlan) -> Result<(), ReplayError> {
    if let Some(trimmed) = log::trimmed(&log::directory(&args.data_dir))? {
        // A view of what is left would be another one.
        return Err(LogError::Trimmed { through: trimmed.position, stream_from: None }.into());
    }
    let mut run = LocalRun::start(&[view], 1)?;
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
    })?;
    run.feed_frames(frames);
    if args.until > last {
        // Rows that depend on the time change after the last event, too.
        run.feed(args.until, &[])?;
    }
    let rows = run.rows(0)?;
    let failures: i64 = run.failures(0).iter().map(|failure| failure.count).sum();
    if failures > 0 {
        eprintln!("{failures} rows fail and are left out: see /v1/dead-letters");
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    match args.format {
        OutputFormat::Csv => {
            let text = golden::to_csv(&rows)?;
            // A reader that has seen enough closes its end.
            let _ = out.write_all(text.as_bytes());
        }
        OutputFormat::Json => {
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
