//! A timely worker: takes commands, feeds its share of the log to its views, answers reads.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use arrow::array::BooleanArray;
use arrow::error::ArrowError;
use timely::dataflow::InputHandle;
use timely::worker::Worker;

use super::delta::{Delta, batch};
use super::failure::Failures;
use super::output::{self, EncodedRow, ViewRows};
use super::render::Renderer;
use crate::decode::{Decoded, Reject, TableDecoder};
use crate::log::Frame;
use crate::model::Tick;
use crate::model::event::EventRef;
use crate::model::source::{SourceColumn, SourceTable};
use crate::model::view::ViewMessage;
use crate::plan::ViewPlan;
use crate::plan::ir::NodeId;

/// How long an idle worker sleeps when nobody wakes it.
const PARK_MAX: Duration = Duration::from_millis(100);

thread_local! {
    static BACKLOG: Cell<bool> = const { Cell::new(false) };
}

/// Whether more of the log waited when this worker was last fed.
pub fn has_backlog() -> bool {
    BACKLOG.get()
}

/// What workers are told, all of them in the same order.
pub enum Command {
    /// Begin these views, which will be fed together.
    Install { views: Vec<Installation> },
    /// The frames of this worker's share, and the tick at which their events enter. With
    /// everything up to `tick` fed, the views' inputs advance past it. `more`: the log has more.
    Feed { frames: Vec<Frame>, tick: Tick, more: bool },
    /// Read a view's rows as of a tick that was fed.
    Read(ReadRequest),
    /// Stop a view and forget its state.
    Remove { view: usize },
    /// End the worker.
    Shutdown,
}

/// A view to begin.
#[derive(Clone)]
pub struct Installation {
    pub view: usize,
    pub plan: ViewPlan,
    pub follower: Arc<dyn Fn(ViewMessage) + Send + Sync>,
    pub failures: Failures,
}

/// A read of one worker's share of a view.
pub struct ReadRequest {
    pub view: usize,
    pub tick: Tick,
    /// Only rows with this encoded key.
    pub key: Option<Vec<u8>>,
    /// Only rows behind this encoded key.
    pub after: Option<Vec<u8>>,
    pub limit: usize,
    /// Called with the rows, or `None` if the view is gone.
    pub answer: Box<dyn FnOnce(Option<Vec<EncodedRow>>) + Send>,
}

/// A view that runs on this worker.
struct RunningView {
    rows: ViewRows,
    inputs: Vec<SourceInput>,
    plan: ViewPlan,
    failures: Failures,
}

impl RunningView {
    /// Records events that do not fit a table that the view reads.
    fn reject(&self, table: &SourceTable, rejects: &[Reject]) {
        let expression: Arc<str> = format!("table {}", table.name()).into();
        for reject in rejects {
            for (_, violation) in &reject.violations {
                let reason = format!("{}: {}", violation.pointer, violation.message);
                self.failures.record(&expression, &reason, Some(reject.position), 1);
            }
        }
    }

    /// Records an event of a type that the view reads, in a version that nothing declares.
    fn miss_version(&self, event: &EventRef<'_>) {
        let EventRef { event_type, version, position, .. } = event;
        let expression: Arc<str> = format!("event type {event_type}").into();
        let reason = format!("version {version} is not declared");
        self.failures.record(&expression, &reason, Some(*position), 1);
    }
}

/// Who is concerned by the events of one type and version.
struct Readers {
    /// The decoders of tables that read them.
    decoders: Vec<usize>,
    /// The views that read the type and cannot read the version.
    missing: Vec<usize>,
}

/// One source of a view: which decoder's columns go in.
struct SourceInput {
    table: SourceTable,
    /// The columns of the decoder, in the order of the source.
    columns: Vec<SourceColumn>,
    schema: arrow::datatypes::SchemaRef,
    handle: InputHandle<Tick, timely::container::CapacityContainerBuilder<Vec<Delta>>>,
}

impl SourceInput {
    /// The decoded rows that fit the source's columns, as insertions.
    fn delta(
        &self,
        decoded: &Decoded,
        columns: &[SourceColumn],
        rejects: &[Reject],
        tick: Tick,
    ) -> Delta {
        let arrays = self
            .columns
            .iter()
            .filter_map(|c| columns.binary_search(c).ok())
            .map(|index| Arc::clone(decoded.rows.column(index)))
            .collect();
        let rows = match batch(Arc::clone(&self.schema), arrays, decoded.rows.num_rows()) {
            Ok(rows) => rows,
            Err(error) => unreachable!("sources and decoders agree: {error}"),
        };
        let delta = Delta::insertions(rows, decoded.positions.clone(), tick);
        if rejects.is_empty() {
            return delta;
        }
        let mut fits = vec![true; delta.len()];
        rejects.iter().for_each(|reject| fits[reject.row] = false);
        match delta.filter(&BooleanArray::from(fits)) {
            Ok(delta) => delta,
            Err(error) => unreachable!("a filter is as long as its rows: {error}"),
        }
    }
}

/// The rejects that concern some of these columns, with what is wrong with them.
///
/// A view's rows must not depend on what other views read, so what is wrong elsewhere is not told.
fn rejects_of(rejects: &[Reject], columns: &[SourceColumn]) -> Vec<Reject> {
    let concerns = |reject: &&Reject| reject.columns.iter().any(|c| columns.contains(c));
    let narrowed = |reject: &Reject| {
        let mut reject = reject.clone();
        reject.violations.retain(|(column, _)| column.is_none_or(|c| columns.contains(&c)));
        reject
    };
    rejects.iter().filter(concerns).map(narrowed).collect()
}

/// A decoder that all sources over one table share.
struct SharedDecoder {
    table: SourceTable,
    columns: Vec<SourceColumn>,
    decoder: TableDecoder,
}

/// The state of one worker.
pub struct WorkerState<'a> {
    worker: &'a mut Worker,
    commands: Receiver<Command>,
    views: BTreeMap<usize, RunningView>,
    decoders: Vec<SharedDecoder>,
    reads: Vec<ReadRequest>,
    fed: Tick,
}

impl<'a> WorkerState<'a> {
    /// A worker without views.
    pub fn new(worker: &'a mut Worker, commands: Receiver<Command>) -> Self {
        WorkerState {
            worker,
            commands,
            views: BTreeMap::new(),
            decoders: Vec::new(),
            reads: Vec::new(),
            fed: 0,
        }
    }

    /// Works until it is told to stop.
    pub fn run(mut self) {
        loop {
            let mut idle = true;
            // One command at a time, then a step: no command holds the others up for long.
            match self.commands.try_recv() {
                Ok(Command::Shutdown) | Err(std::sync::mpsc::TryRecvError::Disconnected) => break,
                Ok(command) => {
                    idle = false;
                    self.handle(command);
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => {}
            }
            self.answer_reads();
            if idle {
                self.worker.step_or_park(Some(PARK_MAX));
            } else {
                self.worker.step();
            }
        }
        self.end();
    }

    fn end(mut self) {
        // Closed inputs let the dataflows come to their end.
        self.views.clear();
        while self.worker.has_dataflows() {
            self.worker.step_or_park(Some(PARK_MAX));
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Install { views } => {
                for view in views {
                    let id = view.view;
                    match self.install(view) {
                        Ok(running) => {
                            self.views.insert(id, running);
                        }
                        Err(error) => {
                            unreachable!("the planner lets only sound types pass: {error}")
                        }
                    }
                }
                self.share_decoders();
            }
            Command::Feed { frames, tick, more } => {
                BACKLOG.set(more);
                self.feed(&frames, tick);
            }
            Command::Read(request) => self.reads.push(request),
            Command::Remove { view } => {
                self.views.remove(&view);
                self.share_decoders();
            }
            Command::Shutdown => {}
        }
    }

    fn install(&mut self, view: Installation) -> Result<RunningView, ArrowError> {
        let index = self.worker.index();
        let Installation { plan, follower, failures, .. } = view;
        let schema = crate::plan::relaxed(&plan.plan.root().schema);
        let layout = output::layout(&plan.schema, &schema)?;
        let follower: output::Follower = Rc::new(move |message| follower(message));
        let name = plan.schema.name.clone();
        self.worker.dataflow_named::<Tick, _, _>(&name, |scope| {
            let mut inputs = Vec::new();
            let mut sources: Vec<(NodeId, _)> = Vec::new();
            for (node, table, columns) in plan.plan.sources() {
                let mut handle = InputHandle::new();
                sources.push((node, handle.to_stream(scope)));
                inputs.push(SourceInput {
                    table: table.clone(),
                    columns: columns.to_vec(),
                    schema: crate::plan::relaxed(&plan.plan.nodes[node].schema),
                    handle,
                });
            }
            let rows = Renderer::new(scope, &plan.plan, failures.clone()).render(sources)?;
            let rows = output::finish(rows, layout, index, follower, failures.clone());
            Ok(RunningView { rows, inputs, plan: plan.clone(), failures })
        })
    }

    /// One decoder per table, with the columns that any view reads.
    fn share_decoders(&mut self) {
        let mut wanted: Vec<(SourceTable, Vec<SourceColumn>)> = Vec::new();
        for input in self.views.values().flat_map(|view| &view.inputs) {
            match wanted.iter_mut().find(|(table, _)| *table == input.table) {
                Some((_, columns)) => columns.extend(&input.columns),
                None => wanted.push((input.table.clone(), input.columns.clone())),
            }
        }
        self.decoders = wanted
            .into_iter()
            .map(|(table, mut columns)| {
                columns.sort_unstable();
                columns.dedup();
                let decoder = TableDecoder::new(table.clone(), columns.clone());
                SharedDecoder { table, columns, decoder }
            })
            .collect();
    }

    fn feed(&mut self, frames: &[Frame], tick: Tick) {
        assert!(tick >= self.fed, "ticks only go forward: {tick} after {}", self.fed);
        for frame in frames {
            let events = match frame.decompress() {
                Ok(events) => events,
                Err(what) => panic!("frame at position {}: {what}", frame.first_position()),
            };
            let mut by_type: HashMap<(&str, u32), Readers> = HashMap::new();
            for event in events.iter() {
                let readers = by_type
                    .entry((event.event_type, event.version))
                    .or_insert_with(|| self.readers(&event));
                for index in &readers.decoders {
                    self.decoders[*index].decoder.push(&event);
                }
                for view in &readers.missing {
                    self.views[view].miss_version(&event);
                }
            }
        }
        self.send(tick);
        for view in self.views.values_mut() {
            for input in &mut view.inputs {
                input.handle.advance_to(tick + 1);
            }
        }
        self.fed = tick;
        self.compact();
    }

    fn readers(&self, event: &EventRef<'_>) -> Readers {
        let reads = |(_, d): &(usize, &SharedDecoder)| d.decoder.reads(event);
        let misses = |(_, view): &(&usize, &RunningView)| {
            let versions = view.plan.versions.get(event.event_type);
            versions.is_some_and(|declared| !declared.contains(&event.version))
        };
        Readers {
            decoders: self.decoders.iter().enumerate().filter(reads).map(|(i, _)| i).collect(),
            missing: self.views.iter().filter(misses).map(|(view, _)| *view).collect(),
        }
    }

    /// Sends what was decoded to every source that reads it.
    fn send(&mut self, tick: Tick) {
        for shared in &mut self.decoders {
            let decoded = shared.decoder.finish();
            if decoded.positions.is_empty() {
                continue;
            }
            for view in self.views.values_mut() {
                let mut concerned = Vec::new();
                for input in view.inputs.iter_mut().filter(|i| i.table == shared.table) {
                    let rejects = rejects_of(&decoded.rejects, &input.columns);
                    // What enters is what arrived up to the tick, at the tick.
                    if *input.handle.time() < tick {
                        input.handle.advance_to(tick);
                    }
                    let delta = input.delta(&decoded, &shared.columns, &rejects, tick);
                    input.handle.send(delta);
                    concerned.push(rejects);
                }
                for rejects in concerned {
                    view.reject(&shared.table, &rejects);
                }
            }
        }
    }

    /// Reads to come are at the last fed tick or later; those that wait hold their view back.
    fn compact(&mut self) {
        for (id, view) in &mut self.views {
            let waiting = self.reads.iter().filter(|read| read.view == *id).map(|read| read.tick);
            view.rows.compact(waiting.min().unwrap_or(self.fed).min(self.fed));
        }
    }

    fn answer_reads(&mut self) {
        let mut waiting = Vec::new();
        for read in self.reads.drain(..) {
            let Some(view) = self.views.get_mut(&read.view) else {
                (read.answer)(None);
                continue;
            };
            if view.rows.upper() > read.tick {
                let ReadRequest { tick, key, after, limit, answer, .. } = read;
                answer(Some(view.rows.read(tick, key.as_deref(), after.as_deref(), limit)));
            } else {
                waiting.push(read);
            }
        }
        self.reads = waiting;
    }
}
