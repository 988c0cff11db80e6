//! Roles, and what a token of a role may be narrowed to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The purpose of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Appends events, and reads streams in order to.
    Write,
    /// Reads events, streams, views and dead letters.
    Read,
    /// Reads the whole log, to copy it.
    Follow,
    /// Everything, rebuilds and dismissals included.
    Admin,
}

impl Role {
    /// The role's name, in files and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Write => "write",
            Role::Read => "read",
            Role::Follow => "follow",
            Role::Admin => "admin",
        }
    }

    fn allows(self, action: Action) -> bool {
        match self {
            Role::Admin => true,
            Role::Write => matches!(action, Action::Append | Action::ReadStreams | Action::Look),
            Role::Read => matches!(
                action,
                Action::ReadStreams | Action::ReadEvents | Action::ReadViews | Action::Look
            ),
            Role::Follow => matches!(action, Action::ReadEvents | Action::Look),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected write, read, follow or admin, got {0:?}")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        [Role::Write, Role::Read, Role::Follow, Role::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| UnknownRole(text.to_string()))
    }
}

/// The kinds of requests that roles tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Append events.
    Append,
    /// Read a stream's events.
    ReadStreams,
    /// Read the log.
    ReadEvents,
    /// Read views, their status and their dead letters.
    ReadViews,
    /// Look at what every token may see: the API's description.
    Look,
    /// Rebuild views, retry and dismiss dead letters.
    Administer,
}

impl Action {
    /// The action in words, for a message.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Append => "append events",
            Action::ReadStreams => "read streams",
            Action::ReadEvents => "read events",
            Action::ReadViews => "read views",
            Action::Look => "look at the API",
            Action::Administer => "rebuild, retry or dismiss",
        }
    }
}

/// The part of the events and views that a token reaches. Types, sources and views are patterns in
/// which `*` stands for any characters; streams are prefixes. With all lists empty a token reaches
/// everything; with any list it reaches what is named and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Narrowing {
    /// Patterns of event types.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Patterns of events' sources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Prefixes of streams.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<String>,
    /// Patterns of views' names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<String>,
}

impl Narrowing {
    /// Whether the token reaches everything.
    pub fn is_none(&self) -> bool {
        self.types.is_empty()
            && self.sources.is_empty()
            && self.streams.is_empty()
            && self.views.is_empty()
    }
}

/// The rights of a client: the role and the narrowing of its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The token's name.
    pub name: String,
    /// The token's role.
    pub role: Role,
    /// The event types, sources, streams and views that the token is limited to.
    pub narrowing: Narrowing,
}

impl Grant {
    /// The grant of everybody where no token is asked for.
    pub fn of_everybody() -> Self {
        Grant { name: "everybody".to_string(), role: Role::Admin, narrowing: Narrowing::default() }
    }

    /// Whether the role is for this.
    pub fn allows(&self, action: Action) -> bool {
        self.role.allows(action)
    }

    /// Whether there is something that the token does not reach.
    pub fn is_narrowed(&self) -> bool {
        !self.narrowing.is_none()
    }

    /// Whether the client may know of this view.
    pub fn sees_view(&self, view: &str) -> bool {
        !self.is_narrowed() || matches_any(&self.narrowing.views, view)
    }

    /// Whether the client may know of this event type: read events of it, or append them.
    pub fn sees_type(&self, event_type: &str) -> bool {
        let Narrowing { types, sources, streams, .. } = &self.narrowing;
        if types.is_empty() {
            return !self.is_narrowed() || !sources.is_empty() || !streams.is_empty();
        }
        matches_any(types, event_type)
    }

    /// Whether the client may read every event of this type, whatever its source and stream.
    pub fn sees_all_of_type(&self, event_type: &str) -> bool {
        let Narrowing { sources, streams, .. } = &self.narrowing;
        self.sees_type(event_type) && sources.is_empty() && streams.is_empty()
    }

    /// Whether the client may read this event: every list that the token has for events must name it.
    pub fn sees_event(&self, event_type: &str, source: &str, stream: Option<&str>) -> bool {
        let Narrowing { sources, streams, .. } = &self.narrowing;
        self.sees_type(event_type)
            && (sources.is_empty() || matches_any(sources, source))
            && (streams.is_empty() || stream.is_some_and(|stream| has_prefix(streams, stream)))
    }

    /// Whether the client may ask for this stream.
    pub fn sees_stream(&self, stream: &str) -> bool {
        let Narrowing { streams, types, sources, .. } = &self.narrowing;
        match self.role {
            // Its own streams only: versions of others tell what happens there.
            Role::Write => !self.is_narrowed() || has_prefix(streams, stream),
            _ if streams.is_empty() => {
                !self.is_narrowed() || !types.is_empty() || !sources.is_empty()
            }
            _ => has_prefix(streams, stream),
        }
    }

    /// The source of events that come without one. A narrowed writer has a source of its own, so that
    /// it cannot take ids away from others.
    pub fn default_source(&self) -> Option<&str> {
        let own = self.is_narrowed() && self.narrowing.sources.is_empty();
        own.then_some(self.name.as_str())
    }

    /// Whether the client may append this event; otherwise which member is not its own, and why.
    pub fn may_append(
        &self,
        event_type: &str,
        source: &str,
        stream: Option<&str>,
    ) -> Result<(), (&'static str, String)> {
        if !self.is_narrowed() {
            return Ok(());
        }
        let Narrowing { types, sources, streams, .. } = &self.narrowing;
        let name = &self.name;
        if !types.is_empty() && !matches_any(types, event_type) {
            let types = types.join(", ");
            return Err(("/type", format!("token {name} appends events of {types} alone")));
        }
        if sources.is_empty() && source != name {
            let message = format!("token {name} appends events with its own name as source alone");
            return Err(("/source", message));
        }
        if !sources.is_empty() && !matches_any(sources, source) {
            let sources = sources.join(", ");
            return Err((
                "/source",
                format!("token {name} appends events of source {sources} alone"),
            ));
        }
        match stream {
            Some(_) if streams.is_empty() => Err((
                "/stream",
                format!("token {name} has no streams: it was made without --streams"),
            )),
            Some(stream) if !has_prefix(streams, stream) => {
                let streams = streams.join(", ");
                let message =
                    format!("token {name} appends to streams that begin with {streams} alone");
                Err(("/stream", message))
            }
            _ => Ok(()),
        }
    }
}

fn has_prefix(prefixes: &[String], text: &str) -> bool {
    prefixes.iter().any(|prefix| text.starts_with(prefix.as_str()))
}

fn matches_any(patterns: &[String], text: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, text))
}

/// Whether a pattern, in which `*` stands for any characters, is this text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    // There is a first part, be it empty.
    let Some(rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let middle: Vec<&str> = parts.collect();
    let Some((last, middle)) = middle.split_last() else { return rest.is_empty() };
    let mut rest = rest;
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(role: Role, narrowing: Narrowing) -> Grant {
        Grant { name: "billing".to_string(), role, narrowing }
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text, expected) in [
            ("Order*", "OrderPlaced", true),
            ("Order*", "Order", true),
            ("Order*", "PurchaseOrder", false),
            ("*", "", true),
            ("Order", "OrderPlaced", false),
            ("*Placed", "OrderPlaced", true),
            ("O*er*d", "OrderPlaced", true),
            ("O*er*x", "OrderPlaced", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*é*", "caféx", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn roles_allow_what_they_are_for() {
        let all = [
            Action::Append,
            Action::ReadStreams,
            Action::ReadEvents,
            Action::ReadViews,
            Action::Look,
            Action::Administer,
        ];
        let allowed = |role: Role| all.map(|action| role.allows(action));
        assert_eq!(allowed(Role::Admin), [true; 6]);
        assert_eq!(allowed(Role::Write), [true, true, false, false, true, false]);
        assert_eq!(allowed(Role::Read), [false, true, true, true, true, false]);
        assert_eq!(allowed(Role::Follow), [false, false, true, false, true, false]);
    }

    #[test]
    fn a_narrowed_writer_keeps_to_its_types_sources_and_streams() {
        let narrowing = Narrowing { types: list(&["Invoice*"]), ..Narrowing::default() };
        let writer = grant(Role::Write, narrowing);
        assert_eq!(writer.default_source(), Some("billing"));
        assert_eq!(writer.may_append("InvoiceSent", "billing", None), Ok(()));
        let place =
            |source, stream| writer.may_append("InvoiceSent", source, stream).unwrap_err().0;
        assert_eq!(place("", None), "/source");
        assert_eq!(place("billing", Some("order-1")), "/stream");
        assert_eq!(writer.may_append("OrderPaid", "billing", None).unwrap_err().0, "/type");
        assert!(!writer.sees_stream("order-1"));

        let narrowing = Narrowing {
            sources: list(&["shop-*"]),
            streams: list(&["invoice-"]),
            ..Narrowing::default()
        };
        let writer = grant(Role::Write, narrowing);
        assert_eq!(writer.default_source(), None);
        assert_eq!(writer.may_append("Anything", "shop-7", Some("invoice-1")), Ok(()));
        assert_eq!(writer.may_append("Anything", "", None).unwrap_err().0, "/source");
        let result = writer.may_append("Anything", "shop-7", Some("order-1"));
        assert_eq!(result.unwrap_err().0, "/stream");
    }

    #[test]
    fn a_narrowed_reader_sees_what_is_named_and_nothing_else() {
        let views =
            grant(Role::Read, Narrowing { views: list(&["orders_*"]), ..Narrowing::default() });
        assert!(views.sees_view("orders_daily") && !views.sees_view("payroll"));
        assert!(!views.sees_event("OrderPaid", "", None) && !views.sees_stream("order-1"));

        let types =
            grant(Role::Read, Narrowing { types: list(&["Order*"]), ..Narrowing::default() });
        assert!(types.sees_event("OrderPaid", "", Some("order-1")));
        assert!(!types.sees_event("SalaryPaid", "", Some("order-1")));
        assert!(types.sees_stream("order-1") && !types.sees_view("orders_daily"));

        let streams =
            grant(Role::Read, Narrowing { streams: list(&["order-"]), ..Narrowing::default() });
        assert!(streams.sees_event("Any", "", Some("order-1")));
        assert!(!streams.sees_event("Any", "", None));
        assert!(!streams.sees_stream("salary-1"));

        // Some events of a type are not all of them.
        assert!(types.sees_all_of_type("OrderPaid") && !types.sees_all_of_type("SalaryPaid"));
        assert!(streams.sees_type("Any") && !streams.sees_all_of_type("Any"));
    }
}
