//! Constructs that programs may be made of beside the plain ones, each with a switch of its own.

use std::sync::OnceLock;

use super::program::Type;
use super::query::{Items, Query, Writer};
use super::relation::{FIELDS, Relation};
use crate::rng::Rng;

/// A construct with a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Construct {
    /// `JOIN … USING (k)`, whose merged column is read.
    Using,
    /// `NATURAL JOIN`.
    Natural,
    /// `a IS [NOT] DISTINCT FROM b AND …`.
    DistinctFrom,
    /// Differences of times, compared and taken apart.
    Intervals,
    /// `AT TIME ZONE`.
    Zones,
    /// Windows with names, and windows over those.
    NamedWindows,
    /// Aggregates over columns of the query around a sub-query.
    OuterAggregates,
    /// Frames without the row itself, its peers, or both.
    Exclude,
    /// Columns of two types that USING merges.
    MergedTypes,
    /// Several functions of one SELECT list that give rows.
    SideBySide,
    /// Quotients of decimals, and sums of them.
    Quotients,
    /// Operators and functions over columns of types that they may not be for.
    Unlike,
    /// Rows of two values against the rows of sub-queries.
    RowsAgainst,
    /// `LIMIT (SELECT …)`.
    LimitOf,
    /// JSON, of columns and built.
    Json,
    /// `to_char` and `date_trunc`.
    Formats,
    /// LIKE, SIMILAR TO, regular expressions, functions of texts.
    Patterns,
    /// Rows of a sub-query as one value.
    WholeRows,
    /// Columns of dates, times of day, intervals, UUIDs, JSON and VARCHAR.
    MoreTypes,
}

use Construct::{
    DistinctFrom, Exclude, Formats, Intervals, Json, LimitOf, MergedTypes, MoreTypes, NamedWindows,
    Natural, OuterAggregates, Patterns, Quotients, RowsAgainst, SideBySide, Unlike, Using,
    WholeRows, Zones,
};

const ALL: [Construct; 19] = [
    Using,
    Natural,
    DistinctFrom,
    Intervals,
    Zones,
    NamedWindows,
    OuterAggregates,
    Exclude,
    MergedTypes,
    SideBySide,
    Unlike,
    Quotients,
    RowsAgainst,
    LimitOf,
    Json,
    Formats,
    Patterns,
    WholeRows,
    MoreTypes,
];

impl Construct {
    /// Whether programs may have it: all of them, or those that `HELIOSTAT_CONSTRUCTS=Using,Zones` names.
    pub fn is_drawn(self) -> bool {
        static DRAWN_NOW: OnceLock<Vec<Construct>> = OnceLock::new();
        let drawn = DRAWN_NOW.get_or_init(|| match std::env::var("HELIOSTAT_CONSTRUCTS") {
            Ok(names) => {
                let known = |name: &str| ALL.into_iter().find(|c| format!("{c:?}") == name);
                let names = names.split(',').filter(|name| !name.is_empty());
                names.map(|name| known(name).unwrap_or_else(|| panic!("{name}: {ALL:?}"))).collect()
            }
            Err(_) => ALL.to_vec(),
        });
        drawn.contains(&self)
    }

    /// Whether to take it here, where it is one of `n` ways.
    pub fn comes_up(self, rng: &mut Rng, n: u64) -> bool {
        self.is_drawn() && rng.one_in(n)
    }
}

/// The type that USING gives to a column of these two.
fn merged(one: Type, two: Type) -> Option<Type> {
    match (one, two) {
        (one, two) if one == two && one.is_comparable() => Some(one),
        _ if !MergedTypes.is_drawn() => None,
        (Type::Int, Type::Decimal) | (Type::Decimal, Type::Int) => Some(Type::Decimal),
        (Type::Int | Type::Decimal, Type::Float) | (Type::Float, Type::Int | Type::Decimal) => {
            Some(Type::Float)
        }
        _ => None,
    }
}

/// A column's name without its relation's.
fn bare(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, name)| name)
}

impl Writer<'_> {
    /// Two relations, joined by columns that both have.
    pub fn joined_by_names(
        &mut self,
        first: &Relation,
        second: &Relation,
    ) -> Option<(String, Relation)> {
        let natural = Natural.is_drawn() && (!Using.is_drawn() || self.rng.one_in(3));
        let same = |name: &str| second.columns.iter().find(|(other, _)| bare(other) == bare(name));
        let mut shared: Vec<(String, Type)> = Vec::new();
        for (name, t) in &first.columns {
            let Some((_, other)) = same(name) else { continue };
            match merged(*t, *other) {
                Some(both) => shared.push((bare(name).to_string(), both)),
                // A natural join would compare them.
                None if natural => return None,
                None => {}
            }
        }
        let has_fields = |r: &Relation| {
            FIELDS.iter().any(|field| r.columns.iter().any(|(n, _)| n.contains(field)))
        };
        if shared.is_empty() || (has_fields(first) && has_fields(second)) {
            return None;
        }
        if !natural {
            let at = self.rng.below(shared.len() as u64) as usize;
            shared.swap(0, at);
            shared.truncate(1 + self.rng.below(2) as usize);
        }
        let join = self.rng.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let names: Vec<&str> = shared.iter().map(|(name, _)| name.as_str()).collect();
        let text = match natural {
            true => format!("{} NATURAL {join} {}", first.name, second.name),
            false => format!("{} {join} {} USING ({})", first.name, second.name, names.join(", ")),
        };
        let apart = first.columns.iter().chain(&second.columns);
        let apart: Vec<(String, Type)> =
            apart.filter(|(name, _)| !names.contains(&bare(name))).cloned().collect();
        let columns = shared.iter().cloned().chain(apart).collect();
        Some((text, Relation { name: String::new(), columns }))
    }

    /// Two comparisons in which NULL is a value, with what binds less behind them.
    pub fn distinct_from(&mut self, rows: &Relation) -> String {
        let (name, t) = rows.any(self.rng);
        let other = match self.rng.one_in(3) {
            true => "NULL".to_string(),
            false => t.literal(self.rng),
        };
        let not = self.rng.pick(&["", "NOT "]);
        let word = self.rng.pick(&["AND", "OR"]);
        format!("({name} IS {not}DISTINCT FROM {other} {word} {})", self.comparison(rows))
    }

    /// A condition on how far times are apart.
    pub fn interval_comparison(&mut self, rows: &Relation) -> Option<String> {
        let times = rows.of(Type::Time);
        let (time, other) = (self.rng.pick(self.some(&times)?), self.rng.pick(&times));
        let more =
            self.rng.pick(&["36 hours", "1 day", "1 month", "40 days", "-1 day", "5 milliseconds"]);
        let than = self.rng.pick(&["<", "<=", "=", ">=", "<>"]);
        let limit =
            self.rng.pick(&["24 hours", "1 day", "30 days", "1 month", "0 days", "5 milliseconds"]);
        Some(format!("({time} + INTERVAL '{more}') - {other} {than} INTERVAL '{limit}'"))
    }

    fn some<'a, 'b>(&self, times: &'b [&'a str]) -> Option<&'b [&'a str]> {
        (!times.is_empty()).then_some(times)
    }

    /// A time that is moved by an interval, or a unit of a difference of times.
    pub fn interval_value(&mut self, rows: &Relation) -> Option<(String, Type)> {
        let times = rows.of(Type::Time);
        let (time, other) = (self.rng.pick(self.some(&times)?), self.rng.pick(&times));
        let more = self.rng.pick(&["36 hours", "1 day", "1 month", "-40 days", "90 minutes"]);
        Some(match self.rng.below(3) {
            0 => (format!("{time} + INTERVAL '{more}'"), Type::Time),
            1 => {
                let unit = self.rng.pick(&["day", "hour", "minute"]);
                let text = format!(
                    "CAST(extract({unit} FROM ({time} + INTERVAL '{more}') - {other}) AS BIGINT)"
                );
                (text, Type::Int)
            }
            _ => {
                let text =
                    format!("CAST(CAST({time} AS DATE) + INTERVAL '{more}' AS TIMESTAMP(3))");
                (text, Type::Time)
            }
        })
    }

    /// A time in one zone as it is in another.
    pub fn zoned(&mut self, rows: &Relation) -> Option<(String, Type)> {
        let times = rows.of(Type::Time);
        let time = self.rng.pick(self.some(&times)?);
        let zones = ["Europe/Berlin", "America/New_York", "UTC", "Asia/Kolkata"];
        let (from, to) = (self.rng.pick(&zones), self.rng.pick(&zones));
        let text = format!(
            "({time} + INTERVAL '{} days') AT TIME ZONE '{from}' AT TIME ZONE '{to}'",
            self.rng.below(300)
        );
        Some((text, Type::Time))
    }

    /// Window functions over a window with a name, and over windows made of it.
    pub fn named_windows(&mut self, rows: &Relation, rest: &str) -> Query {
        let mut items = self.some_columns(rows);
        let (partition, argument, all) = (rows.any(self.rng).0, rows.int(self.rng), rows.all());
        let order = rows.any(self.rng).0;
        for _ in 0..1 + self.rng.below(2) {
            let call = match self.rng.below(5) {
                0 => "count(*) OVER w".to_string(),
                1 => "row_number() OVER v".to_string(),
                2 => format!("lag({argument}) OVER v"),
                3 => format!("CAST(sum({argument}) OVER (w ORDER BY {order}, {all}) AS BIGINT)"),
                _ => format!("max({argument}) OVER (v ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)"),
            };
            // Only a window without a frame of its own can be built upon.
            items.add((call, Type::Int));
        }
        items.query(format!(
            "{rest} WINDOW w AS (PARTITION BY {partition}), v AS (w ORDER BY {order} DESC, {all})"
        ))
    }

    /// Rows beside the elements of lists and the numbers of series, which go on together.
    pub fn side_by_side(&mut self, rows: &Relation, rest: &str) -> Query {
        let mut items = self.some_columns(rows);
        for _ in 0..2 + self.rng.below(2) {
            let lists = rows.of(Type::Ints);
            let (int, other) = (rows.int(self.rng), rows.int(self.rng));
            let elements = match self.rng.below(4) {
                0 | 1 if !lists.is_empty() => format!("unnest({})", self.rng.pick(&lists)),
                0 => format!("unnest(ARRAY[{int}, NULL, {other}])"),
                1 => format!("generate_series(1, {int})"),
                2 => format!("generate_series({int}, {other}) + {other}"),
                _ => format!("generate_series({int}, 0, -1)"),
            };
            items.add((elements, Type::Int));
        }
        items.query(rest.to_string())
    }

    /// A quotient, of which some are rounded.
    pub fn quotient(&mut self, rows: &Relation) -> String {
        let decimals = rows.of(Type::Decimal);
        let dividend = match decimals.is_empty() {
            true => format!("CAST({} AS DECIMAL(12,2))", rows.int(self.rng)),
            false => self.rng.pick(&decimals).to_string(),
        };
        let divisor = match self.rng.below(3) {
            0 => self.rng.pick(&["3", "7.0", "0.37", "97", "12.9"]).to_string(),
            1 => format!("nullif({}, 0)", rows.int(self.rng)),
            _ => format!("nullif({} * 1.5, 0)", rows.int(self.rng)),
        };
        format!("{dividend} / {divisor}")
    }

    /// A condition that has a type of its own in few cases only.
    pub fn unlike(&mut self, rows: &Relation) -> String {
        let ((one, t), (other, u)) = (rows.any(self.rng), rows.any(self.rng));
        match self.rng.below(8) {
            0 => format!("{one} || {other} = 'ab'"),
            1 => format!("upper({one}) = 'A'"),
            2 => format!("abs({one}) = 1"),
            3 => format!("{one} + {other} = {one}"),
            4 => format!("{one} IN ({other})"),
            // A UUID stands beside texts in coalesce() here, and not in PostgreSQL.
            5 if (t == Type::Uuid) != (u == Type::Uuid) => format!("{one} IS NULL"),
            5 => format!("coalesce({one}, {other}) IS NULL"),
            6 => format!("({one} AND {other})"),
            _ => {
                format!("{one} {} {other}", self.rng.pick(&["=", "<", "IS DISTINCT FROM", "LIKE"]))
            }
        }
    }

    /// Groups whose items have sub-queries over what the groups come to.
    pub fn outer_aggregates(&mut self, rows: &Relation, rest: &str) -> Query {
        let inner = self.relation("i");
        let (key, t) = rows.any(self.rng);
        let (outer, value) = (rows.int(self.rng), inner.int(self.rng));
        let mut items = Items::default();
        items.add((key.clone(), t));
        let call = self.rng.pick(&["max", "min", "count"]);
        // A merged column has a name that the sub-query may have, too.
        let is_merged = bare(&outer) == outer;
        let text = match self.rng.below(3) {
            _ if is_merged => format!("(SELECT {call}({outer}))"),
            0 => format!("(SELECT {call}({outer}))"),
            1 => format!(
                "(SELECT max({value}) FROM {} WHERE {value} <= {call}({outer}))",
                inner.name
            ),
            _ => format!("(SELECT count(*) FROM {} WHERE {value} = {call}({outer}))", inner.name),
        };
        items.add((text, Type::Int));
        items.query(format!("{rest} GROUP BY {key}"))
    }
}
