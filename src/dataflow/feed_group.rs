//! Views that are fed together: their events are decoded once, and each of their sources takes the
//! columns that it reads.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::datatypes::SchemaRef;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::InputHandle;

use super::delta::{Delta, batch};
use super::failure::{ChunkTypes, FailureStream};
use crate::decode::{Decoded, Reject, TableDecoder};
use crate::log::Frame;
use crate::model::Tick;
use crate::model::event::EventRef;
use crate::model::source::{SourceColumn, SourceTable};

/// Names views that are fed together and share the decoding of events.
pub type FeedGroupId = usize;

/// The versions of event types that are declared.
type DeclaredVersions = BTreeMap<String, BTreeSet<u32>>;

/// A feed group on one worker: its tick, and the decoders of its events.
pub struct FeedGroup {
    decoders: Vec<SharedDecoder>,
    /// For each view the stream that is told of undeclared versions, and the declared versions of the types
    /// it reads.
    versions: Vec<(FailureStream, DeclaredVersions)>,
    pub fed: Tick,
}

/// A decoder that all sources over one table share.
struct SharedDecoder {
    table: SourceTable,
    columns: Vec<SourceColumn>,
    decoder: TableDecoder,
    /// The rows of the last feed for this table, if any.
    decoded: Option<Decoded>,
}

/// The readers of the events of one type and version: indexes of decoders that read them, and of views that
/// read the type and cannot read the version.
struct Readers {
    event_type: Arc<str>,
    decoders: Vec<usize>,
    missing: Vec<usize>,
}

impl FeedGroup {
    /// The feed group of views with these inputs, which were fed up to `fed`.
    pub fn of<'a>(
        inputs: impl Iterator<Item = &'a SourceInput>,
        versions: Vec<(FailureStream, DeclaredVersions)>,
        fed: Tick,
    ) -> Self {
        let mut wanted: Vec<(SourceTable, Vec<SourceColumn>)> = Vec::new();
        for input in inputs {
            match wanted.iter_mut().find(|(table, _)| *table == input.table) {
                Some((_, columns)) => columns.extend(&input.columns),
                None => wanted.push((input.table.clone(), input.columns.clone())),
            }
        }
        let decoders = wanted.into_iter().map(|(table, mut columns)| {
            columns.sort_unstable();
            columns.dedup();
            let decoder = TableDecoder::new(table.clone(), columns.clone());
            SharedDecoder { table, columns, decoder, decoded: None }
        });
        FeedGroup { decoders: decoders.collect(), versions, fed }
    }

    /// Decodes frames for all views of the feed group at once; their events enter at `tick`. `through`
    /// says with what all views of the worker are through: with what is before that tick.
    #[expect(clippy::panic, reason = "the checksum was right: what wrote the frame is at fault")]
    pub fn decode(&mut self, frames: &[Frame], tick: Tick, through: impl FnOnce() -> Tick) {
        let needs_types = self.versions.iter().any(|(failures, _)| failures.needs_types());
        let mut types = ChunkTypes::default();
        for frame in frames {
            let events = match frame.decompress() {
                Ok(events) => events,
                Err(error) => panic!("frame at position {}: {error}", frame.first_position()),
            };
            let mut by_type: HashMap<(&str, u32), Readers> = HashMap::new();
            for event in events.iter() {
                let readers = by_type
                    .entry((event.event_type, event.version))
                    .or_insert_with(|| self.readers(&event));
                if needs_types {
                    types.push(event.position, &readers.event_type);
                }
                for index in &readers.decoders {
                    self.decoders[*index].decoder.push(&event);
                }
                for index in &readers.missing {
                    self.versions[*index].0.record_undeclared(&event, tick);
                }
            }
        }
        types.keep(tick, through);
        for shared in &mut self.decoders {
            shared.decoded = Some(shared.decoder.finish()).filter(|d| !d.positions.is_empty());
        }
    }

    /// Forgets what was decoded.
    pub fn forget(&mut self) {
        self.decoders.iter_mut().for_each(|shared| shared.decoded = None);
    }

    fn readers(&self, event: &EventRef<'_>) -> Readers {
        let reads = |(_, d): &(usize, &SharedDecoder)| d.decoder.reads(event);
        let misses = |(_, (_, versions)): &(usize, &(FailureStream, DeclaredVersions))| {
            let declared = versions.get(event.event_type);
            declared.is_some_and(|declared| !declared.contains(&event.version))
        };
        Readers {
            event_type: event.event_type.into(),
            decoders: self.decoders.iter().enumerate().filter(reads).map(|(i, _)| i).collect(),
            missing: self.versions.iter().enumerate().filter(misses).map(|(i, _)| i).collect(),
        }
    }
}

/// One source of a view: which decoder's columns go in.
pub struct SourceInput {
    pub table: SourceTable,
    /// The columns of the decoder, in the order of the source.
    pub columns: Vec<SourceColumn>,
    pub schema: SchemaRef,
    pub handle: InputHandle<Tick, CapacityContainerBuilder<Vec<Delta>>>,
}

impl SourceInput {
    /// Sends what the feed group has decoded for this source, and advances past `tick`.
    pub fn feed(&mut self, feed_group: &FeedGroup, tick: Tick, failures: &FailureStream) {
        let shared = feed_group.decoders.iter().find(|shared| shared.table == self.table);
        if let Some(shared) = shared
            && let Some(decoded) = &shared.decoded
        {
            let rejects = rejects_of(&decoded.rejects, &self.columns);
            // Rows enter at `tick`, whenever up to it their events arrived.
            if *self.handle.time() < tick {
                self.handle.advance_to(tick);
            }
            self.handle.send(self.delta(decoded, &shared.columns, &rejects, tick));
            record(failures, &self.table, &rejects, tick);
        }
        self.handle.advance_to(tick + 1);
    }

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

/// Records events that do not fit a table that the view reads.
fn record(failures: &FailureStream, table: &SourceTable, rejects: &[Reject], tick: Tick) {
    let event_type = match table {
        SourceTable::Declared(declared) => Some(declared.event_type.as_str()),
        SourceTable::Events => None,
    };
    for reject in rejects {
        for (_, violation) in &reject.violations {
            let at = (reject.position, tick);
            failures.record_misfit(table.name(), event_type, violation, at);
        }
    }
}
