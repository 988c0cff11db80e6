//! Conditions and values of the types and functions that fewer programs have: rows against sub-queries, JSON,
//! formats, patterns, whole rows, dates, times of day, intervals and UUIDs.

use super::constructs::Construct;
use super::program::Type;
use super::query::Writer;
use super::relation::Relation;

/// Patterns of `to_char` over times.
const TIME_FORMATS: [&str; 8] = [
    "YYYY-MM-DD HH24:MI:SS.MS",
    "Dy, DD Mon YYYY",
    "IYYY-IW-ID",
    "FMDay, FMDDth of FMMonth",
    "HH12:MI:SS AM",
    "Q J DDD",
    "YY Y,YYY CC",
    "TMMonth MONTH mon",
];

/// Patterns of `to_char` over numbers.
const NUMBER_FORMATS: [&str; 8] =
    ["999", "FM000", "9,999.99", "S99", "FMRN", "990.0", "FM9G999D0", "99PR"];

/// Regular expressions that match some of the texts that events have.
const REGEXES: [&str; 6] = ["^[ab]+$", "b|c", "^$", "[^a]", "(a)(b)?", "^.{1,2}$"];

impl Writer<'_> {
    /// A comparison of two values with the rows of a sub-query.
    pub fn rows_against(&mut self, rows: &Relation) -> String {
        let inner = self.relation("i");
        let (value, other) = (inner.int(self.rng), inner.int(self.rng));
        let (one, two) = (rows.int(self.rng), rows.int(self.rng));
        let filter = self.comparison(&inner);
        let from = format!("(SELECT {value}, {other} FROM {} WHERE {filter})", inner.name);
        match self.rng.below(4) {
            0 => format!("ROW({one}, {two}) {}IN {from}", self.rng.pick(&["", "NOT "])),
            1 => format!("({one}, {two}) {} ANY {from}", self.rng.pick(&["=", "<>", "<", ">="])),
            2 => format!("({one}, {two}) {} ALL {from}", self.rng.pick(&["=", "<>", "<=", ">"])),
            _ => {
                let than = self.rng.pick(&["=", "<>", "<", ">="]);
                format!("({one}, {two}) {than} ({value_of}, 2)", value_of = rows.int(self.rng))
            }
        }
    }

    /// A text by a pattern, where there is a text.
    pub fn pattern_condition(&mut self, rows: &Relation) -> Option<String> {
        let text = self.text(rows)?;
        let not = self.rng.pick(&["", "NOT "]);
        Some(match self.rng.below(4) {
            0 => format!("{text} {not}LIKE '{}'", self.rng.pick(&["a%", "_", "%b%", "", "a\\_%"])),
            1 => format!("{text} {not}ILIKE '{}'", self.rng.pick(&["A%", "ö", "%B_%"])),
            2 => format!(
                "{text} {} '{}'",
                self.rng.pick(&["~", "!~", "~*", "!~*"]),
                self.rng.pick(&REGEXES)
            ),
            _ => format!(
                "{text} {not}SIMILAR TO '{}'",
                self.rng.pick(&["(a|b)%", "[^c]", "a*", "_{1,2}"])
            ),
        })
    }

    fn text(&mut self, rows: &Relation) -> Option<String> {
        let texts = rows.of(Type::Text);
        (!texts.is_empty()).then(|| self.rng.pick(&texts).to_string())
    }

    /// What a function of texts makes of one.
    pub fn pattern_value(&mut self, rows: &Relation) -> Option<(String, Type)> {
        let text = self.text(rows)?;
        let regex = self.rng.pick(&REGEXES);
        Some(match self.rng.below(6) {
            0 => (format!("regexp_replace({text}, '{regex}', '<\\&>', 'g')"), Type::Text),
            1 => (format!("CAST(regexp_count({text}, '{regex}') AS BIGINT)"), Type::Int),
            2 => (format!("substring({text} FROM '{regex}')"), Type::Text),
            3 => (format!("split_part({text}, 'b', {})", 1 + self.rng.below(2)), Type::Text),
            4 => (format!("lpad({text}, 4, 'xy') || upper(left({text}, 1))"), Type::Text),
            _ => (
                format!("translate({text}, 'ab', 'b') || CAST(length({text}) AS TEXT)"),
                Type::Text,
            ),
        })
    }

    /// A time or a number by a format, or a time cut off.
    pub fn formatted(&mut self, rows: &Relation) -> Option<(String, Type)> {
        let times = rows.of(Type::Time);
        if !times.is_empty() && self.rng.one_in(2) {
            let time = self.rng.pick(&times);
            let days = self.rng.below(400);
            return Some(match self.rng.one_in(3) {
                true => {
                    let unit =
                        self.rng.pick(&["second", "hour", "week", "quarter", "year", "decade"]);
                    (format!("date_trunc('{unit}', {time} + INTERVAL '{days} days')"), Type::Time)
                }
                false => {
                    let format = self.rng.pick(&TIME_FORMATS);
                    (format!("to_char({time} + INTERVAL '{days} days', '{format}')"), Type::Text)
                }
            });
        }
        let decimals = rows.of(Type::Decimal);
        let number = match decimals.is_empty() || self.rng.one_in(2) {
            true => rows.int(self.rng),
            false => self.rng.pick(&decimals).to_string(),
        };
        Some((format!("to_char({number}, '{}')", self.rng.pick(&NUMBER_FORMATS)), Type::Text))
    }

    /// A condition on JSON, of a column or built.
    pub fn json_condition(&mut self, rows: &Relation) -> String {
        let json = self.json(rows);
        let number = self.rng.below(3);
        match self.rng.below(7) {
            0 => format!("{json} @> '{{\"a\": {number}}}'"),
            1 => format!("{json} ? '{}'", self.rng.pick(&["a", "b", "c"])),
            2 => format!("{json} -> 'a' = '{number}.0'"),
            3 => format!("{json} IN ('[{number},null]', '{{\"b\":null,\"a\":{number}}}')"),
            4 => {
                let than = self.rng.pick(&["=", "<>", "<", ">=", "IS DISTINCT FROM"]);
                format!("{json} {than} '{{\"b\":{number}, \"a\":{number}}}'")
            }
            5 => {
                format!("CASE {json} -> 'a' WHEN '{number}.00' THEN true ELSE {json} = {json} END")
            }
            _ => format!(
                "jsonb_typeof({json} -> 'b') = '{}'",
                self.rng.pick(&["null", "array", "string"])
            ),
        }
    }

    /// A jsonb.
    fn json(&mut self, rows: &Relation) -> String {
        let columns = rows.of(Type::Json);
        if !columns.is_empty() && !self.rng.one_in(3) {
            return format!("CAST({} AS JSONB)", self.rng.pick(&columns));
        }
        let (one, other) = (rows.int(self.rng), rows.any(self.rng).0);
        match self.rng.below(3) {
            0 => format!("jsonb_build_array({one}, {other})"),
            1 => format!("to_jsonb(ARRAY[{one}, NULL])"),
            _ => format!("jsonb_build_object('a', {one}, 'b', {other})"),
        }
    }

    pub fn json_value(&mut self, rows: &Relation) -> (String, Type) {
        let json = self.json(rows);
        match self.rng.below(5) {
            0 => (format!("{json} ->> 'b'"), Type::Text),
            1 => (format!("{json} #>> '{{b,0}}'"), Type::Text),
            2 => (format!("CAST(jsonb_strip_nulls({json}) AS TEXT)"), Type::Text),
            3 => (format!("CAST({json} || CAST('{{\"c\": [1]}}' AS JSONB) AS TEXT)"), Type::Text),
            _ => (format!("CAST({json} AS TEXT)"), Type::Text),
        }
    }

    /// Rows of a sub-query as JSON.
    pub fn whole_rows(&mut self, rows: &Relation) -> (String, Type) {
        let inner = self.relation("i");
        let (value, key, outer) = (inner.int(self.rng), inner.int(self.rng), rows.int(self.rng));
        let (any, _) = inner.any(self.rng);
        let than = self.rng.pick(&["=", "<"]);
        let from = format!("FROM {} WHERE {key} {than} {outer}", inner.name);
        let some = format!("(SELECT {value} AS p, {any} AS q {from}");
        let text = match self.rng.below(2) {
            0 => format!(
                "(SELECT CAST(to_jsonb(w) AS TEXT) FROM {some} ORDER BY 1, 2 LIMIT 1) AS w)"
            ),
            _ => format!("(SELECT CAST(json_agg(w ORDER BY w.p, w.q) AS TEXT) FROM {some}) AS w)"),
        };
        (text, Type::Text)
    }

    /// What becomes of a date, a time of day, an interval or a UUID.
    pub fn of_more_types(&mut self, rows: &Relation) -> Option<(String, Type)> {
        let wanted = [Type::Date, Type::Clock, Type::Interval, Type::Uuid];
        let present: Vec<Type> = wanted.into_iter().filter(|t| !rows.of(*t).is_empty()).collect();
        if present.is_empty() {
            return None;
        }
        let t = self.rng.pick_of(&present);
        let column = self.rng.pick(&rows.of(t)).to_string();
        let n = self.rng.below(40);
        Some(match (t, self.rng.below(4)) {
            (Type::Date, 0) => (format!("{column} + {n}"), Type::Date),
            (Type::Date, 1) => (format!("CAST({column} - DATE '2000-02-29' AS BIGINT)"), Type::Int),
            (Type::Date, 2) => {
                let unit = self.rng.pick(&["doy", "week", "isodow", "quarter", "century"]);
                (format!("CAST(extract({unit} FROM {column}) AS BIGINT)"), Type::Int)
            }
            (Type::Date, _) => {
                (format!("CAST({column} + INTERVAL '{n} months' AS DATE)"), Type::Date)
            }
            (Type::Clock, 0) => (format!("{column} + INTERVAL '{n} hours'"), Type::Clock),
            (Type::Clock, 1) => (format!("CAST({column} - TIME '12:00' AS TEXT)"), Type::Text),
            (Type::Clock, 2) => {
                (format!("CAST(extract(epoch FROM {column}) AS BIGINT)"), Type::Int)
            }
            (Type::Clock, _) => {
                (format!("{column} >= {}", Type::Clock.literal(self.rng)), Type::Bool)
            }
            (Type::Interval, 0) => (format!("CAST({column} * {n} AS TEXT)"), Type::Text),
            (Type::Interval, 1) => (
                format!("CAST(justify_interval({column} + INTERVAL '{n} hours') AS TEXT)"),
                Type::Text,
            ),
            (Type::Interval, 2) => {
                (format!("CAST(extract(epoch FROM {column}) AS BIGINT)"), Type::Int)
            }
            (Type::Interval, _) => {
                (format!("{column} > {}", Type::Interval.literal(self.rng)), Type::Bool)
            }
            (_, 0 | 1) => (format!("left(CAST({column} AS TEXT), 3)"), Type::Text),
            _ => (format!("{column} < {}", Type::Uuid.literal(self.rng)), Type::Bool),
        })
    }

    /// A value by one of these constructs.
    pub fn more_value(&mut self, rows: &Relation) -> Option<(String, Type)> {
        if Construct::MoreTypes.comes_up(self.rng, 2)
            && let Some(value) = self.of_more_types(rows)
        {
            return Some(value);
        }
        if Construct::Patterns.comes_up(self.rng, 8)
            && let Some(value) = self.pattern_value(rows)
        {
            return Some(value);
        }
        if Construct::Formats.comes_up(self.rng, 8) {
            return self.formatted(rows);
        }
        if Construct::Json.comes_up(self.rng, 8) {
            return Some(self.json_value(rows));
        }
        Construct::WholeRows.comes_up(self.rng, 12).then(|| self.whole_rows(rows))
    }

    /// A condition by one of these constructs.
    pub fn more_condition(&mut self, rows: &Relation) -> Option<String> {
        if Construct::RowsAgainst.comes_up(self.rng, 10) {
            return Some(self.rows_against(rows));
        }
        if Construct::Patterns.comes_up(self.rng, 8)
            && let Some(condition) = self.pattern_condition(rows)
        {
            return Some(condition);
        }
        Construct::Json.comes_up(self.rng, 16).then(|| self.json_condition(rows))
    }
}
