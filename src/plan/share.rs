//! Scans of one upsert table → one scan, with the columns that any of them reads: what is kept of a
//! table, the latest row of each key, is kept once for a view.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};

use super::ir::{Node, NodeId, Op, OrderColumn, Plan};
use super::lower::column;
use super::scan::{KeptTable, Scan, places};
use crate::model::source::{SourceColumn, SystemColumn};

/// The plan with the scans of each table replaced by one, from which each takes its columns.
pub fn shared_scans(plan: Plan) -> Plan {
    let mut groups: Vec<Vec<Scan>> = Vec::new();
    for scan in plan.scans() {
        match groups.iter_mut().find(|group| group[0].kept == scan.kept) {
            Some(group) => group.push(scan),
            None => groups.push(vec![scan]),
        }
    }
    groups.retain(|group| group.len() > 1);
    // The new nodes, two for each table, come before all others.
    let shift = 2 * groups.len();
    let mut nodes: Vec<Node> = Vec::new();
    for group in &groups {
        nodes.extend(shared(group, nodes.len()));
    }
    nodes.extend(plan.nodes.into_iter().map(|mut node| {
        node.op.map_inputs(&|id| id + shift);
        node
    }));
    for (number, group) in groups.iter().enumerate() {
        let input = 2 * number + 1;
        let all = all_columns(group);
        let schema = Arc::clone(&nodes[input].schema);
        for scan in group {
            let id = scan.id + shift;
            if scan.columns == all {
                let instead = |read| if read == id { input } else { read };
                nodes[id..].iter_mut().for_each(|node| node.op.map_inputs(&instead));
                continue;
            }
            let columns = places(&all, &scan.columns);
            let columns = columns.iter().map(|place| column(&schema, *place)).collect();
            nodes[id].op = Op::Project { input, columns };
        }
    }
    Plan { root: plan.root + shift, nodes }
}

/// The columns that any of these scans reads.
fn all_columns(group: &[Scan]) -> Vec<usize> {
    let all: BTreeSet<usize> = group.iter().flat_map(|scan| &scan.columns).copied().collect();
    all.into_iter().collect()
}

/// The source with all columns, which is node `at`, and what is kept of it.
fn shared(group: &[Scan], at: NodeId) -> [Node; 2] {
    let KeptTable { table, key, order, limit } = &group[0].kept;
    let all = all_columns(group);
    let field = |column: &usize| -> Option<Field> {
        group.iter().find_map(|scan| {
            let place = scan.columns.iter().position(|c| c == column)?;
            Some(scan.schema.field(place).clone())
        })
    };
    let schema = Arc::new(Schema::new(all.iter().filter_map(field).collect::<Vec<_>>()));
    let of_table = table.columns();
    let columns: Vec<SourceColumn> = all.iter().map(|column| of_table[*column]).collect();
    let position = SourceColumn::System(SystemColumn::Position);
    let position = columns.iter().position(|column| *column == position);
    let keys: Vec<Vec<usize>> = position.map(|place| vec![place]).into_iter().collect();
    let key = places(&all, key);
    let order = order.iter().flat_map(|by| {
        places(&all, &[by.column]).into_iter().map(|column| OrderColumn { column, ..*by })
    });
    let mut first_keys = keys.clone();
    first_keys.extend((*limit == 1).then(|| key.clone()));
    let source = Op::Source { table: table.clone(), columns };
    let order = order.collect();
    let first = Op::First { input: at, key, order, limit: *limit, numbered: false };
    [
        Node { op: source, schema: Arc::clone(&schema), keys, monotonic: true },
        Node { op: first, schema, keys: first_keys, monotonic: false },
    ]
}
