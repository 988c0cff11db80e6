//! Follows the query files on a thread of its own, and plans what changes: by what the system tells
//! of the directory, and by looking, where it tells nothing.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, oneshot};

use super::planner::{FileSet, PlannedFiles, Planner};
use crate::model::alarm::{Alarms, Part};

/// A file is often seen half written: the files count once they are the same at two looks this far
/// apart, and no change was told between them.
const QUIET: Duration = Duration::from_millis(100);
/// How often the files are looked at where nothing tells that they change.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How often they are looked at all the same, for changes that are told to nobody (a network's file
/// system, the target of a link).
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How often a file may be missing that was listed, before that is told.
const READS_MAX: usize = 5;

/// The result of a look at the files.
pub struct Look {
    /// The files, if they have changed since the last look.
    pub planned: Option<PlannedFiles>,
    /// The receiver that asked for the look. It is told once the result is in use.
    pub answer: Option<oneshot::Sender<()>>,
}

enum Wake {
    Changed,
    Look(oneshot::Sender<()>),
    Stop,
}

/// The thread that follows the query files; it ends when this is dropped.
pub struct QueryWatch {
    wake: Sender<Wake>,
    pub looks: mpsc::UnboundedReceiver<Look>,
}

impl QueryWatch {
    /// Follows the files, of which `planned` is in use or has been found to have errors.
    pub fn start(planner: Planner, planned: FileSet, alarms: Alarms) -> io::Result<QueryWatch> {
        let (wake, wakes) = channel();
        let (sender, looks) = mpsc::unbounded_channel();
        let changed = wake.clone();
        let mut following = Following {
            planner,
            planned,
            alarms,
            changed,
            wakes,
            watcher: None,
            answers: Vec::new(),
            stopped: false,
        };
        std::thread::Builder::new()
            .name("query-files".to_string())
            .spawn(move || following.run(&sender))?;
        Ok(QueryWatch { wake, looks })
    }

    /// Has the files looked at now.
    pub fn look(&self, answer: oneshot::Sender<()>) {
        // Without the thread the sender is dropped, which is an answer, too.
        let _ = self.wake.send(Wake::Look(answer));
    }
}

impl Drop for QueryWatch {
    fn drop(&mut self) {
        let _ = self.wake.send(Wake::Stop);
    }
}

/// The state of the thread.
struct Following {
    planner: Planner,
    planned: FileSet,
    alarms: Alarms,
    changed: Sender<Wake>,
    wakes: Receiver<Wake>,
    /// The watcher of the directory, and the directory's device and inode.
    watcher: Option<(RecommendedWatcher, (u64, u64))>,
    answers: Vec<oneshot::Sender<()>>,
    stopped: bool,
}

impl Following {
    fn run(&mut self, looks: &mpsc::UnboundedSender<Look>) {
        while !self.stopped {
            self.follow_directory();
            let planned = self.look();
            let mut answers = std::mem::take(&mut self.answers).into_iter();
            let mut look = Look { planned, answer: answers.next() };
            while look.planned.is_some() || look.answer.is_some() {
                if looks.send(look).is_err() {
                    return;
                }
                look = Look { planned: None, answer: answers.next() };
            }
            let interval = if self.watcher.is_some() { LOOK_INTERVAL } else { POLL_INTERVAL };
            self.wait(interval);
        }
    }

    /// Waits for a reason to look at the files, or until the time has passed; true if they have
    /// changed.
    fn wait(&mut self, time: Duration) -> bool {
        match self.wakes.recv_timeout(time) {
            Ok(Wake::Changed) => return true,
            Ok(Wake::Look(answer)) => self.answers.push(answer),
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => self.stopped = true,
            Err(RecvTimeoutError::Timeout) => {}
        }
        false
    }

    /// Begins to be told of changes in the directory, or in the one that has taken its place.
    fn follow_directory(&mut self) {
        let directory = self.planner.directory();
        let Ok(metadata) = std::fs::metadata(directory) else {
            self.watcher = None;
            return;
        };
        let identity = (metadata.dev(), metadata.ino());
        if self.watcher.as_ref().is_some_and(|(_, followed)| *followed == identity) {
            return;
        }
        self.watcher = None;
        // Where tests let the system tell nothing.
        fail::fail_point!("no_notify", |_| ());
        let changed = self.changed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !is_change(event.kind)) {
                return;
            }
            let _ = changed.send(Wake::Changed);
        });
        let watched = watcher.and_then(|mut watcher| {
            watcher.watch(directory, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        match watched {
            Ok(watcher) => self.watcher = Some((watcher, identity)),
            Err(error) => {
                tracing::debug!(%error, "the query files are looked at twice a second");
            }
        }
    }

    /// Plans the files if they have changed.
    fn look(&mut self) -> Option<PlannedFiles> {
        let files = match self.settled() {
            Ok(files) => files?,
            Err(error) => {
                let message =
                    format!("the query files cannot be read, what was in use stays: {error}");
                self.alarms.raise(Part::Queries, "directory", message);
                return None;
            }
        };
        self.alarms.clear(Part::Queries, "directory");
        match self.planner.plan(files.clone()) {
            Ok(planned) => {
                self.alarms.clear(Part::Queries, "trial");
                self.planned = files;
                Some(planned)
            }
            Err(error) => {
                let message = format!("changed query files are not used: {error}");
                self.alarms.raise(Part::Queries, "trial", message);
                None
            }
        }
    }

    /// Waits until the files have stopped changing. Returns them if they differ from the ones planned last.
    fn settled(&mut self) -> io::Result<Option<FileSet>> {
        let mut seen = self.read()?;
        while seen != self.planned && !self.stopped {
            let quiet_from = Instant::now();
            let mut changed = false;
            while let Some(left) = QUIET.checked_sub(quiet_from.elapsed()) {
                changed |= self.wait(left);
            }
            let files = self.read()?;
            if !changed && files == seen {
                return Ok(Some(files));
            }
            seen = files;
        }
        Ok(None)
    }

    /// Reads the files, again where one is gone that was listed: it is being replaced.
    fn read(&mut self) -> io::Result<FileSet> {
        let mut reads = 1;
        loop {
            match self.planner.read() {
                Err(error) if error.kind() == io::ErrorKind::NotFound && reads < READS_MAX => {
                    reads += 1;
                    self.wait(QUIET / 5);
                }
                read => return read,
            }
        }
    }
}

/// Reading a file is told, too.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
