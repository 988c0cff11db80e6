//! The manifest of a snapshot: JSON behind its checksum (`model/sealed.rs`).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::dataflow::{KeptTableRows, RunShape, STATE_FORMAT};
use crate::model::row::encoding_fingerprint;
use crate::model::view::UnwrittenSpan;
use crate::model::{Head, Position, Tick, sealed};
use crate::plan::ViewPlan;

/// The version of the manifest. Readers refuse another one.
const FORMAT: u32 = 1;

/// The identity of a view's state: a state is used only by a view for which all of this is equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewIdentity {
    pub name: String,
    pub generation: String,
    /// The fingerprint of its plan, in hex digits.
    pub plan: String,
}

impl From<&ViewPlan> for ViewIdentity {
    fn from(plan: &ViewPlan) -> Self {
        ViewIdentity {
            name: plan.schema.name.clone(),
            generation: plan.schema.generation.clone(),
            plan: plan.fingerprint(),
        }
    }
}

/// A manifest's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The log that the views are computed of.
    log: String,
    /// The formats of the bytes in runs; see [`formats`].
    formats: String,
    /// The lengths of the files, by their numbers.
    pub files: BTreeMap<u64, u64>,
    pub views: Vec<StoredView>,
}

/// The state of one view as of a tick.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredView {
    #[serde(flatten)]
    pub identity: ViewIdentity,
    pub tick: Tick,
    pub position: Position,
    /// The number of its rows.
    pub rows: u64,
    /// The runs, by worker and by arrangement.
    pub workers: Vec<Vec<Vec<StoredRun>>>,
    /// The arrangements that other views can be filled from.
    #[serde(default)]
    pub tables: Vec<KeptTableRows>,
    /// The failures; `None` if there are none.
    pub failures: Option<FilePart>,
    /// The changes that the view's table did not surely show then.
    #[serde(default)]
    pub unwritten: Vec<StoredUnwritten>,
}

impl StoredView {
    /// Up to where it is.
    pub fn head(&self) -> Head {
        Head { position: self.position, tick: self.tick }
    }

    /// All parts of files that it needs.
    pub fn parts(&self) -> impl Iterator<Item = FilePart> + '_ {
        let runs = self.workers.iter().flatten().flatten();
        let unwritten = self.unwritten.iter().filter_map(|changes| changes.part);
        runs.map(|run| run.part).chain(self.failures).chain(unwritten)
    }

    /// Between which ticks the changes are that its table did not surely show.
    pub fn unwritten_spans(&self) -> Vec<UnwrittenSpan> {
        self.unwritten.iter().map(|changes| changes.span).collect()
    }
}

/// Changes that a view's table did not surely show.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredUnwritten {
    #[serde(flatten)]
    pub span: UnwrittenSpan,
    /// `None` if there are none.
    pub part: Option<FilePart>,
}

/// A run in a file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredRun {
    #[serde(flatten)]
    pub part: FilePart,
    #[serde(flatten)]
    pub shape: RunShape,
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilePart {
    pub file: u64,
    pub at: u64,
    pub bytes: u64,
    /// XXH3 of the bytes.
    pub checksum: u64,
}

/// Why a manifest is not used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has format {0}: another version of Heliostat has written it")]
    Format(u32),
    #[error("another version of Heliostat has written it, which packs rows differently")]
    Formats,
    #[error("it is of another log")]
    OtherLog,
}

/// The formats of the bytes in runs: of runs and accumulators, and of encoded rows.
pub fn formats() -> &'static str {
    static FORMATS: LazyLock<String> =
        LazyLock::new(|| format!("{STATE_FORMAT}-{:016x}", encoding_fingerprint()));
    &FORMATS
}

impl Manifest {
    /// A manifest of nothing.
    pub fn new(log: &str) -> Self {
        let (files, views) = (BTreeMap::new(), Vec::new());
        Manifest {
            format: FORMAT,
            log: log.to_string(),
            formats: formats().to_string(),
            files,
            views,
        }
    }

    /// Its name.
    pub fn name(number: u64) -> String {
        format!("manifest-{number}")
    }

    /// The number in a manifest's name.
    pub fn number(name: &str) -> Option<u64> {
        name.strip_prefix("manifest-")?.parse().ok()
    }

    pub fn parse(bytes: &[u8], log: &str) -> Result<Manifest, ManifestError> {
        let json = sealed::open(bytes).ok_or(ManifestError::Checksum)?;
        let format = sealed::format(json)?;
        if format != FORMAT {
            return Err(ManifestError::Format(format));
        }
        let manifest: Manifest = serde_json::from_slice(json)?;
        if manifest.formats != formats() {
            return Err(ManifestError::Formats);
        }
        if manifest.log != log {
            return Err(ManifestError::OtherLog);
        }
        Ok(manifest)
    }

    pub fn to_bytes(&self) -> std::io::Result<Vec<u8>> {
        Ok(sealed::seal(self)?)
    }

    /// The state of a view.
    pub fn view(&self, identity: &ViewIdentity) -> Option<&StoredView> {
        self.views.iter().find(|view| view.identity == *identity)
    }
}
