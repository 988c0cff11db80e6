//! A value of PostgreSQL's type jsonb, taken apart: its order, what it contains, and what is changed in it.

use std::cmp::Ordering;
use std::fmt::Write;

use datafusion_common::{Result, exec_err};

use super::jsonb;

/// Deepest nesting of a value.
const DEPTH_MAX: usize = 128;

#[derive(Clone, Debug)]
pub enum Tree {
    Null,
    Text(String),
    /// As it is written, without an exponent.
    Number(String),
    Boolean(bool),
    Array(Vec<Tree>),
    /// In the order of jsonb: by the length of the names, then by the names.
    Object(Vec<(String, Tree)>),
}

/// The change that is made at a path's end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Set { create: bool },
    Insert { after: bool },
}

/// A number without the zeros behind its fraction; there is one zero.
fn shortest(digits: &str) -> &str {
    let short = match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    };
    if short == "-0" { "0" } else { short }
}

impl Tree {
    /// The value of a JSON text.
    pub fn read(text: &str) -> Result<Tree> {
        match serde_json::from_str::<&serde_json::value::RawValue>(text) {
            Ok(value) => read(value.get(), 0),
            Err(_) => exec_err!("invalid input syntax for type json: \"{text}\""),
        }
    }

    pub fn is_scalar(&self) -> bool {
        !matches!(self, Tree::Array(_) | Tree::Object(_))
    }

    fn is_empty(&self) -> bool {
        match self {
            Tree::Array(items) => items.is_empty(),
            Tree::Object(members) => members.is_empty(),
            _ => false,
        }
    }

    pub fn write(&self) -> String {
        let mut out = String::new();
        self.push(&mut out, None);
        out
    }

    /// The text that equal values have in common: numbers end with a digit that counts.
    pub fn same(self) -> String {
        self.shortened().write()
    }

    fn shortened(self) -> Tree {
        match self {
            Tree::Number(digits) => Tree::Number(shortest(&digits).to_string()),
            Tree::Array(items) => Tree::Array(items.into_iter().map(Tree::shortened).collect()),
            Tree::Object(members) => {
                let members = members.into_iter().map(|(name, value)| (name, value.shortened()));
                Tree::Object(members.collect())
            }
            other => other,
        }
    }

    /// Over several lines.
    pub fn pretty(&self) -> String {
        let mut out = String::new();
        self.push(&mut out, Some(0));
        out
    }

    fn push(&self, out: &mut String, indent: Option<usize>) {
        let inner = indent.map(|level| level + 1);
        let line = |out: &mut String, level: Option<usize>| {
            if let Some(level) = level {
                out.push('\n');
                out.push_str(&"    ".repeat(level));
            }
        };
        let comma = |out: &mut String, n: usize| {
            if n > 0 {
                out.push_str(if indent.is_some() { "," } else { ", " });
            }
        };
        match self {
            Tree::Null => out.push_str("null"),
            Tree::Text(text) => push_text(out, text),
            Tree::Number(number) => out.push_str(number),
            Tree::Boolean(value) => {
                let _ = write!(out, "{value}");
            }
            Tree::Array(items) => {
                out.push('[');
                for (n, item) in items.iter().enumerate() {
                    comma(out, n);
                    line(out, inner);
                    item.push(out, inner);
                }
                line(out, indent);
                out.push(']');
            }
            Tree::Object(members) => {
                out.push('{');
                for (n, (name, value)) in members.iter().enumerate() {
                    comma(out, n);
                    line(out, inner);
                    push_text(out, name);
                    out.push_str(": ");
                    value.push(out, inner);
                }
                line(out, indent);
                out.push('}');
            }
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Tree::Null => 0,
            Tree::Text(_) => 1,
            Tree::Number(_) => 2,
            Tree::Boolean(_) => 3,
            Tree::Array(_) => 4,
            Tree::Object(_) => 5,
        }
    }

    /// The order of whole values, in which a scalar is an array of one, and less than such an array.
    pub fn compare(&self, other: &Tree) -> Ordering {
        let of_one = |tree: &Tree| tree.is_scalar();
        match (of_one(self), of_one(other)) {
            (false, false) | (true, true) => self.compare_inside(other),
            (true, false) => match other {
                Tree::Array(items) if items.is_empty() => Ordering::Greater,
                _ => Ordering::Less,
            },
            (false, true) => other.compare(self).reverse(),
        }
    }

    fn compare_inside(&self, other: &Tree) -> Ordering {
        match (self, other) {
            (Tree::Text(a), Tree::Text(b)) => a.cmp(b),
            (Tree::Number(a), Tree::Number(b)) => compare_numbers(a, b),
            (Tree::Boolean(a), Tree::Boolean(b)) => a.cmp(b),
            (Tree::Array(a), Tree::Array(b)) => {
                let items = || a.iter().zip(b).map(|(a, b)| a.compare_inside(b));
                a.len().cmp(&b.len()).then_with(|| first_difference(items()))
            }
            (Tree::Object(a), Tree::Object(b)) => {
                let members = || {
                    a.iter()
                        .zip(b)
                        .map(|(a, b)| a.0.cmp(&b.0).then_with(|| a.1.compare_inside(&b.1)))
                };
                a.len().cmp(&b.len()).then_with(|| first_difference(members()))
            }
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }

    /// `self @> other`. A scalar counts as an array of one, but for an array inside of a scalar.
    pub fn contains(&self, other: &Tree) -> bool {
        match (self, other) {
            (Tree::Array(items), scalar) if scalar.is_scalar() => {
                items.iter().any(|item| item.contains_inside(scalar))
            }
            (a, b) => a.contains_inside(b),
        }
    }

    fn contains_inside(&self, other: &Tree) -> bool {
        match (self, other) {
            (Tree::Array(a), Tree::Array(b)) => {
                b.iter().all(|item| a.iter().any(|a| a.contains_inside(item)))
            }
            (Tree::Object(a), Tree::Object(b)) => b.iter().all(|(name, value)| {
                a.iter().any(|(known, a)| known == name && a.contains_inside(value))
            }),
            (a, b) if a.is_scalar() && b.is_scalar() => a.compare_inside(b).is_eq(),
            _ => false,
        }
    }

    /// `self ? name`.
    pub fn has(&self, name: &str) -> bool {
        let is = |tree: &Tree| matches!(tree, Tree::Text(text) if text == name);
        match self {
            Tree::Object(members) => members.iter().any(|(known, _)| known == name),
            Tree::Array(items) => items.iter().any(is),
            scalar => is(scalar),
        }
    }

    /// `self || other`.
    pub fn concat(self, other: Tree) -> Tree {
        match (self, other) {
            (Tree::Object(a), Tree::Object(b)) => {
                let mut members = a;
                for (name, value) in b {
                    put(&mut members, name, value);
                }
                Tree::Object(members)
            }
            (a, b) => {
                let items = |tree: Tree| match tree {
                    Tree::Array(items) => items,
                    other => vec![other],
                };
                let mut all = items(a);
                all.extend(items(b));
                Tree::Array(all)
            }
        }
    }

    /// `self - name`.
    pub fn without(self, name: &str) -> Result<Tree> {
        Ok(match self {
            Tree::Object(mut members) => {
                members.retain(|(known, _)| known != name);
                Tree::Object(members)
            }
            Tree::Array(mut items) => {
                items.retain(|item| !matches!(item, Tree::Text(text) if text == name));
                Tree::Array(items)
            }
            _ => return exec_err!("cannot delete from scalar"),
        })
    }

    /// `self - index`.
    pub fn without_index(self, index: i64) -> Result<Tree> {
        match self {
            Tree::Array(mut items) => {
                let at = if index < 0 { items.len() as i64 + index } else { index };
                if let Some(at) = usize::try_from(at).ok().filter(|at| *at < items.len()) {
                    items.remove(at);
                }
                Ok(Tree::Array(items))
            }
            Tree::Object(_) => exec_err!("cannot delete from object using integer index"),
            _ => exec_err!("cannot delete from scalar"),
        }
    }

    /// `self #- path`.
    pub fn without_path(mut self, path: &[Option<String>]) -> Result<Tree> {
        if self.is_scalar() {
            return exec_err!("cannot delete path in scalar");
        }
        if !self.is_empty() {
            self.delete(path, 0)?;
        }
        Ok(self)
    }

    fn delete(&mut self, path: &[Option<String>], level: usize) -> Result<()> {
        let Some(step) = path.get(level) else { return Ok(()) };
        let last = level + 1 == path.len();
        match self {
            Tree::Object(members) => {
                let name = step_of(step, level)?;
                let Some(at) = members.iter().position(|(known, _)| known == name) else {
                    return Ok(());
                };
                match last {
                    true => drop(members.remove(at)),
                    false => members[at].1.delete(path, level + 1)?,
                }
            }
            Tree::Array(items) => {
                let index = index_of(step_of(step, level)?, level)?;
                let at = if index < 0 { items.len() as i64 + index } else { index };
                let Some(at) = usize::try_from(at).ok().filter(|at| *at < items.len()) else {
                    return Ok(());
                };
                match last {
                    true => drop(items.remove(at)),
                    false => items[at].delete(path, level + 1)?,
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// `jsonb_set` and `jsonb_insert`.
    pub fn with(mut self, path: &[Option<String>], new: Tree, change: Change) -> Result<Tree> {
        if self.is_scalar() {
            return exec_err!("cannot set path in scalar");
        }
        if self.is_empty() && change == (Change::Set { create: false }) {
            return Ok(self);
        }
        self.change(path, 0, &new, change)?;
        Ok(self)
    }

    fn change(
        &mut self,
        path: &[Option<String>],
        level: usize,
        new: &Tree,
        change: Change,
    ) -> Result<()> {
        let Some(step) = path.get(level) else { return Ok(()) };
        let last = level + 1 == path.len();
        let creates = change != Change::Set { create: false };
        match self {
            Tree::Object(members) => {
                let name = step_of(step, level)?;
                match members.iter().position(|(known, _)| known == name) {
                    Some(at) if !last => members[at].1.change(path, level + 1, new, change)?,
                    Some(_) if matches!(change, Change::Insert { .. }) => {
                        return exec_err!("cannot replace existing key");
                    }
                    Some(at) => members[at].1 = new.clone(),
                    None if last && creates => put(members, name.to_string(), new.clone()),
                    None => {}
                }
            }
            Tree::Array(items) => {
                let index = index_of(step_of(step, level)?, level)?;
                let len = items.len() as i64;
                let at = if index < 0 { len + index } else { index };
                match usize::try_from(at).ok().filter(|at| *at < items.len()) {
                    Some(at) if !last => items[at].change(path, level + 1, new, change)?,
                    Some(at) => match change {
                        Change::Set { .. } => items[at] = new.clone(),
                        Change::Insert { after } => {
                            items.insert(at + usize::from(after), new.clone());
                        }
                    },
                    None if last && creates && at < 0 => items.insert(0, new.clone()),
                    None if last && creates => items.push(new.clone()),
                    None => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Without the members of objects that are null.
    pub fn stripped(self) -> Tree {
        match self {
            Tree::Object(members) => Tree::Object(
                members
                    .into_iter()
                    .filter(|(_, value)| !matches!(value, Tree::Null))
                    .map(|(name, value)| (name, value.stripped()))
                    .collect(),
            ),
            Tree::Array(items) => Tree::Array(items.into_iter().map(Tree::stripped).collect()),
            other => other,
        }
    }
}

fn first_difference(orders: impl Iterator<Item = Ordering>) -> Ordering {
    orders.into_iter().find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// Puts a member in its place.
pub fn put(members: &mut Vec<(String, Tree)>, name: String, value: Tree) {
    let by = |known: &String| known.len().cmp(&name.len()).then_with(|| known.cmp(&name));
    match members.binary_search_by(|(known, _)| by(known)) {
        Ok(at) => members[at].1 = value,
        Err(at) => members.insert(at, (name, value)),
    }
}

fn step_of(step: &Option<String>, level: usize) -> Result<&str> {
    match step {
        Some(step) => Ok(step),
        None => exec_err!("path element at position {} is null", level + 1),
    }
}

fn index_of(step: &str, level: usize) -> Result<i64> {
    match step.trim_start().parse::<i32>() {
        Ok(index) => Ok(index.into()),
        Err(_) => {
            exec_err!("path element at position {} is not an integer: \"{step}\"", level + 1)
        }
    }
}

fn push_text(out: &mut String, text: &str) {
    out.push_str(&serde_json::Value::String(text.to_string()).to_string());
}

/// The order of numbers as they are written, without exponents.
fn compare_numbers(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let whole = whole.trim_start_matches('0').to_string();
        let fraction = fraction.trim_end_matches('0').to_string();
        (negative && !(whole.is_empty() && fraction.is_empty()), whole, fraction)
    };
    let ((a_negative, a_whole, a_fraction), (b_negative, b_whole, b_fraction)) =
        (parts(a), parts(b));
    match (a_negative, b_negative) {
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
        (negative, _) => {
            let order = a_whole
                .len()
                .cmp(&b_whole.len())
                .then_with(|| a_whole.cmp(&b_whole))
                .then_with(|| a_fraction.cmp(&b_fraction));
            if negative { order.reverse() } else { order }
        }
    }
}

fn read(text: &str, depth: usize) -> Result<Tree> {
    let text = text.trim();
    if depth > DEPTH_MAX {
        return exec_err!("JSON nests more than {DEPTH_MAX} levels deep");
    }
    let invalid = || exec_err!("invalid input syntax for type json: \"{text}\"");
    Ok(match text.as_bytes().first() {
        Some(b'{') => {
            let Some(parts) = jsonb::members(text) else { return invalid() };
            let mut members = Vec::with_capacity(parts.len());
            for (name, value) in parts {
                members.push((name, read(value.get(), depth + 1)?));
            }
            Tree::Object(members)
        }
        Some(b'[') => {
            let Ok(items) = serde_json::from_str::<Vec<&serde_json::value::RawValue>>(text) else {
                return invalid();
            };
            Tree::Array(
                items.iter().map(|item| read(item.get(), depth + 1)).collect::<Result<_>>()?,
            )
        }
        Some(b'"') => match serde_json::from_str::<String>(text) {
            Ok(text) => Tree::Text(text),
            Err(_) => return invalid(),
        },
        Some(b't') => Tree::Boolean(true),
        Some(b'f') => Tree::Boolean(false),
        Some(b'n') => Tree::Null,
        _ => match jsonb::number(text) {
            Some(number) => Tree::Number(number),
            None => return invalid(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Tree {
        Tree::read(text).unwrap()
    }

    #[test]
    fn values_compare_as_in_postgres() {
        let ascending = [
            "[]",
            "null",
            "\"a\"",
            "1",
            "1.5",
            "10",
            "false",
            "true",
            "[1]",
            "[1, 2]",
            "{}",
            "{\"a\": 1}",
        ];
        for (n, a) in ascending.iter().enumerate() {
            for (m, b) in ascending.iter().enumerate() {
                assert_eq!(tree(a).compare(&tree(b)), n.cmp(&m), "{a} {b}");
            }
        }
        assert!(tree("1.0").compare(&tree("1.00")).is_eq());
    }

    #[test]
    fn what_is_contained_may_lack_members_and_items() {
        assert!(
            tree("{\"a\": [1, {\"b\": 2, \"c\": 3}]}").contains(&tree("{\"a\": [{\"b\": 2}]}"))
        );
        assert!(tree("[1, \"x\"]").contains(&tree("\"x\"")));
        assert!(!tree("\"x\"").contains(&tree("[\"x\"]")));
        assert!(!tree("[[1]]").contains(&tree("1")));
    }

    #[test]
    fn changes_follow_paths() {
        let path = |steps: &[&str]| -> Vec<Option<String>> {
            steps.iter().map(|step| Some(step.to_string())).collect()
        };
        let set = |text: &str, steps: &[&str], create: bool| {
            tree(text).with(&path(steps), tree("9"), Change::Set { create }).unwrap().write()
        };
        assert_eq!(set("{\"a\": [1, 2]}", &["a", "-1"], true), "{\"a\": [1, 9]}");
        assert_eq!(set("{\"a\": [1, 2]}", &["a", "5"], true), "{\"a\": [1, 2, 9]}");
        assert_eq!(set("{\"a\": 1}", &["b"], false), "{\"a\": 1}");
        assert_eq!(tree("[1, 2]").without_index(-1).unwrap().write(), "[1]");
        assert!(tree("{\"a\": 1}").without_index(0).is_err());
    }
}
