//! The files. Blocks are separated by blank lines, and a block's first word says what it is:
//!
//! ```text
//! include PATH                  the blocks of another file, below tests/sql
//! option churn=no REASON        a mode that has no meaning here (churn, order, mixed, server), and why
//! tables                        then event tables and plain views, as SQL
//! events                        then one event per line: its type and its data; `clock TIME` moves the clock
//! view NAME                     then its SELECT,
//! oracle ENGINE REASON          where PostgreSQL is not asked so: `postgres` other words, which follow; `duckdb`,
//!                               `none`, or `differs` from PostgreSQL; `reasons.rs` has the reasons
//! ----                          and its rows in any order; `! expression: reason` × n are failing rows
//! refused                       then a statement,
//! ----                          and what its refusal says
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use heliostat::internals::model::NewEvent;
use heliostat::internals::model::Tick;
use heliostat::internals::plan::SourceFile;
use heliostat::internals::plan::{QuerySet, plan_files};

use super::reasons;

/// When the clock of every file starts: 2000-01-01T00:00:00Z, in ms since the epoch.
pub const CLOCK_START: Tick = 946_684_800_000;

#[derive(Clone, Debug)]
pub struct Script {
    pub path: PathBuf,
    pub tables: String,
    pub events: Vec<TimedEvent>,
    /// When the clock stands still at the end.
    pub end: Tick,
    pub views: Vec<View>,
    pub refused: Vec<(String, String)>,
    /// Modes that have no meaning for this file.
    pub without: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct TimedEvent {
    pub tick: Tick,
    pub event_type: String,
    pub data: String,
}

#[derive(Clone, Debug)]
pub struct View {
    pub name: String,
    pub sql: String,
    pub oracle: Asked,
    /// Its rows and failures; a random program has none that anybody knows.
    pub expected: Option<Vec<String>>,
}

/// Which engine knows the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Postgres,
    /// PostgreSQL has another answer, which is a fault here.
    Differs,
    DuckDb,
    /// No engine: only the file has the answer.
    Nobody,
}

#[derive(Clone, Debug)]
pub struct Asked {
    pub engine: Engine,
    /// Why it is not PostgreSQL, in the words of the view.
    pub reason: Option<&'static str>,
    /// Other words for the same question.
    pub words: Option<String>,
}

impl View {
    /// The name without options.
    pub fn short_name(&self) -> &str {
        self.name.split(' ').next().unwrap_or_default()
    }
}

impl TimedEvent {
    pub fn to_event(&self, n: usize) -> NewEvent {
        NewEvent {
            id: format!("e{n}"),
            source: String::new(),
            event_type: self.event_type.clone(),
            version: 1,
            stream: None,
            time_us: self.tick as i64 * 1000,
            data: self.data.clone().into_bytes(),
            metadata: Vec::new(),
        }
    }
}

impl Script {
    pub fn read(path: &Path) -> Script {
        let text = std::fs::read_to_string(path).unwrap();
        Script::parse(path, &text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap_or(&self.path).display().to_string()
    }

    pub fn parse(path: &Path, text: &str) -> Result<Script, String> {
        let mut script = Script {
            path: path.to_path_buf(),
            tables: String::new(),
            events: Vec::new(),
            end: CLOCK_START,
            views: Vec::new(),
            refused: Vec::new(),
            without: Vec::new(),
        };
        script.blocks(text)?;
        Ok(script)
    }

    fn blocks(&mut self, text: &str) -> Result<(), String> {
        let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let mut blocks =
            text.split(|line| line.trim().is_empty()).filter(|block| !block.is_empty());
        blocks.try_for_each(|block| self.block(block[0], &block[1..]))
    }

    fn block(&mut self, head: &str, lines: &[&str]) -> Result<(), String> {
        match head.split_once(' ').unwrap_or((head, "")) {
            ("include", name) => {
                let path = root().join(name);
                let text = std::fs::read_to_string(&path)
                    .map_err(|e| format!("{}: {e}", path.display()))?;
                self.blocks(&text)?;
            }
            ("option", rest) => {
                let (mode, reason) =
                    rest.split_once("=no ").ok_or("an option is MODE=no REASON")?;
                if !["order", "churn", "mixed", "server"].contains(&mode)
                    || reason.is_empty()
                    || !lines.is_empty()
                {
                    return Err(format!(
                        "{head}: an option is MODE=no REASON, in a block of its own"
                    ));
                }
                self.without.push(mode.to_string());
            }
            ("tables", _) => self.tables = format!("{}{}\n", self.tables, lines.join("\n")),
            ("events", _) => lines.iter().try_for_each(|line| self.event(line))?,
            ("view", name) => {
                let (above, expected) = halves(lines);
                self.views.push(view(name, above, expected)?);
            }
            ("refused", _) => {
                let (above, expected) = halves(lines);
                self.refused.push((above.join("\n"), expected.join("\n")));
            }
            (other, _) => return Err(format!("a block cannot begin with {other:?}")),
        }
        Ok(())
    }

    fn event(&mut self, line: &str) -> Result<(), String> {
        let (event_type, data) =
            line.split_once(' ').ok_or(format!("an event is TYPE DATA: {line}"))?;
        if event_type == "clock" {
            let time =
                chrono::DateTime::parse_from_rfc3339(data).map_err(|e| format!("{line}: {e}"))?;
            let tick = time.timestamp_millis() as Tick;
            if tick < self.end {
                return Err(format!("{line}: the clock only goes forward"));
            }
            self.end = tick;
            return Ok(());
        }
        self.end += 1;
        let (event_type, data) = (event_type.to_string(), data.to_string());
        self.events.push(TimedEvent { tick: self.end, event_type, data });
        Ok(())
    }

    /// The SQL of all of it.
    pub fn sql(&self, tables: &str) -> String {
        let mut text = format!("{tables}\n");
        for view in &self.views {
            let terms = view.name.split_once(' ');
            let (name, options) = terms.map_or((view.name.as_str(), ""), |(n, o)| (n, o));
            text.push_str(&format!("CREATE MATERIALIZED VIEW {name} {options} AS {};\n", view.sql));
        }
        text
    }

    /// Plans the views over these tables.
    pub fn plan(&self, tables: &str) -> Result<QuerySet, String> {
        let file = SourceFile { path: PathBuf::from("script.sql"), text: self.sql(tables) };
        let set = plan_files(&[Arc::new(file)], "test", heliostat::internals::sink::KINDS);
        let wrong: Vec<String> = set.diagnostics.iter().map(ToString::to_string).collect();
        if wrong.is_empty() { Ok(set) } else { Err(wrong.join("\n")) }
    }

    /// Statements of this file that are not refused as it says.
    pub fn wrong_refusals(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (statement, expected) in &self.refused {
            let text = format!("{}\n{statement};", self.tables);
            let file = SourceFile { path: PathBuf::from("script.sql"), text };
            let said: Vec<String> =
                plan_files(&[Arc::new(file)], "test", heliostat::internals::sink::KINDS)
                    .diagnostics
                    .iter()
                    .map(|d| format!("{}{}", d.message, d.hint.as_deref().unwrap_or("")))
                    .collect();
            if !said.iter().any(|message| message.contains(expected.as_str())) {
                wrong.push(format!("{statement}\nshould say {expected:?}, says {said:?}"));
            }
        }
        wrong
    }
}

/// Where the files are.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql")
}

fn halves<'a>(lines: &'a [&'a str]) -> (&'a [&'a str], &'a [&'a str]) {
    match lines.iter().position(|line| *line == "----") {
        Some(at) => (&lines[..at], &lines[at + 1..]),
        None => (lines, &[]),
    }
}

fn view(name: &str, above: &[&str], expected: &[&str]) -> Result<View, String> {
    let at = above.iter().position(|line| line.starts_with("oracle "));
    let (sql, asked) = above.split_at(at.unwrap_or(above.len()));
    let oracle = match asked {
        [] => Asked { engine: Engine::Postgres, reason: None, words: None },
        [head, words @ ..] => {
            let (engine, reason) =
                asked_engine(head).map_err(|e| format!("{name}: {head}: {e}"))?;
            Asked { engine, reason, words: (!words.is_empty()).then(|| words.join("\n")) }
        }
    };
    let expected = Some(expected.iter().map(ToString::to_string).collect());
    Ok(View { name: name.to_string(), sql: sql.join("\n"), oracle, expected })
}

/// The engine that `oracle ENGINE REASON` names, and its reason out of the list.
fn asked_engine(head: &str) -> Result<(Engine, Option<&'static str>), String> {
    let rest = head.split_once(' ').map_or("", |(_, rest)| rest);
    let (engine, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let engine = match engine {
        "postgres" => Engine::Postgres,
        "differs" => Engine::Differs,
        "duckdb" => Engine::DuckDb,
        "none" => Engine::Nobody,
        _ => return Err("the engine is postgres, differs, duckdb or none".to_string()),
    };
    let known = reasons::of(engine).iter().find(|known| **known == reason).copied();
    if known.is_none() {
        return Err(format!("the reason is one of {:?}", reasons::of(engine)));
    }
    Ok((engine, known))
}
