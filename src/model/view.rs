//! A materialized view as seen from outside, and the messages that carry its changes from the dataflow to the
//! sink.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use super::failure::FailureChange;
use super::row::{Row, RowCodec};
use super::schema::SqlField;
use super::sink::SinkOptions;
use super::{Head, Position, Tick};

/// The shape of a materialized view, and where it is written to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ViewSchema {
    /// The view's name, which is also its name in sinks.
    pub name: String,
    /// The hash (16 hex digits) of everything that decides the view's content and table.
    pub generation: String,
    /// The columns, in the order of the SELECT list.
    pub columns: Vec<SqlField>,
    /// Indexes of the key's columns: at most one row per key. `None`: rows may repeat.
    pub key: Option<Vec<usize>>,
    /// The sinks that the view is written to, by the names of their kinds.
    pub sinks: BTreeMap<String, SinkOptions>,
    /// True when it is kept from when to when each row was there.
    pub history: bool,
    /// The purpose that its query file states.
    pub comment: Option<String>,
}

impl ViewSchema {
    /// Indexes of the columns that an update's `key` encodes: the key, or all columns without one.
    pub fn key_columns(&self) -> Vec<usize> {
        self.key.clone().unwrap_or_else(|| (0..self.columns.len()).collect())
    }

    /// Indexes of the columns that an update's `value` encodes: those that are not in the key.
    pub fn value_columns(&self) -> Vec<usize> {
        let key = self.key_columns();
        (0..self.columns.len()).filter(|i| !key.contains(i)).collect()
    }
}

/// One change of a view: `diff` more (or fewer) of the row that `key` and `value` encode together.
///
/// Both are in the format of [`RowCodec`](super::row::RowCodec) over the schema's `key_columns()`
/// and `value_columns()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The encoded columns of the key.
    pub key: Row,
    /// The encoded columns outside of the key.
    pub value: Row,
    /// Copies of the row that are added; negative: removed.
    pub diff: i64,
}

/// A message of a view's workers or its feeder. Each worker sends changes and failures first, then the
/// frontier that closes them. See [`ReorderBuffer`](super::reorder::ReorderBuffer).
#[derive(Clone, Debug)]
pub enum ViewMessage {
    /// Net changes at one tick, from one worker.
    Changes {
        /// The number of the worker.
        worker: usize,
        /// The tick.
        tick: Tick,
        /// The changes.
        updates: Vec<Update>,
    },
    /// This worker will send nothing more at ticks below `frontier`.
    Frontier {
        /// The number of the worker.
        worker: usize,
        /// The least tick that may still come.
        frontier: Tick,
    },
    /// The content at `tick` is the view over all events up to `position`. Sent by the feeder once
    /// those events are on their way to the workers, so before the frontiers pass `tick`.
    Mark {
        /// The tick.
        tick: Tick,
        /// The position in the log.
        position: Position,
    },
    /// Rows that fail, or fail no longer, as one worker found them, each with its tick.
    Failures {
        /// The number of the worker.
        worker: usize,
        /// The changes of what fails, with their ticks.
        failures: Vec<(Tick, FailureChange)>,
    },
    /// Everything up to `tick` has been sent that was in the log when the view started.
    Live {
        /// The tick.
        tick: Tick,
    },
    /// The view cannot go on, and shows nothing from now on.
    Failed {
        /// Why.
        reason: String,
    },
}

/// All changes of a view after the one before, up to `head`: nothing more comes at these ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompleteTicks {
    /// The content at `head.tick` is the view over all events up to `head.position`.
    pub head: Head,
    /// The changes of each tick that has some, in the order of ticks.
    pub ticks: Vec<(Tick, Vec<Update>)>,
}

/// A message to a view's sink.
#[derive(Clone, Debug)]
pub enum SinkMessage {
    /// Changes to write.
    Complete(CompleteTicks),
    /// The number of rows that are failing now, after a change.
    Errors {
        /// The number of rows.
        count: u64,
    },
    /// Everything up to `tick` was in the log when the view started; what is complete there may be
    /// shown.
    Live {
        /// The tick.
        tick: Tick,
    },
    /// A snapshot is taken as of `at`, the end of the complete ticks before this message. A sink that cannot
    /// tell what its system lacks of them drops `answer`.
    Snapshot {
        /// The end of the complete ticks.
        at: Head,
        /// Is told what is not written. Nothing: whatever the system shows later has it, or the system shows
        /// nothing, and the first write has all rows.
        answer: Sender<Vec<Unwritten>>,
    },
}

/// A part of a view's history that a sink has been told and its system may not show. The parts of a view
/// follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwrittenSpan {
    /// The system shows the view as of this tick before these changes; without one, nothing.
    pub from: Option<Tick>,
    /// And as of here behind them.
    pub to: Head,
}

/// Changes that are not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwritten {
    /// Between which ticks.
    pub span: UnwrittenSpan,
    /// The net changes between them.
    pub changes: Vec<Update>,
}

/// Whether a view's changes reach the system that its sink writes to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SinkState {
    /// They do.
    #[default]
    Writing,
    /// The last write failed, for a reason that passes by itself.
    Retrying {
        /// The error.
        error: String,
    },
    /// The last write failed, for a reason that somebody has to mend; it is repeated all the same.
    Failed {
        /// The error, and what to do.
        error: String,
    },
}

impl SinkState {
    /// The word of the wire: `writing`, `retrying` or `failed`.
    pub fn as_str(&self) -> &'static str {
        match self {
            SinkState::Writing => "writing",
            SinkState::Retrying { .. } => "retrying",
            SinkState::Failed { .. } => "failed",
        }
    }

    /// Why the last write failed.
    pub fn error(&self) -> Option<&str> {
        match self {
            SinkState::Writing => None,
            SinkState::Retrying { error } | SinkState::Failed { error } => Some(error),
        }
    }
}

/// A view, shared between the threads that serve it.
pub type ViewRef = Arc<ViewSchema>;

/// Turns a view's encoded rows back into columns.
pub struct ViewCodec {
    key_columns: Vec<usize>,
    value_columns: Vec<usize>,
    key: RowCodec,
    value: RowCodec,
    schema: SchemaRef,
}

impl ViewCodec {
    /// A codec for rows of this view.
    pub fn new(view: &ViewSchema) -> Result<Self, ArrowError> {
        let (key_columns, value_columns) = (view.key_columns(), view.value_columns());
        let types = |columns: &[usize]| -> Vec<DataType> {
            columns.iter().map(|c| view.columns[*c].sql_type.to_arrow()).collect()
        };
        let fields: Vec<Field> = view.columns.iter().map(SqlField::to_arrow).collect();
        Ok(ViewCodec {
            key: RowCodec::new(&types(&key_columns))?,
            value: RowCodec::new(&types(&value_columns))?,
            key_columns,
            value_columns,
            schema: Arc::new(Schema::new(fields)),
        })
    }

    /// The view's columns in order, for rows given as (key, value).
    pub fn decode<'a>(
        &self,
        rows: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone,
    ) -> Result<RecordBatch, ArrowError> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let keys = self.key.decode(rows.clone().map(|(key, _)| key))?;
        let values = self.value.decode(rows.map(|(_, value)| value))?;
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.schema.fields().len()];
        let places = self.key_columns.iter().chain(&self.value_columns);
        for (place, column) in places.zip(keys.into_iter().chain(values)) {
            columns[*place] = Some(column);
        }
        let columns = columns.into_iter().flatten().collect();
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }

    /// Encodes one row's key columns, given in the order of the schema's `key_columns()`.
    pub fn encode_key(&self, columns: &[ArrayRef]) -> Result<Row, ArrowError> {
        Ok(Row::from_slice(self.key.encode(columns, 1)?.bytes(0)))
    }
}
