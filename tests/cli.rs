//! The commands, as a person runs them: what they print and the codes that they end with.

use std::path::Path;
use std::process::{Command, Output};

fn heliostat(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heliostat"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn queries(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }
    directory
}

fn path(directory: &Path) -> &str {
    directory.to_str().unwrap()
}

const TABLE: &str = "CREATE TABLE t (k BIGINT NOT NULL, v INT) WITH (event_type = 'T');\n";

#[test]
fn the_sample_views_pass_their_check_and_their_golden_tests() {
    let check = heliostat(&["check", "queries"]);
    assert!(check.status.success(), "{}", text(&check.stderr));
    let test = heliostat(&["test", "queries"]);
    assert!(test.status.success(), "{}", text(&test.stdout));
    assert!(text(&test.stdout).contains("0 failed"));
    let explain = heliostat(&["explain", "order_summaries"]);
    assert!(text(&explain.stdout).contains("key (order_id)"), "{}", text(&explain.stdout));
}

#[test]
fn check_tells_every_error_of_every_file_with_its_place() {
    let directory = queries(&[
        ("a.sql", TABLE),
        (
            "sub/b.sql",
            "CREATE MATERIALIZED VIEW x AS SELECT k, nope FROM t;\nCREATE VIEW y AS SELEC 1;",
        ),
        ("sub/c.sql", "CREATE MATERIALIZED VIEW w AS\n  SELECT k, gen_random_uuid() AS n FROM t;"),
        (
            "sub/d.sql",
            "CREATE MATERIALIZED VIEW r AS SELECT k, random() AS n FROM t;\nCREATE VIEW s AS SELECT * FROM missing;",
        ),
        (
            "e.sql",
            "CREATE MATERIALIZED VIEW o WITH (key = 'z', colour = 'red') AS SELECT k FROM t;",
        ),
    ]);
    let output = heliostat(&["check", path(directory.path())]);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    for expected in
        ["b.sql:1:", "b.sql:2:", "c.sql:2:13", "d.sql:1:", "d.sql:2:", "e.sql:1:", "^", "6 errors"]
    {
        assert!(errors.contains(expected), "{expected} is not in\n{errors}");
    }
}

#[test]
fn constructs_that_are_not_supported_are_refused_by_name() {
    for (sql, named) in [
        ("SELECT k, now() AS at FROM t", "now() is supported in comparisons"),
        ("SELECT k FROM t WHERE extract(second FROM now()) > v", "does not go one way"),
        ("SELECT k FROM t WHERE current_time > '10:00'", "comes round again"),
        ("SELECT k, count(DISTINCT k, v) AS n FROM t GROUP BY k", "takes one argument"),
        ("SELECT k FROM t TABLESAMPLE BERNOULLI (10)", "TABLESAMPLE"),
        ("SELECT k FROM t FOR UPDATE", "FOR UPDATE"),
        ("SELECT * FROM read_csv('a.csv') AS g", "read_csv(…) is no function in FROM"),
        ("SELECT k FROM t FETCH FIRST 3 ROWS WITH TIES", "rank() finds ties"),
        ("SELECT k FROM t WHERE (k, v) = (1, 2, 3)", "rows of 2 and 3 columns"),
        ("SELECT * FROM hop(t, v, INTERVAL '1 minute')", "is a TIMESTAMP"),
    ] {
        let view = format!("CREATE MATERIALIZED VIEW x AS {sql};");
        let directory = queries(&[("a.sql", TABLE), ("b.sql", &view)]);
        let output = heliostat(&["check", path(directory.path())]);
        assert_eq!(output.status.code(), Some(1), "{sql}");
        assert!(text(&output.stderr).contains(named), "{sql}: {}", text(&output.stderr));
    }
}

#[test]
fn a_golden_test_that_does_not_hold_says_what_is_missing() {
    let directory = queries(&[
        ("a.sql", TABLE),
        ("b.sql", "CREATE MATERIALIZED VIEW x AS SELECT k, sum(v) AS s FROM t GROUP BY k;"),
        (
            "tests/one/events.ndjson",
            "{\"type\":\"T\",\"data\":{\"k\":1,\"v\":2}}\n{\"type\":\"T\",\"data\":{\"k\":1,\"v\":3}}\n",
        ),
        ("tests/one/x.csv", "k,s\n1,6\n"),
    ]);
    let output = heliostat(&["test", path(directory.path())]);
    assert_eq!(output.status.code(), Some(1));
    let printed = text(&output.stdout);
    assert!(printed.contains("missing 1,6") && printed.contains("surplus 1,5"), "{printed}");
    assert!(heliostat(&["test", path(directory.path()), "--bless"]).status.success());
    assert!(heliostat(&["test", path(directory.path())]).status.success());
}

#[test]
fn wrong_usage_and_a_failing_environment_have_codes_of_their_own() {
    assert_eq!(heliostat(&["serve", "--no-such-flag"]).status.code(), Some(2));
    let public = heliostat(&["serve", "--listen", "0.0.0.0:0", "--no-clickhouse"]);
    assert_eq!(public.status.code(), Some(1), "{}", text(&public.stderr));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let busy = heliostat(&["serve", "--listen", &address, "--no-clickhouse"]);
    assert_eq!(busy.status.code(), Some(3), "{}", text(&busy.stderr));
    assert_eq!(heliostat(&["log", "info", "--data-dir", "/nowhere"]).status.code(), Some(1));
}
