//! Random queries. What is compared is a set of rows that SQL fixes: every LIMIT, list and window
//! orders by all columns, so that what is tied is equal.

use super::constructs::Construct;
use super::program::Type;
use super::relation::Relation;
use super::words::either;
use crate::rng::Rng;

/// A query and the columns that it has.
pub struct Query {
    pub sql: String,
    pub columns: Vec<(String, Type)>,
}

/// The items of a SELECT, named x0, x1, …
#[derive(Default)]
pub struct Items {
    texts: Vec<String>,
    pub columns: Vec<(String, Type)>,
}

impl Items {
    pub fn add(&mut self, (text, t): (String, Type)) {
        let name = format!("x{}", self.texts.len());
        self.texts.push(format!("{text} AS {name}"));
        self.columns.push((name, t));
    }

    pub fn query(self, rest: String) -> Query {
        Query { sql: format!("SELECT {} {rest}", self.texts.join(", ")), columns: self.columns }
    }
}

pub struct Writer<'a> {
    pub rng: &'a mut Rng,
    relations: &'a [Relation],
}

impl Query {
    /// A query over some of these relations.
    pub fn random(rng: &mut Rng, relations: &[Relation]) -> Query {
        Writer { rng, relations }.query()
    }
}

impl Writer<'_> {
    pub fn relation(&mut self, alias: &str) -> Relation {
        self.relations[self.rng.below(self.relations.len() as u64) as usize].as_alias(alias)
    }

    fn query(&mut self) -> Query {
        let kind = self.rng.below(14);
        if kind == 0 {
            return self.recursion();
        }
        let (from, rows) = self.source();
        let rest = format!("FROM {from}{}", self.filter(&rows));
        match kind {
            1 => self.distinct(&rows, &rest),
            2..=5 if Construct::OuterAggregates.comes_up(self.rng, 4) => {
                self.outer_aggregates(&rows, &rest)
            }
            2..=5 => self.groups(&rows, &rest),
            6 | 7 if Construct::NamedWindows.comes_up(self.rng, 3) => {
                self.named_windows(&rows, &rest)
            }
            6 | 7 => self.windows(&rows, &rest),
            8 => self.limited(&rows, &rest),
            9 => self.best(&rows, &rest),
            10 => self.set_operation(&rows, &rest),
            11 => self.lateral(&rows, &from),
            12 | 13 if Construct::SideBySide.comes_up(self.rng, 4) => {
                self.side_by_side(&rows, &rest)
            }
            _ => {
                let mut items = self.some_columns(&rows);
                items.add(rows.any_at_all(self.rng));
                if self.rng.one_in(2) {
                    items.add(self.value(&rows));
                }
                items.query(rest)
            }
        }
    }

    pub fn filter(&mut self, rows: &Relation) -> String {
        match self.rng.below(5) {
            0 | 1 => String::new(),
            2 | 3 => format!(" WHERE {}", self.condition(rows)),
            _ => format!(" WHERE {} AND {}", self.condition(rows), self.condition(rows)),
        }
    }

    pub fn comparison(&mut self, rows: &Relation) -> String {
        let (name, t) = rows.any(self.rng);
        match self.rng.below(6) {
            0 => format!("{name} IS {}NULL", self.rng.pick(&["", "NOT "])),
            1 if t != Type::Bool => {
                format!("{name} IN ({}, {})", t.literal(self.rng), t.literal(self.rng))
            }
            2 => {
                let other = match rows.of(t) {
                    none if none.is_empty() => t.literal(self.rng),
                    some => self.rng.pick(&some).to_string(),
                };
                format!("{name} {} {other}", self.rng.pick(&["=", "<>", "<", ">="]))
            }
            _ => {
                let than = self.rng.pick(&["=", "<>", "<", "<=", ">", ">="]);
                format!("{name} {than} {}", t.literal(self.rng))
            }
        }
    }

    fn condition(&mut self, rows: &Relation) -> String {
        if Construct::DistinctFrom.comes_up(self.rng, 8) {
            return self.distinct_from(rows);
        }
        if Construct::Unlike.comes_up(self.rng, 40) {
            return self.unlike(rows);
        }
        if Construct::Intervals.comes_up(self.rng, 6)
            && let Some(condition) = self.interval_comparison(rows)
        {
            return condition;
        }
        if let Some(condition) = self.more_condition(rows) {
            return condition;
        }
        match self.rng.below(12) {
            0 => format!("({} OR {})", self.comparison(rows), self.comparison(rows)),
            1 => format!("NOT ({})", self.comparison(rows)),
            2..=4 => self.membership(rows),
            5 => format!("({} OR {})", self.comparison(rows), self.membership(rows)),
            6 | 7 => self.on_now(rows),
            _ => self.comparison(rows),
        }
    }

    fn on_now(&mut self, rows: &Relation) -> String {
        let times = rows.of(Type::Time);
        if times.is_empty() {
            return self.comparison(rows);
        }
        let time = self.rng.pick(&times);
        let apart = self.rng.below(30);
        match self.rng.below(4) {
            0 => format!("{time} <= now()"),
            1 => format!("{time} > now() - INTERVAL '{apart} milliseconds'"),
            2 => format!("NOT ({time} + INTERVAL '{apart} milliseconds' > now())"),
            _ => format!("{time} BETWEEN now() - INTERVAL '{apart} milliseconds' AND now()"),
        }
    }

    /// A condition with a sub-query.
    pub fn membership(&mut self, rows: &Relation) -> String {
        let inner = self.relation("i");
        let (outer, value, other) = (rows.int(self.rng), inner.int(self.rng), inner.int(self.rng));
        let filter = self.comparison(&inner);
        let not = self.rng.pick(&["", "NOT "]);
        let than = self.rng.pick(&["<", ">=", "=", "<>"]);
        let from = &inner.name;
        match self.rng.below(9) {
            7 => format!(
                "({outer}, {}) IN (SELECT {value}, {other} FROM {from} WHERE {filter})",
                rows.int(self.rng)
            ),
            8 => format!(
                "{not}EXISTS (SELECT 1 FROM {from} WHERE {value} = {outer} AND {other} {than} {})",
                rows.int(self.rng)
            ),
            0 | 1 => format!("{outer} {not}IN (SELECT {value} FROM {from} WHERE {filter})"),
            2 => format!("{not}EXISTS (SELECT 1 FROM {from} WHERE {value} = {outer} AND {filter})"),
            3 => format!(
                "{not}EXISTS (SELECT 1 FROM {from} WHERE {value} {than} {outer} AND {filter})"
            ),
            4 => {
                format!("{outer} {than} (SELECT max({other}) FROM {from} WHERE {value} = {outer})")
            }
            5 => {
                format!("{outer} {not}IN (SELECT {value} FROM {from} WHERE {other} {than} {outer})")
            }
            _ => format!("{outer} > (SELECT count(*) FROM {from} WHERE {value} {than} {outer})"),
        }
    }

    /// An expression that is not a column alone.
    fn value(&mut self, rows: &Relation) -> (String, Type) {
        if Construct::Intervals.comes_up(self.rng, 4)
            && let Some(value) = self.interval_value(rows)
        {
            return value;
        }
        if Construct::Zones.comes_up(self.rng, 4)
            && let Some(value) = self.zoned(rows)
        {
            return value;
        }
        if Construct::Quotients.comes_up(self.rng, 8) {
            return (self.quotient(rows), Type::Rounded);
        }
        if let Some(value) = self.more_value(rows) {
            return value;
        }
        let (name, t) = rows.any(self.rng);
        match self.rng.below(13) {
            10 | 11 => self.collected(rows),
            0 => (format!("coalesce({name}, {})", t.literal(self.rng)), t),
            1 => {
                let condition = self.comparison(rows);
                (format!("CASE WHEN {condition} THEN {name} ELSE {} END", t.literal(self.rng)), t)
            }
            2 => {
                let inner = self.relation("i");
                let (argument, key) = (inner.int(self.rng), inner.int(self.rng));
                let call = self.rng.pick(&["max", "min", "sum", "count"]);
                let than = self.rng.pick(&["=", "=", "<"]);
                let outer = rows.int(self.rng);
                let from = &inner.name;
                let text = format!(
                    "(SELECT CAST({call}({argument}) AS BIGINT) FROM {from} WHERE {key} {than} {outer})"
                );
                (text, Type::Int)
            }
            3 => {
                let inner = self.relation("i");
                let (value, key, all) = (inner.int(self.rng), inner.int(self.rng), inner.all());
                let (outer, order) = (rows.int(self.rng), self.rng.pick(&["", " DESC"]));
                let text = format!(
                    "(SELECT {value} FROM {} WHERE {key} = {outer} ORDER BY {value}{order}, {all} LIMIT 1)",
                    inner.name
                );
                (text, Type::Int)
            }
            4 | 5 => self.of_list(rows),
            6 | 7 => self.mixed(rows),
            8 => (format!("{} + {}", rows.int(self.rng), rows.int(self.rng)), Type::Int),
            _ => (self.comparison(rows), Type::Bool),
        }
    }

    /// A sub-query over groups, a list or some values, as an expression.
    fn collected(&mut self, rows: &Relation) -> (String, Type) {
        let inner = self.relation("i");
        let (value, key, outer) = (inner.int(self.rng), inner.int(self.rng), rows.int(self.rng));
        let than = self.rng.pick(&["=", "=", "<"]);
        let from = format!("FROM {} WHERE {key} {than} {outer}", inner.name);
        match self.rng.below(4) {
            0 => {
                let order = self.rng.pick(&["", " DESC"]);
                let limit = self.rng.pick(&["", " LIMIT 2"]);
                (format!("ARRAY(SELECT {value} {from} ORDER BY {value}{order}{limit})"), Type::Ints)
            }
            1 => (format!("(SELECT max(v.y) FROM (VALUES ({outer}), (2)) AS v(y))"), Type::Int),
            kind => {
                let (by, _) = inner.any(self.rng);
                let sets = match kind {
                    2 => format!("ROLLUP ({by})"),
                    _ => format!("GROUPING SETS (({by}), ({by}, {value}))"),
                };
                let text = format!(
                    "(SELECT CAST(sum(g.y) AS BIGINT) FROM (SELECT count(*) + 1 AS y {from} GROUP BY {sets}) AS g)"
                );
                (text, Type::Int)
            }
        }
    }

    /// An expression over a list.
    fn of_list(&mut self, rows: &Relation) -> (String, Type) {
        let lists = rows.of(Type::Ints);
        let list = match lists.is_empty() {
            true => format!("ARRAY[{}, {}]", rows.int(self.rng), rows.int(self.rng)),
            false => self.rng.pick(&lists).to_string(),
        };
        match self.rng.below(5) {
            0 => (format!("({list})[{}]", 1 + self.rng.below(3)), Type::Int),
            1 => (format!("CAST(cardinality({list}) AS BIGINT)"), Type::Int),
            2 => (format!("array_to_string({list}, '-')"), Type::Text),
            3 => {
                let item = rows.int(self.rng);
                // It is false where a NULL leaves open whether the item is there.
                let has =
                    either(&format!("array_has({list}, {item})"), &format!("{item} = ANY({list})"));
                (format!("coalesce({has}, false)"), Type::Bool)
            }
            _ => (list, Type::Ints),
        }
    }

    /// Values of two types in one place.
    fn mixed(&mut self, rows: &Relation) -> (String, Type) {
        let (condition, int) = (self.comparison(rows), rows.int(self.rng));
        let decimal = match rows.of(Type::Decimal) {
            none if none.is_empty() => Type::Decimal.literal(self.rng),
            some => self.rng.pick(&some).to_string(),
        };
        match self.rng.below(4) {
            0 => (format!("CASE WHEN {condition} THEN {int} ELSE {decimal} END"), Type::Decimal),
            1 => (format!("coalesce({decimal}, {int})"), Type::Decimal),
            2 => {
                let text =
                    format!("CASE WHEN {condition} THEN CAST({int} AS DOUBLE) ELSE {int} END");
                (text, Type::Float)
            }
            _ => {
                let text = format!("CASE WHEN {condition} THEN CAST({int} AS TEXT) ELSE 'z' END");
                (text, Type::Text)
            }
        }
    }

    pub fn some_columns(&mut self, rows: &Relation) -> Items {
        let mut items = Items::default();
        for _ in 0..1 + self.rng.below(3) {
            items.add(rows.any(self.rng));
        }
        items
    }

    fn distinct(&mut self, rows: &Relation, rest: &str) -> Query {
        let mut items = self.some_columns(rows);
        let (key, _) = rows.any(self.rng);
        if self.rng.one_in(3) {
            // The order has all columns that can be compared. Rows that still tie are equal in these, and any
            // of them may come first.
            items.add(rows.any(self.rng));
            let order = self.rng.pick(&["", " DESC"]);
            let query = items.query(format!("{rest} ORDER BY {key}{order}, {}", rows.all()));
            let distinct = format!("SELECT DISTINCT ON ({key})");
            return Query { sql: query.sql.replacen("SELECT", &distinct, 1), ..query };
        }
        let query = items.query(rest.to_string());
        Query { sql: query.sql.replacen("SELECT", "SELECT DISTINCT", 1), ..query }
    }

    fn groups(&mut self, rows: &Relation, rest: &str) -> Query {
        let mut keys: Vec<(String, Type)> = Vec::new();
        for _ in 0..self.rng.below(3) {
            let key = rows.any(self.rng);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let mut items = Items::default();
        keys.iter().for_each(|key| items.add(key.clone()));
        for _ in 0..1 + self.rng.below(3) {
            items.add(self.aggregate(rows));
        }
        if keys.is_empty() {
            return items.query(rest.to_string());
        }
        let names: Vec<&str> = keys.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(", ");
        let grouping = match self.rng.below(8) {
            0 => format!("ROLLUP ({names})"),
            1 => format!("CUBE ({names})"),
            _ => names,
        };
        let having = self.rng.pick(&["", "", " HAVING count(*) > 1"]);
        items.query(format!("{rest} GROUP BY {grouping}{having}"))
    }

    fn aggregate(&mut self, rows: &Relation) -> (String, Type) {
        if Construct::Quotients.comes_up(self.rng, 10) {
            let call = self.rng.pick(&["sum", "sum", "avg", "max"]);
            return (format!("{call}({})", self.quotient(rows)), Type::Rounded);
        }
        let (name, t) = rows.any(self.rng);
        let distinct = self.rng.pick(&["", "", "DISTINCT "]);
        let (call, t) = match (self.rng.below(8), t) {
            (0, _) => ("count(*)".to_string(), Type::Int),
            (
                1,
                Type::Text | Type::Decimal | Type::Time | Type::Float | Type::Date | Type::Uuid,
            ) => (format!("count({distinct}{name})"), Type::Int),
            (1, Type::Int) => (format!("avg({distinct}{name})"), Type::Rounded),
            (2 | 3, Type::Int) => (format!("CAST(sum({distinct}{name}) AS BIGINT)"), Type::Int),
            (2 | 3, Type::Decimal) => (format!("sum({distinct}{name})"), Type::Decimal),
            (2..=4, Type::Float) => {
                let call = self.rng.pick(&["sum", "avg"]);
                (format!("{call}({distinct}{name})"), Type::Rounded)
            }
            (4, Type::Text) => (format!("string_agg({name}, ',' ORDER BY {name})"), Type::Text),
            (4, Type::Int) => {
                let call = self.rng.pick(&["bit_and", "bit_or", "bit_xor"]);
                (format!("{call}({name})"), Type::Int)
            }
            (_, Type::Bool) => (format!("{}({name})", self.rng.pick(&["bool_or", "bool_and"])), t),
            (4, Type::Decimal) => {
                let int = rows.int(self.rng);
                (format!("array_agg({int} ORDER BY {int})"), Type::Ints)
            }
            (5, _) => {
                let all = rows.all();
                let first = format!("first_value({name} ORDER BY {name}, {all})");
                let theirs = format!("(array_agg({name} ORDER BY {name}, {all}))[1]");
                return (either(&first, &theirs), t);
            }
            // PostgreSQL has no least or greatest UUID.
            (_, Type::Uuid) => (format!("count(DISTINCT {name})"), Type::Int),
            (6, _) => (format!("max({name})"), t),
            (7, Type::Int | Type::Text | Type::Decimal) => {
                let share = self.rng.pick(&["0.5", "0", "0.9"]);
                (format!("percentile_disc({share}) WITHIN GROUP (ORDER BY {name})"), t)
            }
            _ => (format!("min({name})"), t),
        };
        // CAST(sum(x) AS BIGINT) takes its filter inside.
        let filter = if self.rng.one_in(5) {
            format!(" FILTER (WHERE {})", self.comparison(rows))
        } else {
            String::new()
        };
        match call.strip_suffix(" AS BIGINT)") {
            Some(sum) => (format!("{sum}{filter} AS BIGINT)"), t),
            None => (format!("{call}{filter}"), t),
        }
    }

    fn set_operation(&mut self, rows: &Relation, rest: &str) -> Query {
        let operations =
            ["UNION", "UNION ALL", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL"];
        let operation = self.rng.pick(&operations);
        let other = self.relation("d");
        let (mut items, mut others) = (Items::default(), Items::default());
        for _ in 0..1 + self.rng.below(2) {
            let (name, t) = rows.any(self.rng);
            let (theirs, t) = match (other.of(t), t) {
                (none, Type::Decimal | Type::Float) if none.is_empty() => (other.int(self.rng), t),
                (none, _) if none.is_empty() => (t.literal(self.rng), t),
                (some, _) => (self.rng.pick(&some).to_string(), t),
            };
            items.add((name, t));
            others.add((theirs, t));
        }
        let filter = self.filter(&other);
        let others = others.query(format!("FROM {}{filter}", other.name)).sql;
        items.query(format!("{rest} {operation} {others}"))
    }

    fn lateral(&mut self, rows: &Relation, from: &str) -> Query {
        let inner = self.relation("i");
        let mut items = self.some_columns(rows);
        let (value, key, outer) = (inner.int(self.rng), inner.int(self.rng), rows.int(self.rng));
        let than = self.rng.pick(&["=", "=", "<"]);
        items.add(("l.y".to_string(), Type::Int));
        let order = format!("{value} {}, {}", self.rng.pick(&["", "DESC"]), inner.all());
        let limit = 1 + self.rng.below(2);
        let join = self.rng.pick(&["CROSS JOIN LATERAL", "LEFT JOIN LATERAL"]);
        let on = if join.starts_with("LEFT") { " ON true" } else { "" };
        items.query(format!(
            "FROM {from} {join} (SELECT {value} AS y FROM {} WHERE {key} {than} {outer} ORDER BY {order} LIMIT {limit}) AS l{on}",
            inner.name
        ))
    }

    /// A recursion: everything that can be reached from some rows.
    fn recursion(&mut self) -> Query {
        let base = self.relation("a");
        let step = self.relation("b");
        let start = self.comparison(&base);
        let (first, next, from) = (base.int(self.rng), step.int(self.rng), step.int(self.rng));
        let sql = format!(
            // PostgreSQL refuses a recursion whose first term is an INT where the other one is a BIGINT.
            "WITH RECURSIVE r AS (SELECT CAST({first} AS BIGINT) AS x0 FROM {} WHERE {start} \
             UNION SELECT {next} FROM r JOIN {} ON {from} = r.x0) SELECT x0 FROM r",
            base.name, step.name
        );
        Query { sql, columns: vec![("x0".to_string(), Type::Int)] }
    }
}
