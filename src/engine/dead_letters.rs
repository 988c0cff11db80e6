//! What failed, found by view, event type, reason and position.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::oneshot;

use super::backend::EngineBackend;
use super::supervisor::Request;
use super::tracker::ViewTracker;
use crate::dataflow::{Dismissal, Failure};
use crate::http::{DeadLetter, DeadLetterFilter, DeadLetters, DismissError, Retried, Selection};
use crate::model::Position;

/// How many positions of one letter are told.
const POSITIONS_TOLD: usize = 100;
/// Stands for a view where none reads the events.
const NO_VIEW: &str = "";
/// How long a retry waits for views that are being built.
const RETRY_TIME: Duration = Duration::from_secs(10);
/// How often it looks.
const RETRY_POLL: Duration = Duration::from_millis(50);

/// Failures of one view for one reason, as far as they are asked for.
struct Found {
    /// `None` for events of a type that no view reads.
    view: Option<Arc<ViewTracker>>,
    failure: Failure,
    event_type: Option<String>,
    /// The first event's payload.
    sample: Option<String>,
}

impl EngineBackend {
    /// The letters that are asked for, in the order of views, expressions and reasons.
    pub(super) fn list_dead_letters(&self, filter: &DeadLetterFilter) -> Option<DeadLetters> {
        let after = match &filter.cursor {
            None => None,
            Some(cursor) => {
                let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
                Some(serde_json::from_slice::<(String, String, String)>(&bytes).ok()?)
            }
        };
        let mut found = self.find(&filter.selection);
        let place = |found: &Found| {
            let Failure { expression, reason, .. } = &found.failure;
            (found.view_name().to_string(), expression.clone(), reason.clone())
        };
        if let Some(text) = &filter.reason {
            found
                .retain(|f| f.failure.reason.contains(text) || f.failure.expression.contains(text));
        }
        if let Some(after) = after {
            found.retain(|found| place(found) > after);
        }
        let more = found.len() > filter.limit;
        found.truncate(filter.limit);
        let cursor = found.last().filter(|_| more).and_then(|last| {
            let place = serde_json::to_vec(&place(last)).ok()?;
            Some(URL_SAFE_NO_PAD.encode(place))
        });
        let letters = found.into_iter().map(Found::letter).collect();
        Some(DeadLetters { letters, cursor })
    }

    /// Tells no more of these; how many that were.
    pub(super) fn dismiss_dead_letters(&self, selection: &Selection) -> Result<u64, DismissError> {
        let mut count = 0;
        for found in self.find(selection) {
            let Failure { expression, reason, count: failing, positions } = found.failure;
            let ranged = selection.from.is_some() || selection.to.is_some();
            let listed = positions.len() as i64;
            let dismissal = Dismissal {
                expression,
                reason,
                from: selection.from.unwrap_or(0),
                // What comes later was not seen by whoever dismisses.
                to: selection.to.unwrap_or(Position::MAX).min(self.log.head().position),
                rows: if ranged { 0 } else { (failing - listed).max(0) },
            };
            let view = found.view.as_ref().map_or(NO_VIEW, |view| view.name());
            self.dismissed
                .add(view, std::slice::from_ref(&dismissal))
                .map_err(|error| DismissError(error.to_string()))?;
            match &found.view {
                Some(view) => view.failures.dismiss(dismissal),
                None => self.unread.dismiss(dismissal),
            }
            count += u64::try_from(failing).unwrap_or(0);
        }
        Ok(count)
    }

    /// Looks at the query files, gives views that changed the time to be built, and tells what of
    /// these still fails.
    pub(super) async fn retry_dead_letters(&self, selection: Selection) -> Retried {
        let count = |found: &[Found]| -> u64 {
            found.iter().map(|f| u64::try_from(f.failure.count).unwrap_or(0)).sum()
        };
        let before = self.find(&selection);
        let (answer, answered) = oneshot::channel();
        if self.requests.send(Request::Reload { answer }).is_ok() {
            let _ = answered.await;
        }
        let deadline = tokio::time::Instant::now() + RETRY_TIME;
        let concerned = |name: &str| before.iter().any(|found| found.view_name() == name);
        loop {
            let views = self.registry.views();
            let building = |(name, view): (&String, &super::registry::View)| {
                view.building.is_some() && concerned(name)
            };
            if !views.views.iter().any(building) || tokio::time::Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(RETRY_POLL).await;
        }
        let retried = count(&before);
        Retried { retried, failed: count(&self.find(&selection)).min(retried) }
    }

    fn find(&self, selection: &Selection) -> Vec<Found> {
        let views = self.registry.views();
        let shown = views.views.values().filter_map(|view| view.shown());
        let wanted =
            |view: &&Arc<ViewTracker>| selection.view.as_ref().is_none_or(|v| v == view.name());
        let mut found = Vec::new();
        for view in shown.filter(wanted) {
            for failure in view.failures.list() {
                found.extend(self.select(Some(view), failure, selection));
            }
        }
        if selection.view.is_none() {
            match self.unread.list(&self.log, &views, || self.dismissed.of(NO_VIEW)) {
                Ok(failures) => found
                    .extend(failures.into_iter().filter_map(|f| self.select(None, f, selection))),
                Err(error) => tracing::error!(%error, "the log cannot be read for dead letters"),
            }
        }
        found
    }

    /// What a selection takes of a failure.
    fn select(
        &self,
        view: Option<&Arc<ViewTracker>>,
        mut failure: Failure,
        selection: &Selection,
    ) -> Option<Found> {
        let Selection { from, to, event_type: wanted, .. } = selection;
        if from.is_some() || to.is_some() {
            let range = from.unwrap_or(0)..=to.unwrap_or(Position::MAX);
            failure.positions.retain(|position| range.contains(position));
            failure.count = failure.positions.len() as i64;
            if failure.positions.is_empty() {
                return None;
            }
        }
        let event = failure.positions.first().and_then(|position| self.event(*position));
        let (event_type, sample) = match event {
            Some((event_type, data)) => (Some(event_type), Some(data)),
            // A row that is no event any more came from one of the only type that there is.
            None => match view.map(|view| view.plan.event_types.as_slice()) {
                Some([only]) => (Some(only.clone()), None),
                _ => (None, None),
            },
        };
        if wanted.is_some() && *wanted != event_type {
            return None;
        }
        Some(Found { view: view.cloned(), failure, event_type, sample })
    }

    /// The type and payload of an event.
    fn event(&self, position: Position) -> Option<(String, String)> {
        let mut reader = self.log.read(position - 1).ok()?;
        let frame = loop {
            let frame = reader.next_frame().ok()??;
            if frame.last_position() >= position {
                break frame;
            }
        };
        let events = frame.decompress().ok()?;
        let event = events.iter().find(|event| event.position == position)?;
        let data = String::from_utf8_lossy(event.data).into_owned();
        Some((event.event_type.to_string(), data))
    }
}

impl Found {
    /// The empty name stands before all views.
    fn view_name(&self) -> &str {
        self.view.as_ref().map_or(NO_VIEW, |view| view.name())
    }

    fn letter(self) -> DeadLetter {
        let Failure { expression, reason, count, mut positions } = self.failure;
        let position = positions.first().copied();
        positions.truncate(POSITIONS_TOLD);
        DeadLetter {
            view: self.view.map(|view| view.name().to_string()),
            event_type: self.event_type,
            position,
            positions,
            expression,
            reason,
            count: u64::try_from(count).unwrap_or(0),
            sample: self.sample,
        }
    }
}
