//! Sources that begin with the latest rows of their table, which another view has kept.

use std::rc::Rc;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use timely::dataflow::operators::core::Concatenate;

use super::{Deltas, Renderer, expect_planned};
use crate::aggregate::{Accumulator, FirstRow, FirstRows, KeptRows};
use crate::dataflow::delta::{Delta, batch};
use crate::dataflow::kept::FilledShare;
use crate::dataflow::layout::RowLayout;
use crate::dataflow::run::{Run, RunsCursor};
use crate::model::Tick;
use crate::model::row::Row;
use crate::plan::ir::{NodeId, OrderColumn};
use crate::plan::scan::{KeptTable, Scan, places};

/// Number of rows that are handed on at once.
const ROWS: usize = 1 << 13;

/// The kept rows of a table, some at a time.
struct FilledRows {
    groups: RunsCursor<Accumulator>,
    layout: RowLayout,
    /// Where the columns that are read are among those that are kept.
    places: Vec<usize>,
    schema: SchemaRef,
    tick: Tick,
}

impl FilledRows {
    fn new(share: FilledShare, scan: &Scan, schema: SchemaRef) -> Result<Self, ArrowError> {
        let FilledShare { columns, runs, tick } = share;
        let layout = kept_layout(&scan.kept, &columns)?;
        let places = places(&columns, &scan.columns);
        let groups = RunsCursor::new(runs.into_iter().map(Run::from).map(Rc::new).collect());
        Ok(FilledRows { groups, layout, places, schema, tick })
    }

    /// The next rows; `None` when there is none left.
    fn next<S: KeptRows>(&mut self) -> Option<Delta> {
        let mut rows = Vec::new();
        while rows.len() < ROWS
            && let Some(key) = self.groups.key()
        {
            let key = Row::from_slice(key.bytes);
            let mut sum = Accumulator::default();
            self.groups.updates().for_each(|(_, change)| sum.merge(&change));
            if let Some(state) = sum.state::<S>(0) {
                rows.extend(
                    state.rows().map(|row| (key.clone(), Row::from_slice(row), self.tick, 1)),
                );
            }
            self.groups.next_key();
        }
        let delta = expect_planned(self.layout.decode(&mut rows)).pop()?;
        let column = |place: &usize| Arc::clone(delta.rows.column(*place));
        let columns: Vec<ArrayRef> = self.places.iter().map(column).collect();
        let rows = expect_planned(batch(Arc::clone(&self.schema), columns, delta.len()));
        Some(Delta { rows, ..delta })
    }
}

/// The layout in which these columns of a kept table are stored.
fn kept_layout(kept: &KeptTable, columns: &[usize]) -> Result<RowLayout, ArrowError> {
    let all = kept.table.columns();
    let field = |column: &usize| kept.table.field(all[*column]).to_arrow();
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    let order = kept.order.iter().flat_map(|by| {
        let column = places(columns, &[by.column]);
        column.into_iter().map(|column| OrderColumn { column, ..*by })
    });
    let order: Vec<OrderColumn> = order.collect();
    RowLayout::ordered(&crate::plan::relaxed(&schema), &places(columns, &kept.key), &order)
}

impl<'scope> Renderer<'scope, '_> {
    /// A source's rows, those of its table before them that are there already.
    pub(super) fn filled(
        &self,
        source: NodeId,
        stream: Deltas<'scope>,
    ) -> Result<Deltas<'scope>, ArrowError> {
        let Some(share) = self.guard.filled(source, self.scope.peers()) else { return Ok(stream) };
        let Some(scan) = self.plan.scans().find(|scan| scan.source == source) else {
            unreachable!("only tables of which rows are kept are filled")
        };
        let tick = share.tick;
        let mut rows = FilledRows::new(share, &scan, self.schema(source))?;
        let before = match scan.kept.limit {
            1 => self.once_more(move || rows.next::<FirstRow>(), tick),
            _ => self.once_more(move || rows.next::<FirstRows>(), tick),
        };
        Ok(self.scope.concatenate([before, stream]))
    }
}
