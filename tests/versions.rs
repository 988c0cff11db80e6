//! Versions of events: upcasts, what they must not be, Debezium's change events, and what becomes
//! of events that nothing reads.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use heliostat::internals::dataflow::LocalRun;
use heliostat::internals::model::NewEvent;
use heliostat::internals::plan::SourceFile;
use heliostat::internals::plan::{QuerySet, plan_files};

fn plan(sql: &str) -> QuerySet {
    let file = SourceFile { path: PathBuf::from("q.sql"), text: sql.to_string() };
    plan_files(&[Arc::new(file)], "log", heliostat::internals::sink::KINDS)
}

fn event(number: usize, event_type: &str, version: u32, data: &str) -> NewEvent {
    NewEvent {
        id: format!("e{number}"),
        source: String::new(),
        event_type: event_type.to_string(),
        version,
        stream: None,
        time_us: 1_000_000 * number as i64,
        data: data.as_bytes().to_vec(),
        metadata: Vec::new(),
    }
}

/// The rows of the only view, a line each, and what fails: on one and two workers, with all events
/// at once and one by one.
fn check(sql: &str, events: &[(&str, u32, &str)], rows: &[&str], failures: &[&str]) {
    let set = plan(sql);
    assert!(set.diagnostics.is_empty(), "{:?}", set.diagnostics);
    let events: Vec<NewEvent> = events
        .iter()
        .enumerate()
        .map(|(i, (event_type, version, data))| event(i + 1, event_type, *version, data))
        .collect();
    for (workers, group) in [(1, events.len()), (2, 1)] {
        let mut run = LocalRun::start(&set.views, workers).unwrap();
        run.feed(1, &[]).unwrap();
        for (tick, events) in events.chunks(group).enumerate() {
            run.feed(tick as u64 + 2, &[events.to_vec()]).unwrap();
        }
        let batch = run.rows(0).unwrap();
        let table = pretty_format_batches(&[batch]).unwrap().to_string();
        let mut lines: Vec<String> = table
            .lines()
            .skip(3)
            .filter(|line| !line.starts_with('+'))
            .map(|line| {
                let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
                cells.join(",")
            })
            .collect();
        lines.sort();
        assert_eq!(lines, rows, "{workers} workers");
        let failing: Vec<String> = run
            .failures(0)
            .into_iter()
            .map(|f| format!("{}: {} {:?}", f.expression, f.reason, f.positions))
            .collect();
        assert_eq!(failing, failures, "{workers} workers");
    }
}

const VERSIONS: &str = "
CREATE TABLE placed (order_id TEXT NOT NULL, amount DECIMAL(10,2) NOT NULL, currency TEXT NOT NULL, note TEXT)
  WITH (event_type = 'Placed', version = 3);
CREATE TABLE placed_v2 (order_id TEXT NOT NULL, amount DECIMAL(10,2), currency TEXT)
  WITH (event_type = 'Placed', version = 2);
CREATE TABLE placed_v1 (id BIGINT NOT NULL, cents BIGINT) WITH (event_type = 'Placed');
INSERT INTO placed_v2 (order_id, currency, amount)
  SELECT 'o-' || id, 'EUR', CAST(cents AS DECIMAL(10,2)) / 100 FROM placed_v1;
INSERT INTO placed (order_id, amount, currency)
  SELECT order_id, coalesce(amount, 0), coalesce(currency, '?') FROM placed_v2;
";

const PLACED: &[(&str, u32, &str)] = &[
    ("Placed", 1, r#"{"id": 7, "cents": 1250}"#),
    ("Placed", 2, r#"{"order_id": "b"}"#),
    ("Placed", 3, r#"{"order_id": "c", "amount": 3, "currency": "USD", "note": "n"}"#),
    ("Placed", 9, "{}"),
    ("Other", 9, "{}"),
    ("Placed", 1, r#"{"id": 8, "cents": 99999999999999}"#),
    ("Placed", 1, r#"{"id": "x", "cents": 1}"#),
];

#[test]
fn upcasts_chain_and_keep_the_envelope() {
    check(
        &format!(
            "{VERSIONS} CREATE MATERIALIZED VIEW v AS
             SELECT _position AS p, _event_id AS e, order_id, amount, currency, note FROM placed"
        ),
        PLACED,
        &["1,e1,o-7,12.50,EUR,", "2,e2,b,0.00,?,", "3,e3,c,3.00,USD,n"],
        &[
            "event type Placed: version 9 is not declared [4]",
            "placed_v1.cents / 100: 99999999999999.00 is too large to store in a Decimal128 of precision 10. Max is 99999999.99 [6]",
            "table placed_v1: /id: expected BIGINT, found \"x\" [7]",
        ],
    );
}

#[test]
fn only_columns_that_a_view_reads_can_fail_it() {
    check(
        &format!(
            "{VERSIONS} CREATE MATERIALIZED VIEW v AS SELECT currency, count(*) AS n FROM placed GROUP BY currency"
        ),
        PLACED,
        &["?,1", "EUR,3", "USD,1"],
        &["event type Placed: version 9 is not declared [4]"],
    );
}

#[test]
fn older_versions_of_state_are_replaced_by_newer_ones() {
    check(
        "CREATE TABLE c2 (id BIGINT, name TEXT NOT NULL, gone BOOLEAN, PRIMARY KEY (id))
           WITH (event_type = 'C', version = 2, mode = 'upsert', delete_when = 'gone');
         CREATE TABLE c1 (id BIGINT NOT NULL, first TEXT, last TEXT) WITH (event_type = 'C');
         INSERT INTO c2 (id, name) SELECT id, concat(first, ' ', last) FROM c1;
         CREATE MATERIALIZED VIEW v AS SELECT id, name FROM c2",
        &[
            ("C", 1, r#"{"id": 1, "first": "A", "last": "B"}"#),
            ("C", 2, r#"{"id": 2, "name": "x"}"#),
            ("C", 1, r#"{"id": 2, "first": "C", "last": "D"}"#),
            ("C", 2, r#"{"id": 1, "gone": true}"#),
            ("C", 2, r#"{"id": 3}"#),
        ],
        &["2,C D"],
        &["not_null(c2.name, Utf8(\"name\")): name is NULL in an event that does not delete []"],
    );
}

#[test]
fn a_text_that_is_longer_than_its_column_is_no_row() {
    check(
        "CREATE TABLE n2 (id BIGINT, code VARCHAR(3), tags ARRAY<VARCHAR(2)>)
           WITH (event_type = 'N', version = 2, on_invalid = 'quarantine');
         CREATE TABLE n1 (id BIGINT, name TEXT, words ARRAY<TEXT>) WITH (event_type = 'N', on_invalid = 'quarantine');
         INSERT INTO n2 (id, code, tags) SELECT id, name, words FROM n1;
         CREATE MATERIALIZED VIEW v AS SELECT code, id, tags FROM n2",
        &[
            ("N", 2, r#"{"id": 1, "code": "äöü", "tags": ["ab", "c  "]}"#),
            ("N", 2, r#"{"id": 2, "code": "abc   "}"#),
            ("N", 2, r#"{"id": 3, "code": "abcd"}"#),
            ("N", 2, r#"{"id": 4, "tags": ["a", "abc"]}"#),
            ("N", 1, r#"{"id": 5, "name": "ab "}"#),
            ("N", 1, r#"{"id": 6, "name": "ab c"}"#),
            ("N", 1, r#"{"id": 7, "words": ["a ", null, "b   "]}"#),
            ("N", 1, r#"{"id": 8, "words": ["ab", "abc"]}"#),
        ],
        &[",7,[a , , b ]", "ab,5,", "abc,2,", "äöü,1,[ab, c ]"],
        &[
            "table n2: /code: expected VARCHAR(3), found a text of 4 characters [3]",
            "table n2: /tags/1: expected VARCHAR(2), found a text of 3 characters [4]",
            "varchar(n1.name): value too long for type character varying(3) [6]",
            "varchar(n1.words): value too long for type character varying(2) [8]",
        ],
    );
}

#[test]
fn change_events_insert_update_and_delete() {
    check(
        "CREATE TABLE c (id BIGINT, name TEXT NOT NULL, born DATE, at TIMESTAMP(3), paid DECIMAL(8,2), PRIMARY KEY (id))
           WITH (event_type = 'public.c', format = 'debezium');
         CREATE MATERIALIZED VIEW v AS SELECT id, name, born, at, paid FROM c",
        &[
            ("public.c", 1, r#"{"op":"r","before":null,"after":{"id":1,"name":"a","born":10957,"at":1700000000123,"paid":"1.50"},"source":{"lsn":1}}"#),
            ("public.c", 1, r#"{"schema":{},"payload":{"op":"c","before":null,"after":{"id":2,"name":"b"}}}"#),
            ("public.c", 1, r#"{"op":"u","before":{"id":1},"after":{"id":1,"name":"A","at":"2026-11-23T10:00:00Z"},"ts_ms":5}"#),
            ("public.c", 1, r#"{"op":"d","before":{"id":2},"after":null}"#),
            ("public.c", 1, r#"{"op":"c","after":{"id":3,"name":"c","born":10957,"at":1700000000123}}"#),
            ("public.c", 1, r#"{"op":"t"}"#),
        ],
        &["1,A,,2026-11-23T10:00:00,", "3,c,2000-01-01,2023-11-14T22:13:20.123,"],
        &["table c: /op: op \"t\" truncates a whole table, which one event cannot say here: have the connector skip it (skipped.operations) [6]"],
    );
}

#[test]
fn invalid_upcasts_are_refused_with_the_reason() {
    let tables = "CREATE TABLE t2 (a BIGINT NOT NULL, b TEXT) WITH (event_type = 'T', version = 2);
      CREATE TABLE t1 (a BIGINT, b TEXT, c ARRAY<INT>) WITH (event_type = 'T');
      CREATE TABLE u (a BIGINT) WITH (event_type = 'U');\n";
    for (sql, expected) in [
        ("INSERT INTO t2 (a, b) SELECT 1, b FROM t1", &[][..]),
        ("", &["version 1 of T has no upcast to version 2"]),
        ("INSERT INTO t2 (a) SELECT a FROM t1", &["a may be NULL here, and is NOT NULL in t2"]),
        ("INSERT INTO t2 (b) SELECT b FROM t1", &["a is NOT NULL in t2, and the upcast gives it no value"]),
        ("INSERT INTO t2 (a, b) SELECT b, b FROM t1", &["a is BIGINT in t2, and TEXT here"]),
        ("INSERT INTO t2 (a, x) SELECT 1, b FROM t1", &["t2 has no column x"]),
        ("INSERT INTO t2 (a, b) SELECT 1 FROM t1", &["INSERT names 2 columns, its SELECT has 1"]),
        ("INSERT INTO t2 (a) SELECT 1 FROM t1 WHERE a > 1", &["an upcast has no place for WHERE: one event stays one event"]),
        ("INSERT INTO t2 (a) SELECT count(*) FROM t1", &["an upcast has no place for an aggregate: one event stays one event"]),
        ("INSERT INTO t2 (a) SELECT unnest(c) FROM t1", &["an upcast has no place for UNNEST: one event stays one event"]),
        ("INSERT INTO t2 (a) SELECT (SELECT 1) FROM t1", &["an upcast has no place for a join or sub-query: one event stays one event"]),
        ("INSERT INTO t2 (a) SELECT DISTINCT 1 FROM t1", &["an upcast has no place for DISTINCT: one event stays one event"]),
        ("INSERT INTO t2 (a) SELECT 1 FROM t1, u", &["an upcast is one SELECT from one table: one event stays one event", "version 1 of T has no upcast to version 2"]),
        ("INSERT INTO t2 SELECT 1, b FROM t1", &["an upcast names its columns", "version 1 of T has no upcast to version 2"]),
        ("INSERT INTO t2 (a) VALUES (1)", &["an upcast is one SELECT from one table: one event stays one event", "version 1 of T has no upcast to version 2"]),
        ("INSERT INTO t1 (a) SELECT a FROM t2", &["an upcast leads from an older version to a newer one of the same event type: t2 is T version 2, t1 is T version 1", "version 1 of T has no upcast to version 2"]),
        ("INSERT INTO t2 (a) SELECT 1 FROM nothing", &["there is no event table nothing", "version 1 of T has no upcast to version 2"]),
        ("INSERT INTO t2 (a) SELECT date_part('year', now()) FROM t1", &["now() changes as time passes, and an old event does not: _time and _recorded_at are its own"]),
        ("INSERT INTO t2 (a) SELECT random() FROM t1", &["random() gives another value each time, so a view over it has no exact content"]),
        ("INSERT INTO t2 (a) SELECT 1 FROM t1; INSERT INTO t2 (a) SELECT 2 FROM t1", &["t2 would have each event of version 1 twice"]),
        (
            "CREATE TABLE t3 (a BIGINT) WITH (event_type = 'T', version = 3);
             INSERT INTO t2 (a) SELECT 1 FROM t1; INSERT INTO t3 (a) SELECT a FROM t2; INSERT INTO t3 (a) SELECT a FROM t1",
            &["t3 would have each event of version 1 twice"],
        ),
    ] {
        let mut found: Vec<String> =
            plan(&format!("{tables}{sql}")).diagnostics.into_iter().map(|d| d.message).collect();
        found.sort();
        assert_eq!(found, expected, "{sql}");
    }
}

#[tokio::test]
async fn a_log_is_checked_against_the_declared_versions() {
    let data = tempfile::tempdir().unwrap();
    let directory = heliostat::internals::log::directory(data.path());
    let log = heliostat::internals::log::Log::open(&directory, Default::default()).unwrap();
    for (index, (event_type, version, data)) in PLACED.iter().enumerate() {
        log.append(vec![event(index + 1, event_type, *version, data)]).await.unwrap();
    }
    let queries = tempfile::tempdir().unwrap();
    let check = |sql: &str| {
        std::fs::write(queries.path().join("q.sql"), sql).unwrap();
        // The log is still open, as a server would have it.
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_heliostat"))
            .args(["check", queries.path().to_str().unwrap()])
            .args(["--against", data.path().to_str().unwrap()])
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), told)
    };
    let (code, _, told) = check(VERSIONS);
    assert_eq!(code, Some(1));
    for line in [
        "error: event type Placed: version 9 is not declared: 1 event, at 4",
        "placed_v1.cents / 100: 99999999999999.00 is too large to store in a Decimal128 of precision 10. Max is 99999999.99: 1 event, at 6",
        "error: table placed_v1: /id: expected BIGINT, found \"x\": 1 event, at 7",
        "3 of 7 events would be dead letters",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    let (code, out, told) =
        check("CREATE TABLE o (a INT) WITH (event_type = 'Other', version = 9);");
    assert_eq!((code, told.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("ok: 7 events fit"), "{out}");
    log.close();
}
