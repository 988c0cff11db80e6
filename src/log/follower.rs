//! The log as those have it who only follow it: in the process that writes it, or in another one.
//!
//! Another process reads the same files, up to a head that it is told: frames behind that may not be on disk.
//! It has no indexes, and looks at the list of segments again where it may have grown.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::index::Index;
use super::list::{ReadList, SegmentList, Segments};
use super::{Control, DiskFiles, Files, Log, LogError, LogReader};
use crate::model::alarm::Alarms;
use crate::model::{Head, Position};

/// Requests of a log follower to the process that writes the log.
pub trait LogWriterRequests: Send + Sync {
    /// While nothing is appended, write an empty frame each time that the interval has passed. So views that
    /// depend on time are the same after a restart. `None` stops that.
    fn keep_time(&self, interval: Option<Duration>);

    /// Write a control frame, some time.
    fn note(&self, control: Control);
}

/// A log to read from. Clones share it.
#[derive(Clone)]
pub struct LogFollower {
    history: Arc<str>,
    files: Arc<dyn Files>,
    segments: Arc<Segments>,
    head: watch::Receiver<Head>,
    /// Where this process writes the log.
    index: Option<Arc<Index>>,
    alarms: Alarms,
    requests: Arc<dyn LogWriterRequests>,
}

impl LogFollower {
    /// Follows the log in a directory that another process writes. `history` is what that process
    /// calls it, `head` how far it is on disk, and `requests` reaches it.
    pub fn open(
        directory: &Path,
        history: &str,
        head: watch::Receiver<Head>,
        alarms: Alarms,
        requests: Arc<dyn LogWriterRequests>,
    ) -> Result<Self, LogError> {
        let files: Arc<dyn Files> = Arc::new(DiskFiles::read_only(directory)?);
        let ReadList::Found { list, .. } = SegmentList::read(files.as_ref())? else {
            return Err(LogError::NotALog {
                path: directory.display().to_string(),
                what: "its list of segments cannot be read".to_string(),
            });
        };
        let segments = Arc::new(Segments::following(list, Arc::clone(&files)));
        let history = history.into();
        Ok(LogFollower { history, files, segments, head, index: None, alarms, requests })
    }

    /// See [`Log::history`].
    pub fn history(&self) -> &str {
        &self.history
    }

    /// The part of the log that is on disk.
    pub fn head(&self) -> Head {
        *self.head.borrow()
    }

    /// Up to here events were trimmed; 0 in a log that has all of them.
    pub fn trimmed_through(&self) -> Position {
        self.segments.ask(SegmentList::trimmed_through)
    }

    /// Follows what is on disk.
    pub fn subscribe(&self) -> watch::Receiver<Head> {
        self.head.clone()
    }

    /// Reads from behind a position: 0 reads everything.
    pub fn read(&self, after: Position) -> Result<LogReader, LogError> {
        let (files, segments) = (Arc::clone(&self.files), Arc::clone(&self.segments));
        let reader = LogReader::open(files, segments, self.subscribe(), after);
        let reader = reader.inspect_err(|error| error.raise(&self.alarms))?;
        Ok(reader.with(self.index.clone(), self.alarms.clone()))
    }

    /// See [`LogWriterRequests::keep_time`].
    pub fn keep_time(&self, interval: Option<Duration>) {
        self.requests.keep_time(interval);
    }

    /// See [`LogWriterRequests::note`].
    pub fn note(&self, control: Option<Control>) {
        if let Some(control) = control {
            self.requests.note(control);
        }
    }
}

impl LogWriterRequests for Log {
    fn keep_time(&self, interval: Option<Duration>) {
        Log::keep_time(self, interval);
    }

    fn note(&self, control: Control) {
        Log::note(self, Some(control));
    }
}

impl Log {
    /// This log, for those who only read it.
    pub fn follower(&self) -> LogFollower {
        LogFollower {
            history: self.history().into(),
            files: Arc::clone(&self.files),
            segments: Arc::clone(&self.segments),
            head: self.subscribe(),
            index: Some(Arc::clone(&self.index)),
            alarms: self.alarms.clone(),
            requests: Arc::new(self.clone()),
        }
    }
}
