//! FROM clauses: a relation, two that are joined, or one with the items of its lists.

use super::constructs::Construct;
use super::program::Type;
use super::query::Writer;
use super::relation::Relation;
use super::words::either;

impl Writer<'_> {
    /// The text of a FROM, and the columns that it brings.
    pub fn source(&mut self) -> (String, Relation) {
        let first = self.relation("a");
        match self.rng.below(12) {
            0..=4 => (first.name.clone(), first),
            5 | 6 => self.unnested(first),
            7 => self.as_of(first),
            _ => self.joined(first),
        }
    }

    fn joined(&mut self, first: Relation) -> (String, Relation) {
        let second = self.relation("b");
        let by_names = Construct::Using.is_drawn() || Construct::Natural.is_drawn();
        if by_names
            && self.rng.one_in(2)
            && let Some(joined) = self.joined_by_names(&first, &second)
        {
            return joined;
        }
        let join = self.rng.pick(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let (left, right) = (first.int(self.rng), second.int(self.rng));
        // PostgreSQL's full joins need columns of both sides that are equal.
        let has_keys = [&first, &second].iter().all(|rows| !rows.of(Type::Int).is_empty());
        let join = if has_keys { join } else { join.trim_start_matches("FULL ") };
        let mut on = format!("{left} = {right}");
        if self.rng.one_in(3) && join != "FULL JOIN" {
            let than = self.rng.pick(&["<", ">=", "<>"]);
            on.push_str(&format!(" AND {} {than} {}", first.int(self.rng), second.int(self.rng)));
        }
        let text = format!("{} {join} {} ON {on}", first.name, second.name);
        let rows = first.and(second.columns);
        match self.rng.one_in(4) {
            true => (format!("{text} AND {}", self.membership(&rows)), rows),
            false => (text, rows),
        }
    }

    /// Rows with each item of a list, and its number.
    fn unnested(&mut self, rows: Relation) -> (String, Relation) {
        let list = match rows.of(Type::Ints) {
            none if none.is_empty() => {
                format!("ARRAY[{}, {}, NULL]", rows.int(self.rng), rows.int(self.rng))
            }
            some => self.rng.pick(&some).to_string(),
        };
        let (join, on) = self.rng.pick_of(&[("CROSS JOIN", ""), ("LEFT JOIN", " ON true")]);
        let (with, columns, names) = self
            .rng
            .pick_of(&[("", "x", &["u.x"][..]), (" WITH ORDINALITY", "x, o", &["u.x", "u.o"][..])]);
        let text = format!("{} {join} UNNEST({list}){with} AS u({columns}){on}", rows.name);
        (text, rows.and(names.iter().map(|name| (name.to_string(), Type::Int)).collect()))
    }

    /// Each row with the nearest row of another relation, which has one row for a key and a place, so that
    /// the nearest one is unique.
    fn as_of(&mut self, first: Relation) -> (String, Relation) {
        let second = self.relation("i");
        let shared = [Type::Time, Type::Int]
            .into_iter()
            .find(|t| !first.of(*t).is_empty() && !second.of(*t).is_empty());
        let Some(t) = shared else { return self.joined(first) };
        let (place, other) =
            (self.rng.pick(&first.of(t)).to_string(), self.rng.pick(&second.of(t)).to_string());
        let (key, value, left) = (second.int(self.rng), second.int(self.rng), first.int(self.rng));
        let left_join = self.rng.pick(&["", "LEFT "]);
        let than = self.rng.pick(&[">=", ">", "<=", "<"]);
        let order = if than.starts_with('>') { " DESC" } else { "" };
        let places = format!(
            "(SELECT {key} AS e, {other} AS p, max({value}) AS y FROM {} GROUP BY {key}, {other}) AS b",
            second.name
        );
        let ours = format!(
            "ASOF {left_join}JOIN {places} MATCH_CONDITION ({place} {than} b.p) ON {left} = b.e"
        );
        let theirs = format!(
            "{left_join}JOIN LATERAL (SELECT * FROM {places} WHERE {place} {than} b.p AND {left} = b.e \
             ORDER BY b.p{order} LIMIT 1) AS b ON true"
        );
        let text = format!("{} {}", first.name, either(&ours, &theirs));
        let columns = [("b.e", Type::Int), ("b.p", t), ("b.y", Type::Int)];
        (text, first.and(columns.map(|(name, t)| (name.to_string(), t)).into()))
    }
}
