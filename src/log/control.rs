//! Control frames: frames without events that tell something other than the time.
//!
//! ```text
//! the section of a control frame, before compression
//!   u32 kind, little endian
//!   kind 1, a set of query files came into use: JSON
//!     {"set": "fc52…", "files": [{"path": "orders.sql", "text": "CREATE …"}]}
//!   kind 2, dead letters were dismissed: JSON
//!     {"view": "totals", "dismissals": […]}      view: "" for events that no view reads
//! ```
//!
//! Readers pass over kinds that they do not know, and members of the JSON, too.

use serde::{Deserialize, Serialize};

use super::frame::FrameError;

const QUERIES: u32 = 1;
const DISMISSAL: u32 = 2;

/// The content of a control frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Control {
    /// From here on these query files are in use.
    Queries(QueriesInUse),
    /// From here on these dead letters are not told any more.
    Dismissal(DismissedLetters),
}

/// A set of query files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueriesInUse {
    /// The hash of the files.
    pub set: String,
    /// The files, in the order of their paths.
    pub files: Vec<QueryFile>,
}

/// A query file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryFile {
    /// Its path below the directory of queries.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// Dead letters of a view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DismissedLetters {
    /// The view; empty for events that no view reads.
    pub view: String,
    /// The dismissals, in the engine's format.
    pub dismissals: serde_json::Value,
}

impl Control {
    /// The note that these dead letters of a view were dismissed; `None` if it cannot be written as JSON.
    pub fn dismissal(view: &str, dismissals: &impl Serialize) -> Option<Control> {
        let dismissals = serde_json::to_value(dismissals).ok()?;
        Some(Control::Dismissal(DismissedLetters { view: view.to_string(), dismissals }))
    }

    /// The section of the frame.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let (kind, json) = match self {
            Control::Queries(queries) => (QUERIES, serde_json::to_vec(queries)?),
            Control::Dismissal(letters) => (DISMISSAL, serde_json::to_vec(letters)?),
        };
        Ok([&kind.to_le_bytes()[..], &json].concat())
    }

    /// Reads the section of a frame; `None` for a kind that is not known.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Control>, FrameError> {
        let (kind, content) = bytes.split_first_chunk::<4>().ok_or(FrameError::Control)?;
        Ok(match u32::from_le_bytes(*kind) {
            QUERIES => Some(Control::Queries(json(content)?)),
            DISMISSAL => Some(Control::Dismissal(json(content)?)),
            _ => None,
        })
    }
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, FrameError> {
    serde_json::from_slice(bytes).map_err(|_| FrameError::Control)
}
