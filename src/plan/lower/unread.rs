//! The columns beside an unnested array that nobody reads.
//!
//! Each element would have a copy of them, of the array itself above all: memory in the square of the
//! array's length. They are NULL instead.

use std::sync::Arc;

use datafusion_physical_expr::utils::collect_columns;

use crate::plan::ir::{NodeId, Op, Plan, Scalar};

/// Marks the columns beside unnested arrays that nobody reads.
pub fn mark_unread(plan: &mut Plan) {
    let mut read: Vec<Vec<bool>> =
        plan.nodes.iter().map(|node| vec![false; node.schema.fields().len()]).collect();
    read[plan.root].fill(true);
    // A node's inputs come before it.
    for id in (0..=plan.root).rev() {
        let own = read[id].clone();
        let mut see = |input: NodeId, column: usize| read[input][column] = true;
        let through = |input: NodeId, see: &mut dyn FnMut(NodeId, usize), width: usize| {
            (0..width).filter(|column| own[*column]).for_each(|column| see(input, column));
        };
        let width = |id: NodeId| plan.nodes[id].schema.fields().len();
        match &plan.nodes[id].op {
            Op::Project { input, columns } => {
                columns.iter().flat_map(columns_of).for_each(|column| see(*input, column));
            }
            Op::Filter { input, conditions } => {
                through(*input, &mut see, own.len());
                conditions.iter().flat_map(columns_of).for_each(|column| see(*input, column));
            }
            Op::Unnest { input, array, .. } => {
                through(*input, &mut see, width(*input));
                columns_of(array).into_iter().for_each(|column| see(*input, column));
            }
            Op::Union { inputs } => {
                for input in inputs {
                    through(*input, &mut see, own.len());
                }
            }
            Op::Reduce { input, key, aggregates } => {
                key.iter().for_each(|column| see(*input, *column));
                let values = aggregates.iter().filter_map(|aggregate| aggregate.input);
                values.for_each(|column| see(*input, column));
            }
            other => {
                for input in other.inputs() {
                    (0..width(input)).for_each(|column| see(input, column));
                }
            }
        }
    }
    let widths: Vec<usize> = plan.nodes.iter().map(|node| node.schema.fields().len()).collect();
    for (node, read) in plan.nodes.iter_mut().zip(&read) {
        if let Op::Unnest { input, unread, .. } = &mut node.op {
            *unread = (0..widths[*input]).filter(|column| !read[*column]).collect();
        }
    }
}

fn columns_of(scalar: &Scalar) -> Vec<usize> {
    collect_columns(&Arc::clone(&scalar.expr)).into_iter().map(|column| column.index()).collect()
}
