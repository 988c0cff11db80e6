//! Failures found by expression, reason, event type and position, page by page.

use std::ops::Bound;
use std::sync::Arc;

use super::entry::{Entry, EntryPart, TypeId, UNKNOWN_TYPE};
use super::reason::{ReasonSearch, ReasonValue, Template, split};
use super::{Dismissal, Expression, FURTHER_REASONS, Failures, FailuresState, reason_hash};
use crate::model::Position;

/// The number of reasons that a search looks at before it releases the lock, so that workers can record failures.
const SLICE: usize = 20_000;

/// Rows that fail for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The expression, as SQL or near to it.
    pub expression: String,
    /// Why the rows fail, with the values that they fail for.
    pub reason: String,
    /// The number of failing rows. While a tick is recorded it may be a number of neither tick.
    pub count: i64,
    /// The rows' events in order, where rows were still events and as far as they are known.
    pub positions: Vec<Position>,
    /// The type of the first event, or of all events that the view reads.
    pub event_type: Option<Arc<str>>,
}

/// A selection of failures; the default selects all.
#[derive(Clone, Debug, Default)]
pub struct FailureFilter {
    pub event_type: Option<String>,
    /// Events from this position on.
    pub from: Option<Position>,
    /// Events up to this position.
    pub to: Option<Position>,
    /// A part of the expression or of the reason.
    pub text: Option<String>,
}

/// A place in the order of expressions and reasons: just behind the named one.
struct PageStart {
    expression: Arc<str>,
    /// `None`: behind all reasons of the expression.
    reason: Option<(Template, ReasonValue)>,
}

impl PageStart {
    fn of(expression: &str, reason: &str) -> PageStart {
        let reason = (reason != FURTHER_REASONS).then(|| split(reason));
        PageStart { expression: expression.into(), reason }
    }
}

/// A reason's entry, as it is found.
struct FoundEntry<'a> {
    expression: &'a str,
    template: &'a Template,
    value: &'a [u8],
    entry: &'a Entry,
}

impl Failures {
    /// Current failures that were not dismissed, in the order of expressions and reasons.
    pub fn list(&self) -> Vec<Failure> {
        self.page(&FailureFilter::default(), None, usize::MAX, usize::MAX)
    }

    /// The first failures that a filter wants, at most `limit`, behind an expression and reason, each
    /// with its first events. The order is that of expressions, and among the reasons of one some
    /// fixed one.
    pub fn page(
        &self,
        filter: &FailureFilter,
        after: Option<(&str, &str)>,
        limit: usize,
        positions_max: usize,
    ) -> Vec<Failure> {
        let mut page = Vec::new();
        let after = after.map(|(expression, reason)| PageStart::of(expression, reason));
        self.visit(filter, after, |state, part, found, count| {
            if page.len() < limit {
                let origins = found.entry.origins(part, positions_max);
                let first = origins.first().map_or(UNKNOWN_TYPE, |origin| origin.event_type);
                page.push(Failure {
                    expression: found.expression.to_string(),
                    reason: found.template.with(found.value),
                    count,
                    positions: origins.iter().map(|origin| origin.position).collect(),
                    event_type: state.type_name(first).or(self.0.only_type.as_ref()).cloned(),
                });
            }
            page.len() < limit
        });
        page
    }

    /// The number of rows that a filter selects.
    pub fn count_of(&self, filter: &FailureFilter) -> i64 {
        let mut sum = 0;
        self.visit(filter, None, |_, _, _, count| {
            sum += count;
            true
        });
        sum
    }

    /// The dismissals of the failures that a filter selects, and the number of their rows. `head` is the
    /// last position of the log: the operator has not seen later events, which stay.
    pub fn dismissals(&self, filter: &FailureFilter, head: Position) -> (i64, Vec<Dismissal>) {
        let mut sum = 0;
        let mut dismissals: Vec<Dismissal> = Vec::new();
        let typed = filter.event_type.as_ref().filter(|_| self.0.only_type.is_none());
        self.visit(filter, None, |_, part, found, count| {
            if dismissals.last().is_none_or(|last| last.expression != found.expression) {
                dismissals.push(Dismissal {
                    expression: found.expression.to_string(),
                    event_type: typed.cloned(),
                    ..Dismissal::default()
                });
            }
            let Some(dismissal) = dismissals.last_mut() else { return false };
            sum += count;
            let last = match found.entry.has_unlisted() {
                true => Some(head),
                false => found.entry.last(part),
            };
            if let Some(last) = last {
                let to = filter.to.unwrap_or(Position::MAX).min(last).min(head);
                // Positions begin with 1: only a range that was not asked for has 0.
                let from = part.range.as_ref().map_or(0, |range| 1.max(*range.start()));
                dismissal.events.add(from, to);
            }
            let plain = found.entry.plain();
            if part.is_all() && plain > 0 {
                let reason = found.template.with(found.value);
                *dismissal.rows.entry(reason_hash(&reason)).or_default() += plain;
            }
            true
        });
        (sum, dismissals)
    }

    /// Calls `visit` with each entry that a filter selects and the number of selected rows, until it returns
    /// false. Releases the lock after each slice.
    fn visit(
        &self,
        filter: &FailureFilter,
        mut place: Option<PageStart>,
        mut visit: impl FnMut(&FailuresState, &EntryPart, &FoundEntry<'_>, i64) -> bool,
    ) {
        loop {
            let state = self.lock();
            let Some(part) = self.part(&state, filter) else { return };
            let wanted = |found: &FoundEntry<'_>| {
                let count = found.entry.count(&part);
                count <= 0 || visit(&state, &part, found, count)
            };
            place = state.scan(place, filter.text.as_deref(), wanted);
            if place.is_none() {
                return;
            }
        }
    }

    /// The selection of rows that a filter stands for; `None` when the view has no rows of its type.
    fn part(&self, state: &FailuresState, filter: &FailureFilter) -> Option<EntryPart> {
        let event_type: Option<TypeId> = match (&filter.event_type, &self.0.only_type) {
            (None, _) => None,
            (Some(wanted), Some(only)) if **wanted == **only => None,
            (Some(_), Some(_)) => return None,
            (Some(wanted), None) => Some(state.type_id(wanted)?),
        };
        let is_ranged = filter.from.is_some() || filter.to.is_some();
        let range = filter.from.unwrap_or(0)..=filter.to.unwrap_or(Position::MAX);
        Some(EntryPart { event_type, range: is_ranged.then_some(range) })
    }
}

impl FailuresState {
    /// Calls `visit` with the entries behind a place whose expression or reason contains `text`, until it
    /// returns false. Returns where to continue when the slice is used up.
    fn scan(
        &self,
        after: Option<PageStart>,
        text: Option<&str>,
        mut visit: impl FnMut(&FoundEntry<'_>) -> bool,
    ) -> Option<PageStart> {
        let further = split(FURTHER_REASONS).0;
        let mut left = SLICE;
        let first = after.as_ref().map_or(Bound::Unbounded, |p| Bound::Included(&*p.expression));
        for (name, Expression { reasons, further: rest }) in
            self.expressions.range::<str, _>((first, Bound::Unbounded))
        {
            let after = after.as_ref().filter(|place| place.expression == *name);
            let after = match after {
                Some(PageStart { reason: None, .. }) => continue,
                Some(PageStart { reason, .. }) => reason.as_ref(),
                None => None,
            };
            let text = text.filter(|text| !name.contains(text));
            let first = after.map_or(Bound::Unbounded, |(template, _)| Bound::Included(template));
            for (template, values) in reasons.range((first, Bound::Unbounded)) {
                let search = text.map_or(ReasonSearch::Matches, |text| template.search(text));
                let first = after.filter(|(of, _)| of == template);
                let first = first.map_or(Bound::Unbounded, |(_, value)| Bound::Excluded(value));
                for (value, entry) in values.range::<ReasonValue, _>((first, Bound::Unbounded)) {
                    let found = FoundEntry { expression: name, template, value, entry };
                    if search.finds(value) && !visit(&found) {
                        return None;
                    }
                    left -= 1;
                    if left == 0 {
                        let reason = Some((template.clone(), value.clone()));
                        return Some(PageStart { expression: name.clone(), reason });
                    }
                }
            }
            if text.is_none_or(|text| FURTHER_REASONS.contains(text)) {
                let found =
                    FoundEntry { expression: name, template: &further, value: &[], entry: rest };
                if !visit(&found) {
                    return None;
                }
            }
        }
        None
    }
}

impl Dismissal {
    /// Removes the dismissed rows from an entry. `event_type` is the number of the dismissal's type.
    pub(super) fn take_from(
        &self,
        entry: &mut Entry,
        event_type: Option<TypeId>,
        reason: &dyn Fn() -> String,
    ) {
        for (from, to) in self.events.iter() {
            entry.dismiss_events(&EntryPart { event_type, range: Some(from..=to) });
            // Without a range the filter also selects events whose positions are not kept.
            if from == 0 && event_type.is_none() {
                entry.dismiss_unlisted();
            }
        }
        if !self.rows.is_empty()
            && let Some(rows) = self.rows.get(&reason_hash(&reason()))
        {
            entry.dismiss_plain(*rows);
        }
    }
}
