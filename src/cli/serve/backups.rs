//! The backups that a server takes by itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::super::config::Settings;
use crate::backup::{self, BackupError};
use crate::model::alarm::{Alarms, Part};
use crate::model::thread::{be_nice, words_of};
use crate::objects::Objects;

/// The subject of the alarm that there is no backup.
const SUBJECT: &str = "backup";

/// No further backup begins once this is dropped. One that is cut off by the end of the process is none.
pub struct Backups {
    _stop: Sender<()>,
}

/// Begins to back up, if the settings ask for it.
pub fn begin(settings: &Settings, alarms: Alarms) -> Option<Backups> {
    let to = settings.backup.to.clone()?;
    let every = Duration::from_millis(settings.backup.every_ms);
    let data_dir = settings.data_dir.clone();
    let (stop, stopped) = channel();
    let run = move || {
        be_nice();
        let mut last = None;
        while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            let backed_up = catch_unwind(AssertUnwindSafe(|| {
                // If that cannot be told, neither can it be backed up, and the backup says why.
                let content = backup::content(&data_dir).ok();
                if content.is_some() && last == content {
                    return Ok(());
                }
                let done = backup::back_up(&data_dir, &Objects::open(&to)?, false)?;
                let (position, sent_bytes) = (done.manifest.position, done.sent_bytes);
                tracing::info!(number = done.number, position, sent_bytes, "backed up");
                last = content;
                Ok::<_, BackupError>(())
            }));
            let problem = match backed_up {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(panic) => Some(format!("a fault of Heliostat: {}", words_of(&*panic))),
            };
            match problem {
                None => alarms.clear(Part::Server, SUBJECT),
                Some(problem) => {
                    let message = format!("there is no new backup in {to}: {problem}");
                    alarms.raise(Part::Server, SUBJECT, message);
                }
            }
        }
    };
    match std::thread::Builder::new().name("backups".to_string()).spawn(run) {
        Ok(_) => Some(Backups { _stop: stop }),
        Err(error) => {
            tracing::error!(%error, "there are no backups");
            None
        }
    }
}
