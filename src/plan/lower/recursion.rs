//! WITH RECURSIVE: the part of the recursive term that depends on the recursion becomes a plan of its
//! own, which is repeated until nothing changes; the rest is computed outside, once.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion_expr::RecursiveQuery;
use datafusion_physical_expr::expressions::CastExpr;

use super::{Lowering, Result, arrow_schema, expr, refuse, relaxed};
use crate::plan::ir::{Node, NodeId, Op, Plan, Scalar};

/// The rows of a recursion so far, where its recursive term reads them.
pub struct WorkTable {
    pub name: String,
    pub node: NodeId,
}

impl Lowering {
    pub(super) fn recursive(&mut self, query: &RecursiveQuery) -> Result<NodeId> {
        let base = self.plan(&query.static_term)?;
        let schema = relaxed(&arrow_schema(&query.schema));
        let base = self.conformed(base, &schema);
        let given = Op::Given { index: 0 };
        let given = self.push(Node {
            op: given,
            schema: Arc::clone(&schema),
            keys: Vec::new(),
            monotonic: true,
        });
        self.work_tables.push(WorkTable { name: query.name.clone(), node: given });
        let term = self.plan(&query.recursive_term);
        self.work_tables.pop();
        let term = self.conformed(term?, &schema);
        let (step, outer) = self.step(&query.name, given, term)?;
        let keys =
            if query.is_distinct { vec![(0..schema.fields().len()).collect()] } else { Vec::new() };
        let op = Op::Recursion {
            base,
            outer,
            step: Arc::new(step),
            distinct: query.is_distinct,
            iterations_max: self.iterations_max,
            name: query.name.as_str().into(),
        };
        // A row that an earlier iteration comes to have is taken back in a later one, at the same tick.
        Ok(self.add(op, schema, keys, false))
    }

    /// The node with the types of the schema.
    fn conformed(&mut self, input: NodeId, schema: &Arc<Schema>) -> NodeId {
        let from = Arc::clone(&self.nodes[input].schema);
        let columns = schema.fields().iter().enumerate().map(|(index, field)| {
            let column = expr::column(&from, index);
            if from.field(index).data_type() == field.data_type() {
                return column;
            }
            let cast = CastExpr::new(column.expr, field.data_type().clone(), None);
            Scalar { expr: Arc::new(cast), text: column.text }
        });
        let columns = columns.collect();
        self.project_scalars(input, columns, Arc::clone(schema))
    }

    /// The nodes between the work table and the term's root, and the nodes outside that they read.
    fn step(&self, name: &str, given: NodeId, root: NodeId) -> Result<(Plan, Vec<NodeId>)> {
        let mut depends = vec![false; self.nodes.len()];
        depends[given] = true;
        for id in given + 1..self.nodes.len() {
            depends[id] = self.nodes[id].op.inputs().iter().any(|input| depends[*input]);
        }
        let mut needed = vec![false; self.nodes.len()];
        needed[root] = true;
        for id in (0..=root).rev() {
            if needed[id] && depends[id] {
                self.nodes[id].op.inputs().iter().for_each(|input| needed[*input] = true);
            }
        }
        let mut step = Plan { nodes: Vec::new(), root: 0 };
        let mut outer = Vec::new();
        let mut places: BTreeMap<NodeId, NodeId> = BTreeMap::new();
        for id in (0..=root).filter(|id| needed[*id]) {
            let mut node = self.nodes[id].clone();
            if !depends[id] {
                outer.push(id);
                node.op = Op::Given { index: outer.len() };
            } else {
                monotone(name, &node.op, &depends)?;
                node.op.map_inputs(&|input| places[&input]);
            }
            places.insert(id, step.nodes.len());
            step.nodes.push(node);
        }
        step.root = places[&root];
        Ok((step, outer))
    }
}

/// Refuses what can lose rows when its input gains some: then there need be no fixed point.
fn monotone(name: &str, op: &Op, depends: &[bool]) -> Result<()> {
    let what = match op {
        Op::Given { .. }
        | Op::Filter { .. }
        | Op::Project { .. }
        | Op::Unnest { .. }
        | Op::Join { .. }
        | Op::DeltaJoin { .. }
        | Op::Union { .. } => return Ok(()),
        Op::Reduce { aggregates, .. } if aggregates.is_empty() => return Ok(()),
        Op::SemiJoin { right, anti, .. } if !anti || !depends[*right] => return Ok(()),
        Op::SemiJoin { .. } => "NOT IN, NOT EXISTS, EXCEPT or an outer join",
        Op::Reduce { .. } | Op::Recompute { .. } => "an aggregate",
        Op::TopK { .. } | Op::First { .. } => "LIMIT, DISTINCT ON or an aggregate",
        Op::Nearest { .. } => "an ASOF join",
        Op::Window { .. } => "a window function",
        Op::Temporal { .. } => "a condition on now()",
        Op::Recursion { name: inner, .. } => {
            return refuse(format!(
                "the recursion {inner} inside the recursive term of {name} reads {name}: only one that \
                 does not is supported"
            ));
        }
        Op::AssertKey { .. } | Op::Source { .. } | Op::Constant { .. } => "a key",
    };
    refuse(format!(
        "the recursive term of {name} has {what} over {name} itself: more rows could then mean \
         fewer, so there is no fixed point to keep; put it outside the recursion"
    ))
}
