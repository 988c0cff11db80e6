//! Reads a log as the query files declare it, and tells which events would be dead letters.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::engine::local::LocalRun;
use crate::log::{self, Frame, LogError};
use crate::model::schema::EventTable;
use crate::plan::diagnostic::SourceFile;
use crate::plan::step::on_large_stack;
use crate::plan::{self, ViewPlan};
use crate::sink;

/// Bytes of events that are read at once.
const CHUNK_BYTES: usize = 8 << 20;
/// Most positions of one reason that are printed.
const POSITIONS_SHOWN: usize = 10;

/// The result of an audit.
pub struct Audit {
    /// The number of events in the log.
    pub events: u64,
    /// The failures, by expression and reason.
    pub misfits: Vec<MisfitReason>,
}

/// Events that fail for one reason.
pub struct MisfitReason {
    pub expression: String,
    pub reason: String,
    pub count: i64,
    pub positions: Vec<u64>,
}

impl std::fmt::Display for MisfitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let MisfitReason { expression, reason, count, positions } = self;
        let shown: Vec<String> =
            positions.iter().take(POSITIONS_SHOWN).map(u64::to_string).collect();
        let more = if *count > shown.len() as i64 { ", …" } else { "" };
        let events = if *count == 1 { "event" } else { "events" };
        write!(f, "{expression}: {reason}: {count} {events}, at {}{more}", shown.join(", "))
    }
}

/// Why nothing was found out.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{0}")]
    Run(String),
}

/// Reads the log in `data_dir`, which a server may have open, through every table of these files.
///
/// The files have passed their trial.
pub fn audit(files: &[Arc<SourceFile>], data_dir: &Path) -> Result<Audit, AuditError> {
    let views =
        on_large_stack(|| counting_views(files, &plan::plan_files(files, "", sink::KINDS).tables))
            .map_err(|error| AuditError::Run(error.to_string()))?;
    let mut run = LocalRun::start(&views, 1).map_err(|error| AuditError::Run(error.to_string()))?;
    let mut frames: Vec<Frame> = Vec::new();
    let mut bytes = 0;
    let info = log::verify(&log::directory(data_dir), |frame| {
        bytes += frame.raw_bytes();
        frames.push(frame.clone());
        if bytes >= CHUNK_BYTES {
            bytes = 0;
            run.feed_frames(std::mem::take(&mut frames));
        }
        Ok(())
    })?;
    run.feed_frames(frames);
    let mut misfits: BTreeMap<(String, String), MisfitReason> = BTreeMap::new();
    for view in 0..views.len() {
        for failure in run.failures(view) {
            // A table's older versions are read for the newer ones, too.
            let key = (failure.expression.clone(), failure.reason.clone());
            misfits.entry(key).or_insert(MisfitReason {
                expression: failure.expression,
                reason: failure.reason,
                count: failure.count,
                positions: failure.positions,
            });
        }
    }
    let events = info.segments.iter().map(|segment| segment.events).sum();
    Ok(Audit { events, misfits: misfits.into_values().collect() })
}

/// A view of each table that reads all its columns and keeps one row.
fn counting_views(files: &[Arc<SourceFile>], tables: &[Arc<EventTable>]) -> Vec<ViewPlan> {
    let mut prefix = "audit".to_string();
    while files.iter().any(|file| file.text.contains(&prefix)) {
        prefix.push('x');
    }
    let statement = |(index, table): (usize, &Arc<EventTable>)| {
        let count = |(column, declared): (usize, &crate::model::schema::TableColumn)| {
            format!("count(\"{}\") AS c{column}", declared.field.name.replace('"', "\"\""))
        };
        let counts: Vec<String> = table.columns.iter().enumerate().map(count).collect();
        let counts = counts.join(", ");
        format!(
            "CREATE MATERIALIZED VIEW {prefix}_{index} AS SELECT {counts} FROM {};\n",
            table.name
        )
    };
    let text = tables.iter().enumerate().map(statement).collect();
    let own = SourceFile { path: format!("{prefix}.sql").into(), text };
    let files: Vec<Arc<SourceFile>> = files.iter().cloned().chain([Arc::new(own)]).collect();
    let mut set = plan::plan_files(&files, "", sink::KINDS);
    set.views.retain(|view| view.schema.name.starts_with(&prefix));
    set.views
}
