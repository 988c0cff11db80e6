//! A row that fails, or fails no longer: what dataflows tell of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Position;

/// A change of the rows that fail in one view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureChange {
    /// The expression that failed, as its author wrote it.
    pub expression: Arc<str>,
    /// Why.
    pub reason: String,
    /// The event that the row comes from, while a row is still one event.
    pub position: Option<Position>,
    /// The type of that event; `None` where it is not known.
    pub event_type: Option<Arc<str>>,
    /// Rows that begin to fail; negative: rows that no longer fail.
    pub diff: i64,
}
