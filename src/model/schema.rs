//! SQL types and their Arrow forms, and the tables that event types are declared as.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Fields, IntervalUnit, TimeUnit};
use serde::{Deserialize, Serialize};

/// The metadata key under which an Arrow field remembers what Arrow has no type for.
pub const SQL_TYPE_KEY: &str = "heliostat.type";

/// A type of the SQL dialect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SqlType {
    /// `BOOLEAN`
    Boolean,
    /// `SMALLINT`, 16 bits
    SmallInt,
    /// `INT`, 32 bits
    Int,
    /// `BIGINT`, 64 bits
    BigInt,
    /// `SMALLINT UNSIGNED`
    SmallIntUnsigned,
    /// `INT UNSIGNED`
    IntUnsigned,
    /// `BIGINT UNSIGNED`
    BigIntUnsigned,
    /// `REAL`, 32 bits
    Real,
    /// `DOUBLE PRECISION`, 64 bits
    Double,
    /// `precision` digits in all (1 to 76), `scale` of them after the point.
    Decimal {
        /// Digits; of a timestamp those of its fraction.
        precision: u8,
        /// Digits behind the point.
        scale: i8,
    },
    /// `TEXT`
    Text,
    /// `VARCHAR(n)` of a table: a text of so many characters at most. In expressions it is TEXT.
    Varchar(u32),
    /// `BYTEA`
    Bytea,
    /// `DATE`
    Date,
    /// `precision` digits of a second (0 to 9); with a zone the instant is kept in UTC.
    Timestamp {
        /// Digits; of a timestamp those of its fraction.
        precision: u8,
        /// Whether it is an instant, and not a local time.
        with_time_zone: bool,
    },
    /// `TIME`: microseconds since midnight, 24:00 at most.
    Time,
    /// `INTERVAL`: months, days and time, each by itself.
    Interval,
    /// `UUID`
    Uuid,
    /// `JSON`
    Json,
    /// Elements of one type
    Array(Box<SqlField>),
    /// Named members
    Struct(Vec<SqlField>),
}

/// A named, typed column or member of a struct.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SqlField {
    /// As SQL names it, folded.
    pub name: String,
    /// Its type.
    pub sql_type: SqlType,
    /// Whether it may be NULL.
    pub nullable: bool,
}

impl SqlField {
    /// A field from its parts.
    pub fn new(name: impl Into<String>, sql_type: SqlType, nullable: bool) -> Self {
        SqlField { name: name.into(), sql_type, nullable }
    }

    /// The Arrow field, whose metadata keeps what the Arrow type alone would forget.
    pub fn to_arrow(&self) -> ArrowField {
        let field = ArrowField::new(&self.name, self.sql_type.to_arrow(), self.nullable);
        match self.sql_type.arrow_note() {
            Some(note) => field.with_metadata(HashMap::from([(SQL_TYPE_KEY.to_string(), note)])),
            None => field,
        }
    }

    /// The SQL field that an Arrow field stands for, or the Arrow type that SQL has no name for.
    pub fn from_arrow(field: &ArrowField) -> Result<Self, DataType> {
        let note = field.metadata().get(SQL_TYPE_KEY).map(String::as_str);
        let sql_type = SqlType::from_arrow(field.data_type(), note)?;
        Ok(SqlField::new(field.name(), sql_type, field.is_nullable()))
    }
}

impl SqlType {
    /// The Arrow type in which values travel.
    pub fn to_arrow(&self) -> DataType {
        match self {
            SqlType::Boolean => DataType::Boolean,
            SqlType::SmallInt => DataType::Int16,
            SqlType::Int => DataType::Int32,
            SqlType::BigInt => DataType::Int64,
            SqlType::SmallIntUnsigned => DataType::UInt16,
            SqlType::IntUnsigned => DataType::UInt32,
            SqlType::BigIntUnsigned => DataType::UInt64,
            SqlType::Real => DataType::Float32,
            SqlType::Double => DataType::Float64,
            SqlType::Decimal { precision, scale } if *precision <= 38 => {
                DataType::Decimal128(*precision, *scale)
            }
            SqlType::Decimal { precision, scale } => DataType::Decimal256(*precision, *scale),
            SqlType::Text | SqlType::Varchar(_) | SqlType::Uuid | SqlType::Json => DataType::Utf8,
            SqlType::Bytea => DataType::Binary,
            SqlType::Date => DataType::Date32,
            SqlType::Timestamp { precision, with_time_zone } => {
                let unit = match precision {
                    0 => TimeUnit::Second,
                    1..=3 => TimeUnit::Millisecond,
                    4..=6 => TimeUnit::Microsecond,
                    _ => TimeUnit::Nanosecond,
                };
                DataType::Timestamp(unit, with_time_zone.then(|| Arc::from("UTC")))
            }
            SqlType::Time => DataType::Time64(TimeUnit::Microsecond),
            SqlType::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            SqlType::Array(item) => DataType::List(Arc::new(item.to_arrow())),
            SqlType::Struct(fields) => {
                DataType::Struct(fields.iter().map(SqlField::to_arrow).collect::<Fields>())
            }
        }
    }

    /// Whether VARCHAR(n) is somewhere in it.
    pub fn mentions_length(&self) -> bool {
        match self {
            SqlType::Varchar(_) => true,
            SqlType::Array(item) => item.sql_type.mentions_length(),
            SqlType::Struct(fields) => fields.iter().any(|field| field.sql_type.mentions_length()),
            _ => false,
        }
    }

    /// A note for the Arrow field where the Arrow type alone does not determine this type.
    fn arrow_note(&self) -> Option<String> {
        match self {
            SqlType::Uuid => Some("uuid".into()),
            SqlType::Json => Some("json".into()),
            SqlType::Timestamp { precision, .. } if !matches!(precision, 0 | 3 | 6 | 9) => {
                Some(format!("timestamp({precision})"))
            }
            _ => None,
        }
    }

    fn from_arrow(data_type: &DataType, note: Option<&str>) -> Result<Self, DataType> {
        Ok(match data_type {
            DataType::Boolean => SqlType::Boolean,
            DataType::Int8 | DataType::Int16 => SqlType::SmallInt,
            DataType::Int32 => SqlType::Int,
            DataType::Int64 => SqlType::BigInt,
            DataType::UInt8 | DataType::UInt16 => SqlType::SmallIntUnsigned,
            DataType::UInt32 => SqlType::IntUnsigned,
            DataType::UInt64 => SqlType::BigIntUnsigned,
            DataType::Float32 => SqlType::Real,
            DataType::Float64 => SqlType::Double,
            DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
                SqlType::Decimal { precision: *precision, scale: *scale }
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => match note {
                Some("uuid") => SqlType::Uuid,
                Some("json" | "jsonb") => SqlType::Json,
                _ => SqlType::Text,
            },
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => SqlType::Bytea,
            DataType::Date32 => SqlType::Date,
            DataType::Timestamp(unit, zone) => {
                let noted = note
                    .and_then(|n| n.strip_prefix("timestamp(")?.strip_suffix(')')?.parse().ok());
                let precision = noted.unwrap_or(match unit {
                    TimeUnit::Second => 0,
                    TimeUnit::Millisecond => 3,
                    TimeUnit::Microsecond => 6,
                    TimeUnit::Nanosecond => 9,
                });
                SqlType::Timestamp { precision, with_time_zone: zone.is_some() }
            }
            DataType::Interval(_) => SqlType::Interval,
            DataType::Time32(_) | DataType::Time64(_) => SqlType::Time,
            DataType::List(item) => SqlType::Array(Box::new(SqlField::from_arrow(item)?)),
            DataType::Struct(fields) => SqlType::Struct(
                fields.iter().map(|f| SqlField::from_arrow(f)).collect::<Result<_, _>>()?,
            ),
            other => return Err(other.clone()),
        })
    }
}

/// A text as a value of VARCHAR(`length`). Spaces at its end that have no room are cut off, as PostgreSQL
/// does. The error is the number of characters of a text that does not fit.
pub fn within_length(text: &str, length: u32) -> Result<&str, usize> {
    match text.char_indices().nth(length as usize) {
        None => Ok(text),
        Some((end, _)) if text[end..].bytes().all(|b| b == b' ') => Ok(&text[..end]),
        Some(_) => Err(text.chars().count()),
    }
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlType::Boolean => f.write_str("BOOLEAN"),
            SqlType::SmallInt => f.write_str("SMALLINT"),
            SqlType::Int => f.write_str("INT"),
            SqlType::BigInt => f.write_str("BIGINT"),
            SqlType::SmallIntUnsigned => f.write_str("SMALLINT UNSIGNED"),
            SqlType::IntUnsigned => f.write_str("INT UNSIGNED"),
            SqlType::BigIntUnsigned => f.write_str("BIGINT UNSIGNED"),
            SqlType::Real => f.write_str("REAL"),
            SqlType::Double => f.write_str("DOUBLE"),
            SqlType::Decimal { precision, scale } => write!(f, "DECIMAL({precision},{scale})"),
            SqlType::Text => f.write_str("TEXT"),
            SqlType::Varchar(length) => write!(f, "VARCHAR({length})"),
            SqlType::Bytea => f.write_str("BYTEA"),
            SqlType::Date => f.write_str("DATE"),
            SqlType::Timestamp { precision, with_time_zone } => {
                write!(f, "TIMESTAMP({precision})")?;
                if *with_time_zone { f.write_str(" WITH TIME ZONE") } else { Ok(()) }
            }
            SqlType::Time => f.write_str("TIME"),
            SqlType::Interval => f.write_str("INTERVAL"),
            SqlType::Uuid => f.write_str("UUID"),
            SqlType::Json => f.write_str("JSON"),
            SqlType::Array(item) => write!(f, "ARRAY<{}>", item.sql_type),
            SqlType::Struct(fields) => {
                f.write_str("STRUCT<")?;
                for (i, field) in fields.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{} {}", field.name, field.sql_type)?;
                }
                f.write_str(">")
            }
        }
    }
}

/// A declared event table: one type and version of events, read as columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventTable {
    /// The table's name in SQL.
    pub name: String,
    /// The `type` of the events that it reads.
    pub event_type: String,
    /// The `version` of the events that it reads.
    pub version: u32,
    /// The declared columns, with the field of `data` that each reads.
    pub columns: Vec<TableColumn>,
    /// How the rows follow from the events.
    pub mode: TableMode,
    /// Treatment of an event that does not fit.
    pub on_invalid: OnInvalid,
    /// Layout of an event's `data`.
    pub format: Format,
}

impl EventTable {
    /// Whether an event is a misfit when this column's member is absent.
    ///
    /// Where an event may mean "deleted", NOT NULL binds the key only.
    pub fn requires(&self, column: usize) -> bool {
        let required = !self.columns[column].field.nullable;
        match &self.mode {
            TableMode::Upsert { key, delete_when }
                if delete_when.is_some() || self.format.tells_deletion() =>
            {
                required && key.contains(&column)
            }
            _ => required,
        }
    }
}

/// A column of an [`EventTable`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableColumn {
    /// Name, type and nullability in SQL.
    pub field: SqlField,
    /// How the names of JSON members follow from SQL names, nested ones too.
    pub naming: FieldNaming,
}

/// How a column's name becomes the name of a JSON member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FieldNaming {
    /// The very name of the column.
    #[default]
    Same,
    /// `order_id` reads `orderId`.
    CamelCase,
}

impl FieldNaming {
    /// The JSON member that a column or struct member of this name reads.
    pub fn json_name(self, sql_name: &str) -> String {
        match self {
            FieldNaming::Same => sql_name.to_string(),
            FieldNaming::CamelCase => {
                let mut name = String::with_capacity(sql_name.len());
                let mut upper = false;
                for c in sql_name.chars() {
                    if c == '_' && !name.is_empty() {
                        upper = true;
                    } else if upper {
                        name.extend(c.to_uppercase());
                        upper = false;
                    } else {
                        name.push(c);
                    }
                }
                name
            }
        }
    }
}

/// Layout of the `data` of an event table's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Format {
    /// The members are the columns.
    #[default]
    Json,
    /// A change event of Debezium: `before`, `after` and `op`, with or without `schema` and
    /// `payload` around them. The columns are members of the row that `op` is about.
    Debezium,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 2] = [Format::Json, Format::Debezium];

    /// The word of the option `format`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Debezium => "debezium",
        }
    }

    /// Whether the payload says by itself that a row is gone. Such events carry state, so their table
    /// is an upsert table.
    pub fn tells_deletion(self) -> bool {
        self == Format::Debezium
    }
}

/// How the rows of an event table follow from its events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TableMode {
    /// One row per event, for ever.
    Append,
    /// The latest event per key is the row.
    Upsert {
        /// Indexes into [`EventTable::columns`].
        key: Vec<usize>,
        /// The SQL text of the condition under which the latest event means "deleted".
        delete_when: Option<String>,
    },
}

/// Treatment of an event whose `data` does not fit its table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OnInvalid {
    /// The request is refused with 422.
    #[default]
    Reject,
    /// The event is stored and listed as a dead letter.
    Quarantine,
}
