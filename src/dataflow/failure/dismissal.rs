//! Dismissals: failures that an operator has accepted as lost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::entry::TypeId;
use super::reason::split;
use crate::model::Position;

/// Failures of one expression that were accepted as lost, and are not told of any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dismissal {
    pub expression: String,
    /// Only events of this type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// The failing events in question.
    pub events: Ranges,
    /// The number of rows without an event, by the [`reason_hash`] of their reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<u64, i64>,
}

impl Dismissal {
    /// Adds another dismissal of the same expression and type.
    pub fn merge(&mut self, other: &Dismissal) {
        other.events.iter().for_each(|(from, to)| self.events.add(from, to));
        for (reason, rows) in &other.rows {
            *self.rows.entry(*reason).or_default() += rows;
        }
    }

    /// True if the other dismissal has the same expression and type.
    pub fn is_like(&self, other: &Dismissal) -> bool {
        (&self.expression, &self.event_type) == (&other.expression, &other.event_type)
    }
}

/// The hash under which a dismissal keeps a reason.
pub fn reason_hash(reason: &str) -> u64 {
    let (template, value) = split(reason);
    xxh3_64(template.with(&value).as_bytes())
}

/// Ranges of positions, both ends included, that neither touch nor overlap: first → last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ranges(BTreeMap<Position, Position>);

impl Ranges {
    /// Adds the positions from `from` to `to`; none when `to` is less.
    pub fn add(&mut self, from: Position, to: Position) {
        if to < from {
            return;
        }
        let (mut from, mut to) = (from, to);
        while let Some((first, last)) = self.0.range(..=to.saturating_add(1)).next_back()
            && last.saturating_add(1) >= from
        {
            let (first, last) = (*first, *last);
            (from, to) = (from.min(first), to.max(last));
            self.0.remove(&first);
        }
        self.0.insert(from, to);
    }

    /// True if a range has this position.
    pub fn contains(&self, position: Position) -> bool {
        self.0.range(..=position).next_back().is_some_and(|(_, last)| position <= *last)
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Position, Position)> {
        self.0.iter().map(|(first, last)| (*first, *last))
    }
}

/// The dismissals of one expression, combined.
#[derive(Debug, Default)]
pub struct AcceptedLoss {
    /// Dismissed events of all types.
    any: Ranges,
    of_type: BTreeMap<TypeId, Ranges>,
    rows: BTreeMap<u64, i64>,
}

impl AcceptedLoss {
    /// Adds a dismissal, whose type has this number.
    pub fn add(&mut self, dismissal: &Dismissal, event_type: Option<TypeId>) {
        let ranges = match event_type {
            Some(event_type) => self.of_type.entry(event_type).or_default(),
            None => &mut self.any,
        };
        dismissal.events.iter().for_each(|(from, to)| ranges.add(from, to));
        for (reason, rows) in &dismissal.rows {
            *self.rows.entry(*reason).or_default() += rows;
        }
    }

    /// True if the event was dismissed.
    pub fn covers(&self, position: Position, event_type: TypeId) -> bool {
        self.any.contains(position)
            || self.of_type.get(&event_type).is_some_and(|ranges| ranges.contains(position))
    }

    /// The number of dismissed rows without an event that fail for this reason.
    pub fn rows(&self, reason: &str) -> i64 {
        if self.rows.is_empty() {
            return 0;
        }
        self.rows.get(&reason_hash(reason)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_hold_what_was_added(added in prop::collection::vec((0..40_u64, 0..8_u64), 0..12)) {
            let (mut ranges, mut positions) = (Ranges::default(), BTreeSet::new());
            for (from, len) in added {
                ranges.add(from, from + len);
                positions.extend(from..=from + len);
            }
            for position in 0..60 {
                prop_assert_eq!(ranges.contains(position), positions.contains(&position));
            }
            let ends: Vec<_> = ranges.iter().collect();
            prop_assert!(ends.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{ends:?}");
        }
    }
}
