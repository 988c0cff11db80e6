//! Random event tables, events and views, drawn together so that the views mean something.

use super::constructs::Construct;
use super::query::Query;
use super::relation::{FIELDS, Relation};
use super::words;
use crate::reasons;
use crate::rng::Rng;
use crate::script::{Asked, CLOCK_START, Engine, Script, TimedEvent, View};

/// The types of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Int,
    Text,
    Decimal,
    Time,
    Bool,
    Float,
    /// A list of integers. It is selected and unnested, and never compared: engines order lists in
    /// ways of their own.
    Ints,
    Date,
    /// A time of day. Windows in their order are refused, so they are taken apart, and never compared.
    Clock,
    /// An interval. Groups of intervals are refused, so they are taken apart, and never compared.
    Interval,
    Uuid,
    /// JSON. It is selected and taken apart, and never compared.
    Json,
    /// A float that rounding may have touched. It is selected and never compared: what is near in
    /// two engines may be equal in one of them only.
    Rounded,
}

/// The types that event tables have.
const TYPES: [Type; 7] =
    [Type::Int, Type::Text, Type::Decimal, Type::Time, Type::Bool, Type::Float, Type::Ints];
/// Further ones, of the construct `MoreTypes`.
const MORE_TYPES: [Type; 5] = [Type::Date, Type::Clock, Type::Interval, Type::Uuid, Type::Json];
/// Times lie in the first milliseconds of the clock, so that conditions on now() change.
const TIMES: u64 = 60;

impl Type {
    /// Whether queries may compare, group and order by values of this type.
    pub fn is_comparable(self) -> bool {
        !matches!(self, Type::Ints | Type::Rounded | Type::Json | Type::Clock | Type::Interval)
    }

    fn sql(self) -> &'static str {
        match self {
            Type::Int => "BIGINT",
            Type::Text => "TEXT",
            Type::Decimal => "DECIMAL(10,2)",
            Type::Time => "TIMESTAMP(3)",
            Type::Bool => "BOOLEAN",
            Type::Float | Type::Rounded => "DOUBLE",
            Type::Ints => "BIGINT[]",
            Type::Date => "DATE",
            Type::Clock => "TIME",
            Type::Interval => "INTERVAL",
            Type::Uuid => "UUID",
            Type::Json => "JSON",
        }
    }

    fn json(self, rng: &mut Rng) -> String {
        match self {
            Type::Int => rng.below(6).to_string(),
            Type::Text => rng.pick(&["\"a\"", "\"b\"", "\"c\"", "\"\"", "\"Ö\""]).to_string(),
            Type::Decimal => {
                format!("\"{}.{}\"", rng.below(8), rng.pick(&["00", "25", "50", "99"]))
            }
            Type::Time => format!("\"2000-01-01T00:00:00.{:03}Z\"", rng.below(TIMES)),
            Type::Bool => rng.pick(&["true", "false"]).to_string(),
            Type::Float | Type::Rounded => {
                rng.pick(&["0.1", "0.2", "-0.3", "2.5", "1e3", "7", "3.3333"]).to_string()
            }
            Type::Ints => {
                let items = (0..rng.below(4)).map(|_| match rng.below(5) {
                    0 => "null".to_string(),
                    _ => rng.below(6).to_string(),
                });
                format!("[{}]", items.collect::<Vec<_>>().join(","))
            }
            Type::Json => {
                let (a, b) =
                    (rng.below(3), rng.pick(&["[1, \"x\"]", "null", "\"a\"", "{\"a\": 1}"]));
                match rng.below(4) {
                    0 => rng.pick(&["[1, null]", "\"s\"", "2.50", "{}", "true"]).to_string(),
                    1 => format!("{{\"b\": {b}}}"),
                    _ => format!("{{\"b\": {b}, \"a\": {a}}}"),
                }
            }
            Type::Date | Type::Clock | Type::Interval | Type::Uuid => {
                format!("\"{}\"", self.written(rng))
            }
        }
    }

    /// A value as SQL.
    pub fn literal(self, rng: &mut Rng) -> String {
        match self {
            Type::Int => rng.below(6).to_string(),
            Type::Text => rng.pick(&["'a'", "'b'", "'c'"]).to_string(),
            Type::Decimal => format!("CAST({}.5 AS DECIMAL(10,2))", rng.below(8)),
            Type::Time => format!("TIMESTAMP '2000-01-01 00:00:00.{:03}'", rng.below(TIMES)),
            Type::Bool => rng.pick(&["true", "false"]).to_string(),
            Type::Float | Type::Rounded => {
                format!("CAST({} AS DOUBLE)", rng.pick(&["0.1", "0.2", "2.5", "7"]))
            }
            Type::Ints => format!("ARRAY[{}, {}]", rng.below(6), rng.below(6)),
            Type::Date => format!("DATE '{}'", self.written(rng)),
            Type::Clock => format!("TIME '{}'", self.written(rng)),
            Type::Interval => format!("INTERVAL '{}'", self.written(rng)),
            Type::Uuid => format!("CAST('{}' AS UUID)", self.written(rng)),
            Type::Json => format!("CAST('{{\"a\": {}}}' AS JSON)", rng.below(3)),
        }
    }

    /// A value of a type whose values are texts in events.
    fn written(self, rng: &mut Rng) -> String {
        let uuid = |n: u64| format!("0193a1b2-0000-7000-8000-00000000000{n}");
        match self {
            Type::Date => {
                rng.pick(&["2000-02-29", "1999-12-31", "2000-01-01", "2024-03-31", "1970-01-01"])
            }
            Type::Clock => rng.pick(&["00:00:00", "12:30:00", "23:59:59.5", "07:05:09.000001"]),
            Type::Interval => rng.pick(&[
                "1 day",
                "2 hours",
                "-3 days",
                "1 year 2 mons",
                "30 minutes",
                "5 seconds",
            ]),
            _ => return uuid(rng.below(4)),
        }
        .to_string()
    }
}

/// The program of this seed.
pub fn program(seed: u64) -> Script {
    let rng = &mut Rng::new(seed);
    let upserts: Vec<bool> = (0..1 + rng.below(3)).map(|_| rng.one_in(2)).collect();
    let (tables, sql): (Vec<Relation>, Vec<String>) =
        upserts.iter().enumerate().map(|(n, upsert)| table(rng, &format!("t{n}"), *upsert)).unzip();
    let count = 5 + rng.below(36);
    let events: Vec<TimedEvent> = (1..=count)
        .map(|n| {
            let at = rng.below(tables.len() as u64) as usize;
            event(rng, &tables[at], upserts[at], CLOCK_START + n)
        })
        .collect();
    let mut relations = tables;
    let mut views = Vec::new();
    for number in 0..1 + rng.below(3) {
        let query = Query::random(rng, &relations);
        let name = format!("v{number}");
        let (sql, theirs) = (words::ours(&query.sql), words::theirs(&query.sql));
        let words = (sql != theirs).then_some(theirs);
        let reason = words.is_some().then_some(reasons::RANDOM);
        let oracle = Asked { engine: Engine::Postgres, reason, words };
        views.push(View { name: name.clone(), sql, oracle, expected: None });
        relations.push(Relation { name, columns: query.columns });
    }
    Script {
        path: format!("generated/{seed}.slt").into(),
        tables: sql.concat(),
        events,
        end: CLOCK_START + count,
        views,
        refused: Vec::new(),
        without: Vec::new(),
    }
}

fn table(rng: &mut Rng, name: &str, upsert: bool) -> (Relation, String) {
    let mut columns = vec![("k".to_string(), Type::Int), ("n".to_string(), Type::Int)];
    for at in 0..1 + rng.below(4) {
        let t = match Construct::MoreTypes.comes_up(rng, 4) {
            true => rng.pick_of(&MORE_TYPES),
            false => rng.pick_of(&TYPES),
        };
        columns.push((format!("c{at}"), t));
    }
    let mut declared: Vec<String> = columns
        .iter()
        .map(|(name, t)| match t {
            Type::Text if Construct::MoreTypes.comes_up(rng, 4) => format!("{name} VARCHAR(3)"),
            t => format!("{name} {}", t.sql()),
        })
        .collect();
    if rng.one_in(4) {
        declared.push("s STRUCT<x BIGINT, y BIGINT>".to_string());
        columns.extend(FIELDS.map(|name| (name.to_string(), Type::Int)));
    }
    let mut options = format!("event_type = '{name}'");
    if upsert {
        declared.extend(["gone BOOLEAN".to_string(), "PRIMARY KEY (k)".to_string()]);
        options.push_str(", mode = 'upsert', delete_when = 'gone'");
    }
    let sql = format!("CREATE TABLE {name} ({}) WITH ({options});\n", declared.join(", "));
    (Relation { name: name.to_string(), columns }, sql)
}

fn event(rng: &mut Rng, table: &Relation, upsert: bool, tick: u64) -> TimedEvent {
    let mut members: Vec<String> = Vec::new();
    if table.columns.iter().any(|(name, _)| name == FIELDS[0]) && !rng.one_in(6) {
        let (x, y) = (Type::Int.json(rng), rng.pick(&["null", "1", "2"]));
        members.push(format!("\"s\":{{\"x\":{x},\"y\":{y}}}"));
    }
    for (name, t) in table.columns.iter().filter(|(name, _)| !FIELDS.contains(&name.as_str())) {
        let is_key = upsert && name == "k";
        let value = if !is_key && rng.one_in(8) { "null".to_string() } else { t.json(rng) };
        members.push(format!("\"{name}\":{value}"));
    }
    if upsert {
        members.push(format!("\"gone\":{}", rng.one_in(4)));
    }
    TimedEvent { tick, event_type: table.name.clone(), data: format!("{{{}}}", members.join(",")) }
}
