//! Changed rows as one Arrow stream, in the form in which ClickHouse takes them exactly.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, FixedSizeBinaryArray, ListArray, PrimitiveArray,
    RecordBatch, StringArray, StructArray, TimestampMillisecondArray, UInt8Array, UInt64Array,
    make_array,
};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Field, IntervalMonthDayNanoType, IntervalUnit, Schema, Time64MicrosecondType,
    TimeUnit,
};
use arrow::downcast_primitive_array;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use crate::model::row::{Row, RowCodec};
use crate::model::schema::SqlType;
use crate::model::view::ViewSchema;
use crate::model::{Tick, interval, json};

use super::history::Interval;
use super::table::{
    DELETED_COLUMN, HASH_COLUMN, MULTIPLICITY_COLUMN, Table, VALID_FROM_COLUMN, VALID_TO_COLUMN,
    VERSION_COLUMN,
};

/// A row on its way to ClickHouse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OutRow {
    pub(super) key: Row,
    pub(super) value: Row,
    /// How often the row occurs; 0 makes it a tombstone.
    pub(super) multiplicity: u64,
}

/// The hash that stands for a key, or for a row without one.
pub(super) fn row_hash(key: &[u8]) -> u128 {
    xxh3_128(key)
}

/// Decodes a view's rows into columns in the order of its SELECT list.
pub(super) struct RowDecoder {
    key: RowCodec,
    value: RowCodec,
    /// For each column of the view, its place among the key's columns followed by the value's.
    places: Vec<usize>,
}

impl RowDecoder {
    pub(super) fn new(schema: &ViewSchema) -> Result<Self, ArrowError> {
        let (key, value) = (schema.key_columns(), schema.value_columns());
        let codec = |columns: &[usize]| {
            let types: Vec<DataType> =
                columns.iter().map(|i| schema.columns[*i].sql_type.to_arrow()).collect();
            RowCodec::new(&types)
        };
        let stored: Vec<usize> = key.iter().chain(&value).copied().collect();
        let places = (0..schema.columns.len())
            .map(|column| {
                stored
                    .iter()
                    .position(|s| *s == column)
                    .ok_or_else(|| ArrowError::SchemaError(format!("column {column} is in no row")))
            })
            .collect::<Result<_, _>>()?;
        Ok(RowDecoder { key: codec(&key)?, value: codec(&value)?, places })
    }

    /// The view's columns for these pairs of key and value.
    pub(super) fn decode<'a>(
        &self,
        rows: impl Iterator<Item = (&'a Row, &'a Row)> + Clone,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut stored = self.key.decode(rows.clone().map(|(key, _)| &**key))?;
        stored.extend(self.value.decode(rows.map(|(_, value)| &**value))?);
        Ok(self.places.iter().map(|place| Arc::clone(&stored[*place])).collect())
    }
}

/// JSON texts with characters in place of their escapes: PostgreSQL keeps those, and those who read
/// tables need not see them.
fn without_escapes(column: &ArrayRef) -> ArrayRef {
    let Some(texts) = column.as_string_opt::<i32>() else { return Arc::clone(column) };
    Arc::new(texts.iter().map(|text| text.map(json::without_escapes)).collect::<StringArray>())
}

/// Encodes rows of one view for its table.
pub(super) struct RowEncoder {
    pub(super) decoder: RowDecoder,
    /// The columns' names, and whether they hold JSON.
    columns: Vec<(String, bool)>,
    hashed: bool,
    keyless: bool,
}

impl RowEncoder {
    pub(super) fn new(table: &Table) -> Result<Self, ArrowError> {
        Ok(RowEncoder {
            decoder: RowDecoder::new(&table.schema)?,
            columns: (table.schema.columns.iter())
                .map(|c| (c.name.clone(), c.sql_type == SqlType::Json))
                .collect(),
            hashed: table.hashed,
            keyless: table.is_keyless(),
        })
    }

    /// One Arrow stream with one batch of these rows.
    pub(super) fn encode(&self, rows: &[OutRow], version: Tick) -> Result<Bytes, ArrowError> {
        let mut columns = self.columns(rows.iter())?;
        columns.push((VERSION_COLUMN, Arc::new(UInt64Array::from_value(version, rows.len()))));
        let deleted = rows.iter().map(|r| u8::from(r.multiplicity == 0));
        columns.push((DELETED_COLUMN, Arc::new(UInt8Array::from_iter_values(deleted))));
        write_stream(columns)
    }

    /// One Arrow stream with one batch of these intervals, for the table of the view's history.
    pub(super) fn encode_history(&self, intervals: &[Interval]) -> Result<Bytes, ArrowError> {
        let mut columns = self.columns(intervals.iter().map(|interval| &interval.row))?;
        let instant = |tick: Tick| i64::try_from(tick).unwrap_or(i64::MAX);
        let from = intervals.iter().map(|interval| instant(interval.from));
        let from = TimestampMillisecondArray::from_iter_values(from).with_timezone("UTC");
        columns.push((VALID_FROM_COLUMN, Arc::new(from)));
        let to = intervals.iter().map(|interval| interval.to.map(instant));
        let to = TimestampMillisecondArray::from_iter(to).with_timezone("UTC");
        columns.push((VALID_TO_COLUMN, Arc::new(to)));
        let versions = intervals.iter().map(Interval::version);
        columns.push((VERSION_COLUMN, Arc::new(UInt64Array::from_iter_values(versions))));
        write_stream(columns)
    }

    /// The view's own columns, and those that tell rows apart.
    fn columns<'a>(
        &self,
        rows: impl ExactSizeIterator<Item = &'a OutRow> + Clone,
    ) -> Result<Vec<(&str, ArrayRef)>, ArrowError> {
        let own = self.decoder.decode(rows.clone().map(|r| (&r.key, &r.value)))?;
        let mut columns: Vec<(&str, ArrayRef)> = Vec::with_capacity(own.len() + 5);
        for ((name, is_json), column) in self.columns.iter().zip(&own) {
            let column = if *is_json { without_escapes(column) } else { Arc::clone(column) };
            columns.push((name.as_str(), storable(&column)?));
        }
        if self.hashed {
            let hashes = rows.clone().map(|r| row_hash(&r.key).to_be_bytes());
            columns.push((HASH_COLUMN, Arc::new(FixedSizeBinaryArray::try_from_iter(hashes)?)));
        }
        if self.keyless {
            let counts = UInt64Array::from_iter_values(rows.map(|r| r.multiplicity));
            columns.push((MULTIPLICITY_COLUMN, Arc::new(counts)));
        }
        Ok(columns)
    }
}

fn write_stream(columns: Vec<(&str, ArrayRef)>) -> Result<Bytes, ArrowError> {
    let fields = columns.iter().map(|(name, column)| {
        Field::new(*name, column.data_type().clone(), column.null_count() > 0)
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        columns.into_iter().map(|(_, column)| column).collect(),
    )?;
    let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
    writer.write(&batch)?;
    writer.finish()?;
    Ok(Bytes::from(writer.into_inner()?))
}

/// The column with every NULL array made an empty one, every NULL struct one whose members are all NULL,
/// and intervals and times of day as texts.
fn storable(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match column.data_type() {
        DataType::List(item) => {
            let lists = column.as_list::<i32>();
            let values = storable(lists.values())?;
            let item = Field::clone(item).with_data_type(values.data_type().clone());
            // A NULL list has no items in this encoding, so it is an empty one without its mark.
            if (0..lists.len()).any(|row| lists.is_null(row) && lists.value_length(row) != 0) {
                return Err(ArrowError::InvalidArgumentError("a NULL array has items".into()));
            }
            let offsets = lists.offsets().clone();
            Ok(Arc::new(ListArray::try_new(Arc::new(item), offsets, values, None)?))
        }
        DataType::Struct(fields) => {
            let members = column.as_struct();
            let stored = members
                .columns()
                .iter()
                .map(|member| storable(&null_where(member, members.nulls())?));
            let stored = stored.collect::<Result<Vec<_>, ArrowError>>()?;
            let fields = fields.iter().zip(&stored).map(|(field, member)| {
                let nullable = field.is_nullable() || member.null_count() > 0;
                let field = Field::clone(field).with_nullable(nullable);
                Arc::new(field.with_data_type(member.data_type().clone()))
            });
            Ok(Arc::new(StructArray::try_new(fields.collect(), stored, None)?))
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let intervals = column.as_primitive::<IntervalMonthDayNanoType>().iter();
            Ok(Arc::new(intervals.map(|value| value.map(interval::iso)).collect::<StringArray>()))
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            let times = column.as_primitive::<Time64MicrosecondType>().iter();
            Ok(Arc::new(times.map(|v| v.map(interval::clock_text)).collect::<StringArray>()))
        }
        _ => {
            let array = column.as_ref();
            Ok(downcast_primitive_array!(
                array => Arc::new(with_plain_nulls(array)),
                _ => Arc::clone(column),
            ))
        }
    }
}

/// The array with zeroes where it is NULL. ClickHouse checks the range of those values too, and
/// decoding leaves whatever the encoding has there.
fn with_plain_nulls<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>) -> PrimitiveArray<T> {
    if array.null_count() == 0 {
        return array.clone();
    }
    let values = array.iter().map(|value| value.unwrap_or_default());
    let values = ScalarBuffer::from_iter(values);
    PrimitiveArray::new(values, array.nulls().cloned()).with_data_type(array.data_type().clone())
}

/// The array, NULL also where these are.
fn null_where(column: &ArrayRef, nulls: Option<&NullBuffer>) -> Result<ArrayRef, ArrowError> {
    let all = NullBuffer::union(column.nulls(), nulls);
    if nulls.is_none_or(|nulls| nulls.null_count() == 0) {
        return Ok(Arc::clone(column));
    }
    Ok(make_array(column.to_data().into_builder().nulls(all).build()?))
}
