//! A view's options for sinks, as query files state them, and the check of them.

use std::collections::BTreeMap;
use std::fmt;

use super::view::ViewSchema;

/// A view's options for one sink, as its author gave them: name → text.
pub type SinkOptions = BTreeMap<String, String>;

/// An option that a sink cannot follow: a sentence for the view's author.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidOption(pub String);

/// A kind of sink, as far as query files know it.
pub trait SinkKind: fmt::Debug + Send + Sync {
    /// Its name: in the status, in `?wait=`, and as the option that leaves a view out of it
    /// (`clickhouse = false`).
    fn name(&self) -> &'static str;

    /// The names of its options.
    fn options(&self) -> &'static [&'static str];

    /// Checks a view's options, and whether the sink can hold the view at all.
    fn check(&self, view: &ViewSchema) -> Result<(), InvalidOption>;
}

/// The kinds of sinks that query files have options for.
pub type SinkKinds = &'static [&'static dyn SinkKind];
