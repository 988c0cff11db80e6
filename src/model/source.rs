//! The relations that a SELECT can read: event tables with their system columns, and the table of all events.

use std::sync::Arc;

use super::schema::{EventTable, SqlField, SqlType, TableMode};

/// The table of all events, declared or not.
pub const EVENTS_TABLE: &str = "events";

/// A column that every event has, whatever its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SystemColumn {
    Position,
    EventId,
    Source,
    Stream,
    StreamVersion,
    Time,
    RecordedAt,
    Metadata,
    /// In the table of all events only.
    Type,
    /// In the table of all events only.
    Version,
    /// In the table of all events only.
    Data,
    /// Whether the event says that its row is gone. Only of tables of Debezium's format.
    Deleted,
}

/// The system columns of an event table, in the order in which they follow its own columns.
pub const SYSTEM_COLUMNS: [SystemColumn; 8] = [
    SystemColumn::Position,
    SystemColumn::EventId,
    SystemColumn::Source,
    SystemColumn::Stream,
    SystemColumn::StreamVersion,
    SystemColumn::Time,
    SystemColumn::RecordedAt,
    SystemColumn::Metadata,
];

impl SystemColumn {
    /// Name, type and nullability in SQL.
    pub fn field(self) -> SqlField {
        let timestamp = SqlType::Timestamp { precision: 6, with_time_zone: false };
        let (name, sql_type, nullable) = match self {
            SystemColumn::Position => ("_position", SqlType::BigInt, false),
            SystemColumn::EventId => ("_event_id", SqlType::Text, false),
            SystemColumn::Source => ("_source", SqlType::Text, false),
            SystemColumn::Stream => ("_stream", SqlType::Text, true),
            SystemColumn::StreamVersion => ("_stream_version", SqlType::BigInt, true),
            SystemColumn::Time => ("_time", timestamp, false),
            SystemColumn::RecordedAt => ("_recorded_at", timestamp, false),
            SystemColumn::Metadata => ("_metadata", SqlType::Json, true),
            SystemColumn::Type => ("type", SqlType::Text, false),
            SystemColumn::Version => ("version", SqlType::Int, false),
            SystemColumn::Data => ("data", SqlType::Json, false),
            SystemColumn::Deleted => ("_deleted", SqlType::Boolean, false),
        };
        SqlField::new(name, sql_type, nullable)
    }
}

/// Which events a table reads, and how.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceTable {
    /// The events of one declared table, each as one row, before `mode = 'upsert'` is applied.
    Declared(Arc<EventTable>),
    /// All events.
    Events,
}

/// A column of a [`SourceTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceColumn {
    /// An index into the declared columns.
    Declared(usize),
    /// The value from the event's envelope.
    System(SystemColumn),
}

impl SourceTable {
    /// All columns, the declared ones first.
    pub fn columns(&self) -> Vec<SourceColumn> {
        let system = SYSTEM_COLUMNS.iter().map(|c| SourceColumn::System(*c));
        match self {
            SourceTable::Declared(table) => {
                let deleted = table
                    .format
                    .tells_deletion()
                    .then_some(SourceColumn::System(SystemColumn::Deleted));
                let declared = (0..table.columns.len()).map(SourceColumn::Declared);
                declared.chain(system).chain(deleted).collect()
            }
            SourceTable::Events => system
                .chain(
                    [SystemColumn::Type, SystemColumn::Version, SystemColumn::Data]
                        .map(SourceColumn::System),
                )
                .collect(),
        }
    }

    /// The field of one column.
    pub fn field(&self, column: SourceColumn) -> SqlField {
        match (self, column) {
            (SourceTable::Declared(table), SourceColumn::Declared(index)) => {
                table.columns[index].field.clone()
            }
            (_, SourceColumn::System(system)) => system.field(),
            (SourceTable::Events, SourceColumn::Declared(_)) => {
                unreachable!("the table of all events has system columns only")
            }
        }
    }

    /// Whether there are events that mean that a row is gone.
    pub fn tells_deletion(&self) -> bool {
        let SourceTable::Declared(table) = self else { return false };
        let has_condition = matches!(&table.mode, TableMode::Upsert { delete_when: Some(_), .. });
        has_condition || table.format.tells_deletion()
    }

    /// The name in SQL.
    pub fn name(&self) -> &str {
        match self {
            SourceTable::Declared(table) => &table.name,
            SourceTable::Events => EVENTS_TABLE,
        }
    }
}
