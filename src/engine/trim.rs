//! The beginning of a log that views can do without: the events that their snapshots contain.

use std::path::Path;
use std::sync::Arc;

use super::EngineError;
use super::planner::Planner;
use super::queries::{Queries, QueriesError};
use super::snapshots::{SNAPSHOTS, can_hold};
use crate::log::DiskFiles;
use crate::model::Position;
use crate::model::limits::Limits;
use crate::snapshot::{SnapshotStore, ViewIdentity};

/// A view, and the position whose snapshot it goes on from; else why it needs the whole log.
#[derive(Debug)]
pub struct ViewFloor {
    pub view: String,
    pub floor: Result<Position, String>,
}

/// The position from which each view of the query files continues at the next start. Reads every snapshot
/// through. No server may be using the directory. Blocking.
pub fn view_floors(
    data_dir: &Path,
    queries: &Path,
    limits: Limits,
    history: &str,
) -> Result<Vec<ViewFloor>, EngineError> {
    let mut planner = Planner::new(queries, history.to_string(), limits);
    let mut queries = Queries::open(data_dir, &mut planner).map_err(QueriesError::from)?;
    let (in_use, _) = queries.load(&mut planner)?;
    if let Some(diagnostic) = in_use.diagnostics.first() {
        return Err(EngineError::QueryFile(diagnostic.to_string()));
    }
    let files = DiskFiles::open(&data_dir.join(SNAPSHOTS))?;
    let (store, _) =
        SnapshotStore::open(Arc::new(files), history, u64::MAX).map_err(EngineError::Snapshots)?;
    let plans = in_use.set.map(|set| set.views).unwrap_or_default();
    let floor = |plan: &crate::plan::ViewPlan| {
        if !can_hold(plan) {
            return Err("it keeps its history, which is computed from the whole log".to_string());
        }
        match store.find(&ViewIdentity::from(plan), |_, _| true) {
            Ok(Some(found)) => Ok(found.head.position),
            Ok(None) => {
                Err("it has no snapshot: let the server run until it is live, and end it in order"
                    .to_string())
            }
            Err(damaged) => Err(format!("its snapshot: {damaged}")),
        }
    };
    let floors = plans.iter().map(|plan| {
        let view = plan.schema.name.clone();
        ViewFloor { view, floor: floor(plan) }
    });
    Ok(floors.collect())
}
