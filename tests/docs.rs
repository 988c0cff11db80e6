//! The documents' commands do what the documents say, with the ports of a test in place of the usual
//! ones.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::Server;

/// The sections with fenced blocks, and the blocks' languages. Each section has a test below that runs its
/// blocks, or the remark where else they are run.
const SECTIONS: [(&str, &str, &[&str]); 17] = [
    // scripts/fresh.sh
    ("README.md", "Two commands", &["sh"]),
    ("README.md", "Your first view in five minutes", &["sh", "sql", "sh", "sh"]),
    ("docs/declare-events.md", "Declare events", &["sql"]),
    ("docs/declare-events.md", "Versions and upcasts", &["sql"]),
    ("docs/declare-events.md", "Change data capture", &["sql"]),
    ("docs/log-format.md", "List of segments", &["json"]),
    ("docs/operate.md", "Backups", &["sh", "toml"]),
    ("docs/operate.md", "Archive old segments", &["toml"]),
    ("docs/operate.md", "Trim the log", &["sh"]),
    ("docs/post-events.md", "The log as an event store", &["sh"]),
    ("docs/query-views.md", "In ClickHouse", &["sh", "python", "sql"]),
    // tests/changes.rs
    ("docs/query-views.md", "Follow the changes", &["js", "js"]),
    ("docs/query-views.md", "Consumers of events", &["sh"]),
    ("docs/query-views.md", "The view as it was", &["sql", "sh"]),
    ("docs/secure.md", "Tokens", &["sh"]),
    ("docs/secure.md", "Tokens of an issuer", &["toml"]),
    ("docs/secure.md", "The ClickHouse that comes with the server", &["toml"]),
];

/// A document's text.
fn document(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The names of README, ARCHITECTURE, CONTRIBUTING and of the pages in `docs`.
fn documents() -> Vec<String> {
    let pages = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).unwrap();
    let pages = pages.map(|page| format!("docs/{}", page.unwrap().file_name().to_str().unwrap()));
    let own = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(str::to_string);
    let mut documents: Vec<String> = own.into_iter().chain(pages).collect();
    documents.sort();
    documents
}

/// A fenced block: the heading that it is below, its language, its text.
struct Block {
    heading: String,
    language: String,
    text: String,
}

/// The fenced blocks of a document in order, but for drawings, which have no language.
fn blocks(file: &str) -> Vec<Block> {
    let (text, mut blocks) = (document(file), Vec::new());
    let (mut lines, mut heading) = (text.lines(), String::new());
    while let Some(line) = lines.next() {
        if let Some((_, title)) =
            line.split_once("# ").filter(|(marks, _)| marks.trim_matches('#').is_empty())
        {
            heading = title.to_string();
        }
        let Some(language) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
        if !language.is_empty() {
            let (heading, language) = (heading.clone(), language.to_string());
            blocks.push(Block { heading, language, text: body.join("\n") });
        }
    }
    blocks
}

/// The blocks of a section, which is one of `SECTIONS`.
#[track_caller]
fn section(file: &str, heading: &str) -> Vec<String> {
    assert!(SECTIONS.iter().any(|(f, h, _)| *f == file && *h == heading), "{file}: {heading}");
    let blocks = blocks(file).into_iter().filter(|block| block.heading == heading);
    blocks.map(|block| block.text).collect()
}

/// Where the programs of the documents are: `heliostat`, and the examples below.
fn programs() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_heliostat")).parent().unwrap().to_path_buf()
}

/// A block that runs in the server's directory, with the ports of the test.
fn command(server: &Server, block: &str) -> Command {
    let programs = programs();
    let examples = format!("{}/examples/", programs.display());
    let mut script = block
        .replace("http://127.0.0.1:8080", &server.url(""))
        .replace("target/release/heliostat", "heliostat")
        .replace("cargo run --release --example orders --", &format!("{examples}orders"))
        .replace(
            "cargo run --release --example search_index --",
            &format!("{examples}search_index"),
        );
    if script.contains("http://127.0.0.1:8123") {
        script = script.replace("http://127.0.0.1:8123", &server.clickhouse_url());
    }
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(server.directory.path())
        .env("PATH", path)
        .env("HELIOSTAT_URL", server.url(""));
    command
}

/// Runs a block; what it prints.
#[track_caller]
fn run(server: &Server, block: &str) -> String {
    let output = command(server, block).output().unwrap();
    assert!(output.status.success(), "{block}\n{}", common::text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn each_block_of_the_documents_is_run_by_a_test() {
    let mut found: Vec<(String, String, Vec<String>)> = Vec::new();
    for file in documents() {
        for block in blocks(&file) {
            match found.last_mut() {
                Some((f, heading, languages)) if *f == file && *heading == block.heading => {
                    languages.push(block.language);
                }
                _ => found.push((file.clone(), block.heading, vec![block.language])),
            }
        }
    }
    let known = SECTIONS.iter().map(|(file, heading, languages)| {
        let languages: Vec<String> = languages.iter().map(|l| l.to_string()).collect();
        (file.to_string(), heading.to_string(), languages)
    });
    assert_eq!(found, known.collect::<Vec<_>>());
}

/// What `--help` says of each command, by its words: `log trim`, say.
fn helps() -> BTreeMap<String, String> {
    let (mut helps, mut left) = (BTreeMap::new(), vec![String::new()]);
    while let Some(command) = left.pop() {
        let words: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let output = common::heliostat(&words, &[]);
        assert!(output.status.success(), "{words:?}");
        let help = common::text(&output);
        let below = help.split("Commands:\n").nth(1).unwrap_or_default();
        for line in below.lines().take_while(|line| !line.is_empty()) {
            // What a command is for may take several lines, which are indented further.
            let name = line.strip_prefix("  ").and_then(|line| line.split(' ').next());
            if let Some(name) = name.filter(|name| !name.is_empty() && *name != "help") {
                left.push(format!("{command} {name}").trim().to_string());
            }
        }
        helps.insert(command, help);
    }
    helps
}

/// The flag that a word is, without what follows it.
fn flag(word: &str) -> Option<&str> {
    let name = word.strip_prefix("--")?;
    let end = name.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(name.len());
    (end > 0).then(|| &word[..end + 2])
}

#[test]
fn commands_and_flags_that_the_documents_name_exist() {
    let helps = helps();
    let has = |help: &str, flag: &str| help.split([' ', ',', '\n', '=']).any(|word| word == flag);
    let (mut unnamed, mut flags): (BTreeSet<&str>, _) =
        (helps.keys().map(|name| &**name).filter(|name| !name.contains(' ')).collect(), 0);
    unnamed.remove("");
    for file in documents() {
        let text = document(&file);
        // Commands stand in code, between backticks or in blocks.
        for code in text.split("heliostat ").skip(1) {
            let code = code.split(['`', '\n', '#']).next().unwrap();
            let words: Vec<&str> = code.split_whitespace().collect();
            let longest = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
            let first = words.first().copied().unwrap_or_default();
            let Some(help) = helps.get(&longest).or_else(|| helps.get(first)) else {
                continue;
            };
            unnamed.remove(first);
            for flag in words.iter().filter_map(|word| flag(word)) {
                assert!(has(help, flag), "{file}: `heliostat {code}`: {flag}");
                flags += 1;
            }
        }
        // A flag alone is one of some command.
        for flag in text.split('`').skip(1).step_by(2).filter_map(flag) {
            assert!(helps.values().any(|help| has(help, flag)), "{file}: {flag}");
            flags += 1;
        }
    }
    // A program of ours runs it.
    unnamed.remove("sample");
    assert!(unnamed.is_empty(), "no document names {unnamed:?}");
    assert!(flags >= 30, "{flags} flags were found");
}

#[test]
fn limits_that_the_documents_name_exist() {
    let limits = serde_json::to_value(heliostat::internals::model::Limits::default()).unwrap();
    let mut named = BTreeSet::new();
    for file in documents() {
        for word in document(&file).split('`').skip(1).step_by(2) {
            if word.ends_with("_max") || word.ends_with("_min") || word.ends_with("_ms") {
                named.insert((file.clone(), word.to_string()));
            }
        }
    }
    // Limits of functions, which are the same everywhere, and a function.
    let fixed = ["value_bytes_max", "array_elements_max", "series_rows_max", "list_max"];
    let is_unknown = |word: &str| limits.get(word).is_none() && !fixed.contains(&word);
    let unknown: Vec<_> = named.iter().filter(|(_, word)| is_unknown(word)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(named.len() >= 15, "{named:?}");
}

#[test]
fn list_of_segments_is_as_in_the_document() {
    let server = Server::start(&[]);
    let line = std::fs::read_to_string(server.data().join("log/segments")).unwrap();
    let written: serde_json::Value =
        serde_json::from_str(&line.lines().next().unwrap()[9..]).unwrap();
    let drawn = section("docs/log-format.md", "List of segments").swap_remove(0);
    let drawn: serde_json::Value = serde_json::from_str(&drawn).unwrap();
    for (member, value) in written.as_object().unwrap() {
        assert!(drawn.get(member).is_some(), "{member}: {value}");
    }
    for member in written["segments"][0].as_object().unwrap().keys() {
        assert!(drawn["segments"][0].get(member).is_some(), "{member}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_view_of_the_readme_is_there_after_five_minutes() {
    let server = Server::with_clickhouse(&[]);
    let blocks = section("README.md", "Your first view in five minutes");
    let posted = run(&server, &blocks[0]);
    assert!(posted.contains(r#""accepted":3"#), "{posted}");
    server.write("seats.sql", &blocks[1]);
    let checked = run(&server, &blocks[2]);
    assert!(checked.contains("ok: 1 event tables, 1 materialized views"), "{checked}");
    let rows = "SELECT * FROM shows ORDER BY show FORMAT CSV";
    server.until("7,2,75.5\n8,1,20\n".to_string(), || server.clickhouse(rows)).await;
    let shown = run(&server, &blocks[3]);
    assert!(shown.contains("75.5") && shown.ends_with("8\t2\t40\n"), "{shown}");
}

/// The query file of the README's view, with an option.
fn seats(option: &str) -> String {
    let sql = section("README.md", "Your first view in five minutes").swap_remove(1);
    sql.replace("VIEW shows AS", &format!("VIEW shows {option} AS"))
}

#[test]
fn declarations_of_the_documents_pass_the_check() {
    let file = "docs/declare-events.md";
    for (heading, view) in [
        (
            "Declare events",
            "SELECT o.order_id, i.price, c.name FROM order_placed o, UNNEST(o.items) AS i, customers c",
        ),
        ("Versions and upcasts", "SELECT order_id, amount, currency FROM order_placed"),
        ("Change data capture", "SELECT id, name, created FROM customers"),
    ] {
        let queries = tempfile::tempdir().unwrap();
        let sql = format!("{}\nCREATE MATERIALIZED VIEW v AS {view};", section(file, heading)[0]);
        std::fs::write(queries.path().join("v.sql"), sql).unwrap();
        let output = common::heliostat(&["check", queries.path().to_str().unwrap()], &[]);
        assert!(output.status.success(), "{heading}: {}", common::text(&output));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_are_queried_in_clickhouse_as_the_documents_do() {
    let orders = concat!(env!("CARGO_MANIFEST_DIR"), "/queries/orders");
    let read = |name| std::fs::read_to_string(Path::new(orders).join(name)).unwrap();
    let files = std::fs::read_dir(orders).unwrap().flatten();
    let files = files.filter_map(|file| file.file_name().into_string().ok());
    let files: Vec<(String, String)> = files
        .filter(|name| name.ends_with(".sql"))
        .map(|name| (name.clone(), read(name)))
        .collect();
    let mut files: Vec<(&str, &str)> =
        files.iter().map(|(name, text)| (&**name, &**text)).collect();
    let seats = seats("WITH (history = true)");
    files.push(("seats.sql", &seats));
    let server = Server::with_clickhouse(&files);

    // The example of an event store, and the SELECTs over its view.
    let commands = &section("docs/post-events.md", "The log as an event store")[0];
    run(&server, commands);
    let event =
        serde_json::json!({"type": "SeatTaken", "data": {"show": 7, "seat": "A1", "price": 40}});
    let (status, answer) = server.post("/v1/events?wait=clickhouse", &event).await;
    assert_eq!(status, 200, "{answer}");
    let blocks = section("docs/query-views.md", "In ClickHouse");
    server.until("paid\t1\n".to_string(), || async { run(&server, &blocks[0]) }).await;
    let clickhouse = server.clickhouse_url();
    let port = clickhouse.rsplit(':').next().unwrap();
    let python = common::clients().join("python/bin/python");
    let script = blocks[1].replace("port=8123", &format!("port={port}"));
    let output = Command::new(python)
        .args(["-c", &script])
        .current_dir(server.directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", common::text(&output));
    assert!(common::text(&output).contains("'c-1'"), "{}", common::text(&output));
    let shown = server.clickhouse(&blocks[2]).await;
    assert_eq!(shown, "0\n", "three events are not a hundred");

    // The view as it was: at no time of the document, and in all that the log has.
    let blocks = section("docs/query-views.md", "The view as it was");
    server.until(String::new(), || server.clickhouse(&blocks[0])).await;
    let now = server.clickhouse("SELECT toString(now64(3, 'UTC') + 1)").await;
    let as_of_now = blocks[0].replace("2026-11-23 10:00:00", now.trim());
    assert!(server.clickhouse(&as_of_now).await.starts_with("7\t1\t40\t"));
    let replayed = run(&server, &blocks[1]);
    assert!(replayed.starts_with("show,seats,revenue\n"), "{replayed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumer_of_the_documents_finds_what_was_posted() {
    let server = Server::start(&[]);
    let commands = section("docs/query-views.md", "Consumers of events").swap_remove(0);
    let (follow, search) = commands.split_once('\n').unwrap();
    let product = |sku: &str, text: &str| serde_json::json!({"type": "ProductChanged", "data": {"sku": sku, "text": text}});
    server
        .append(&serde_json::json!([product("p1", "a red bike"), product("p2", "a blue bike")]))
        .await;
    let follow = follow.replace("cargo run", "exec cargo run");
    let mut follower = command(&server, &follow).stderr(Stdio::null()).spawn().unwrap();
    let found = || async {
        let output = command(&server, search).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    server.until("p1\n".to_string(), found).await;
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_and_trim_of_the_documents_do_what_they_say() {
    let server = Server::start(&[("seats.sql", &seats(""))]);
    let event =
        serde_json::json!({"type": "SeatTaken", "data": {"show": 7, "seat": "A1", "price": 40}});
    server.append(&event).await;
    server.live(&["shows"]).await;
    let block = section("docs/operate.md", "Backups").swap_remove(0);
    run(&server, &block.replace("/mnt/backups", "backups"));
    let info = run(&server, "heliostat log info --data-dir new-data; ls new-queries");
    assert!(info.contains("seats.sql"), "{info}");
    let dumped = run(&server, "heliostat log dump --data-dir new-data");
    assert_eq!(dumped.matches("SeatTaken").count(), 1, "{dumped}");
    server.end();
    let told = run(&server, &section("docs/operate.md", "Trim the log")[0]);
    assert!(told.contains("nothing"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_the_documents_are_taken() {
    // Archive, backups, issuers and readers in one file; their addresses are nobody's.
    let archive = section("docs/operate.md", "Archive old segments").swap_remove(0);
    let backup = section("docs/operate.md", "Backups").swap_remove(1);
    let issuers = section("docs/secure.md", "Tokens of an issuer").swap_remove(0);
    let commented = issuers.lines().filter_map(|line| line.strip_prefix("# "));
    let commented: Vec<&str> = commented.filter(|line| !line.starts_with("keys_ca")).collect();
    let at = issuers.find("[[issuers.grants]]").unwrap();
    let all = format!("{}{}\n{}", &issuers[..at], commented.join("\n"), &issuers[at..]);
    let readers =
        section("docs/secure.md", "The ClickHouse that comes with the server").swap_remove(0);
    let server = Server::laid_out_with_clickhouse(&[("seats.sql", &seats(""))], "");
    let store = server.directory.path().join("store");
    let archive = archive.replace("s3://bucket/logs", store.to_str().unwrap());
    let backups = server.directory.path().join("backups");
    let backup = backup.replace("s3://bucket/prefix", backups.to_str().unwrap());
    let at_nobody = all.replace("https://login.example/", "http://127.0.0.1:9/");
    let password = server.directory.path().join("grafana.password");
    std::fs::write(&password, "of the documents\n").unwrap();
    let readers = readers.replace("grafana.password", password.to_str().unwrap());
    server.configure(&format!("{archive}\n{backup}\n{at_nobody}\n{readers}"));
    server.run();
    assert_eq!(server.try_get("/v1/views").await.0, 401);

    // The tokens' commands, and what they made.
    let commands = section("docs/secure.md", "Tokens").swap_remove(0);
    let told = run(&server, &commands);
    assert!(told.contains("ops") && told.contains("shop"), "{told}");
    let listed = run(&server, "heliostat token list");
    assert!(listed.contains("ops") && !listed.contains("shop"), "{listed}");
    let grafana = || async {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-u", "grafana:of the documents", &server.clickhouse_url()]);
        common::text(&curl.args(["-d", "SELECT count() FROM heliostat.shows"]).output().unwrap())
    };
    server.until("0\n".to_string(), grafana).await;
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut links = 0;
    for file in documents() {
        let text = document(&file);
        for rest in text.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap();
            if target.is_empty() || target.contains("://") || target.contains(' ') {
                continue;
            }
            links += 1;
            let path = root.join(&file).parent().unwrap().join(target);
            assert!(path.exists(), "{file}: {target}");
        }
    }
    assert!(links >= 8, "{links} links were found");
}
