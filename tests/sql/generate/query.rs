//! Random queries. What is compared is a set of rows that SQL fixes: every LIMIT, list and window
//! orders by all columns, so that what is tied is equal.

use super::program::Type;
use crate::rng::Rng;

/// Something to select from.
#[derive(Clone)]
pub struct Relation {
    pub name: String,
    pub columns: Vec<(String, Type)>,
}

/// A query and the columns that it has.
pub struct Query {
    pub sql: String,
    pub columns: Vec<(String, Type)>,
}

impl Relation {
    fn as_alias(&self, alias: &str) -> Relation {
        let columns =
            self.columns.iter().map(|(name, t)| (format!("{alias}.{name}"), *t)).collect();
        Relation { name: format!("{} {alias}", self.name), columns }
    }

    fn of(&self, wanted: Type) -> Vec<&str> {
        self.columns.iter().filter(|(_, t)| *t == wanted).map(|(n, _)| n.as_str()).collect()
    }

    fn any(&self, rng: &mut Rng) -> (String, Type) {
        self.columns[rng.below(self.columns.len() as u64) as usize].clone()
    }

    /// A column of integers, or a constant where there is none.
    fn int(&self, rng: &mut Rng) -> String {
        match self.of(Type::Int) {
            none if none.is_empty() => format!("CAST({} AS BIGINT)", rng.below(6)),
            some => rng.pick(&some).to_string(),
        }
    }

    fn all(&self) -> String {
        self.columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// The items of a SELECT, named x0, x1, …
#[derive(Default)]
struct Items {
    texts: Vec<String>,
    columns: Vec<(String, Type)>,
}

impl Items {
    fn add(&mut self, (text, t): (String, Type)) {
        let name = format!("x{}", self.texts.len());
        self.texts.push(format!("{text} AS {name}"));
        self.columns.push((name, t));
    }

    fn query(self, rest: String) -> Query {
        Query { sql: format!("SELECT {} {rest}", self.texts.join(", ")), columns: self.columns }
    }
}

struct Writer<'a> {
    rng: &'a mut Rng,
    relations: &'a [Relation],
}

impl Query {
    /// A query over some of these relations.
    pub fn random(rng: &mut Rng, relations: &[Relation]) -> Query {
        Writer { rng, relations }.query()
    }
}

impl Writer<'_> {
    fn relation(&mut self, alias: &str) -> Relation {
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
            2..=5 => self.groups(&rows, &rest),
            6 | 7 => self.windows(&rows, &rest),
            8 => self.limited(&rows, &rest),
            9 => self.best(&rows, &rest),
            10 => self.set_operation(&rows, &rest),
            11 => self.lateral(&rows, &from),
            _ => {
                let mut items = self.some_columns(&rows);
                if self.rng.one_in(2) {
                    items.add(self.value(&rows));
                }
                items.query(rest)
            }
        }
    }

    fn source(&mut self) -> (String, Relation) {
        let first = self.relation("a");
        if self.rng.one_in(2) {
            return (first.name.clone(), first);
        }
        let second = self.relation("b");
        let join = self.rng.pick(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let (left, right) = (first.int(self.rng), second.int(self.rng));
        let mut on = format!("{left} = {right}");
        if self.rng.one_in(3) && join != "FULL JOIN" {
            let than = self.rng.pick(&["<", ">=", "<>"]);
            on.push_str(&format!(" AND {} {than} {}", first.int(self.rng), second.int(self.rng)));
        }
        let text = format!("{} {join} {} ON {on}", first.name, second.name);
        let columns = first.columns.into_iter().chain(second.columns).collect();
        (text, Relation { name: String::new(), columns })
    }

    fn filter(&mut self, rows: &Relation) -> String {
        match self.rng.below(5) {
            0 | 1 => String::new(),
            2 | 3 => format!(" WHERE {}", self.condition(rows)),
            _ => format!(" WHERE {} AND {}", self.condition(rows), self.condition(rows)),
        }
    }

    fn comparison(&mut self, rows: &Relation) -> String {
        let (name, t) = rows.any(self.rng);
        match self.rng.below(6) {
            0 => format!("{name} IS {}NULL", self.rng.pick(&["", "NOT "])),
            1 if t != Type::Bool => {
                format!("{name} IN ({}, {})", t.literal(self.rng), t.literal(self.rng))
            }
            2 => {
                let other = self.rng.pick(&rows.of(t)).to_string();
                format!("{name} {} {other}", self.rng.pick(&["=", "<>", "<", ">="]))
            }
            _ => {
                let than = self.rng.pick(&["=", "<>", "<", "<=", ">", ">="]);
                format!("{name} {than} {}", t.literal(self.rng))
            }
        }
    }

    fn condition(&mut self, rows: &Relation) -> String {
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
    fn membership(&mut self, rows: &Relation) -> String {
        let inner = self.relation("i");
        let (outer, value, other) = (rows.int(self.rng), inner.int(self.rng), inner.int(self.rng));
        let filter = self.comparison(&inner);
        let not = self.rng.pick(&["", "NOT "]);
        let than = self.rng.pick(&["<", ">=", "=", "<>"]);
        let from = &inner.name;
        match self.rng.below(7) {
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
        let (name, t) = rows.any(self.rng);
        match self.rng.below(5) {
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
            3 => (format!("{} + {}", rows.int(self.rng), rows.int(self.rng)), Type::Int),
            _ => (self.comparison(rows), Type::Bool),
        }
    }

    fn some_columns(&mut self, rows: &Relation) -> Items {
        let mut items = Items::default();
        for _ in 0..1 + self.rng.below(3) {
            items.add(rows.any(self.rng));
        }
        items
    }

    fn distinct(&mut self, rows: &Relation, rest: &str) -> Query {
        let query = self.some_columns(rows).query(rest.to_string());
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
        let (name, t) = rows.any(self.rng);
        let distinct = self.rng.pick(&["", "", "DISTINCT "]);
        let (call, t) = match (self.rng.below(7), t) {
            (0, _) => ("count(*)".to_string(), Type::Int),
            (1, _) => (format!("count({distinct}{name})"), Type::Int),
            (2 | 3, Type::Int) => (format!("CAST(sum({distinct}{name}) AS BIGINT)"), Type::Int),
            (2 | 3, Type::Decimal) => (format!("sum({distinct}{name})"), Type::Decimal),
            (4, Type::Text) => (format!("string_agg({name}, ',' ORDER BY {name})"), Type::Text),
            (4, Type::Int) => {
                let call = self.rng.pick(&["bit_and", "bit_or", "bit_xor"]);
                (format!("{call}({name})"), Type::Int)
            }
            (_, Type::Bool) => (format!("{}({name})", self.rng.pick(&["bool_or", "bool_and"])), t),
            (5, _) => (format!("first_value({name} ORDER BY {name}, {})", rows.all()), t),
            (6, _) => (format!("max({name})"), t),
            _ => (format!("min({name})"), t),
        };
        // CAST(sum(x) AS BIGINT) takes its filter inside.
        let filter = if self.rng.one_in(5) && !call.starts_with("first_value") {
            format!(" FILTER (WHERE {})", self.comparison(rows))
        } else {
            String::new()
        };
        match call.strip_suffix(" AS BIGINT)") {
            Some(sum) => (format!("{sum}{filter} AS BIGINT)"), t),
            None => (format!("{call}{filter}"), t),
        }
    }

    fn windows(&mut self, rows: &Relation, rest: &str) -> Query {
        let mut items = self.some_columns(rows);
        // One order for all of them: which of two equal rows has which value in one order and which
        // in another is not fixed.
        let (partition, by) = (rows.any(self.rng).0, rows.any(self.rng).0);
        let direction = self.rng.pick(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
        let peers = format!("PARTITION BY {partition} ORDER BY {by}{direction}");
        for _ in 0..1 + self.rng.below(2) {
            items.add((self.window(rows, &peers), Type::Int));
        }
        items.query(rest.to_string())
    }

    fn window(&mut self, rows: &Relation, peers: &str) -> String {
        let argument = rows.int(self.rng);
        let over = format!("{peers}, {}", rows.all());
        let (from, to) = (self.rng.below(3), self.rng.below(3));
        match self.rng.below(10) {
            0 => format!("row_number() OVER ({over})"),
            1 => format!("rank() OVER ({peers})"),
            2 => format!("dense_rank() OVER ({peers})"),
            3 => format!("lag({argument}) OVER ({over})"),
            4 => format!("lead({argument}, 2, -1) OVER ({over})"),
            5 => format!(
                "CAST(sum({argument}) OVER ({over} ROWS BETWEEN {from} PRECEDING AND {to} FOLLOWING) AS BIGINT)"
            ),
            6 => format!("count({argument}) OVER ({peers})"),
            7 => format!(
                "min({argument}) OVER ({peers} GROUPS BETWEEN {from} PRECEDING AND {to} FOLLOWING)"
            ),
            8 => format!("ntile(3) OVER ({over})"),
            _ => format!(
                "max({argument}) OVER ({over} ROWS BETWEEN UNBOUNDED PRECEDING AND {to} FOLLOWING)"
            ),
        }
    }

    fn limited(&mut self, rows: &Relation, rest: &str) -> Query {
        let mut items = Items::default();
        rows.columns.iter().for_each(|column| items.add(column.clone()));
        let mut order: Vec<String> = (1..=rows.columns.len()).map(|n| n.to_string()).collect();
        order[0].push_str(self.rng.pick(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]));
        let offset = self.rng.pick(&["", "", " OFFSET 2"]);
        let limit = 1 + self.rng.below(6);
        items.query(format!("{rest} ORDER BY {} LIMIT {limit}{offset}", order.join(", ")))
    }

    /// The first rows of each partition.
    fn best(&mut self, rows: &Relation, rest: &str) -> Query {
        let mut items = self.some_columns(rows);
        let over = format!("PARTITION BY {} ORDER BY {}", rows.any(self.rng).0, rows.all());
        items.add((format!("row_number() OVER ({over})"), Type::Int));
        let columns = items.columns.clone();
        let (last, _) = columns[columns.len() - 1].clone();
        let inner = items.query(rest.to_string()).sql;
        let sql = format!("SELECT * FROM ({inner}) AS q WHERE {last} <= {}", 1 + self.rng.below(3));
        Query { sql, columns }
    }

    fn set_operation(&mut self, rows: &Relation, rest: &str) -> Query {
        let operations =
            ["UNION", "UNION ALL", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL"];
        let operation = self.rng.pick(&operations);
        let mut items = Items::default();
        items.add((rows.int(self.rng), Type::Int));
        let other = self.relation("d");
        let value = other.int(self.rng);
        let filter = self.filter(&other);
        items.query(format!("{rest} {operation} SELECT {value} FROM {}{filter}", other.name))
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

    /// What can be reached from some rows.
    fn recursion(&mut self) -> Query {
        let (base, step) = (self.relation("a"), self.relation("b"));
        let start = self.comparison(&base);
        let (first, next, from) = (base.int(self.rng), step.int(self.rng), step.int(self.rng));
        let sql = format!(
            "WITH RECURSIVE r AS (SELECT {first} AS x0 FROM {} WHERE {start} \
             UNION SELECT {next} FROM r JOIN {} ON {from} = r.x0) SELECT x0 FROM r",
            base.name, step.name
        );
        Query { sql, columns: vec![("x0".to_string(), Type::Int)] }
    }
}
