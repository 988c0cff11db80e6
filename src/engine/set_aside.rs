//! Views that are set aside, since a worker got stuck in them or the process died in them: they are
//! not begun until their SQL changes or somebody asks for a rebuild.
//!
//! A worker notes what it works on in [`Marker`]'s file. The next start judges the notes here: a view that a
//! worker was stuck in is set aside at once; one that the process died in [`DEATHS_MAX`] times in a row, at
//! the same ticks each time, is set aside then. A process that is killed from outside dies at other ticks
//! each time, unless its log does not grow.
//!
//! After a kill for memory, the views' state is to blame, and not the work of that moment. The file also has
//! each view's bytes: the view that held most is set aside at once.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::files;
use super::memory::is_held_by_views;
use crate::dataflow::{HeldView, LastEnd, MarkedView, Marker, watch_faults};
use crate::model::Tick;
use crate::model::memory::MemoryEnd;

/// The files in the data directory: what workers work on, and which views died.
const MARKER_FILE: &str = "workers.marker";
pub const FILE: &str = "set-aside.json";
/// After how many deaths in a row a view is set aside.
const DEATHS_MAX: u32 = 3;
/// How often the watchdog looks.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// The exit code of a process whose worker is stuck.
const STUCK_EXIT: i32 = 3;
/// How long the process may take to end in order once a worker is found stuck.
const EXIT_TIME_MAX: Duration = Duration::from_secs(1);

/// The deaths of the process in a view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DeathRecord {
    generation: String,
    /// The number of deaths in a row.
    deaths: u32,
    /// The ticks that it worked at each time.
    from: Tick,
    to: Tick,
    /// Why the generation is not begun, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

type DeathRecords = BTreeMap<String, DeathRecord>;

/// The views that are set aside.
pub struct SetAside {
    path: PathBuf,
    marker: Arc<Marker>,
    ended_in_order: bool,
    records: Mutex<DeathRecords>,
}

/// The view that held most when the process was killed for its memory; none where views held too
/// little to be what it was killed for.
fn largest(end: &LastEnd, memory: MemoryEnd) -> Option<&HeldView> {
    let all: u64 = end.held.iter().map(|view| view.bytes).sum();
    let is_held = is_held_by_views(all, memory.taken);
    end.held.iter().max_by_key(|view| view.bytes).filter(|_| is_held)
}

/// The records after the end of a process, given those before it. `memory` is given if it was killed for its
/// memory.
fn judged(before: &DeathRecords, end: &LastEnd, memory: Option<MemoryEnd>) -> DeathRecords {
    let is_set_aside = |(_, record): &(&String, &DeathRecord)| record.reason.is_some();
    let kept = before.iter().filter(is_set_aside);
    let mut after: DeathRecords =
        kept.map(|(view, record)| (view.clone(), record.clone())).collect();
    if end.in_order {
        return after;
    }
    let mend = "it is not begun until its SQL changes or it is rebuilt";
    if let Some(memory) = memory
        && let Some(HeldView { view, generation, bytes }) = largest(end, memory)
    {
        let MemoryEnd { taken, bytes_max } = memory;
        let reason = format!(
            "set aside: the process was killed when it took {taken} bytes of memory, more than \
             {bytes_max}, and of all views this one had the largest state, {bytes} bytes: let it \
             keep less, or raise --memory; {mend}"
        );
        let (generation, reason) = (generation.clone(), Some(reason));
        let record = DeathRecord { generation, deaths: 1, from: 0, to: Tick::MAX, reason };
        after.insert(view.clone(), record);
        return after;
    }
    // Where a fault ended the process, other threads were in their views by chance. Several may have been in one.
    let is_told = |view: &&MarkedView| view.is_stuck || view.has_faulted;
    let told = end.views.iter().any(|view| is_told(&view));
    let mut marked: BTreeMap<&str, MarkedView> = BTreeMap::new();
    for view in end.views.iter().filter(|view| !told || is_told(view)) {
        let all = marked.entry(&view.view).or_insert_with(|| view.clone());
        (all.from, all.to) = (all.from.min(view.from), all.to.max(view.to));
        all.is_stuck |= view.is_stuck;
    }
    for MarkedView { view, generation, from, to, is_stuck, .. } in marked.into_values() {
        let mut record = DeathRecord { generation, deaths: 1, from, to, reason: None };
        if let Some(earlier) = before.get(view.as_str())
            && earlier.generation == record.generation
        {
            let (from, to) = (earlier.from.max(record.from), earlier.to.min(record.to));
            if from <= to {
                (record.from, record.to) = (from, to);
                record.deaths = earlier.deaths + 1;
            }
        }
        if is_stuck {
            record.reason = Some(format!("set aside: a worker did not get out of it; {mend}"));
        } else if record.deaths >= DEATHS_MAX {
            let deaths = record.deaths;
            let what = format!("set aside: the process died in it {deaths} times in a row");
            record.reason = Some(format!("{what}; {mend}"));
        }
        after.insert(view, record);
    }
    after
}

impl SetAside {
    /// Judges how the process before this one ended, and begins to note what the workers work on.
    /// `memory`: the process before was killed for its memory.
    pub fn open(
        data_dir: &Path,
        workers: usize,
        memory: Option<MemoryEnd>,
    ) -> io::Result<SetAside> {
        let path = data_dir.join(FILE);
        let before: DeathRecords = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => DeathRecords::default(),
            Err(error) => return Err(error),
        };
        let marker_path = data_dir.join(MARKER_FILE);
        // Judged and kept before the marks are forgotten: a death in between is not lost.
        let end = Marker::read(&marker_path)?;
        let records = judged(&before, &end, memory);
        for (view, record) in &records {
            if before.get(view) != Some(record) && record.reason.is_none() {
                let deaths = record.deaths;
                tracing::warn!(view, deaths, "the process before this one died in this view");
            }
        }
        if records != before
            && let Err(error) = files::replace(&path, &records)
        {
            tracing::warn!(%error, "which view a process has died in cannot be kept");
        }
        let marker = Marker::create(&marker_path, workers).or_else(|error| {
            tracing::warn!(%error, "what workers work on is not marked on disk");
            Marker::in_memory(workers)
        })?;
        watch_faults()?;
        let ended_in_order = end.in_order;
        Ok(SetAside { path, marker, ended_in_order, records: Mutex::new(records) })
    }

    fn lock(&self) -> MutexGuard<'_, DeathRecords> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process before this one ended in order, or there was none.
    pub fn ended_in_order(&self) -> bool {
        self.ended_in_order
    }

    /// Where the workers note what they work on.
    pub fn marker(&self) -> Arc<Marker> {
        Arc::clone(&self.marker)
    }

    /// Why a generation of a view is not begun, if it is set aside.
    pub fn reason(&self, view: &str, generation: &str) -> Option<String> {
        let records = self.lock();
        let record = records.get(view).filter(|record| record.generation == generation)?;
        record.reason.clone()
    }

    /// Forgets what is known of views that are not there any more.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) -> io::Result<()> {
        let mut records = self.lock();
        let before = records.len();
        records.retain(|view, _| is_there(view));
        if records.len() == before {
            return Ok(());
        }
        files::replace(&self.path, &*records)
    }

    /// Ends the process when a worker does not get out of a view for this long.
    pub fn watch(&self, stuck_max: Duration) -> io::Result<()> {
        let marker = Arc::clone(&self.marker);
        let watchdog = std::thread::Builder::new().name("stuck workers".to_string());
        watchdog.spawn(move || watch(&marker, stuck_max)).map(drop)
    }
}

fn watch(marker: &Marker, stuck_max: Duration) {
    let mut marks = marker.marks();
    let mut stuck_for = vec![Duration::ZERO; marks.len()];
    let mut looked_at = Instant::now();
    while !marker.is_ending() {
        std::thread::sleep(WATCH_INTERVAL);
        // A process that was stopped for a while, or a machine, has not worked all that time.
        let passed = looked_at.elapsed().min(2 * WATCH_INTERVAL);
        looked_at = Instant::now();
        let now = marker.marks();
        for worker in 0..now.len() {
            let stays = now[worker] % 2 == 1 && now[worker] == marks[worker];
            stuck_for[worker] = if stays { stuck_for[worker] + passed } else { Duration::ZERO };
            if stuck_for[worker] >= stuck_max {
                end_stuck(marker, worker, stuck_max);
            }
        }
        marks = now;
    }
}

/// Ends the process, which sets the view aside at its next start.
fn end_stuck(marker: &Marker, worker: usize, stuck_max: Duration) {
    let view = marker.view(worker);
    marker.set_stuck(worker);
    tracing::error!(
        view,
        worker,
        seconds = stuck_max.as_secs_f64(),
        "a worker does not get out of this view: the process ends, and sets the view aside at its \
         next start"
    );
    // A thread that is stuck may hold what an end in order waits for.
    let _ = std::thread::Builder::new().spawn(|| {
        std::thread::sleep(EXIT_TIME_MAX);
        // SAFETY: ends the process without running anything more of it.
        unsafe { libc::_exit(STUCK_EXIT) };
    });
    std::process::exit(STUCK_EXIT);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(view: &str, generation: &str, (from, to): (Tick, Tick)) -> LastEnd {
        let (view, generation) = (view.to_string(), generation.to_string());
        let marked = MarkedView { view, generation, from, to, is_stuck: false, has_faulted: false };
        LastEnd { in_order: false, views: vec![marked], held: Vec::new() }
    }

    fn end_in_no_view(in_order: bool) -> LastEnd {
        LastEnd { in_order, views: Vec::new(), held: Vec::new() }
    }

    fn reasons(records: &DeathRecords) -> Vec<&str> {
        records.iter().filter(|(_, r)| r.reason.is_some()).map(|(view, _)| &view[..]).collect()
    }

    #[test]
    fn view_of_another_worker_is_not_blamed_for_a_fault() {
        let mut records = DeathRecords::default();
        for _ in 0..3 {
            let mut end = death("harm", "g", (1, 9));
            end.views[0].has_faulted = true;
            end.views.extend(death("other", "g", (1, 9)).views);
            records = judged(&records, &end, None);
        }
        assert_eq!(records.keys().collect::<Vec<_>>(), ["harm"]);
        assert_eq!(reasons(&records), ["harm"]);
    }

    #[test]
    fn view_is_set_aside_after_three_deaths_in_a_row_at_the_same_ticks() {
        let mut records = DeathRecords::default();
        for ticks in [(0, 90), (40, 120), (60, 80)] {
            assert!(reasons(&records).is_empty());
            records = judged(&records, &death("v", "g", ticks), None);
        }
        assert_eq!(reasons(&records), ["v"]);
        // It stays so, also after orderly ends and deaths in other views.
        records = judged(&records, &end_in_no_view(true), None);
        records = judged(&records, &death("w", "g", (0, 9)), None);
        assert_eq!(reasons(&records), ["v"]);
    }

    #[test]
    fn deaths_are_not_counted_over_orderly_ends_other_views_generations_or_ticks() {
        let orderly = end_in_no_view(true);
        let nowhere = end_in_no_view(false);
        let at = |ticks| death("v", "g", ticks);
        for other in
            [orderly, nowhere, death("w", "g", (0, 9)), death("v", "h", (0, 9)), at((10, 20))]
        {
            let mut records = DeathRecords::default();
            for end in [at((0, 9)), at((0, 9)), other.clone(), at((0, 9)), at((0, 9))] {
                records = judged(&records, &end, None);
            }
            assert!(reasons(&records).is_empty(), "{other:?}: {records:?}");
        }
    }

    #[test]
    fn view_that_a_worker_was_stuck_in_is_set_aside_at_once() {
        let mut end = death("v", "g", (0, 9));
        // One of three workers, the others were in it, too.
        end.views = vec![end.views[0].clone(); 3];
        end.views[1].is_stuck = true;
        assert_eq!(reasons(&judged(&DeathRecords::default(), &end, None)), ["v"]);
    }

    /// An end in the view `busy` while views held so many bytes.
    fn end_while_held(held: &[(&str, u64)]) -> LastEnd {
        let held = held.iter().map(|(view, bytes)| HeldView {
            view: view.to_string(),
            generation: "g".to_string(),
            bytes: *bytes,
        });
        LastEnd { held: held.collect(), ..death("busy", "g", (0, 9)) }
    }

    const KILLED: Option<MemoryEnd> = Some(MemoryEnd { taken: 1000, bytes_max: 900 });

    #[test]
    fn view_that_held_most_is_set_aside_when_the_process_was_killed_for_its_memory() {
        let end = end_while_held(&[("small", 100), ("large", 600), ("busy", 20)]);
        let records = judged(&DeathRecords::default(), &end, KILLED);
        assert_eq!(reasons(&records), ["large"]);
        // The view that a worker was in has done nothing.
        assert!(!records.contains_key("busy"));
        let reason = records["large"].reason.as_deref().unwrap_or_default();
        assert!(reason.contains("1000 bytes") && reason.contains("600 bytes"), "{reason}");
        // At an end for another reason what views hold does not count.
        let records = judged(&DeathRecords::default(), &end, None);
        assert_eq!((reasons(&records).len(), records["busy"].deaths), (0, 1));
    }

    #[test]
    fn views_that_held_little_of_the_memory_are_not_what_the_process_was_killed_for() {
        let mut records = DeathRecords::default();
        for _ in 0..DEATHS_MAX {
            assert!(reasons(&records).is_empty());
            records = judged(&records, &end_while_held(&[("small", 100), ("busy", 20)]), KILLED);
        }
        // The views held too little memory, so the one that was being computed is to blame.
        assert_eq!(reasons(&records), ["busy"]);
    }
}
