//! The rows of a partition that a change can reach, and the other rows that are needed to compute those.

use std::ops::Range;
use std::sync::Arc;

use super::frames::Prior;
use super::ordered::RowOrder;
use super::partition::{HeldRow, Partition, RowPlace};
use crate::model::row::Row;
use crate::plan::ir::{Extent, Reach, WindowEvaluation, WindowFunction};

/// The inputs that all functions of a node share.
pub struct WindowScope {
    /// No function depends on all of a partition.
    pub local: bool,
    /// Some functions go on from the rows before.
    pub growing: bool,
    /// Some functions that go on from the rows before go by sets of peers.
    pub by_peers: bool,
    /// Number of rows that there must be before a row for the functions to go on from it.
    pub head: u64,
    /// Most rows of a frame that is computed by itself.
    pub frame_rows: u64,
}

impl WindowScope {
    pub fn of(functions: &[WindowFunction]) -> Self {
        let before = |f: &WindowFunction| matches!(f.reach, Reach::Before { .. });
        let by_peers = |f: &WindowFunction| matches!(&f.reach, Reach::Before { after } if !matches!(after, Extent::Rows(_)));
        let head = functions.iter().map(|f| match &f.evaluation {
            WindowEvaluation::Nth { n, .. } => *n,
            _ => 0,
        });
        let frame_rows = functions.iter().map(|f| match (&f.evaluation, &f.reach) {
            (
                WindowEvaluation::EachFrame(_),
                Reach::Near { before: Extent::Rows(before), after: Extent::Rows(after) },
            ) => before.saturating_add(*after),
            (WindowEvaluation::EachFrame(_), _) => u64::MAX,
            _ => 0,
        });
        WindowScope {
            frame_rows: frame_rows.max().unwrap_or(0),
            local: !functions.iter().any(|f| matches!(f.reach, Reach::Partition)),
            growing: functions.iter().any(before),
            by_peers: functions.iter().any(by_peers),
            head: head.max().unwrap_or(0),
        }
    }
}

/// Rows that a change can reach, by the first one and the one behind the last; `None`: from the start,
/// or to the end.
#[derive(Clone, PartialEq, Eq)]
pub struct ReachedSpan {
    pub from: Option<Row>,
    pub to: Option<Row>,
}

/// A part of a partition that is to be computed.
pub struct Segment {
    pub rows: Range<usize>,
    pub wanted: Range<usize>,
    pub known: usize,
    pub prior: Option<Arc<Prior>>,
    pub peers: Vec<usize>,
    pub boundaries: Vec<(usize, Prior)>,
    /// Where the boundaries are in the partition.
    pub places: Vec<RowPlace>,
}

/// Encoded rows of many partitions, side by side.
#[derive(Default)]
pub struct Rows {
    bytes: Vec<u8>,
    /// For each row where its key begins, its value begins, and its value ends.
    ends: Vec<[usize; 3]>,
}

impl Rows {
    pub fn push(&mut self, key: &[u8], row: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(row);
        self.ends.push([start, start + key.len(), start + key.len() + row.len()]);
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.ends.iter().map(|[a, b, c]| (&self.bytes[*a..*b], &self.bytes[*b..*c]))
    }
}

/// Joins spans that overlap or touch.
pub fn merged(mut spans: Vec<ReachedSpan>) -> Vec<ReachedSpan> {
    spans.sort_unstable_by(|a, b| a.from.cmp(&b.from));
    let mut merged: Vec<ReachedSpan> = Vec::new();
    for span in spans {
        match merged.last_mut() {
            Some(last) if last.to.is_none() || span.from.as_ref() <= last.to.as_ref() => {
                if last.to.is_some() && (span.to.is_none() || span.to > last.to) {
                    last.to = span.to;
                }
            }
            _ => merged.push(span),
        }
    }
    merged
}

/// The parts of a partition that are to be computed.
pub struct ReachedParts<'a> {
    pub order: Reaching<'a>,
    pub scope: &'a WindowScope,
    pub functions: &'a [WindowFunction],
}

impl ReachedParts<'_> {
    /// The rows whose values a change can reach, in a partition without or with the change.
    pub fn span(&self, rows: &Partition<Prior>, change: &HeldRow) -> ReachedSpan {
        let (from, to) = self.places(rows, change);
        let from = match rows.get(from) {
            _ if from == rows.start() => None,
            Some(held) if held.row < change.row => Some(held.row.clone()),
            _ => Some(change.row.clone()),
        };
        ReachedSpan { from, to: rows.get(to).map(|held| held.row.clone()) }
    }

    /// The first row that a change can reach, and the one behind the last.
    pub fn places(&self, rows: &Partition<Prior>, change: &HeldRow) -> (RowPlace, RowPlace) {
        let (first, order) = (rows.seek(&change.row), change.order());
        let there = rows.get(first).is_some_and(|held| held.row == change.row);
        let behind = if there { rows.next(first) } else { first };
        let (mut from, mut to) = (first, behind);
        for function in self.functions {
            match &function.reach {
                Reach::Partition => (from, to) = (rows.start(), rows.end()),
                Reach::Near { before, after } => {
                    from = from.min(self.order.back(rows, first, order, after));
                    to = to.max(self.order.on(rows, behind, order, before));
                }
                Reach::Before { after } => {
                    from = from.min(self.order.back(rows, first, order, after));
                    to = rows.end();
                }
            }
        }
        (from, to)
    }

    pub fn segments(
        &self,
        key: &Row,
        rows: &Partition<Prior>,
        spans: &[ReachedSpan],
        whole: bool,
        out: &mut Rows,
    ) -> Vec<Segment> {
        let mut segments = Vec::new();
        for span in spans {
            let from = span.from.as_ref().map_or(rows.start(), |from| rows.seek(from));
            let to = span.to.as_ref().map_or(rows.end(), |to| rows.seek(to));
            if from < to {
                segments.push(self.segment(key, rows, from, to, whole, out));
            }
        }
        segments
    }

    /// The rows between two places, with those that frames reach from there.
    fn segment(
        &self,
        key: &Row,
        rows: &Partition<Prior>,
        from: RowPlace,
        to: RowPlace,
        whole: bool,
        out: &mut Rows,
    ) -> Segment {
        let (mut first, mut end) = (from, to);
        let (mut known, mut prior) = (from, None);
        if !whole {
            if self.scope.growing {
                let usable = |prior: &Prior| prior.rows >= self.scope.head;
                (known, prior) = rows.known_before(from, usable);
                first = known;
            }
            let order_at = |place: Option<RowPlace>| {
                place.and_then(|place| rows.get(place)).map(HeldRow::order).unwrap_or_default()
            };
            let (order_from, order_to) = (order_at(Some(from)), order_at(rows.previous(to)));
            for function in self.functions {
                if let Reach::Near { before, after } = &function.reach {
                    first = first.min(self.order.back(rows, from, order_from, before));
                    end = end.max(self.order.on(rows, to, order_to, after));
                }
            }
        }
        let noted = Noted { known, from, to, first, end };
        self.noted(key, rows, &noted, prior, out)
    }

    /// Notes the rows of a segment, and where among them boundaries and ends of peers are.
    fn noted(
        &self,
        key: &Row,
        rows: &Partition<Prior>,
        at: &Noted,
        prior: Option<Arc<Prior>>,
        out: &mut Rows,
    ) -> Segment {
        let start = out.len();
        let mut segment = Segment {
            rows: start..start,
            wanted: 0..0,
            known: 0,
            prior,
            peers: Vec::new(),
            boundaries: Vec::new(),
            places: Vec::new(),
        };
        let mut counts = segment.prior.as_deref().map_or((0, 0), |p| (p.rows, p.peers));
        let goes_on = self.scope.local && self.scope.growing;
        let mut last: Option<&HeldRow> = None;
        for (place, held) in rows.rows(at.first, at.end) {
            let row = out.len() - start;
            let is_peer = last.is_some_and(|last| last.order() == held.order());
            if place == at.known {
                segment.known = row;
            } else if goes_on && place > at.known && rows.is_boundary(place, self.scope.by_peers) {
                segment.boundaries.push((row, Prior::counted(counts.0, counts.1)));
                segment.places.push(place);
            }
            if self.scope.by_peers && place > at.known && !is_peer {
                segment.peers.push(row);
            }
            if place == at.from {
                segment.wanted.start = row;
            }
            (0..held.present()).for_each(|_| out.push(key, &held.row));
            if place >= at.known {
                counts.0 += held.present();
                counts.1 += u64::from(place == at.known || !is_peer);
            }
            if place < at.to {
                segment.wanted.end = out.len() - start;
            }
            last = Some(held);
        }
        segment.rows.end = out.len();
        segment.peers.push(segment.rows.len());
        segment
    }
}

/// The places of a segment.
struct Noted {
    /// From where on functions go on from what was before.
    known: RowPlace,
    from: RowPlace,
    to: RowPlace,
    first: RowPlace,
    end: RowPlace,
}

/// Distance from a place that a function's frame covers.
pub struct Reaching<'a>(pub &'a RowOrder);

impl Reaching<'_> {
    fn back<P>(&self, rows: &Partition<P>, from: RowPlace, order: &[u8], by: &Extent) -> RowPlace {
        match by {
            Extent::Rows(count) => rows.back(from, *count),
            Extent::Peers(count) => {
                let mut at = rows.first_peer(order);
                for _ in 0..*count {
                    let Some(held) = rows.previous(at).and_then(|place| rows.get(place)) else {
                        break;
                    };
                    at = rows.first_peer(held.order());
                }
                at
            }
            Extent::Value(by) => match self.0.shifted(order, by, true) {
                Some(order) => rows.first_peer(&order),
                None => rows.start(),
            },
        }
    }

    fn on<P>(&self, rows: &Partition<P>, from: RowPlace, order: &[u8], by: &Extent) -> RowPlace {
        match by {
            Extent::Rows(count) => rows.on(from, *count),
            Extent::Peers(count) => {
                let mut at = rows.behind_peers(order);
                for _ in 0..*count {
                    let Some(held) = rows.get(at) else { break };
                    at = rows.behind_peers(held.order());
                }
                at
            }
            Extent::Value(by) => match self.0.shifted(order, by, false) {
                Some(order) => rows.behind_peers(&order),
                None => rows.end(),
            },
        }
    }
}
