//! Views against a batch engine: whatever the order and batching of events, whatever the number of
//! workers, a view is what DataFusion answers over the same events.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::{SessionConfig, SessionContext};
use heliostat::decode::TableDecoder;
use heliostat::engine::local::LocalRun;
use heliostat::log::Frame;
use heliostat::model::event::NewEvent;
use heliostat::model::source::{SourceColumn, SourceTable};
use heliostat::plan::diagnostic::SourceFile;
use heliostat::plan::{QuerySet, plan_files};

const TABLES: &str = "
CREATE TABLE bids (auction BIGINT NOT NULL, bidder BIGINT NOT NULL, price BIGINT, channel TEXT, rate DOUBLE,
  amount DECIMAL(12,2), urgent BOOLEAN, at TIMESTAMP(3), tags ARRAY<TEXT>) WITH (event_type = 'Bid');
CREATE TABLE auctions (id BIGINT NOT NULL, seller BIGINT, category INT, title TEXT) WITH (event_type = 'Auction');
CREATE TABLE people (id BIGINT, name TEXT, city TEXT, gone BOOLEAN, PRIMARY KEY (id))
  WITH (event_type = 'Person', mode = 'upsert', delete_when = 'gone');
";

/// The same upsert table for the oracle.
const PEOPLE_ORACLE: &str = "SELECT id, name, city, gone FROM (SELECT *, row_number() OVER \
  (PARTITION BY id ORDER BY _position DESC) AS rn FROM people_events) WHERE rn = 1 AND coalesce(gone, false) = false";

const VIEWS: &[(&str, &str)] = &[
    (
        "v_filter",
        "SELECT auction, price * 2 AS doubled, upper(channel) AS channel FROM bids WHERE price > 50 AND channel <> 'b'",
    ),
    (
        "v_group",
        "SELECT auction, count(*) AS n, count(price) AS np, sum(price) AS s, min(price) AS lo, max(price) AS hi, avg(price) AS a FROM bids GROUP BY auction",
    ),
    (
        "v_floats",
        "SELECT auction, sum(rate) AS s, avg(rate) AS a, stddev(rate) AS sd, var_pop(rate) AS vp, min(amount) AS lo, max(channel) AS hi FROM bids GROUP BY auction",
    ),
    (
        "v_decimal",
        "SELECT channel, sum(amount) AS s, avg(amount) AS a, max(amount) AS m, bool_and(urgent) AS ba, bool_or(urgent) AS bo FROM bids GROUP BY channel",
    ),
    (
        "v_global",
        "SELECT count(*) AS n, sum(price) AS s, max(at) AS latest, count(DISTINCT bidder) AS bidders FROM bids WHERE price < 0 OR price > 30",
    ),
    (
        "v_global_empty",
        "SELECT count(*) AS n, sum(price) AS s, min(channel) AS c FROM bids WHERE price > 1000000",
    ),
    (
        "v_distinct_aggs",
        "SELECT auction, count(DISTINCT bidder) AS b, sum(DISTINCT price) AS s, count(*) FILTER (WHERE urgent) AS u, sum(price) FILTER (WHERE channel = 'a') AS sa FROM bids GROUP BY auction",
    ),
    (
        "v_having",
        "SELECT bidder, sum(price) AS total FROM bids GROUP BY bidder HAVING sum(price) > 100 AND count(*) > 1",
    ),
    (
        "v_inner",
        "SELECT a.id, a.title, b.bidder, b.price FROM auctions a JOIN bids b ON a.id = b.auction AND b.price > a.category",
    ),
    (
        "v_left",
        "SELECT a.id, a.title, b.bidder, b.price FROM auctions a LEFT JOIN bids b ON a.id = b.auction",
    ),
    (
        "v_left_cond",
        "SELECT a.id, a.title, b.bidder FROM auctions a LEFT JOIN bids b ON a.id = b.auction AND b.price > 60",
    ),
    (
        "v_right",
        "SELECT a.id, a.title, p.name FROM auctions a RIGHT JOIN people p ON a.seller = p.id",
    ),
    (
        "v_full",
        "SELECT a.id, a.title, p.id AS pid, p.name FROM auctions a FULL JOIN people p ON a.seller = p.id AND a.category > 2",
    ),
    (
        "v_in",
        "SELECT id, title FROM auctions WHERE id IN (SELECT auction FROM bids WHERE price > 40)",
    ),
    (
        "v_not_exists",
        "SELECT p.id, p.name FROM people p WHERE NOT EXISTS (SELECT 1 FROM bids b WHERE b.bidder = p.id AND b.price > 30)",
    ),
    ("v_not_in", "SELECT a.id FROM auctions a WHERE a.id NOT IN (SELECT auction FROM bids)"),
    (
        "v_union",
        "SELECT id AS x, title AS t FROM auctions UNION ALL SELECT bidder, channel FROM bids",
    ),
    (
        "v_union_distinct",
        "SELECT category AS x FROM auctions UNION SELECT CAST(bidder AS INT) FROM bids",
    ),
    ("v_distinct", "SELECT DISTINCT channel, urgent FROM bids"),
    (
        "v_people",
        "SELECT city, count(*) AS n, min(name) AS first_name, max(id) AS last_id FROM people GROUP BY city",
    ),
    (
        "v_cte",
        "WITH big AS (SELECT auction, max(price) AS top FROM bids GROUP BY auction) SELECT category, count(*) AS n, sum(top) AS s, min(top) AS lo FROM big JOIN auctions ON big.auction = auctions.id GROUP BY category",
    ),
    (
        "v_three",
        "SELECT p.city, a.category, sum(b.price) AS s FROM bids b, auctions a, people p WHERE b.auction = a.id AND a.seller = p.id GROUP BY p.city, a.category",
    ),
    (
        "v_bucket",
        "SELECT date_trunc('minute', at) AS minute, count(*) AS n, sum(amount) AS s FROM bids GROUP BY date_trunc('minute', at)",
    ),
    (
        "v_case",
        "SELECT auction, CASE WHEN price IS NULL THEN 'none' WHEN price > 50 THEN 'high' ELSE 'low' END AS band, count(*) AS n FROM bids GROUP BY 1, 2",
    ),
    (
        "v_cross",
        "SELECT a.id, p.id AS pid FROM auctions a CROSS JOIN people p WHERE a.category > p.id",
    ),
    ("v_over_view", "SELECT n, count(*) AS auctions FROM v_group GROUP BY n"),
    ("v_except", "SELECT id FROM auctions EXCEPT SELECT auction FROM bids"),
    ("v_intersect", "SELECT id FROM auctions INTERSECT SELECT auction FROM bids"),
    (
        "v_top",
        "SELECT auction, bidder, price, channel, rate FROM bids ORDER BY price DESC NULLS LAST, auction, bidder, channel, rate LIMIT 7",
    ),
    (
        "v_values",
        "SELECT v.column1 AS k, count(b.auction) AS n FROM (VALUES (1), (2), (99)) v LEFT JOIN bids b ON b.auction = v.column1 GROUP BY v.column1",
    ),
    ("v_guard", "SELECT auction, 100 / price AS q FROM bids WHERE price <> 0 AND 100 / price > 1"),
];

/// Where the oracle has to be asked in other words: it tests conditions in an order of its own, so
/// that a guard does not guard.
const ORACLE_WORDS: &[(&str, &str)] = &[(
    "v_guard",
    "SELECT auction, q FROM (SELECT auction, 100 / nullif(price, 0) AS q FROM bids) WHERE q > 1",
)];

/// The views of `oracle/constructs.sql`: name, SQL, and other words for the oracle.
fn constructs() -> Vec<(&'static str, &'static str, Option<&'static str>)> {
    let blocks = include_str!("oracle/constructs.sql").split("-- view ").skip(1);
    blocks
        .map(|block| {
            let (name, rest) = block.split_once('\n').unwrap();
            match rest.split_once("-- oracle\n") {
                Some((sql, words)) => (name, sql.trim(), Some(words.trim())),
                None => (name, rest.trim(), None),
            }
        })
        .collect()
}

/// All views: name, SQL, and what the oracle is asked.
fn views() -> Vec<(&'static str, &'static str, &'static str)> {
    let words = |name: &str| ORACLE_WORDS.iter().find(|(n, _)| *n == name).map(|(_, sql)| *sql);
    let plain = VIEWS.iter().map(|(name, sql)| (*name, *sql, words(name).unwrap_or(sql)));
    let further = constructs().into_iter();
    plain.chain(further.map(|(name, sql, words)| (name, sql, words.unwrap_or(sql)))).collect()
}

/// A small generator that needs no crate: xorshift64*.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }
}

fn event(rng: &mut Rng) -> NewEvent {
    let (event_type, data) = match rng.below(10) {
        0 | 1 => {
            let (id, seller, category) = (rng.below(12), rng.below(8), rng.below(6));
            let title = rng.pick(&["\"lamp\"", "\"vase\"", "null", "\"ü\""]);
            (
                "Auction",
                format!(r#"{{"id":{id},"seller":{seller},"category":{category},"title":{title}}}"#),
            )
        }
        2 | 3 => {
            let (id, gone) = (rng.below(8), rng.pick(&["true", "false", "false", "null"]));
            let name = rng.pick(&["\"Ann\"", "\"Bob\"", "\"Cid\"", "null"]);
            let city = rng.pick(&["\"Rome\"", "\"Oslo\"", "null"]);
            ("Person", format!(r#"{{"id":{id},"name":{name},"city":{city},"gone":{gone}}}"#))
        }
        _ => {
            let price = match rng.below(10) {
                0 => "null".to_string(),
                _ => rng.below(100).to_string(),
            };
            let rate = rng.pick(&["0.1", "0.2", "1e10", "-0.0", "0.0", "null", "3.25", "\"NaN\""]);
            (
                "Bid",
                format!(
                    r#"{{"auction":{},"bidder":{},"price":{price},"channel":{},"rate":{rate},"amount":{},"urgent":{},"at":"2026-11-23T10:{:02}:{:02}.5Z","tags":{}}}"#,
                    rng.below(12),
                    rng.below(8),
                    rng.pick(&["\"a\"", "\"b\"", "\"c\"", "null"]),
                    rng.pick(&["1.25", "\"2.5\"", "null", "-7", "0.01"]),
                    rng.pick(&["true", "false", "null"]),
                    rng.below(5),
                    rng.below(60),
                    rng.pick(&["[]", "null", "[\"x\",\"y\"]", "[null,\"z\"]"]),
                ),
            )
        }
    };
    NewEvent {
        id: format!("{:x}", rng.next()),
        source: String::new(),
        event_type: event_type.to_string(),
        version: 1,
        stream: None,
        time_us: 0,
        data: data.into_bytes(),
        metadata: Vec::new(),
    }
}

fn query_set() -> QuerySet {
    let views: Vec<String> = views()
        .iter()
        .map(|(name, sql, _)| format!("CREATE MATERIALIZED VIEW {name} AS {sql};"))
        .collect();
    let text = format!("{TABLES}\n{}", views.join("\n"));
    let file = Arc::new(SourceFile { path: PathBuf::from("views.sql"), text });
    let set = plan_files(&[file], "test");
    for diagnostic in &set.diagnostics {
        println!("{diagnostic}");
    }
    assert!(set.diagnostics.is_empty(), "the views of this test are sound");
    set
}

/// What DataFusion answers over these events.
async fn oracle(set: &QuerySet, events: &[NewEvent]) -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    config.options_mut().sql_parser.parse_float_as_decimal = true;
    let context = SessionContext::new_with_config(config);
    for table in &set.tables {
        let source = SourceTable::Declared(Arc::clone(table));
        let columns: Vec<SourceColumn> = source.columns();
        let mut decoder = TableDecoder::new(source, columns);
        if !events.is_empty() {
            let frame = Frame::new(1, 1, events.iter()).unwrap();
            let events = frame.decompress().unwrap();
            for event in events.iter() {
                if !decoder.reads(&event) {
                    continue;
                }
                decoder.push(&event);
            }
        }
        let decoded = decoder.finish();
        assert!(decoded.rejects.is_empty(), "{:?}", decoded.rejects);
        let upsert = table.name == "people";
        let name = if upsert { "people_events" } else { table.name.as_str() };
        context.register_batch(name, decoded.rows).unwrap();
        if upsert {
            context.sql(&format!("CREATE VIEW people AS {PEOPLE_ORACLE}")).await.unwrap();
        }
    }
    for (name, _, asked) in views() {
        context.sql(&format!("CREATE VIEW {name} AS {asked}")).await.unwrap();
    }
    context
}

/// A value to compare by: floats within a relative 1e-9, since the oracle's sums depend on order.
#[derive(Clone, Debug)]
enum Cell {
    Text(String),
    Float(f64),
}

impl Cell {
    fn agrees(&self, other: &Cell) -> bool {
        match (self, other) {
            (Cell::Text(a), Cell::Text(b)) => a == b,
            (Cell::Float(a), Cell::Float(b)) => {
                a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
            }
            _ => false,
        }
    }

    fn order(&self, other: &Cell) -> std::cmp::Ordering {
        match (self, other) {
            (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
            (Cell::Float(a), Cell::Float(b)) if self.agrees(other) => {
                let _ = (a, b);
                std::cmp::Ordering::Equal
            }
            (Cell::Float(a), Cell::Float(b)) => a.total_cmp(b),
            (Cell::Text(_), Cell::Float(_)) => std::cmp::Ordering::Less,
            (Cell::Float(_), Cell::Text(_)) => std::cmp::Ordering::Greater,
        }
    }
}

/// Rows in an order that depends on their values alone.
fn canonical(batches: &[RecordBatch]) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for batch in batches {
        for index in 0..batch.num_rows() {
            rows.push(batch.columns().iter().map(|c| cell(c, index)).collect::<Vec<_>>());
        }
    }
    rows.sort_by(|a, b| {
        let cells = a.iter().zip(b).map(|(a, b)| a.order(b));
        cells.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    });
    rows
}

fn same(ours: &[Vec<Cell>], theirs: &[Vec<Cell>]) -> bool {
    ours.len() == theirs.len()
        && ours.iter().zip(theirs).all(|(a, b)| a.iter().zip(b).all(|(a, b)| a.agrees(b)))
}

fn cell(column: &ArrayRef, row: usize) -> Cell {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{DataType, Float64Type};
    if column.is_null(row) {
        return Cell::Text("NULL".to_string());
    }
    if column.data_type() == &DataType::Float64 {
        return Cell::Float(column.as_primitive::<Float64Type>().value(row));
    }
    Cell::Text(arrow::util::display::array_value_to_string(column, row).unwrap())
}

async fn compare(set: &QuerySet, run: &LocalRun, events: &[NewEvent], what: &str) {
    let context = oracle(set, events).await;
    for (index, view) in set.views.iter().enumerate() {
        let name = &view.schema.name;
        let rows = run.rows(index).unwrap();
        let expected = context.sql(&format!("SELECT * FROM {name}")).await.unwrap().collect().await;
        let expected = expected.unwrap_or_else(|error| panic!("{name}: {error}"));
        let (ours, theirs) = (canonical(std::slice::from_ref(&rows)), canonical(&expected));
        assert!(
            same(&ours, &theirs),
            "{what}: {name} differs\nours:\n{}\noracle:\n{}\n{}",
            pretty_format_batches(&[rows]).unwrap(),
            pretty_format_batches(&expected).unwrap(),
            heliostat::plan::explain::explain(view),
        );
    }
}

#[tokio::test]
async fn views_are_what_a_batch_engine_answers() {
    let set = query_set();
    for seed in 1..=6_u64 {
        for workers in [1, 2, 3] {
            let mut rng = Rng(seed * 7919);
            let mut run = LocalRun::start(&set.views, workers).unwrap();
            let mut events: Vec<NewEvent> = Vec::new();
            let mut tick = 0;
            compare_after_nothing(&set, &mut run, &mut tick, &events).await;
            for _ in 0..4 {
                let groups: Vec<Vec<NewEvent>> = (0..1 + rng.below(3))
                    .map(|_| (0..rng.below(40)).map(|_| event(&mut rng)).collect())
                    .collect();
                tick += 1 + rng.below(5);
                run.feed(tick, &groups).unwrap();
                events.extend(groups.into_iter().flatten());
                // At half of the ticks only, so that the others run into each other.
                if rng.below(2) == 0 {
                    compare(
                        &set,
                        &run,
                        &events,
                        &format!("seed {seed}, {workers} workers, tick {tick}"),
                    )
                    .await;
                }
            }
            compare(&set, &run, &events, &format!("seed {seed}, {workers} workers, end")).await;
        }
    }
}

async fn compare_after_nothing(
    set: &QuerySet,
    run: &mut LocalRun,
    tick: &mut u64,
    events: &[NewEvent],
) {
    *tick += 1;
    run.feed(*tick, &[]).unwrap();
    compare(set, run, events, "without events").await;
}

/// An event with a bad column is no row for a view that reads the column, and one for all others.
#[test]
fn what_other_views_read_changes_nothing() {
    let text = "
CREATE TABLE t (k BIGINT NOT NULL, n INT) WITH (event_type = 'T', on_invalid = 'quarantine');
CREATE MATERIALIZED VIEW counts AS SELECT k, count(*) AS n FROM t GROUP BY k;
CREATE MATERIALIZED VIEW sums AS SELECT k, sum(n) AS s FROM t GROUP BY k;";
    let file = Arc::new(SourceFile { path: PathBuf::from("t.sql"), text: text.to_string() });
    let set = plan_files(&[file], "test");
    assert!(set.diagnostics.is_empty());
    let event = |data: &str| NewEvent {
        event_type: "T".to_string(),
        data: data.as_bytes().to_vec(),
        ..event(&mut Rng(1))
    };
    let events =
        ["{\"k\":1,\"n\":2}", "{\"k\":1,\"n\":\"x\"}", "{\"n\":5}", "{\"k\":1}"].map(event);
    let mut run = LocalRun::start(&set.views, 2).unwrap();
    run.feed(1, &[events.to_vec()]).unwrap();
    let rows = |view| canonical(&[run.rows(view).unwrap()]);
    assert_eq!(format!("{:?}", rows(0)), r#"[[Text("1"), Text("3")]]"#);
    assert_eq!(format!("{:?}", rows(1)), r#"[[Text("1"), Text("2")]]"#);
}
