//! The modules' dependencies point one way: `use crate::…` lines may name earlier modules only.

use std::collections::BTreeMap;
use std::path::Path;

/// The modules in the order of an event's path, each with the modules that it must not name even
/// though they come before it.
const ORDER: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("access", &[]),
    ("objects", &["access"]),
    ("log", &["access"]),
    ("decode", &["access"]),
    ("aggregate", &["access", "log", "decode"]),
    ("plan", &["access", "log", "decode"]),
    ("dataflow", &["access"]),
    ("snapshot", &["access", "decode", "aggregate"]),
    ("sink", &["access", "log", "decode", "aggregate", "plan", "snapshot"]),
    ("status", &["log", "aggregate", "plan", "dataflow", "snapshot", "sink"]),
    ("link", &["access", "aggregate", "plan", "dataflow", "snapshot", "sink"]),
    ("http", &["aggregate", "plan", "dataflow", "snapshot", "sink", "link"]),
    ("engine", &[]),
    ("backup", &[]),
    ("cli", &[]),
];

/// Crates that belong to one part of the tree, and where they may be named.
const CRATES: &[(&str, &[&str])] = &[
    ("timely", &["dataflow"]),
    ("differential_dataflow", &["dataflow"]),
    ("axum", &["http"]),
    ("object_store", &["objects"]),
    ("clickhouse", &["sink"]),
    ("datafusion_sql", &["plan", "sink"]),
];

fn visit(directory: &Path, check: &mut impl FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, check);
        } else if path.extension().is_some_and(|e| e == "rs") {
            check(&path, &std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// The names that follow `prefix` wherever it occurs in code.
fn names_after<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut names = Vec::new();
    for line in code {
        for (at, _) in line.match_indices(prefix) {
            let before = line[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = &line[at + prefix.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            names.push(&rest[..end]);
        }
    }
    names
}

#[test]
fn modules_know_only_what_comes_before_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (place, (module, forbidden)) in ORDER.iter().enumerate() {
        let mut seen = 0;
        visit(&src.join(module), &mut |path, text| {
            seen += 1;
            for name in names_after(text, "crate::") {
                let known = ORDER.iter().position(|(m, _)| *m == name);
                let allowed = known.is_none_or(|at| at <= place) && !forbidden.contains(&name);
                if !allowed {
                    wrong.push(format!("{} names {name}", path.display()));
                }
            }
            for (krate, homes) in CRATES {
                let named = !names_after(text, &format!("{krate}::")).is_empty();
                if named && !homes.contains(module) {
                    wrong.push(format!("{} names the crate {krate}", path.display()));
                }
            }
        });
        assert!(seen > 0, "there is no module {module}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The types that a file declares for others.
fn declared_types(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for line in text.lines() {
        let Some(line) = line.strip_prefix("pub") else { continue };
        let line = match line.strip_prefix('(') {
            Some(rest) => rest.split_once(')').map_or(line, |(_, rest)| rest),
            None => line,
        };
        for keyword in [" struct ", " enum ", " trait ", " type "] {
            if let Some(rest) = line.strip_prefix(keyword) {
                let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
                names.push(&rest[..end]);
            }
        }
    }
    names
}

#[test]
fn no_two_types_for_others_have_one_name() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut homes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    visit(&src, &mut |path, text| {
        for name in declared_types(text) {
            homes.entry(name.to_string()).or_default().push(path.display().to_string());
        }
    });
    assert!(homes.len() > 300, "types are found: {}", homes.len());
    let twice: Vec<_> = homes.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(twice.is_empty(), "give each its subject's name: {twice:#?}");
}
