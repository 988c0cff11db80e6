//! Partitions of many rows, of which a change reaches few: every window function and frame, and
//! nearest rows, over hundreds of rows that come, change and go, compared at every tick.

use super::modes::{self, Mode};
use super::rng::Rng;
use super::script::{Asked, CLOCK_START, Engine, Script, TimedEvent, View};

/// The number of events; two partitions share them.
const EVENTS: u64 = 1_600;
/// Most events at a tick.
const STEP: u64 = 80;

const TABLES: &str = "CREATE TABLE u (k BIGINT, g BIGINT NOT NULL, a BIGINT, b BIGINT, s TEXT, \
    at TIMESTAMP(3), gone BOOLEAN, PRIMARY KEY (k)) \
    WITH (event_type = 'u', mode = 'upsert', delete_when = 'gone');
    CREATE TABLE t (k BIGINT, g BIGINT NOT NULL, a BIGINT, b BIGINT, s TEXT, \
    at TIMESTAMP(3), gone BOOLEAN, PRIMARY KEY (k)) \
    WITH (event_type = 't', mode = 'upsert', delete_when = 'gone');";

/// Most events append at the end; others change or delete what is there.
fn events(rng: &mut Rng) -> Vec<TimedEvent> {
    let mut tick = CLOCK_START;
    let mut left = 0;
    (1..=EVENTS)
        .map(|n| {
            if left == 0 {
                tick += 1;
                left = 1 + rng.below(STEP);
            }
            left -= 1;
            let append = rng.below(10) < 8;
            let k = if append { n } else { 1 + rng.below(n) };
            let a = if rng.one_in(12) { "null".to_string() } else { (k * 3 / 4).to_string() };
            let data = format!(
                r#"{{"k":{k},"g":{},"a":{a},"b":{},"s":"{}","at":"2000-01-01T00:{:02}:{:02}.000Z","gone":{}}}"#,
                k % 2,
                rng.below(50),
                rng.pick(&["x", "y", "z"]),
                k / 60,
                k % 60,
                !append && rng.one_in(2),
            );
            let event_type = if rng.one_in(4) { "u" } else { "t" }.to_string();
            TimedEvent { tick, event_type, data }
        })
        .collect()
}

/// Views, and other words for the same question where PostgreSQL has others.
fn check(views: &[(&str, &str)]) {
    let same: Vec<(&str, &str, Option<&str>)> = views.iter().map(|(n, s)| (*n, *s, None)).collect();
    check_words(&same);
}

fn check_words(views: &[(&str, &str, Option<&str>)]) {
    for seed in 1..=2 {
        let events = events(&mut Rng::new(seed));
        let end = events[events.len() - 1].tick;
        let view = |(name, sql, words): &(&str, &str, Option<&str>)| View {
            name: name.to_string(),
            sql: sql.to_string(),
            oracle: Asked {
                engine: Engine::Postgres,
                reason: None,
                words: words.map(str::to_string),
            },
            expected: None,
        };
        let script = Script {
            path: format!("long/{seed}.slt").into(),
            tables: TABLES.to_string(),
            events,
            end,
            views: views.iter().map(view).collect(),
            refused: Vec::new(),
            without: Vec::new(),
        };
        let wrong = modes::run(&script, &Mode::in_steps(1 + seed as usize));
        assert!(wrong.is_empty(), "seed {seed}: {}", wrong.join("\n"));
    }
}

#[test]
fn functions_that_go_on_from_rows_before() {
    check(&[
        (
            "running",
            "SELECT k, row_number() OVER w AS n, rank() OVER w AS r, dense_rank() OVER w AS d, \
             sum(b) OVER w AS total, avg(b) OVER w AS mean, count(a) OVER w AS counted, \
             min(b) OVER w AS least, max(s) OVER w AS last_text, \
             count(*) FILTER (WHERE b > 25) OVER w AS many, \
             first_value(b) OVER w AS first_b, nth_value(b, 3) OVER w AS third_b, \
             last_value(s) OVER w AS last_s \
             FROM t WINDOW w AS (PARTITION BY g ORDER BY k)",
        ),
        (
            "running_peers",
            "SELECT k, rank() OVER w AS r, dense_rank() OVER w AS d, sum(b) OVER w AS total, \
             count(*) OVER w AS n, sum(a) OVER (PARTITION BY g ORDER BY b DESC, s \
             GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING) AS ahead \
             FROM t WINDOW w AS (PARTITION BY g ORDER BY b DESC, s)",
        ),
        (
            "running_rows",
            "SELECT k, sum(b) OVER (PARTITION BY g ORDER BY a NULLS FIRST, k \
             ROWS BETWEEN UNBOUNDED PRECEDING AND 2 FOLLOWING) AS ahead, \
             stddev(b) OVER (PARTITION BY g ORDER BY a NULLS LAST, k DESC \
             ROWS UNBOUNDED PRECEDING) AS spread FROM t",
        ),
        ("no_partition", "SELECT k, row_number() OVER (ORDER BY k DESC) AS n FROM t"),
    ]);
}

#[test]
fn frames_near_their_row() {
    check(&[
        (
            "near_rows",
            "SELECT k, lag(b) OVER w AS before, lead(b, 3, -1) OVER w AS behind, \
             sum(b) OVER (PARTITION BY g ORDER BY k ROWS BETWEEN 3 PRECEDING AND 1 FOLLOWING) AS near, \
             max(b) OVER (PARTITION BY g ORDER BY k ROWS BETWEEN 5 PRECEDING AND 2 PRECEDING) AS back, \
             first_value(b) OVER (PARTITION BY g ORDER BY k ROWS BETWEEN 2 FOLLOWING AND 4 FOLLOWING) AS ahead \
             FROM t WINDOW w AS (PARTITION BY g ORDER BY k)",
        ),
        (
            "near_values",
            "SELECT k, count(*) OVER (PARTITION BY g ORDER BY a RANGE BETWEEN 7 PRECEDING AND 3 FOLLOWING) AS near, \
             sum(b) OVER (PARTITION BY g ORDER BY \"at\" RANGE BETWEEN INTERVAL '20 seconds' PRECEDING AND CURRENT ROW) AS recent, \
             min(b) OVER (PARTITION BY g ORDER BY a DESC RANGE BETWEEN CURRENT ROW AND 5 FOLLOWING) AS low \
             FROM t",
        ),
        (
            "near_peers",
            "SELECT k, sum(b) OVER (PARTITION BY g ORDER BY a GROUPS BETWEEN 2 PRECEDING AND 1 FOLLOWING) AS near, \
             count(*) OVER (PARTITION BY g ORDER BY a GROUPS BETWEEN CURRENT ROW AND CURRENT ROW) AS peers FROM t",
        ),
        (
            "mixed",
            "SELECT k, sum(b) OVER w AS total, avg(b) OVER (PARTITION BY g ORDER BY k ROWS 40 PRECEDING) AS recent, \
             rank() OVER w AS r FROM t WINDOW w AS (PARTITION BY g ORDER BY k)",
        ),
        (
            "whole",
            "SELECT k, ntile(7) OVER w AS tile, percent_rank() OVER w AS pr, \
             last_value(b) OVER (PARTITION BY g ORDER BY k ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS last_b \
             FROM t WINDOW w AS (PARTITION BY g ORDER BY k)",
        ),
    ]);
}

#[test]
fn nearest_rows() {
    check_words(&[
        (
            "asof",
            "SELECT t.k, u.k AS near, u.b FROM t ASOF JOIN u MATCH_CONDITION (t.k >= u.k) ON t.g = u.g",
            Some(
                "SELECT t.k, u.k AS near, u.b FROM t JOIN LATERAL (SELECT * FROM u WHERE t.g = u.g AND t.k >= u.k ORDER BY u.k DESC LIMIT 1) u ON true",
            ),
        ),
        (
            "asof_left",
            "SELECT t.k, u.k AS near, u.s FROM t ASOF LEFT JOIN u MATCH_CONDITION (t.k < u.k) ON t.g = u.g",
            Some(
                "SELECT t.k, u.k AS near, u.s FROM t LEFT JOIN LATERAL (SELECT * FROM u WHERE t.g = u.g AND t.k < u.k ORDER BY u.k LIMIT 1) u ON true",
            ),
        ),
        (
            "lateral_nearest",
            "SELECT t.k, n.k AS near, n.b + 1 AS more FROM t LEFT JOIN LATERAL (SELECT u.k, u.b FROM u \
             WHERE u.g = t.g AND u.a < t.a AND u.b > 10 ORDER BY u.a DESC, u.k LIMIT 1) n ON true",
            None,
        ),
        (
            "scalar_nearest",
            "SELECT t.k, (SELECT u.b * 2 FROM u WHERE u.at >= t.at AND t.g = u.g ORDER BY u.at, u.k DESC LIMIT 1) AS next_b FROM t",
            None,
        ),
        (
            "any_key",
            "SELECT t.k, (SELECT u.k FROM u WHERE u.k <= t.k - 5 ORDER BY u.k DESC LIMIT 1) AS back FROM t",
            None,
        ),
    ]);
}
