//! Every type arrives exactly, and what ClickHouse cannot hold stays out.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array,
    Float32Array, Float64Array, Int16Array, Int32Array, Int32Builder, Int64Array,
    IntervalMonthDayNanoArray, ListArray, ListBuilder, StringArray, StringBuilder, StructArray,
    Time64MicrosecondArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, IntervalMonthDayNano, i256};
use heliostat::internals::model::{SqlField, SqlType};
use heliostat::internals::sink::Retention;

use crate::support::{Feed, Server, collect_rejects, connect_with, field, schema};

/// A column: name, type, three values (the last is NULL) and how ClickHouse shows type and values.
struct Column {
    field: SqlField,
    values: ArrayRef,
    shown: [&'static str; 4],
}

fn column(name: &str, of: SqlType, values: ArrayRef, shown: [&'static str; 4]) -> Column {
    Column { field: field(name, of, true), values, shown }
}

fn timestamp(precision: u8, with_time_zone: bool) -> SqlType {
    SqlType::Timestamp { precision, with_time_zone }
}

fn numbers() -> Vec<Column> {
    vec![
        column(
            "b",
            SqlType::Boolean,
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
            ["Nullable(Bool)", "true", "false", "\\N"],
        ),
        column(
            "i16",
            SqlType::SmallInt,
            Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), None])),
            ["Nullable(Int16)", "-32768", "32767", "\\N"],
        ),
        column(
            "i32",
            SqlType::Int,
            Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None])),
            ["Nullable(Int32)", "-2147483648", "2147483647", "\\N"],
        ),
        column(
            "i64",
            SqlType::BigInt,
            Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None])),
            ["Nullable(Int64)", "-9223372036854775808", "9223372036854775807", "\\N"],
        ),
        column(
            "u16",
            SqlType::SmallIntUnsigned,
            Arc::new(UInt16Array::from(vec![Some(0), Some(u16::MAX), None])),
            ["Nullable(UInt16)", "0", "65535", "\\N"],
        ),
        column(
            "u32",
            SqlType::IntUnsigned,
            Arc::new(UInt32Array::from(vec![Some(0), Some(u32::MAX), None])),
            ["Nullable(UInt32)", "0", "4294967295", "\\N"],
        ),
        column(
            "u64",
            SqlType::BigIntUnsigned,
            Arc::new(UInt64Array::from(vec![Some(0), Some(u64::MAX), None])),
            ["Nullable(UInt64)", "0", "18446744073709551615", "\\N"],
        ),
        column(
            "f32",
            SqlType::Real,
            Arc::new(Float32Array::from(vec![Some(1.5), Some(f32::NEG_INFINITY), None])),
            ["Nullable(Float32)", "1.5", "-inf", "\\N"],
        ),
        column(
            "f64",
            SqlType::Double,
            Arc::new(Float64Array::from(vec![Some(0.1 + 0.2), Some(f64::NAN), None])),
            ["Nullable(Float64)", "0.30000000000000004", "nan", "\\N"],
        ),
    ]
}

fn decimals() -> Vec<Column> {
    let small = Decimal128Array::from(vec![Some(-123_456_789), Some(999_999_999), None]);
    let wide_max = 10_i128.pow(38) - 1;
    let wide = Decimal128Array::from(vec![Some(-wide_max), Some(1), None]);
    let huge_max = i256::from_string(&"9".repeat(76)).unwrap();
    let huge = Decimal256Array::from(vec![Some(huge_max), Some(i256::from(-1)), None]);
    vec![
        column(
            "d9",
            SqlType::Decimal { precision: 9, scale: 2 },
            Arc::new(small.with_precision_and_scale(9, 2).unwrap()),
            ["Nullable(Decimal(9, 2))", "-1234567.89", "9999999.99", "\\N"],
        ),
        column(
            "d38",
            SqlType::Decimal { precision: 38, scale: 10 },
            Arc::new(wide.with_precision_and_scale(38, 10).unwrap()),
            [
                "Nullable(Decimal(38, 10))",
                "-9999999999999999999999999999.9999999999",
                "0.0000000001",
                "\\N",
            ],
        ),
        column(
            "d76",
            SqlType::Decimal { precision: 76, scale: 38 },
            Arc::new(huge.with_precision_and_scale(76, 38).unwrap()),
            [
                "Nullable(Decimal(76, 38))",
                "99999999999999999999999999999999999999.99999999999999999999999999999999999999",
                "-0.00000000000000000000000000000000000001",
                "\\N",
            ],
        ),
    ]
}

fn texts() -> Vec<Column> {
    let text = |a: &str, b: &str| Arc::new(StringArray::from(vec![Some(a), Some(b), None]));
    vec![
        column(
            "t",
            SqlType::Text,
            text("", "größe 漢字 🌞 \u{0}x"),
            ["Nullable(String)", "", "größe 漢字 🌞 \\0x", "\\N"],
        ),
        column(
            "y",
            SqlType::Bytea,
            Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff\xfe"[..]), Some(b"ab"), None])),
            ["Nullable(String)", "00FFFE", "6162", "\\N"],
        ),
        column(
            "u",
            SqlType::Uuid,
            text("00000000-0000-0000-0000-000000000000", "0188a5d4-7f3b-7c9e-8f00-ffffffffffff"),
            [
                "Nullable(UUID)",
                "00000000-0000-0000-0000-000000000000",
                "0188a5d4-7f3b-7c9e-8f00-ffffffffffff",
                "\\N",
            ],
        ),
        column(
            "j",
            SqlType::Json,
            text("{\"a\": [1, null]}", "null"),
            ["Nullable(String)", "{\"a\": [1, null]}", "null", "\\N"],
        ),
    ]
}

fn times() -> Vec<Column> {
    // 1900-01-01T00:00:00Z and 2299-12-31T23:59:59Z
    let (first, last) = (-2_208_988_800_i64, 10_413_791_999_i64);
    let nano = TimestampNanosecondArray::from(vec![Some(i64::MAX), Some(-1), None]);
    let seven = TimestampNanosecondArray::from(vec![Some(123_456_700), Some(-100), None]);
    let milli = TimestampMillisecondArray::from(vec![Some(0), Some(-1), None]);
    let (first_us, last_us) = (first * 1_000_000, last * 1_000_000 + 999_999);
    let micro = TimestampMicrosecondArray::from(vec![Some(first_us), Some(last_us), None]);
    let span = IntervalMonthDayNano::new;
    let spans = vec![Some(span(14, -3, 5_400_500_000_000)), Some(span(0, 0, 0)), None];
    let clocks = vec![Some(86_400_000_000), Some(37_800_500_000), None];
    vec![
        column(
            "iv",
            SqlType::Interval,
            Arc::new(IntervalMonthDayNanoArray::from(spans)),
            ["Nullable(String)", "P1Y2M-3DT1H30M0.5S", "PT0S", "\\N"],
        ),
        column(
            "ti",
            SqlType::Time,
            Arc::new(Time64MicrosecondArray::from(clocks)),
            ["Nullable(String)", "24:00:00", "10:30:00.5", "\\N"],
        ),
        column(
            "da",
            SqlType::Date,
            Arc::new(Date32Array::from(vec![Some(-25_567), Some(120_529), None])),
            ["Nullable(Date32)", "1900-01-01", "2299-12-31", "\\N"],
        ),
        column(
            "t0",
            timestamp(0, false),
            Arc::new(TimestampSecondArray::from(vec![Some(first), Some(last), None])),
            [
                "Nullable(DateTime64(0, \\'UTC\\'))",
                "1900-01-01 00:00:00",
                "2299-12-31 23:59:59",
                "\\N",
            ],
        ),
        column(
            "t3",
            timestamp(3, false),
            Arc::new(milli),
            [
                "Nullable(DateTime64(3, \\'UTC\\'))",
                "1970-01-01 00:00:00.000",
                "1969-12-31 23:59:59.999",
                "\\N",
            ],
        ),
        column(
            "t6",
            timestamp(6, true),
            Arc::new(micro.with_timezone("UTC")),
            [
                "Nullable(DateTime64(6, \\'UTC\\'))",
                "1900-01-01 00:00:00.000000",
                "2299-12-31 23:59:59.999999",
                "\\N",
            ],
        ),
        column(
            "t7",
            timestamp(7, false),
            Arc::new(seven),
            [
                "Nullable(DateTime64(7, \\'UTC\\'))",
                "1970-01-01 00:00:00.1234567",
                "1969-12-31 23:59:59.9999999",
                "\\N",
            ],
        ),
        column(
            "t9",
            timestamp(9, false),
            Arc::new(nano),
            [
                "Nullable(DateTime64(9, \\'UTC\\'))",
                "2262-04-11 23:47:16.854775807",
                "1969-12-31 23:59:59.999999999",
                "\\N",
            ],
        ),
    ]
}

/// `STRUCT<n INT NOT NULL, tags ARRAY<TEXT>>`, in an array and by itself, at the edge of NULL.
fn nested() -> Vec<Column> {
    let text = field("item", SqlType::Text, true);
    let members =
        vec![field("n", SqlType::Int, false), field("tags", SqlType::Array(Box::new(text)), true)];
    let pair = SqlType::Struct(members);
    let mut matrix = ListBuilder::new(ListBuilder::new(Int32Builder::new()));
    matrix.values().values().append_value(1);
    matrix.values().values().append_null();
    matrix.values().append(true);
    matrix.values().append(true);
    matrix.values().append_null();
    matrix.append(true);
    matrix.append(true);
    matrix.append_null();
    let int = SqlType::Array(Box::new(field("item", SqlType::Int, true)));
    let pairs = SqlType::Array(Box::new(field("item", pair.clone(), true)));
    let DataType::List(pair_field) = pairs.to_arrow() else { unreachable!() };
    let lists = ListArray::new(
        pair_field,
        arrow::buffer::OffsetBuffer::from_lengths([3, 0, 0]),
        Arc::new(pair_values(&pair)),
        Some(NullBuffer::from(vec![true, true, false])),
    );
    vec![
        column(
            "pair",
            pair.clone(),
            Arc::new(pair_values(&pair)),
            [
                "Tuple(\\n    n Nullable(Int32),\\n    tags Array(Nullable(String)))",
                "(7,['ä',NULL])",
                "(8,[])",
                "(NULL,[])",
            ],
        ),
        column(
            "matrix",
            SqlType::Array(Box::new(field("item", int, true))),
            Arc::new(matrix.finish()),
            ["Array(Array(Nullable(Int32)))", "[[1,NULL],[],[]]", "[]", "[]"],
        ),
        column(
            "pairs",
            pairs,
            Arc::new(lists),
            [
                "Array(Tuple(\\n    n Nullable(Int32),\\n    tags Array(Nullable(String))))",
                "[(7,['ä',NULL]),(8,[]),(NULL,[])]",
                "[]",
                "[]",
            ],
        ),
    ]
}

/// `(7, ['ä', NULL])`, `(8, NULL)`, NULL
fn pair_values(pair: &SqlType) -> StructArray {
    let mut tags = ListBuilder::new(StringBuilder::new());
    tags.values().append_value("ä");
    tags.values().append_null();
    tags.append(true);
    tags.append_null();
    tags.append_null();
    let DataType::Struct(fields) = pair.to_arrow() else { unreachable!() };
    let members: Vec<ArrayRef> =
        vec![Arc::new(Int32Array::from(vec![7, 8, 0])), Arc::new(tags.finish())];
    StructArray::new(fields, members, Some(NullBuffer::from(vec![true, true, false])))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_arrives_exactly() {
    let server = Server::start().await;
    let sink = server.sink().await;
    let columns: Vec<Column> =
        [numbers(), decimals(), texts(), times(), nested()].into_iter().flatten().collect();
    let mut fields = vec![field("id", SqlType::Int, false)];
    fields.extend(columns.iter().map(|c| c.field.clone()));
    let mut values: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(vec![1, 2, 3]))];
    values.extend(columns.iter().map(|c| Arc::clone(&c.values)));

    // Once as values beside a key, once as rows without a key.
    for (name, key) in [("keyed", Some(vec![0])), ("keyless", None)] {
        let feed = Feed::open(&sink, &schema(name, "0000000000000001", fields.clone(), key)).await;
        feed.rows(5, &values, &[1, 1, 1]).await;
        feed.close(5, 3).await;
        feed.live(5).await;
        feed.shown(5).await;
        for Column { field, shown, .. } in &columns {
            let column = &field.name;
            let of = server
                .query(&format!("SELECT toTypeName({column}) FROM heliostat.{name} LIMIT 1"))
                .await;
            assert_eq!(normal_type(&of), normal_type(shown[0]), "type of {name}.{column}");
            let select = if field.sql_type == SqlType::Bytea { "hex(y)" } else { column };
            let rows =
                server.query(&format!("SELECT {select} FROM heliostat.{name} ORDER BY id")).await;
            let rows: Vec<&str> = rows.split('\n').collect();
            let expected = &shown[1..];
            assert_eq!(rows, expected, "{name}.{column}");
        }
        feed.end().await;
    }
}

fn normal_type(text: &str) -> String {
    text.replace("\\n", "").replace(' ', "")
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_kind_keep_rows_apart() {
    let server = Server::start().await;
    let sink = server.sink().await;
    let text = SqlType::Array(Box::new(field("item", SqlType::Text, true)));
    let fields = vec![field("k", text, true), field("v", SqlType::Int, true)];
    let mut keys = ListBuilder::new(StringBuilder::new());
    keys.append_null();
    keys.append(true);
    keys.values().append_value("a");
    keys.append(true);
    let keys: ArrayRef = Arc::new(keys.finish());
    let values = |v: [i32; 3]| -> ArrayRef { Arc::new(Int32Array::from(v.to_vec())) };

    let feed = Feed::open(&sink, &schema("listed", "01", fields, Some(vec![0]))).await;
    feed.rows(5, &[Arc::clone(&keys), values([1, 2, 3])], &[1, 1, 1]).await;
    feed.close(5, 3).await;
    feed.live(5).await;
    feed.shown(5).await;
    feed.rows(9, &[Arc::clone(&keys), values([1, 2, 3])], &[-1, -1, 0]).await;
    feed.rows(9, &[keys, values([7, 2, 3])], &[1, 0, 0]).await;
    feed.close(9, 4).await;
    feed.shown(9).await;
    let rows = server.query("SELECT k, v FROM heliostat.listed ORDER BY v").await;
    assert_eq!(rows, "['a']\t3\n[]\t7", "a NULL array and an empty one are two keys");
    feed.end().await;

    let fields = vec![field("k", SqlType::Int, true), field("v", SqlType::Int, true)];
    let keys: ArrayRef = Arc::new(Int32Array::from(vec![None, Some(1)]));
    let values = |v: [i32; 2]| -> ArrayRef { Arc::new(Int32Array::from(v.to_vec())) };
    let feed = Feed::open(&sink, &schema("nullable", "01", fields, Some(vec![0]))).await;
    feed.rows(5, &[Arc::clone(&keys), values([1, 2])], &[1, 1]).await;
    feed.close(5, 3).await;
    feed.live(5).await;
    feed.shown(5).await;
    feed.rows(9, &[Arc::clone(&keys), values([1, 2])], &[-1, -1]).await;
    feed.rows(9, &[keys, values([5, 6])], &[1, 1]).await;
    feed.close(9, 4).await;
    feed.shown(9).await;
    assert_eq!(
        server.query("SELECT k, v FROM heliostat.nullable ORDER BY v").await,
        "\\N\t5\n1\t6"
    );
    feed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_clickhouse_cannot_hold_are_left_out_and_told() {
    let server = Server::start().await;
    let (rejects, handler) = collect_rejects();
    let sink = connect_with(&server.own.url(), server.dir.path(), Retention::default(), handler)
        .await
        .unwrap();
    let at = timestamp(6, false);
    let list = SqlType::Array(Box::new(field("item", SqlType::Date, true)));
    let fields =
        vec![field("k", SqlType::Int, false), field("at", at, true), field("days", list, true)];
    let feed = Feed::open(&sink, &schema("limited", "01", fields, Some(vec![0]))).await;
    let year_9999 = 253_370_764_800_000_000;
    let row = |k: i32, at: i64, days: &[i32]| -> Vec<ArrayRef> {
        let mut list = ListBuilder::new(arrow::array::Date32Builder::new());
        list.values().append_slice(days);
        list.append(true);
        vec![
            Arc::new(Int32Array::from(vec![k])),
            Arc::new(TimestampMicrosecondArray::from(vec![at])),
            Arc::new(list.finish()),
        ]
    };
    feed.rows(5, &row(1, 0, &[0, 1]), &[1]).await;
    feed.rows(5, &row(2, year_9999, &[]), &[1]).await;
    feed.rows(5, &row(3, 0, &[0, 200_000]), &[1]).await;
    feed.close(5, 3).await;
    feed.live(5).await;
    feed.shown(5).await;
    assert_eq!(server.query("SELECT k FROM heliostat.limited").await, "1");
    {
        let rejects = rejects.lock().unwrap();
        let told: Vec<_> =
            rejects.iter().map(|(row, why, diff)| (row.as_str(), why, *diff)).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].0.contains("\"k\":\"2\"") && told[0].1.contains("`at`"), "{told:?}");
        assert!(told[1].0.contains("\"k\":\"3\"") && told[1].1.contains("1900-01-01"), "{told:?}");
    }
    // A row that was fine becomes one that cannot be held, and the other way round.
    feed.rows(9, &row(1, 0, &[0, 1]), &[-1]).await;
    feed.rows(9, &row(1, year_9999, &[]), &[1]).await;
    feed.rows(9, &row(2, year_9999, &[]), &[-1]).await;
    feed.rows(9, &row(2, 1, &[]), &[1]).await;
    feed.close(9, 5).await;
    feed.shown(9).await;
    assert_eq!(
        server.query("SELECT k, at FROM heliostat.limited").await,
        "2\t1970-01-01 00:00:00.000001"
    );
    let left: i64 = rejects.lock().unwrap().iter().map(|(_, _, diff)| diff).sum();
    assert_eq!(left, 2, "rows 1 and 3 are left out now");
    feed.end().await;
}
