//! Window functions, and the first rows of partitions and of all.

use super::constructs::Construct;
use super::program::Type;
use super::query::{Items, Query, Writer};
use super::relation::Relation;

impl Writer<'_> {
    pub fn windows(&mut self, rows: &Relation, rest: &str) -> Query {
        let mut items = self.some_columns(rows);
        // One order for all of them: which of two equal rows has which value in one order and which
        // in another is not fixed.
        let partition = rows.any(self.rng).0;
        let peers = format!("PARTITION BY {partition} ORDER BY {}", self.order(rows));
        for _ in 0..1 + self.rng.below(2) {
            items.add(self.window(rows, &peers));
        }
        items.query(rest.to_string())
    }

    /// One to three columns, each with a direction of its own.
    fn order(&mut self, rows: &Relation) -> String {
        let count = 1 + self.rng.below(3);
        let mut columns: Vec<String> = Vec::new();
        for _ in 0..count {
            let column = rows.any(self.rng).0;
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        let mut term = |column: String| format!("{column}{}", self.direction());
        columns.into_iter().map(&mut term).collect::<Vec<_>>().join(", ")
    }

    fn direction(&mut self) -> &'static str {
        self.rng.pick(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"])
    }

    /// A window function whose rows in one place of the order have the same value, or one over an
    /// order in which all columns take part.
    fn window(&mut self, rows: &Relation, peers: &str) -> (String, Type) {
        let argument = rows.int(self.rng);
        let over = format!("{peers}, {}", rows.all());
        let (from, to) = (self.rng.below(3), self.rng.below(3));
        let without = match Construct::Exclude.comes_up(self.rng, 2) {
            true => self.rng.pick(&[" EXCLUDE CURRENT ROW", " EXCLUDE GROUP", " EXCLUDE TIES"]),
            false => "",
        };
        let around = format!("BETWEEN {from} PRECEDING AND {to} FOLLOWING{without}");
        let integer = match self.rng.below(17) {
            0 => format!("row_number() OVER ({over})"),
            1 => format!("rank() OVER ({peers})"),
            2 => format!("dense_rank() OVER ({peers})"),
            3 => format!("lag({argument}) OVER ({over})"),
            4 => format!("lead({argument}, 2, 0) OVER ({over})"),
            5 => format!("CAST(sum({argument}) OVER ({over} ROWS {around}) AS BIGINT)"),
            6 => format!("count({argument}) OVER ({peers})"),
            7 => format!("min({argument}) OVER ({peers} GROUPS {around})"),
            8 => format!("ntile(3) OVER ({over})"),
            9 => format!(
                "max({argument}) OVER ({over} ROWS BETWEEN UNBOUNDED PRECEDING AND {to} FOLLOWING)"
            ),
            10 => format!(
                "CAST(sum({argument}) OVER ({peers} RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS BIGINT)"
            ),
            11 => {
                format!("count(*) OVER ({peers} GROUPS BETWEEN {from} FOLLOWING AND 3 FOLLOWING)")
            }
            12 => format!("last_value({argument}) OVER ({over} ROWS {around})"),
            13 => format!("nth_value({argument}, 2) OVER ({over} ROWS {around})"),
            14 => format!("count(*) OVER ({peers} RANGE BETWEEN CURRENT ROW AND CURRENT ROW)"),
            15 => {
                let call = self.rng.pick(&["percent_rank()", "cume_dist()"]);
                return (format!("{call} OVER ({peers})"), Type::Rounded);
            }
            _ => {
                let call = self.rng.pick(&["sum", "avg"]);
                let number = rows.of(Type::Float);
                let number =
                    if number.is_empty() { argument } else { self.rng.pick(&number).into() };
                let text =
                    format!("CAST({call}({number}) OVER ({peers} GROUPS {around}) AS DOUBLE)");
                return (text, Type::Rounded);
            }
        };
        (integer, Type::Int)
    }

    /// The first rows of all.
    pub fn limited(&mut self, rows: &Relation, rest: &str) -> Query {
        let rows = rows.comparable_only();
        let mut items = Items::default();
        rows.columns.iter().for_each(|column| items.add(column.clone()));
        if rows.columns.is_empty() {
            items.add((rows.int(self.rng), Type::Int));
        }
        let mut order: Vec<String> =
            (1..=items.columns.len()).map(|n| format!("{n}{}", self.direction())).collect();
        let first = self.rng.below(order.len() as u64) as usize;
        order.swap(0, first);
        let offset = self.rng.pick(&["", "", " OFFSET 2"]);
        let limit = match Construct::LimitOf.comes_up(self.rng, 4) {
            true => {
                let other = self.relation("m");
                format!("(SELECT 1 + count(*) % 5 FROM {}{})", other.name, self.filter(&other))
            }
            false => (1 + self.rng.below(6)).to_string(),
        };
        items.query(format!("{rest} ORDER BY {} LIMIT {limit}{offset}", order.join(", ")))
    }

    /// The first rows of each partition.
    pub fn best(&mut self, rows: &Relation, rest: &str) -> Query {
        let mut items = self.some_columns(rows);
        let (partition, order) = (rows.any(self.rng).0, self.order(rows));
        let call = match self.rng.below(4) {
            0 => format!("rank() OVER (PARTITION BY {partition} ORDER BY {order})"),
            _ => {
                let all = rows.all();
                format!("row_number() OVER (PARTITION BY {partition} ORDER BY {order}, {all})")
            }
        };
        items.add((call, Type::Int));
        let columns = items.columns.clone();
        let (last, _) = columns[columns.len() - 1].clone();
        let inner = items.query(rest.to_string()).sql;
        let sql = format!("SELECT * FROM ({inner}) AS q WHERE {last} <= {}", 1 + self.rng.below(3));
        Query { sql, columns }
    }
}
