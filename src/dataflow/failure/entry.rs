//! The rows that fail for one reason.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::model::Position;

/// Numbers the event types of a view's failures.
pub type TypeId = u32;

/// The number of an unknown type.
pub const UNKNOWN_TYPE: TypeId = 0;

/// Bytes of [`EntryRows`] on the heap, without positions.
const ROWS_BYTES: usize = 160;
/// Bytes of a position, or of the number of its rows.
const POSITION_BYTES: usize = 16;

/// A selection of an entry's rows.
#[derive(Clone, Debug, Default)]
pub struct EntryPart {
    pub event_type: Option<TypeId>,
    pub range: Option<RangeInclusive<Position>>,
}

impl EntryPart {
    /// True if it selects all rows, also those without an event.
    pub fn is_all(&self) -> bool {
        self.event_type.is_none() && self.range.is_none()
    }

    fn has_type(&self, event_type: TypeId) -> bool {
        self.event_type.is_none_or(|wanted| wanted == event_type)
    }

    fn range(&self) -> RangeInclusive<Position> {
        self.range.clone().unwrap_or(0..=Position::MAX)
    }

    fn has(&self, event_type: TypeId, position: Position) -> bool {
        self.has_type(event_type) && self.range().contains(&position)
    }
}

/// The event that a failing row comes from, and its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub position: Position,
    pub event_type: TypeId,
}

/// The rows that fail for one reason: mostly one, of one event, or many.
#[derive(Debug)]
pub enum Entry {
    One(Origin),
    Many(Box<EntryRows>),
}

#[derive(Debug, Default)]
pub struct EntryRows {
    /// Rows without an event. Below zero while a removal has arrived before its insertion.
    plain: i64,
    /// The number of dismissed rows among `plain`.
    dismissed: i64,
    /// Rows of events whose positions are not kept, since there was no room.
    unlisted: i64,
    /// Rows of `events`.
    listed: i64,
    /// The events with failing rows, by their types.
    events: Vec<(TypeId, BTreeSet<Position>)>,
    /// The number of failing rows of an event, where it is not one.
    times: BTreeMap<Position, i64>,
}

impl Default for Entry {
    fn default() -> Self {
        Entry::Many(Box::default())
    }
}

impl Entry {
    /// An entry without rows. So many of the rows without an event that it gets are dismissed already.
    pub fn with_dismissed(dismissed: i64) -> Self {
        Entry::Many(Box::new(EntryRows { dismissed, ..EntryRows::default() }))
    }

    /// Bytes of the entry on the heap, without its place in the map.
    pub fn bytes(&self) -> usize {
        match self {
            Entry::One(_) => 0,
            Entry::Many(rows) => {
                let positions: usize = rows.events.iter().map(|(_, events)| events.len()).sum();
                ROWS_BYTES + (positions + rows.times.len()) * POSITION_BYTES
            }
        }
    }

    /// True if a row that fails no longer, of this event or of none, may be counted in this entry.
    pub fn has(&self, origin: Option<Origin>) -> bool {
        match (self, origin) {
            (Entry::One(own), Some(origin)) => own.position == origin.position,
            (Entry::One(_), None) => false,
            (Entry::Many(rows), None) => rows.plain > 0,
            (Entry::Many(rows), Some(origin)) => {
                rows.unlisted > 0
                    || rows.events.iter().any(|(_, events)| events.contains(&origin.position))
            }
        }
    }

    /// Adds a row `diff` times. Without room only the number of rows is kept.
    pub fn add(&mut self, origin: Option<Origin>, diff: i64, has_room: bool) {
        self.as_rows().add(origin, diff, has_room);
    }

    fn as_rows(&mut self) -> &mut EntryRows {
        if let Entry::One(own) = *self {
            let mut rows = EntryRows::default();
            rows.add(Some(own), 1, true);
            *self = Entry::Many(Box::new(rows));
        }
        match self {
            Entry::Many(rows) => rows,
            Entry::One(_) => unreachable!("it has just become many"),
        }
    }

    /// True if no row fails for this reason.
    pub fn is_empty(&self) -> bool {
        match self {
            Entry::One(_) => false,
            Entry::Many(rows) => rows.plain == 0 && rows.unlisted == 0 && rows.events.is_empty(),
        }
    }

    /// The number of failing rows that were not dismissed.
    pub fn visible(&self) -> i64 {
        match self {
            Entry::One(_) => 1,
            Entry::Many(rows) => {
                (rows.listed + rows.unlisted + rows.visible_plain().unwrap_or(rows.plain)).max(0)
            }
        }
    }

    /// The number of failing rows of a selection that were not dismissed.
    pub fn count(&self, part: &EntryPart) -> i64 {
        match self {
            _ if part.is_all() => self.visible(),
            Entry::One(own) => i64::from(part.has(own.event_type, own.position)),
            Entry::Many(rows) => {
                let events = rows.parts(part).map(|events| events.count() as i64);
                let further = |position: &Position| rows.times.get(position).map(|n| n - 1);
                let times: i64 = match rows.times.is_empty() {
                    true => 0,
                    false => rows.parts(part).flatten().filter_map(further).sum(),
                };
                (events.sum::<i64>() + times).max(0)
            }
        }
    }

    /// The first events of a selection.
    pub fn origins(&self, part: &EntryPart, max: usize) -> Vec<Origin> {
        match self {
            Entry::One(own) => {
                let own = part.has(own.event_type, own.position).then_some(*own);
                own.into_iter().take(max).collect()
            }
            Entry::Many(rows) => {
                let mut first = Vec::new();
                for (event_type, events) in rows.events.iter().filter(|(t, _)| part.has_type(*t)) {
                    let origin = |p: &Position| Origin { position: *p, event_type: *event_type };
                    first.extend(events.range(part.range()).take(max).map(origin));
                }
                first.sort_unstable_by_key(|origin| origin.position);
                first.truncate(max);
                first
            }
        }
    }

    /// The last event of a selection.
    pub fn last(&self, part: &EntryPart) -> Option<Position> {
        match self {
            Entry::One(own) => part.has(own.event_type, own.position).then_some(own.position),
            Entry::Many(rows) => rows.parts(part).filter_map(|events| events.max()).max().copied(),
        }
    }

    /// The number of failing rows without an event that were not dismissed.
    pub fn plain(&self) -> i64 {
        match self {
            Entry::One(_) => 0,
            Entry::Many(rows) => rows.visible_plain().unwrap_or(0),
        }
    }

    /// True if some events' positions are not kept.
    pub fn has_unlisted(&self) -> bool {
        matches!(self, Entry::Many(rows) if rows.unlisted > 0)
    }

    /// All rows: each with the event that it comes from, and how often. `None` if not all are listed.
    pub fn all(&self) -> Option<Vec<(Option<Origin>, i64)>> {
        let rows = match self {
            Entry::One(own) => return Some(vec![(Some(*own), 1)]),
            Entry::Many(rows) if rows.unlisted == 0 => rows,
            Entry::Many(_) => return None,
        };
        let plain = (rows.plain != 0).then_some((None, rows.plain));
        let events = rows.events.iter().flat_map(|(event_type, events)| {
            events.iter().map(|position| {
                let times = rows.times.get(position).copied().unwrap_or(1);
                (Some(Origin { position: *position, event_type: *event_type }), times)
            })
        });
        Some(plain.into_iter().chain(events).collect())
    }

    /// Removes the events of a selection, whose rows are dismissed.
    pub fn dismiss_events(&mut self, part: &EntryPart) {
        match self {
            Entry::One(own) if part.has(own.event_type, own.position) => *self = Entry::default(),
            Entry::One(_) => {}
            Entry::Many(rows) => {
                let EntryRows { events, times, listed, .. } = &mut **rows;
                let range = part.range();
                for (_, events) in events.iter_mut().filter(|(t, _)| part.has_type(*t)) {
                    events.retain(|position| {
                        let taken = range.contains(position);
                        if taken {
                            *listed -= times.remove(position).unwrap_or(1);
                        }
                        !taken
                    });
                }
                events.retain(|(_, events)| !events.is_empty());
            }
        }
    }

    /// Counts the events whose positions are not kept as dismissed.
    pub fn dismiss_unlisted(&mut self) {
        if let Entry::Many(rows) = self {
            rows.unlisted = 0;
        }
    }

    /// Counts so many rows without an event as dismissed.
    pub fn dismiss_plain(&mut self, count: i64) {
        self.as_rows().dismissed += count;
    }
}

impl EntryRows {
    fn add(&mut self, origin: Option<Origin>, diff: i64, has_room: bool) {
        let Some(Origin { position, event_type }) = origin else {
            self.plain += diff;
            return;
        };
        let known = self.events.iter().position(|(_, events)| events.contains(&position));
        // A removal may arrive before its insertion: it is counted as -1 until then.
        if known.is_none() && (diff > 0 && !has_room || diff < 0 && self.unlisted > 0) {
            self.unlisted += diff;
            return;
        }
        self.listed += diff;
        let before = match known {
            Some(_) => self.times.get(&position).copied().unwrap_or(1),
            None => 0,
        };
        match before + diff {
            0 | 1 => self.times.remove(&position),
            times => self.times.insert(position, times),
        };
        match known {
            Some(at) if before + diff == 0 => {
                self.events[at].1.remove(&position);
                if self.events[at].1.is_empty() {
                    self.events.remove(at);
                }
            }
            Some(_) => {}
            None => match self.events.iter_mut().find(|(t, _)| *t == event_type) {
                Some((_, events)) => drop(events.insert(position)),
                None => self.events.push((event_type, BTreeSet::from([position]))),
            },
        }
    }

    /// The events of a selection, type by type.
    fn parts<'a>(
        &'a self,
        part: &'a EntryPart,
    ) -> impl Iterator<Item = std::collections::btree_set::Range<'a, Position>> {
        let wanted = self.events.iter().filter(|(t, _)| part.has_type(*t));
        wanted.map(|(_, events)| events.range(part.range()))
    }

    /// The rows without an event that were not dismissed; `None` when that is less than zero.
    fn visible_plain(&self) -> Option<i64> {
        (self.plain >= 0).then(|| (self.plain - self.dismissed).max(0))
    }
}
