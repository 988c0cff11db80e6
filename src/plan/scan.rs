//! Tables of which a plan keeps the latest rows only: what another plan has kept of one can take the
//! place of its events.

use std::sync::Arc;

use arrow::datatypes::Schema;
use xxhash_rust::xxh3::xxh3_128;

use super::ir::{NodeId, Op, OrderColumn, Plan};
use crate::model::source::{SourceColumn, SourceTable, SystemColumn};

/// The first rows of each group of a table's events.
pub struct Scan {
    /// The node that keeps them.
    pub id: NodeId,
    /// The node of the events.
    pub source: NodeId,
    /// The columns that are read, as the table numbers them.
    pub columns: Vec<usize>,
    pub schema: Arc<Schema>,
    pub kept: KeptTable,
}

/// Which rows of a table are kept; columns are numbers of the table's.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptTable {
    pub table: SourceTable,
    pub key: Vec<usize>,
    pub order: Vec<OrderColumn>,
    pub limit: u64,
}

impl KeptTable {
    /// The same for tables of which the same rows are kept, whatever is read of them: hex digits.
    pub fn fingerprint(&self) -> String {
        format!("{:032x}", xxh3_128(format!("{self:?}").as_bytes()))
    }
}

impl Plan {
    /// The tables of which the first rows of each group are kept.
    pub fn scans(&self) -> impl Iterator<Item = Scan> + '_ {
        (0..self.nodes.len()).filter_map(|id| self.scan(id))
    }

    /// The same, if it reads nothing else: then what is kept of them is all that it needs.
    pub fn scans_only(&self) -> Option<Vec<Scan>> {
        let scans: Vec<Scan> = self.scans().collect();
        let readers = |source: NodeId| {
            let inputs = self.nodes.iter().flat_map(|node| node.op.inputs());
            inputs.filter(|input| *input == source).count()
        };
        let is_scanned = |(source, ..): (NodeId, _, _)| {
            readers(source) == 1 && scans.iter().any(|scan| scan.source == source)
        };
        let is_only = !scans.is_empty() && self.sources().all(is_scanned);
        is_only.then_some(scans)
    }

    /// A node that keeps the first rows of each group of a table, as such.
    pub fn scan(&self, id: NodeId) -> Option<Scan> {
        let Op::First { input, key, order, limit, numbered: false } = &self.nodes[id].op else {
            return None;
        };
        let Op::Source { table, columns } = &self.nodes[*input].op else { return None };
        // Otherwise rows may tie, and which of them comes first depends on the columns that are read.
        let position = SourceColumn::System(SystemColumn::Position);
        if order.iter().all(|by| columns[by.column] != position) {
            return None;
        }
        let all = table.columns();
        let columns: Vec<usize> =
            columns.iter().filter_map(|column| all.iter().position(|c| c == column)).collect();
        let key = key.iter().map(|column| columns[*column]).collect();
        let by = |by: &OrderColumn| OrderColumn { column: columns[by.column], ..*by };
        let order = order.iter().map(by).collect();
        let kept = KeptTable { table: table.clone(), key, order, limit: *limit };
        let schema = Arc::clone(&self.nodes[*input].schema);
        Some(Scan { id, source: *input, columns, schema, kept })
    }
}

/// Where columns are among others.
pub fn places(all: &[usize], columns: &[usize]) -> Vec<usize> {
    columns.iter().filter_map(|column| all.iter().position(|c| c == column)).collect()
}
