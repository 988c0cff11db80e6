//! Columns under construction. Unlike Arrow's builders they can be cut back, so that an event which
//! fails half-way leaves nothing behind.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array,
    Float32Array, Float64Array, GenericByteArray, Int16Array, Int32Array, Int64Array,
    IntervalMonthDayNanoArray, ListArray, StructArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Fields, IntervalMonthDayNano, TimeUnit, Utf8Type, i256};

use super::value::ObjectMembers;
use crate::model::schema::{FieldNaming, SqlType};

/// Values of a fixed size with their validity.
#[derive(Debug)]
pub struct Fixed<T> {
    values: Vec<T>,
    valid: Validity,
}

impl<T: Default> Fixed<T> {
    fn new() -> Self {
        Fixed { values: Vec::new(), valid: Validity::default() }
    }

    #[inline]
    pub fn push(&mut self, value: Option<T>) {
        self.valid.push(value.is_some());
        self.values.push(value.unwrap_or_default());
    }

    fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
        self.valid.truncate(len);
    }

    fn take(&mut self) -> (Vec<T>, Option<NullBuffer>) {
        (std::mem::take(&mut self.values), self.valid.take())
    }
}

/// Which values are not NULL.
#[derive(Debug, Default)]
pub struct Validity {
    valid: Vec<bool>,
    nulls: usize,
}

impl Validity {
    #[inline]
    fn push(&mut self, valid: bool) {
        self.nulls += usize::from(!valid);
        self.valid.push(valid);
    }

    fn truncate(&mut self, len: usize) {
        for valid in self.valid.drain(len..) {
            self.nulls -= usize::from(!valid);
        }
    }

    fn take(&mut self) -> Option<NullBuffer> {
        let valid = std::mem::take(&mut self.valid);
        let some = std::mem::take(&mut self.nulls) > 0;
        some.then(|| NullBuffer::from(valid))
    }
}

/// Texts or byte strings, end to end.
#[derive(Debug, Default)]
pub struct Strings {
    bytes: Vec<u8>,
    ends: Vec<i32>,
    valid: Validity,
}

impl Strings {
    #[inline]
    pub fn push(&mut self, value: Option<&[u8]>) {
        self.valid.push(value.is_some());
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.ends.push(self.bytes.len() as i32);
    }

    fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.bytes.truncate(self.ends.last().map_or(0, |end| *end as usize));
        self.valid.truncate(len);
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer, Option<NullBuffer>) {
        (offsets(&mut self.ends), std::mem::take(&mut self.bytes).into(), self.valid.take())
    }
}

fn offsets(ends: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let mut all = Vec::with_capacity(ends.len() + 1);
    all.push(0);
    all.append(ends);
    OffsetBuffer::new(ScalarBuffer::from(all))
}

/// The lists of an array column.
#[derive(Debug)]
pub struct Lists {
    pub items: ColumnBuilder,
    item_type: DataType,
    ends: Vec<i32>,
    valid: Validity,
}

impl Lists {
    /// Ends the current list; its items were pushed to `items`.
    pub fn close(&mut self, valid: bool) {
        self.valid.push(valid);
        self.ends.push(self.items.len() as i32);
    }

    fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.items.truncate(self.ends.last().map_or(0, |end| *end as usize));
        self.valid.truncate(len);
    }
}

/// The members of a struct column.
#[derive(Debug)]
pub struct Structs {
    pub members: ObjectMembers,
    fields: Fields,
    valid: Validity,
}

impl Structs {
    /// Ends the current struct; its members were pushed.
    pub fn close(&mut self, valid: bool) {
        self.valid.push(valid);
    }
}

/// A column under construction, by its type.
#[derive(Debug)]
pub enum ColumnBuilder {
    Boolean(Fixed<bool>),
    SmallInt(Fixed<i16>),
    Int(Fixed<i32>),
    BigInt(Fixed<i64>),
    SmallIntUnsigned(Fixed<u16>),
    IntUnsigned(Fixed<u32>),
    BigIntUnsigned(Fixed<u64>),
    Real(Fixed<f32>),
    Double(Fixed<f64>),
    Decimal { precision: u8, scale: i8, values: Fixed<i128> },
    DecimalWide { precision: u8, scale: i8, values: Fixed<i256> },
    Text(Strings),
    Varchar { length: u32, values: Strings },
    Bytea(Strings),
    Date(Fixed<i32>),
    Timestamp { precision: u8, unit: TimeUnit, zone: bool, values: Fixed<i64> },
    Interval(Fixed<IntervalMonthDayNano>),
    Time(Fixed<i64>),
    Uuid(Strings),
    Json(Strings),
    Array(Box<Lists>),
    Struct(Box<Structs>),
}

impl ColumnBuilder {
    /// An empty column; `naming` is how struct members are named in JSON.
    pub fn new(sql_type: &SqlType, naming: FieldNaming) -> Self {
        match sql_type {
            SqlType::Boolean => ColumnBuilder::Boolean(Fixed::new()),
            SqlType::SmallInt => ColumnBuilder::SmallInt(Fixed::new()),
            SqlType::Int => ColumnBuilder::Int(Fixed::new()),
            SqlType::BigInt => ColumnBuilder::BigInt(Fixed::new()),
            SqlType::SmallIntUnsigned => ColumnBuilder::SmallIntUnsigned(Fixed::new()),
            SqlType::IntUnsigned => ColumnBuilder::IntUnsigned(Fixed::new()),
            SqlType::BigIntUnsigned => ColumnBuilder::BigIntUnsigned(Fixed::new()),
            SqlType::Real => ColumnBuilder::Real(Fixed::new()),
            SqlType::Double => ColumnBuilder::Double(Fixed::new()),
            SqlType::Decimal { precision, scale } if *precision <= 38 => ColumnBuilder::Decimal {
                precision: *precision,
                scale: *scale,
                values: Fixed::new(),
            },
            SqlType::Decimal { precision, scale } => ColumnBuilder::DecimalWide {
                precision: *precision,
                scale: *scale,
                values: Fixed::new(),
            },
            SqlType::Text => ColumnBuilder::Text(Strings::default()),
            SqlType::Varchar(length) => {
                ColumnBuilder::Varchar { length: *length, values: Strings::default() }
            }
            SqlType::Bytea => ColumnBuilder::Bytea(Strings::default()),
            SqlType::Date => ColumnBuilder::Date(Fixed::new()),
            SqlType::Timestamp { precision, with_time_zone } => {
                let DataType::Timestamp(unit, _) = sql_type.to_arrow() else {
                    unreachable!("a timestamp is a timestamp in Arrow")
                };
                ColumnBuilder::Timestamp {
                    precision: *precision,
                    unit,
                    zone: *with_time_zone,
                    values: Fixed::new(),
                }
            }
            SqlType::Interval => ColumnBuilder::Interval(Fixed::new()),
            SqlType::Time => ColumnBuilder::Time(Fixed::new()),
            SqlType::Uuid => ColumnBuilder::Uuid(Strings::default()),
            SqlType::Json => ColumnBuilder::Json(Strings::default()),
            SqlType::Array(item) => ColumnBuilder::Array(Box::new(Lists {
                items: ColumnBuilder::new(&item.sql_type, naming),
                item_type: sql_type.to_arrow(),
                ends: Vec::new(),
                valid: Validity::default(),
            })),
            SqlType::Struct(fields) => {
                let mut members = ObjectMembers::default();
                for field in fields {
                    members.push(field, naming, false);
                }
                let DataType::Struct(fields) = sql_type.to_arrow() else {
                    unreachable!("a struct is a struct in Arrow")
                };
                let valid = Validity::default();
                ColumnBuilder::Struct(Box::new(Structs { members, fields, valid }))
            }
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            ColumnBuilder::Boolean(v) => v.values.len(),
            ColumnBuilder::SmallInt(v) => v.values.len(),
            ColumnBuilder::Int(v) => v.values.len(),
            ColumnBuilder::BigInt(v) => v.values.len(),
            ColumnBuilder::SmallIntUnsigned(v) => v.values.len(),
            ColumnBuilder::IntUnsigned(v) => v.values.len(),
            ColumnBuilder::BigIntUnsigned(v) => v.values.len(),
            ColumnBuilder::Real(v) => v.values.len(),
            ColumnBuilder::Double(v) => v.values.len(),
            ColumnBuilder::Decimal { values, .. } => values.values.len(),
            ColumnBuilder::DecimalWide { values, .. } => values.values.len(),
            ColumnBuilder::Text(v)
            | ColumnBuilder::Varchar { values: v, .. }
            | ColumnBuilder::Bytea(v)
            | ColumnBuilder::Uuid(v)
            | ColumnBuilder::Json(v) => v.ends.len(),
            ColumnBuilder::Date(v) => v.values.len(),
            ColumnBuilder::Interval(v) => v.values.len(),
            ColumnBuilder::Time(v) => v.values.len(),
            ColumnBuilder::Timestamp { values, .. } => values.values.len(),
            ColumnBuilder::Array(lists) => lists.ends.len(),
            ColumnBuilder::Struct(structs) => structs.valid.valid.len(),
        }
    }

    /// Cuts back to `len` values.
    pub fn truncate(&mut self, len: usize) {
        match self {
            ColumnBuilder::Boolean(v) => v.truncate(len),
            ColumnBuilder::SmallInt(v) => v.truncate(len),
            ColumnBuilder::Int(v) => v.truncate(len),
            ColumnBuilder::BigInt(v) => v.truncate(len),
            ColumnBuilder::SmallIntUnsigned(v) => v.truncate(len),
            ColumnBuilder::IntUnsigned(v) => v.truncate(len),
            ColumnBuilder::BigIntUnsigned(v) => v.truncate(len),
            ColumnBuilder::Real(v) => v.truncate(len),
            ColumnBuilder::Double(v) => v.truncate(len),
            ColumnBuilder::Decimal { values, .. } => values.truncate(len),
            ColumnBuilder::DecimalWide { values, .. } => values.truncate(len),
            ColumnBuilder::Text(v)
            | ColumnBuilder::Varchar { values: v, .. }
            | ColumnBuilder::Bytea(v)
            | ColumnBuilder::Uuid(v)
            | ColumnBuilder::Json(v) => v.truncate(len),
            ColumnBuilder::Date(v) => v.truncate(len),
            ColumnBuilder::Interval(v) => v.truncate(len),
            ColumnBuilder::Time(v) => v.truncate(len),
            ColumnBuilder::Timestamp { values, .. } => values.truncate(len),
            ColumnBuilder::Array(lists) => lists.truncate(len),
            ColumnBuilder::Struct(structs) => {
                structs.members.truncate(len);
                structs.valid.truncate(len);
            }
        }
    }

    /// Adds NULL.
    pub fn push_null(&mut self) {
        match self {
            ColumnBuilder::Boolean(v) => v.push(None),
            ColumnBuilder::SmallInt(v) => v.push(None),
            ColumnBuilder::Int(v) => v.push(None),
            ColumnBuilder::BigInt(v) => v.push(None),
            ColumnBuilder::SmallIntUnsigned(v) => v.push(None),
            ColumnBuilder::IntUnsigned(v) => v.push(None),
            ColumnBuilder::BigIntUnsigned(v) => v.push(None),
            ColumnBuilder::Real(v) => v.push(None),
            ColumnBuilder::Double(v) => v.push(None),
            ColumnBuilder::Decimal { values, .. } => values.push(None),
            ColumnBuilder::DecimalWide { values, .. } => values.push(None),
            ColumnBuilder::Text(v)
            | ColumnBuilder::Varchar { values: v, .. }
            | ColumnBuilder::Bytea(v)
            | ColumnBuilder::Uuid(v)
            | ColumnBuilder::Json(v) => v.push(None),
            ColumnBuilder::Date(v) => v.push(None),
            ColumnBuilder::Interval(v) => v.push(None),
            ColumnBuilder::Time(v) => v.push(None),
            ColumnBuilder::Timestamp { values, .. } => values.push(None),
            ColumnBuilder::Array(lists) => lists.close(false),
            ColumnBuilder::Struct(structs) => {
                structs.members.push_nulls();
                structs.close(false);
            }
        }
    }

    /// Adds a number that the engine made to a BIGINT or TIMESTAMP column.
    pub fn push_i64(&mut self, value: i64) {
        match self {
            ColumnBuilder::BigInt(v) => v.push(Some(value)),
            ColumnBuilder::Timestamp { values, .. } => values.push(Some(value)),
            other => unreachable!("{other:?} is no column of 64-bit numbers"),
        }
    }

    /// Adds a number that the engine made to an INT column.
    pub fn push_i32(&mut self, value: i32) {
        match self {
            ColumnBuilder::Int(v) => v.push(Some(value)),
            other => unreachable!("{other:?} is no column of 32-bit numbers"),
        }
    }

    /// Adds a truth value to a BOOLEAN column.
    pub fn push_bool(&mut self, value: bool) {
        match self {
            ColumnBuilder::Boolean(v) => v.push(Some(value)),
            other => unreachable!("{other:?} is no column of truth values"),
        }
    }

    /// Adds text, which must be UTF-8, to a TEXT or JSON column.
    pub fn push_text(&mut self, value: &[u8]) {
        match self {
            ColumnBuilder::Text(v) | ColumnBuilder::Json(v) => v.push(Some(value)),
            other => unreachable!("{other:?} is no column of texts"),
        }
    }

    /// The column; the builder is empty afterwards.
    pub fn finish(&mut self) -> ArrayRef {
        macro_rules! primitive {
            ($array:ty, $values:expr) => {{
                let (values, nulls) = $values.take();
                Arc::new(<$array>::new(ScalarBuffer::from(values), nulls))
            }};
        }
        match self {
            ColumnBuilder::Boolean(v) => {
                let (values, nulls) = v.take();
                Arc::new(BooleanArray::new(values.into(), nulls))
            }
            ColumnBuilder::SmallInt(v) => primitive!(Int16Array, v),
            ColumnBuilder::Int(v) => primitive!(Int32Array, v),
            ColumnBuilder::BigInt(v) => primitive!(Int64Array, v),
            ColumnBuilder::SmallIntUnsigned(v) => primitive!(UInt16Array, v),
            ColumnBuilder::IntUnsigned(v) => primitive!(UInt32Array, v),
            ColumnBuilder::BigIntUnsigned(v) => primitive!(UInt64Array, v),
            ColumnBuilder::Real(v) => primitive!(Float32Array, v),
            ColumnBuilder::Double(v) => primitive!(Float64Array, v),
            ColumnBuilder::Date(v) => primitive!(Date32Array, v),
            ColumnBuilder::Time(v) => primitive!(Time64MicrosecondArray, v),
            ColumnBuilder::Interval(v) => primitive!(IntervalMonthDayNanoArray, v),
            ColumnBuilder::Decimal { precision, scale, values } => {
                let (values, nulls) = values.take();
                let data_type = DataType::Decimal128(*precision, *scale);
                Arc::new(Decimal128Array::new(values.into(), nulls).with_data_type(data_type))
            }
            ColumnBuilder::DecimalWide { precision, scale, values } => {
                let (values, nulls) = values.take();
                let data_type = DataType::Decimal256(*precision, *scale);
                Arc::new(Decimal256Array::new(values.into(), nulls).with_data_type(data_type))
            }
            ColumnBuilder::Text(v)
            | ColumnBuilder::Varchar { values: v, .. }
            | ColumnBuilder::Uuid(v)
            | ColumnBuilder::Json(v) => {
                let (offsets, bytes, nulls) = v.take();
                // Only text that was checked on its way in is pushed, so this checks in debug only
                // what `try_new` would check again for every batch.
                let array = GenericByteArray::<Utf8Type>::try_new(offsets, bytes, nulls)
                    .unwrap_or_else(|error| unreachable!("texts are UTF-8: {error}"));
                Arc::new(array)
            }
            ColumnBuilder::Bytea(v) => {
                let (offsets, bytes, nulls) = v.take();
                Arc::new(BinaryArray::new(offsets, bytes, nulls))
            }
            ColumnBuilder::Timestamp { unit, zone, values, .. } => {
                let (values, nulls) = values.take();
                let zone = zone.then_some("UTC");
                let values = ScalarBuffer::from(values);
                match unit {
                    TimeUnit::Second => {
                        Arc::new(TimestampSecondArray::new(values, nulls).with_timezone_opt(zone))
                    }
                    TimeUnit::Millisecond => Arc::new(
                        TimestampMillisecondArray::new(values, nulls).with_timezone_opt(zone),
                    ),
                    TimeUnit::Microsecond => Arc::new(
                        TimestampMicrosecondArray::new(values, nulls).with_timezone_opt(zone),
                    ),
                    TimeUnit::Nanosecond => Arc::new(
                        TimestampNanosecondArray::new(values, nulls).with_timezone_opt(zone),
                    ),
                }
            }
            ColumnBuilder::Array(lists) => {
                let DataType::List(item) = &lists.item_type else {
                    unreachable!("an array column is a list")
                };
                let items = lists.items.finish();
                let nulls = lists.valid.take();
                Arc::new(ListArray::new(Arc::clone(item), offsets(&mut lists.ends), items, nulls))
            }
            ColumnBuilder::Struct(structs) => {
                let columns = structs.members.finish();
                let nulls = structs.valid.take();
                Arc::new(StructArray::new(structs.fields.clone(), columns, nulls))
            }
        }
    }
}
