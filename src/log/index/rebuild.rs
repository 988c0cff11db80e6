//! Bringing the indexes up to the end of the log when it is opened.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::Index;
use super::digest::Digester;
use super::frames::FrameEntry;
use super::store::Store;
use crate::log::files::Files;
use crate::log::format::LogFormat;
use crate::log::frame::Frame;
use crate::log::known::{self, KnownFrame};
use crate::log::list::Segments;
use crate::log::reader::LogReader;
use crate::log::recovery::RecoveredLog;
use crate::log::segment::SegmentFile;
use crate::log::{LogError, fetch};
use crate::model::{Head, Position};

/// Events between two log lines about the progress.
const NOTE_EVENTS: u64 = 5_000_000;

/// Opens the store, if it is one of this very log, or makes a new one.
pub fn open(
    files: &dyn Files,
    directory: &Path,
    recovered: &RecoveredLog,
) -> Result<(Store, Head), LogError> {
    let RecoveredLog { id: log_id, head, segments, .. } = recovered;
    let (log_id, head) = (*log_id, *head);
    let (store, through) = Store::open(directory, log_id)?;
    if through == Head::default() || is_of((files, segments), &store, through, head) {
        return Ok((store, through));
    }
    tracing::warn!(
        position = through.position,
        "the indexes are not of this log, as after a restored backup: they are made anew"
    );
    drop(store);
    Ok(Store::create(directory, log_id)?)
}

/// Whether the log has, where the store ends, what the store says it has.
fn is_of(
    (files, segments): (&dyn Files, &Segments),
    store: &Store,
    through: Head,
    head: Head,
) -> bool {
    if through.position > head.position || through.tick > head.tick {
        return false;
    }
    let Ok(Some(entry)) = store.frame_of(through.position) else { return false };
    match fetch::read_entry(files, segments, &entry, through.position) {
        Ok(None) => false,
        Ok(Some(frame)) => {
            frame.last_position() == through.position && frame.tick() == through.tick
        }
        // A damaged frame does not speak against the store: nothing else still knows the frame's events.
        Err(error) => error.is_damage(),
    }
}

/// Reads the commits from the log that the store does not have. Fails where the log is damaged: an unknown
/// identity could be given to another event.
pub fn apply_tail(
    index: &Index,
    files: &Arc<dyn Files>,
    recovered: &RecoveredLog,
    through: Head,
) -> Result<(), LogError> {
    let head = recovered.head;
    if through.position >= head.position {
        return Ok(());
    }
    let (digester, mut scratch) = (Digester::new(recovered.id), Vec::new());
    let after = apply_trimmed(index, files.as_ref(), recovered, through)?;
    let mut noted = after;
    let (_, fixed) = watch::channel(head);
    let segments = Arc::clone(&recovered.segments);
    let mut reader = LogReader::open(Arc::clone(files), segments, fixed, after)?;
    while let Some(frame) = reader.next_frame()? {
        let Some(place) = reader.place() else { continue };
        apply(index, &frame, place, (&digester, &mut scratch))?;
        if frame.last_position() > noted + NOTE_EVENTS {
            noted = frame.last_position();
            tracing::info!(position = noted, of = head.position, "indexing the log");
        }
    }
    Ok(())
}

/// Takes in what was kept of events that were trimmed; the position behind which the log is read.
fn apply_trimmed(
    index: &Index,
    files: &dyn Files,
    recovered: &RecoveredLog,
    through: Head,
) -> Result<Position, LogError> {
    let trimmed = recovered.segments.ask(|list| list.trimmed.clone());
    let Some(trimmed) = trimmed.filter(|trimmed| through.position < trimmed.position) else {
        return Ok(through.position);
    };
    for file in trimmed.known.iter().filter(|file| file.last > through.position) {
        known::read(files, *file, |frame| {
            let last = frame.last_position();
            if last <= through.position {
                return Ok(());
            }
            let KnownFrame { first_position, tick, events } = frame;
            let digests = (first_position..).zip(events);
            let digests = digests.map(|(position, (digest, version))| (digest, position, version));
            // Nobody asks for the place of what is gone.
            let (segment, format, offset) = (first_position, LogFormat::CURRENT, 0);
            let entry = FrameEntry { first_position, segment, format, offset, tick };
            index.wait_for_room()?;
            index.apply(digests, entry, Head { position: last, tick }, Vec::new());
            Ok(())
        })?;
    }
    Ok(trimmed.position)
}

fn apply(
    index: &Index,
    frame: &Frame,
    (file, offset): (SegmentFile, u64),
    (digester, scratch): (&Digester, &mut Vec<u8>),
) -> Result<(), LogError> {
    if frame.count() == 0 {
        return Ok(());
    }
    let events =
        frame.decompress().map_err(|error| LogError::damaged(file.name(), offset, error))?;
    let SegmentFile { first: segment, format } = file;
    let (first_position, tick) = (frame.first_position(), frame.tick());
    let entry = FrameEntry { first_position, segment, format, offset, tick };
    let through = Head { position: frame.last_position(), tick: frame.tick() };
    let digests = events
        .iter()
        .map(|event| (digester.stored(&event, scratch), event.position, event.stream_version));
    index.wait_for_room()?;
    index.apply(digests, entry, through, events.requests());
    Ok(())
}
