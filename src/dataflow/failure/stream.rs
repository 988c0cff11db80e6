//! The failures that a worker finds in a view, on their way to the view's output.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::recent;
use crate::decode::Violation;
use crate::model::event::EventRef;
use crate::model::failure::FailureChange;
use crate::model::multiplicity::Multiplicity;
use crate::model::{Position, Tick};

/// The expression of failures of events that could not be decoded.
const UNDECLARED: &str = "event type ";
const MISFIT: &str = "table ";

/// Collects the failures of one view on one worker. Its clones are one collection.
///
/// An operator records a failure at a tick while it has an input of that tick, so before the
/// output's frontier passes the tick. The output sends the collected failures before each frontier, so a
/// reader of the view has a tick's failures before the tick is complete.
#[derive(Clone, Debug)]
pub struct FailureStream(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    found: RefCell<Vec<(Tick, FailureChange)>>,
    /// Why the view as a whole cannot go on, until the output has told it.
    fatal: RefCell<Option<String>>,
    /// The type of all events that the view reads, if there is only one.
    only_type: Option<Arc<str>>,
    known: Option<Tick>,
}

impl FailureStream {
    /// A collection for a view that reads these event types (none: all). Failures up to the tick `known` are
    /// recorded already, and left out.
    pub fn new(event_types: &[String], known: Option<Tick>) -> Self {
        let only_type = only_type(event_types);
        FailureStream(Rc::new(Inner {
            found: RefCell::default(),
            fatal: RefCell::default(),
            only_type,
            known,
        }))
    }

    /// True if the view reads events of several types, so that it needs [`ChunkTypes`](super::ChunkTypes).
    pub fn needs_types(&self) -> bool {
        self.0.only_type.is_none()
    }

    /// Records that a row fails at `tick`, `diff` times; negative: that it fails no longer.
    pub fn record(
        &self,
        expression: &Arc<str>,
        reason: impl Into<String>,
        position: Option<Position>,
        (tick, diff): (Tick, i64),
    ) {
        let event_type = match (position, &self.0.only_type) {
            (Some(position), None) => recent::type_of(position),
            (_, only_type) => only_type.clone(),
        };
        let (expression, reason) = (Arc::clone(expression), reason.into());
        self.push(tick, FailureChange { expression, reason, position, event_type, diff });
    }

    /// Records an event in a version that nothing declares.
    pub fn record_undeclared(&self, event: &EventRef<'_>, tick: Tick) {
        self.push(tick, undeclared(event));
    }

    /// Records an event that does not fit its table.
    pub fn record_misfit(
        &self,
        table: &str,
        event_type: Option<&str>,
        violation: &Violation,
        (position, tick): (Position, Tick),
    ) {
        self.push(tick, misfit(table, event_type, violation, position));
    }

    fn push(&self, tick: Tick, change: FailureChange) {
        if self.0.known.is_none_or(|known| tick > known) {
            self.0.found.borrow_mut().push((tick, change));
        }
    }

    /// The view cannot go on: what it shows from now on is of no use. Only the first reason counts.
    pub fn fail(&self, reason: impl Into<String>) {
        self.0.fatal.borrow_mut().get_or_insert_with(|| reason.into());
    }

    /// The multiplicity of a row. One beyond 64 bits ends the view, and becomes 0.
    #[inline]
    pub fn known(&self, count: Multiplicity) -> i64 {
        count.known().unwrap_or_else(|| {
            self.fail("a row is there more than 9223372036854775807 times");
            0
        })
    }

    /// Takes why the view cannot go on, once.
    pub fn take_fatal(&self) -> Option<String> {
        self.0.fatal.borrow_mut().take()
    }

    /// Takes what was recorded since the last call.
    pub fn take(&self) -> Vec<(Tick, FailureChange)> {
        self.0.found.take()
    }
}

/// The type of all events that a view of these types reads, if there is only one.
pub(super) fn only_type(event_types: &[String]) -> Option<Arc<str>> {
    match event_types {
        [only] => Some(only.as_str().into()),
        _ => None,
    }
}

/// The failure of an event in a version that nothing declares.
pub fn undeclared(event: &EventRef<'_>) -> FailureChange {
    FailureChange {
        expression: format!("{UNDECLARED}{}", event.event_type).into(),
        reason: format!("version {} is not declared", event.version),
        position: Some(event.position),
        event_type: Some(event.event_type.into()),
        diff: 1,
    }
}

/// True if the failure is of an event that could not be decoded as a row of its table.
pub fn is_unread(failure: &FailureChange) -> bool {
    [UNDECLARED, MISFIT].iter().any(|what| failure.expression.starts_with(what))
}

/// The failure of an event that does not fit its table.
pub fn misfit(
    table: &str,
    event_type: Option<&str>,
    violation: &Violation,
    position: Position,
) -> FailureChange {
    FailureChange {
        expression: format!("{MISFIT}{table}").into(),
        reason: format!("{}: {}", violation.pointer, violation.message),
        position: Some(position),
        event_type: event_type.map(Arc::from),
        diff: 1,
    }
}
