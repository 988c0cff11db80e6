//! Errors in query files, and their places.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use datafusion_sql::sqlparser::tokenizer::{Location, Span};

/// Most characters of a line that are shown.
const EXCERPT_CHARS: usize = 240;

/// One file below the queries directory.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SourceFile {
    /// The path as the user would write it.
    pub path: PathBuf,
    /// The whole text.
    pub text: String,
}

/// An error in a query file: what, where, and what to do.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// The file that the error is in.
    pub file: Arc<SourceFile>,
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
    /// The error, in a sentence.
    pub message: String,
    /// Advice on what to do, if there is any.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error at a location of a file; a location of 0 means the file's beginning.
    pub fn new(file: &Arc<SourceFile>, at: Location, message: impl Into<String>) -> Self {
        Diagnostic {
            file: Arc::clone(file),
            line: at.line.max(1),
            column: at.column.max(1),
            message: message.into(),
            hint: None,
        }
    }

    /// The same with a hint.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic { file, line, column, message, hint } = self;
        let text = file.text.lines().nth(*line as usize - 1).unwrap_or("");
        let mut places = text.char_indices().map(|(at, c)| at..at + c.len_utf8());
        let place = places.nth(*column as usize - 1).unwrap_or(text.len()..text.len());
        let path = file.path.display().to_string();
        let snippet = Snippet::source(text)
            .line_start(*line as usize)
            .path(path.as_str())
            .annotation(AnnotationKind::Primary.span(place));
        let title = Level::ERROR.primary_title(message.as_str()).element(snippet);
        let title = match hint {
            Some(hint) => title.element(Level::HELP.message(hint.as_str())),
            None => title,
        };
        writeln!(f, "{}", Renderer::plain().term_width(EXCERPT_CHARS).render(&[title]))
    }
}

/// An error of planning, in a sentence for the author of the SQL. The caller knows its file and place, and
/// makes a [`Refusal`] or [`Diagnostic`] of it. Such errors have no kinds: nothing tells one sentence from
/// another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unplannable(pub String);

impl From<Unplannable> for String {
    fn from(error: Unplannable) -> String {
        error.0
    }
}

/// A construct that is refused, before it is known which file it stands in.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Where, in the statement's file.
    pub at: Location,
    /// The error, in a sentence.
    pub message: String,
    /// Advice on what to do, if there is any.
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal at the beginning of a span.
    pub fn new(span: Span, message: impl Into<String>) -> Self {
        Refusal { at: span.start, message: message.into(), hint: None }
    }

    /// The same with a hint.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The diagnostic that this is in `file`.
    pub fn in_file(self, file: &Arc<SourceFile>) -> Diagnostic {
        let diagnostic = Diagnostic::new(file, self.at, self.message);
        Diagnostic { hint: self.hint, ..diagnostic }
    }
}
