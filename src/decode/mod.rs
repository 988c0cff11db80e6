//! Events → Arrow: the payloads' JSON becomes one record batch per event table, holding only the
//! columns that somebody reads.
//!
//! A value that does not fit its column is a [`Reject`]: the event is no row for whoever reads that
//! column, and one for everybody else.

mod builder;
mod catalog;
mod format;
mod plain;
mod text;
mod value;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};

use crate::model::event::EventRef;
use crate::model::schema::{EventTable, Format};
use crate::model::source::{SourceColumn, SourceTable, SystemColumn};
use crate::model::{Position, Tick};
use builder::ColumnBuilder;
pub use catalog::{CatalogInUse, CatalogReceiver, EventCatalog, Misfit};
use format::PayloadFormat;
use value::ObjectMembers;

/// Something in an event's `data` that does not fit the declared columns.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// Where, as a JSON pointer into `data` (RFC 6901).
    pub pointer: String,
    /// The expected and the actual value.
    pub message: String,
}

impl Violation {
    /// The same, its pointer leading into the member at `pointer`.
    fn under(mut self, pointer: &str) -> Self {
        self.pointer.insert_str(0, pointer);
        self
    }
}

/// A row with columns that its event does not fit. They are NULL in the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    pub position: Position,
    /// Index of the row in the batch.
    pub row: usize,
    /// The columns in question.
    pub columns: Vec<SourceColumn>,
    /// The violation and its column (`None`: the whole event).
    pub violations: Vec<(Option<SourceColumn>, Violation)>,
}

/// The rows of some events, in the order of their positions.
#[derive(Debug)]
pub struct Decoded {
    pub rows: RecordBatch,
    /// The position of each row's event.
    pub positions: Vec<Position>,
    pub rejects: Vec<Reject>,
}

/// Decodes the events of one table.
pub struct TableDecoder {
    table: SourceTable,
    format: &'static dyn PayloadFormat,
    columns: Vec<SourceColumn>,
    schema: SchemaRef,
    /// The declared columns that are decoded, in the order of `columns`.
    members: ObjectMembers,
    declared: Vec<SourceColumn>,
    system: Vec<(SystemColumn, ColumnBuilder)>,
    positions: Vec<Position>,
    rejects: Vec<Reject>,
}

impl TableDecoder {
    /// A decoder for these columns. Every declared column is checked on ingest; here a column that
    /// is not asked for is skipped unread.
    pub fn new(table: SourceTable, columns: Vec<SourceColumn>) -> Self {
        let fields: Vec<_> =
            columns.iter().map(|c| table.field(*c).to_arrow().with_nullable(true)).collect();
        let format = match &table {
            SourceTable::Declared(table) => format::of(table.format),
            SourceTable::Events => format::of(Format::Json),
        };
        let mut members = ObjectMembers::new(format.has_numeric_times());
        let mut system = Vec::new();
        let declared =
            columns.iter().copied().filter(|c| matches!(c, SourceColumn::Declared(_))).collect();
        for column in &columns {
            match (&table, *column) {
                (SourceTable::Declared(declared), SourceColumn::Declared(index)) => {
                    let column = &declared.columns[index];
                    let required = declared.requires(index);
                    members.push(&column.field, column.naming, required);
                }
                (_, SourceColumn::System(column)) => {
                    system.push((
                        column,
                        ColumnBuilder::new(&column.field().sql_type, Default::default()),
                    ));
                }
                (SourceTable::Events, SourceColumn::Declared(_)) => {
                    unreachable!("the table of all events has system columns only")
                }
            }
        }
        TableDecoder {
            table,
            format,
            columns,
            schema: Arc::new(Schema::new(fields)),
            members,
            declared,
            system,
            positions: Vec::new(),
            rejects: Vec::new(),
        }
    }

    /// Whether this decoder's table reads such an event.
    pub fn reads(&self, event: &EventRef<'_>) -> bool {
        match &self.table {
            SourceTable::Events => true,
            SourceTable::Declared(table) => {
                table.version == event.version && table.event_type == event.event_type
            }
        }
    }

    /// Adds an event that this table reads.
    pub fn push(&mut self, event: &EventRef<'_>) {
        let mut deleted = false;
        let (columns, violations) = match self.format.row(event.data) {
            Ok(row) => {
                deleted = row.deleted;
                let misfits = self.members.push_row(row.data);
                let column = |member: usize| self.declared[member];
                let columns = misfits.columns.into_iter().map(column).collect();
                let violations = misfits.violations.into_iter();
                let under = |(member, v): (Option<usize>, Violation)| {
                    (member.map(column), v.under(row.pointer))
                };
                (columns, violations.map(under).collect())
            }
            Err(violation) => {
                self.members.push_nulls();
                (self.columns.clone(), vec![(None, violation)])
            }
        };
        if !columns.is_empty() {
            let (position, row) = (event.position, self.positions.len());
            self.rejects.push(Reject { position, row, columns, violations });
        }
        for (column, builder) in &mut self.system {
            match column {
                SystemColumn::Deleted => builder.push_bool(deleted),
                _ => push_system(*column, builder, event),
            }
        }
        self.positions.push(event.position);
    }

    /// The rows since the last call.
    pub fn finish(&mut self) -> Decoded {
        let positions = std::mem::take(&mut self.positions);
        let rejects = std::mem::take(&mut self.rejects);
        let mut declared = self.members.finish().into_iter();
        let mut system = self.system.iter_mut().map(|(_, builder)| builder.finish());
        let arrays: Vec<ArrayRef> = self
            .columns
            .iter()
            .filter_map(|column| match column {
                SourceColumn::Declared(_) => declared.next(),
                SourceColumn::System(_) => system.next(),
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(positions.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .unwrap_or_else(|error| unreachable!("builders follow the schema: {error}"));
        Decoded { rows, positions, rejects }
    }
}

fn push_system(column: SystemColumn, builder: &mut ColumnBuilder, event: &EventRef<'_>) {
    let optional = |text: &[u8]| if text.is_empty() { None } else { Some(text.to_vec()) };
    match column {
        SystemColumn::Position => builder.push_i64(event.position as i64),
        SystemColumn::EventId => builder.push_text(event.id.as_bytes()),
        SystemColumn::Source => builder.push_text(event.source.as_bytes()),
        SystemColumn::Stream => match event.stream {
            Some(stream) => builder.push_text(stream.as_bytes()),
            None => builder.push_null(),
        },
        SystemColumn::StreamVersion if event.stream_version == 0 => builder.push_null(),
        SystemColumn::StreamVersion => builder.push_i64(event.stream_version as i64),
        SystemColumn::Time => builder.push_i64(event.time_us),
        SystemColumn::RecordedAt => builder.push_i64(micros(event.tick)),
        SystemColumn::Metadata => match optional(event.metadata) {
            Some(text) => builder.push_text(&text),
            None => builder.push_null(),
        },
        SystemColumn::Type => builder.push_text(event.event_type.as_bytes()),
        SystemColumn::Version => builder.push_i32(event.version as i32),
        SystemColumn::Data => builder.push_text(event.data),
        SystemColumn::Deleted => unreachable!("only the payload knows whether a row is gone"),
    }
}

fn micros(tick: Tick) -> i64 {
    i64::try_from(tick.saturating_mul(1000)).unwrap_or(i64::MAX)
}

/// Checks events against a table before they are accepted. Keeps nothing of them.
pub struct Validator {
    format: &'static dyn PayloadFormat,
    members: ObjectMembers,
    /// The members of an event that says that its row is deleted.
    deleted: ObjectMembers,
}

impl Validator {
    /// A validator for all columns of a table.
    pub fn new(table: &EventTable) -> Self {
        let format = format::of(table.format);
        let mut members = ObjectMembers::new(format.has_numeric_times());
        let mut deleted = ObjectMembers::new(format.has_numeric_times());
        for (index, column) in table.columns.iter().enumerate() {
            let required = table.requires(index);
            deleted.push(&column.field, column.naming, required);
            // A change event tells whether it deletes its row: the others must have all columns that are NOT
            // NULL.
            let required = match table.format.tells_deletion() {
                true => !column.field.nullable,
                false => required,
            };
            members.push(&column.field, column.naming, required);
        }
        Validator { format, members, deleted }
    }

    /// The violations in `data`; empty when all of it fits.
    pub fn check(&mut self, data: &[u8]) -> Vec<Violation> {
        let row = match self.format.row(data) {
            Ok(row) => row,
            Err(violation) => return vec![violation],
        };
        let members = if row.deleted { &mut self.deleted } else { &mut self.members };
        let misfits = members.push_row(row.data);
        members.clear();
        misfits.violations.into_iter().map(|(_, violation)| violation.under(row.pointer)).collect()
    }
}
