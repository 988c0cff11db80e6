//! Rows as bytes: the form in which keys and values cross stateful operators.
//!
//! The encoding is `arrow-row`'s: comparing the bytes compares the rows, column by column, NULLs
//! first. Equality of bytes is equality in SQL's GROUP BY sense, because negative zero and the many
//! NaNs are made one before encoding.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Int64Array, ListArray, PrimitiveArray,
    StringArray, StructArray, make_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, TimeUnit};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, RowParser, SortField};
use smallvec::SmallVec;
use xxhash_rust::xxh3::Xxh3;

/// Most bytes of a row that are held without a heap allocation.
pub const ROW_BYTES_INLINE: usize = 16;

/// One encoded row. Ordered as its bytes are.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(SmallVec<[u8; ROW_BYTES_INLINE]>);

impl Row {
    /// A row of these bytes.
    #[inline]
    pub fn from_slice(bytes: &[u8]) -> Self {
        Row(SmallVec::from_slice(bytes))
    }

    /// Bytes on the heap, beyond the size of `Row` itself.
    pub fn heap_bytes(&self) -> usize {
        if self.0.spilled() { self.0.capacity() } else { 0 }
    }
}

impl Clone for Row {
    /// Copies the bytes as a whole; a derived clone would push them one by one.
    #[inline]
    fn clone(&self) -> Self {
        Row::from_slice(self)
    }
}

impl Deref for Row {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Row(")?;
        for byte in self.iter() {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

impl serde::Serialize for Row {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Row {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Row(SmallVec::from_vec(Vec::<u8>::deserialize(deserializer)?)))
    }
}

/// Encoded rows of one batch, side by side in memory.
pub struct EncodedRows {
    rows: Option<arrow::row::Rows>,
    len: usize,
}

impl EncodedRows {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is no row.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of row `index`; `index` must be below `len()`.
    #[inline]
    pub fn bytes(&self, index: usize) -> &[u8] {
        match &self.rows {
            Some(rows) => rows.row(index).data(),
            None => &[],
        }
    }
}

/// Encodes columns of fixed types into rows, and back.
pub struct RowCodec {
    types: Vec<DataType>,
    converter: RowConverter,
    parser: RowParser,
}

impl RowCodec {
    /// A codec for rows of these columns. Fails on a type that has no order (a MAP, say).
    pub fn new(types: &[DataType]) -> Result<Self, ArrowError> {
        let fields = types.iter().cloned().map(SortField::new).collect();
        RowCodec::with_fields(types, fields)
    }

    /// A codec whose columns are ordered as the sort fields say.
    pub fn with_fields(types: &[DataType], fields: Vec<SortField>) -> Result<Self, ArrowError> {
        let converter = RowConverter::new(fields)?;
        let parser = converter.parser();
        Ok(RowCodec { types: types.to_vec(), converter, parser })
    }

    /// The types of the columns.
    pub fn types(&self) -> &[DataType] {
        &self.types
    }

    /// Encodes `len` rows held in `columns`.
    pub fn encode(&self, columns: &[ArrayRef], len: usize) -> Result<EncodedRows, ArrowError> {
        if self.types.is_empty() {
            return Ok(EncodedRows { rows: None, len });
        }
        let normal: Vec<ArrayRef> = columns.iter().map(normalize_floats).collect();
        let rows = self.converter.convert_columns(&normal)?;
        assert_eq!(rows.num_rows(), len, "columns and row count agree");
        Ok(EncodedRows { rows: Some(rows), len })
    }

    /// Decodes rows that this codec, or one of the same types, has encoded.
    pub fn decode<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        if self.types.is_empty() {
            return Ok(Vec::new());
        }
        self.converter.convert_rows(rows.into_iter().map(|bytes| self.parser.parse(bytes)))
    }
}

/// A hash of how values of each type are encoded, which the library that does it does not promise to
/// keep: encoded rows of a process with another one mean something else.
pub fn encoding_fingerprint() -> u64 {
    let numbers: ArrayRef =
        Arc::new(Int64Array::from(vec![None, Some(-1_000_000_007), Some(0), Some(1_000_000_007)]));
    let long = "a text that is longer than a block of an encoded one".repeat(3);
    let texts: ArrayRef = Arc::new(StringArray::from(vec![None, Some(""), Some("a"), Some(&long)]));
    let tz = Some(Arc::from("UTC"));
    let types = [
        DataType::Boolean,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::UInt16,
        DataType::UInt32,
        DataType::UInt64,
        DataType::Float32,
        DataType::Float64,
        DataType::Decimal128(38, 9),
        DataType::Decimal256(76, 9),
        DataType::Date32,
        DataType::Timestamp(TimeUnit::Second, None),
        DataType::Timestamp(TimeUnit::Microsecond, tz),
        DataType::Time64(TimeUnit::Nanosecond),
        DataType::Utf8,
    ];
    let mut columns = vec![texts.clone()];
    if let Ok(bytes) = cast(&texts, &DataType::Binary) {
        columns.push(bytes);
    }
    // A number that a type cannot hold is NULL.
    columns.extend(types.iter().filter_map(|data_type| cast(&numbers, data_type).ok()));
    let field = |array: &ArrayRef| Arc::new(Field::new("f", array.data_type().clone(), true));
    let offsets = || OffsetBuffer::from_lengths([1, 0, 2, 1]);
    let lists = [&texts, &numbers].map(|array| -> ArrayRef {
        Arc::new(ListArray::new(field(array), offsets(), Arc::clone(array), None))
    });
    columns.push(Arc::new(StructArray::from(vec![
        (field(&texts), texts),
        (field(&lists[0]), Arc::clone(&lists[0])),
    ])));
    columns.extend(lists);
    let mut hash = Xxh3::new();
    for column in columns {
        let types = [column.data_type().clone()];
        hash.update(format!("{types:?}").as_bytes());
        let encoded = RowCodec::new(&types).and_then(|codec| codec.encode(&[column], 4));
        if let Ok(rows) = encoded {
            (0..rows.len()).for_each(|row| hash.update(rows.bytes(row)));
        }
    }
    hash.digest()
}

/// Makes values that SQL calls equal equal in bytes: `-0.0` becomes `0.0`, every NaN the same NaN.
fn normalize_floats(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float32 => {
            map_floats::<Float32Type>(column, |v| if v.is_nan() { f32::NAN } else { v + 0.0 })
        }
        DataType::Float64 => {
            map_floats::<Float64Type>(column, |v| if v.is_nan() { f64::NAN } else { v + 0.0 })
        }
        DataType::Struct(_) | DataType::List(_) => {
            let data = column.to_data();
            let children = data
                .child_data()
                .iter()
                .map(|child| normalize_floats(&make_array(child.clone())).to_data())
                .collect();
            match data.into_builder().child_data(children).build() {
                Ok(data) => make_array(data),
                Err(_) => Arc::clone(column),
            }
        }
        _ => Arc::clone(column),
    }
}

fn map_floats<T: ArrowPrimitiveType>(
    column: &ArrayRef,
    op: impl Fn(T::Native) -> T::Native,
) -> ArrayRef {
    let floats: &PrimitiveArray<T> = column.as_primitive::<T>();
    Arc::new(floats.unary::<_, T>(op))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Float64Array;

    #[test]
    fn encoding_of_rows_is_that_of_snapshots_before() {
        // Where this changes, what is in snapshots is not read any more, and views are replayed.
        assert_eq!(format!("{:016x}", encoding_fingerprint()), "18476dec514bdb5c");
    }

    #[test]
    fn rows_that_sql_calls_equal_are_equal_bytes_and_come_back() {
        let codec = RowCodec::new(&[DataType::Float64, DataType::Utf8]).unwrap();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Float64Array::from(vec![-0.0, 0.0, -f64::NAN, f64::NAN])),
            Arc::new(StringArray::from(vec!["ä", "ä", "b", "b"])),
        ];
        let rows = codec.encode(&columns, 4).unwrap();
        assert_eq!(rows.bytes(0), rows.bytes(1));
        assert_eq!(rows.bytes(2), rows.bytes(3));
        assert!(rows.bytes(1) < rows.bytes(2));
        let back = codec.decode((0..4).map(|i| rows.bytes(i))).unwrap();
        assert_eq!(back[1].as_string::<i32>().value(0), "ä");
        assert!(back[0].as_primitive::<Float64Type>().value(3).is_nan());
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let codec = RowCodec::new(&[]).unwrap();
        let rows = codec.encode(&[], 3).unwrap();
        assert_eq!((rows.len(), rows.bytes(2)), (3, &[][..]));
    }
}
