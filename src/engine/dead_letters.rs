//! Lists dead letters by view, event type, reason and position.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::{mpsc, oneshot};

use super::dismissed::Dismissals;
use super::registry::{Registry, View};
use super::supervisor::SupervisorRequest;
use super::tasks::blocking;
use super::unread::Unread;
use crate::dataflow::{Failure, FailureFilter, Failures};
use crate::log::{Control, LogFollower};
use crate::model::Position;
use crate::status::{DeadLetter, DeadLetterFilter, DeadLetters, DismissError, Retried, Selection};

/// Most positions of one letter that are listed.
const POSITIONS_TOLD: usize = 100;
/// Stands for a view where none reads the events. It comes before all views.
const NO_VIEW: &str = "";
/// How long a retry waits for views that are being built.
const RETRY_TIME: Duration = Duration::from_secs(10);
/// How long a page waits for what is new in the log among events that no view reads.
const UNREAD_TIME: Duration = Duration::from_millis(10);
/// The same for requests that change dead letters, or count them.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(45);
/// How often a retry looks whether the views are built.
const RETRY_POLL: Duration = Duration::from_millis(50);

/// The dead letters of all views, and of events that no view reads. Its methods block, but for
/// [`Letters::retry`].
#[derive(Clone)]
pub struct Letters {
    pub log: LogFollower,
    pub registry: Arc<Registry>,
    pub dismissed: Arc<Dismissals>,
    pub unread: Unread,
}

/// Where a page ends: view, expression, reason.
type PageEnd = (String, String, String);

/// Failures of one view for one reason, without a sample.
struct FoundReason {
    view: String,
    failure: Failure,
}

impl Letters {
    /// The letters that are asked for, in the order of views; `None` when the cursor is none.
    pub fn list(&self, filter: &DeadLetterFilter) -> Option<DeadLetters> {
        let after: Option<PageEnd> = match &filter.cursor {
            None => None,
            Some(cursor) => {
                let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
                Some(serde_json::from_slice(&bytes).ok()?)
            }
        };
        let wanted = FailureFilter { text: filter.reason.clone(), ..wanted(&filter.selection) };
        let mut page: Vec<FoundReason> = Vec::new();
        let first = after.as_ref().map_or(NO_VIEW, |(view, ..)| view);
        let reader = &filter.reader;
        // A narrowed client sees letters of events that no view reads only if it names their type, and may
        // read every event of it.
        let named = filter.selection.event_type.as_ref();
        let sees_unread =
            !reader.is_narrowed() || named.is_some_and(|name| reader.sees_all_of_type(name));
        let (unread_through, concerned) = self.concerned(&filter.selection, first, UNREAD_TIME);
        let unread_through = unread_through.filter(|_| sees_unread);
        let visible = concerned
            .filter(|(view, _)| if view == NO_VIEW { sees_unread } else { reader.sees_view(view) });
        for (view, failures) in visible {
            let after = after.as_ref().filter(|(of, ..)| *of == view);
            let after = after.map(|(_, expression, reason)| (&**expression, &**reason));
            // One more than fits tells whether there is a next page.
            let limit = filter.limit + 1 - page.len();
            let found = failures.page(&wanted, after, limit, POSITIONS_TOLD);
            page.extend(
                found.into_iter().map(|failure| FoundReason { view: view.clone(), failure }),
            );
            if page.len() > filter.limit {
                break;
            }
        }
        let more = page.len() > filter.limit;
        page.truncate(filter.limit);
        let cursor = page.last().filter(|_| more).and_then(|last| {
            let Failure { expression, reason, .. } = &last.failure;
            Some(
                URL_SAFE_NO_PAD.encode(serde_json::to_vec(&(&last.view, expression, reason)).ok()?),
            )
        });
        let letters = page.into_iter().map(FoundReason::letter).collect();
        Some(DeadLetters { letters, cursor, unread_through })
    }

    /// Tells no more of these; how many that were.
    pub fn dismiss(&self, selection: &Selection) -> Result<u64, DismissError> {
        let head = self.log.head().position;
        let mut count = 0;
        let (_, concerned) = self.concerned(selection, NO_VIEW, UNREAD_TIME_MAX);
        for (view, failures) in concerned {
            let (rows, dismissals) = failures.dismissals(&wanted(selection), head);
            if dismissals.is_empty() {
                continue;
            }
            self.dismissed
                .add(&view, &dismissals)
                .map_err(|error| DismissError::NotWritten { reason: error.to_string() })?;
            self.log.note(Control::dismissal(&view, &dismissals));
            failures.dismiss(&dismissals);
            // A generation that is being built will be asked in place of this one.
            let views = self.registry.views();
            let running = views.views.get(&view).into_iter().flat_map(View::running);
            let others = running.filter(|other| !other.failures.is(&failures));
            others.for_each(|other| other.failures.dismiss(&dismissals));
            count += u64::try_from(rows).unwrap_or(0);
        }
        Ok(count)
    }

    /// Looks at the query files, gives views that changed the time to be built, and tells what of
    /// these still fails.
    pub async fn retry(
        self,
        selection: Selection,
        requests: mpsc::UnboundedSender<SupervisorRequest>,
    ) -> Retried {
        let (retried, concerned) = self.clone().count(selection.clone()).await;
        let (answer, answered) = oneshot::channel();
        if requests.send(SupervisorRequest::Reload { answer }).is_ok() {
            let _ = answered.await;
        }
        let deadline = tokio::time::Instant::now() + RETRY_TIME;
        loop {
            let views = self.registry.views();
            let building = |(name, view): (&String, &View)| {
                view.building.is_some() && concerned.contains(name)
            };
            if !views.views.iter().any(building) || tokio::time::Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(RETRY_POLL).await;
        }
        let (failed, _) = self.count(selection).await;
        Retried { retried, failed: failed.min(retried) }
    }

    /// The number of rows in a selection, and the views that they belong to.
    async fn count(self, selection: Selection) -> (u64, BTreeSet<String>) {
        blocking(move || {
            let wanted = wanted(&selection);
            let (_, concerned) = self.concerned(&selection, NO_VIEW, UNREAD_TIME_MAX);
            let of_views = concerned.map(|(view, failures)| {
                (u64::try_from(failures.count_of(&wanted)).unwrap_or(0), view)
            });
            let of_views: Vec<_> = of_views.filter(|(count, _)| *count > 0).collect();
            let count = of_views.iter().map(|(count, _)| count).sum();
            (count, of_views.into_iter().map(|(_, view)| view).collect())
        })
        .await
    }

    /// The failures of the views that a selection names, from a view on; those of unread events come first.
    /// The position tells how far the log was read for these. The call waits for that no longer than
    /// `time_max`.
    fn concerned(
        &self,
        selection: &Selection,
        first: &str,
        time_max: Duration,
    ) -> (Option<Position>, impl Iterator<Item = (String, Failures)> + use<>) {
        let views = self.registry.views();
        let event_type = selection.event_type.as_deref();
        let is_asked_for = selection.view.is_none() && first == NO_VIEW;
        let unread = is_asked_for.then(|| {
            let dismissed = || self.dismissed.of(NO_VIEW);
            self.unread.failures(&self.log, &views, event_type, dismissed, time_max)
        });
        let unread = unread.flatten();
        let unread_through = unread.as_ref().map(|unread| unread.through);
        let unread = unread.map(|unread| (NO_VIEW.to_string(), unread.failures));
        let named = |name: &str| selection.view.as_ref().is_none_or(|view| *view == name);
        let shown: Vec<(String, Failures)> = views
            .views
            .range::<str, _>((Bound::Included(first), Bound::Unbounded))
            .filter(|(name, _)| named(name))
            .filter_map(|(name, view)| Some((name.clone(), view.shown()?.failures.clone())))
            .collect();
        (unread_through, unread.into_iter().chain(shown))
    }
}

/// The filter that a selection means for each view.
fn wanted(selection: &Selection) -> FailureFilter {
    let Selection { event_type, from, to, .. } = selection.clone();
    FailureFilter { event_type, from, to, text: None }
}

impl FoundReason {
    fn letter(self) -> DeadLetter {
        let Failure { expression, reason, count, positions, event_type } = self.failure;
        DeadLetter {
            view: (self.view != NO_VIEW).then_some(self.view),
            event_type: event_type.map(|name| name.to_string()),
            position: positions.first().copied(),
            positions,
            expression,
            reason,
            count: u64::try_from(count).unwrap_or(0),
            sample: None,
        }
    }
}
