//! Relations that queries select from.

use super::program::Type;
use super::words::either;
use crate::rng::Rng;

/// The fields of a struct that some tables have.
pub const FIELDS: [&str; 2] = ["s['x']", "s['y']"];

/// Something to select from.
#[derive(Clone)]
pub struct Relation {
    pub name: String,
    pub columns: Vec<(String, Type)>,
}

impl Relation {
    pub fn as_alias(&self, alias: &str) -> Relation {
        let qualified =
            |name: &str| match name.strip_prefix("s['").and_then(|n| n.strip_suffix("']")) {
                Some(field) => either(&format!("{alias}.{name}"), &format!("({alias}.s).{field}")),
                None => format!("{alias}.{name}"),
            };
        let columns = self.columns.iter().map(|(name, t)| (qualified(name), *t)).collect();
        Relation { name: format!("{} {alias}", self.name), columns }
    }

    pub fn of(&self, wanted: Type) -> Vec<&str> {
        self.columns.iter().filter(|(_, t)| *t == wanted).map(|(n, _)| n.as_str()).collect()
    }

    fn comparable(&self) -> impl Iterator<Item = &(String, Type)> {
        self.columns.iter().filter(|(_, t)| t.is_comparable())
    }

    /// A column that can be compared, or a constant where there is none.
    pub fn any(&self, rng: &mut Rng) -> (String, Type) {
        let columns: Vec<_> = self.comparable().collect();
        match columns.len() as u64 {
            0 => (self.int(rng), Type::Int),
            count => columns[rng.below(count) as usize].clone(),
        }
    }

    /// A column of any type.
    pub fn any_at_all(&self, rng: &mut Rng) -> (String, Type) {
        self.columns[rng.below(self.columns.len() as u64) as usize].clone()
    }

    /// A column of integers, or a constant where there is none.
    pub fn int(&self, rng: &mut Rng) -> String {
        match self.of(Type::Int) {
            none if none.is_empty() => format!("CAST({} AS BIGINT)", rng.below(6)),
            some => rng.pick(&some).to_string(),
        }
    }

    /// Columns to order by, so that rows that are tied are equal in all that can be compared.
    pub fn all(&self) -> String {
        if self.comparable().next().is_none() {
            return "1 + 0".to_string();
        }
        self.comparable().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Only what can be compared.
    pub fn comparable_only(&self) -> Relation {
        let columns = self.comparable().cloned().collect();
        Relation { name: self.name.clone(), columns }
    }

    /// These columns and others, as a join has them.
    pub fn and(mut self, others: Vec<(String, Type)>) -> Relation {
        self.columns.extend(others);
        Relation { name: String::new(), ..self }
    }
}
