//! The documents' commands do what the documents say, with the ports of a test in place of the usual
//! ones.

mod common;

use std::path::Path;
use std::process::Command;

use common::Server;

/// The fenced blocks of a document, with their languages, in order.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```").filter(|language| !language.is_empty())
        else {
            continue;
        };
        let body: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
        blocks.push((language.to_string(), body.join("\n")));
    }
    blocks
}

/// The part of a document below a heading.
fn section(file: &str, heading: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let start = text.find(&format!("## {heading}\n")).unwrap();
    let rest = &text[start + 3..];
    rest.split("\n## ").next().unwrap().to_string()
}

/// Runs a block as it stands; what it prints.
fn run(server: &Server, block: &str) -> String {
    let program = env!("CARGO_BIN_EXE_heliostat");
    let script = block
        .replace("http://127.0.0.1:8080", &server.url(""))
        .replace("http://127.0.0.1:8123", &server.clickhouse_url())
        .replace("target/release/heliostat", program);
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(server.directory.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), output.stderr);
    assert!(output.status.success(), "{script}\n{out}{}", String::from_utf8_lossy(&err));
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_view_of_the_readme_is_there_after_five_minutes() {
    let server = Server::with_clickhouse(&[]);
    let blocks = blocks(&section("README.md", "Your first view in five minutes"));
    let languages: Vec<&str> = blocks.iter().map(|(language, _)| language.as_str()).collect();
    assert_eq!(languages, ["sh", "sql", "sh", "sh"]);
    let posted = run(&server, &blocks[0].1);
    assert!(posted.contains(r#""accepted":3"#), "{posted}");
    server.write("seats.sql", &blocks[1].1);
    let checked = run(&server, &blocks[2].1);
    assert!(checked.contains("ok: 1 event tables, 1 materialized views"), "{checked}");
    let rows = "SELECT * FROM shows ORDER BY show FORMAT CSV";
    server.until("7,2,75.5\n8,1,20\n".to_string(), || server.clickhouse(rows)).await;
    let shown = run(&server, &blocks[3].1);
    assert!(shown.contains("75.5") && shown.ends_with("8\t2\t40\n"), "{shown}");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents =
        vec![root.join("README.md"), root.join("ARCHITECTURE.md"), root.join("CONTRIBUTING.md")];
    let pages = std::fs::read_dir(root.join("docs")).unwrap();
    documents.extend(pages.map(|page| page.unwrap().path()));
    let mut links = 0;
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        for rest in text.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap();
            if target.is_empty() || target.contains("://") || target.contains(' ') {
                continue;
            }
            links += 1;
            let path = document.parent().unwrap().join(target);
            assert!(path.exists(), "{}: {target}", document.display());
        }
    }
    assert!(links >= 8, "{links} links were found");
}
