//! The current state: views that answer, views that are being built, declared tables.
//!
//! Readers take a consistent state as it is; the supervisor alone replaces it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use super::tracker::ViewTracker;
use crate::model::schema::EventTable;
use crate::plan::ViewPlan;
use crate::status::FileError;

/// The state of the views, replaced as a whole.
#[derive(Default)]
pub struct Registry(RwLock<Arc<Views>>);

/// The views and tables at one moment.
#[derive(Clone, Default)]
pub struct Views {
    /// By name.
    pub views: BTreeMap<String, View>,
    pub failed_files: Vec<FileError>,
    /// All declared tables.
    pub tables: Vec<Arc<EventTable>>,
}

/// One view.
#[derive(Clone)]
pub struct View {
    /// The plan that the query files ask for.
    pub wanted: ViewPlan,
    /// The generation that answers.
    pub serving: Option<Arc<ViewTracker>>,
    /// The generation that will take its place.
    pub building: Option<Arc<ViewTracker>>,
    /// Why the wanted generation cannot be built.
    pub failed: Option<String>,
    /// When it is tried again, if that may help.
    pub retry_at: Option<Instant>,
}

impl View {
    /// A view that has not begun.
    pub fn new(wanted: ViewPlan) -> Self {
        View { wanted, serving: None, building: None, failed: None, retry_at: None }
    }

    /// The generation that requests are about.
    pub fn shown(&self) -> Option<&Arc<ViewTracker>> {
        self.serving.as_ref().or(self.building.as_ref())
    }

    /// Whether it is written to ClickHouse.
    pub fn has_sink(&self) -> bool {
        self.running().any(|tracker| tracker.sink.is_some())
    }

    /// Both generations.
    pub fn running(&self) -> impl Iterator<Item = &Arc<ViewTracker>> {
        self.serving.iter().chain(&self.building)
    }
}

impl Registry {
    /// The state now.
    pub fn views(&self) -> Arc<Views> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the state by a changed one.
    pub fn change<T>(&self, change: impl FnOnce(&mut Views) -> T) -> T {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = (**current).clone();
        let result = change(&mut next);
        *current = Arc::new(next);
        result
    }
}
