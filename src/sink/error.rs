//! Errors between a view and its sink.

use std::error::Error;
use std::fmt;

/// Whether somebody has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Nobody has to: the same request may succeed later.
    Transient,
    /// Somebody has to change something in the sink's system, or how we log in there.
    Refused,
    /// A table is gone or was altered by somebody else: the view has to be written anew.
    Tampered,
    /// Only another version of the view helps.
    Final,
}

/// An error of a sink. Its text says what to do.
#[derive(Debug)]
pub struct SinkError {
    /// Whether somebody has to act on it.
    pub kind: ErrorKind,
    source: Box<dyn Error + Send + Sync>,
}

impl SinkError {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        SinkError { kind, source: source.into() }
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for SinkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}
