//! Inner joins of several inputs → one join that keeps no intermediate result, where that pays.
//!
//! A chain of joins of two keeps each result but the last, arranged by the next join's key. A delta
//! join keeps the inputs alone, but each by every key that it is looked up by. It is taken when it
//! needs fewer arrangements; or when it needs no more of them, and one of the results kept would be
//! that of a join in which many rows of both sides share a key, so that there is no telling how much
//! larger than the inputs it is.

use std::collections::HashSet;

use super::ir::{DeltaPath, JoinKeys, NodeId, Op, Plan};

/// A column of an input of the join: the input's number, and the column's.
type InputColumn = (usize, usize);

/// The plan with chains of joins replaced where that pays.
pub fn delta_joins(plan: &mut Plan) {
    let readers = readers(plan);
    let mut inner = HashSet::new();
    for id in (0..plan.nodes.len()).rev() {
        if part(&plan.nodes[id].op).is_none() || inner.contains(&id) {
            continue;
        }
        let mut tree = JoinTree::default();
        tree.columns = tree.flatten(plan, &readers, id, true);
        inner.extend(tree.joins.iter().copied());
        let Some(paths) = tree.paths(plan).filter(|paths| tree.pays(plan, paths)) else {
            continue;
        };
        plan.nodes[id].op = Op::DeltaJoin { inputs: tree.inputs, paths };
    }
}

/// The inputs and the keys of a join that can be a part of a delta join.
fn part(op: &Op) -> Option<(NodeId, NodeId, &JoinKeys)> {
    match op {
        Op::Join { left, right, on } if !on.nulls_equal && !on.left.is_empty() => {
            Some((*left, *right, on))
        }
        _ => None,
    }
}

/// Number of nodes that read each node.
fn readers(plan: &Plan) -> Vec<usize> {
    let mut readers = vec![0; plan.nodes.len()];
    for input in plan.nodes.iter().flat_map(|node| node.op.inputs()) {
        readers[input] += 1;
    }
    readers[plan.root] += 1;
    readers
}

/// Joins of which only the last result is read by others.
#[derive(Default)]
struct JoinTree {
    inputs: Vec<NodeId>,
    joins: Vec<NodeId>,
    equal: Vec<(InputColumn, InputColumn)>,
    /// The columns of the last result.
    columns: Vec<InputColumn>,
}

impl JoinTree {
    /// Takes a node apart into inputs; where its columns come from. Only the last result may be read
    /// by many.
    fn flatten(
        &mut self,
        plan: &Plan,
        readers: &[usize],
        id: NodeId,
        last: bool,
    ) -> Vec<InputColumn> {
        let op = &plan.nodes[id].op;
        let own = last || readers[id] == 1;
        if let (Some((left, right, on)), true) = (part(op), own) {
            let mut columns = self.flatten(plan, readers, left, false);
            let right = self.flatten(plan, readers, right, false);
            let equal = on.left.iter().zip(&on.right).map(|(l, r)| (columns[*l], right[*r]));
            self.equal.extend(equal);
            self.joins.push(id);
            columns.extend(right);
            return columns;
        }
        if let (Op::Project { input, columns }, true) = (op, own)
            && is_join(plan, *input)
            && let Some(places) =
                columns.iter().map(super::lower::column_index).collect::<Option<Vec<usize>>>()
        {
            let below = self.flatten(plan, readers, *input, false);
            return places.into_iter().map(|place| below[place]).collect();
        }
        self.input(plan, id)
    }

    fn input(&mut self, plan: &Plan, id: NodeId) -> Vec<InputColumn> {
        let number = self.inputs.len();
        self.inputs.push(id);
        (0..plan.nodes[id].schema.fields().len()).map(|column| (number, column)).collect()
    }

    /// The class of equal columns that a column is in.
    fn class(&self, of: InputColumn) -> Vec<InputColumn> {
        let mut class = vec![of];
        let mut at = 0;
        while at < class.len() {
            let place = class[at];
            for (a, b) in &self.equal {
                let other = if *a == place {
                    *b
                } else if *b == place {
                    *a
                } else {
                    continue;
                };
                if !class.contains(&other) {
                    class.push(other);
                }
            }
            at += 1;
        }
        class
    }

    /// In which order each input's changes look up the others; `None` where two columns of one input
    /// have to be equal, or an input shares no key with the others.
    fn paths(&self, plan: &Plan) -> Option<Vec<DeltaPath>> {
        if self.inputs.len() < 3 {
            return None;
        }
        let places = self.equal.iter().flat_map(|(a, b)| [*a, *b]);
        for place in places {
            let class = self.class(place);
            let inputs: HashSet<usize> = class.iter().map(|(input, _)| *input).collect();
            if inputs.len() < class.len() {
                return None;
            }
        }
        (0..self.inputs.len()).map(|first| self.path(plan, first)).collect()
    }

    fn path(&self, plan: &Plan, first: usize) -> Option<DeltaPath> {
        let width = |input: usize| plan.nodes[self.inputs[input]].schema.fields().len();
        let mut row: Vec<InputColumn> = (0..width(first)).map(|column| (first, column)).collect();
        let mut met = vec![first];
        let mut lookups = Vec::new();
        while met.len() < self.inputs.len() {
            let others = (0..self.inputs.len()).filter(|input| !met.contains(input));
            let best = others
                .map(|input| (input, self.keys(&row, input)))
                .filter(|(_, on)| !on.left.is_empty())
                // Inputs of which one row matches at most do not make rows more.
                .max_by_key(|(input, on)| {
                    (
                        plan.nodes[self.inputs[*input]].is_unique_by(&on.right),
                        on.right.len(),
                        usize::MAX - input,
                    )
                });
            let (input, on) = best?;
            row.extend((0..width(input)).map(|column| (input, column)));
            met.push(input);
            lookups.push(super::ir::Lookup { input, on });
        }
        let at = |place: &InputColumn| row.iter().position(|p| p == place);
        let output = self.columns.iter().map(at).collect::<Option<Vec<usize>>>()?;
        Some(DeltaPath { lookups, output })
    }

    /// By which columns a row of these meets an input.
    fn keys(&self, row: &[InputColumn], input: usize) -> JoinKeys {
        let mut on = JoinKeys { left: Vec::new(), right: Vec::new(), nulls_equal: false };
        let mut own: Vec<usize> = self
            .equal
            .iter()
            .flat_map(|(a, b)| [*a, *b])
            .filter(|(of, _)| *of == input)
            .map(|(_, column)| column)
            .collect();
        own.sort_unstable();
        own.dedup();
        for column in own {
            let class = self.class((input, column));
            if let Some(left) = row.iter().position(|place| class.contains(place)) {
                on.left.push(left);
                on.right.push(column);
            }
        }
        on
    }

    fn pays(&self, plan: &Plan, paths: &[DeltaPath]) -> bool {
        let of_inputs: HashSet<(NodeId, &[usize])> = paths
            .iter()
            .flat_map(|path| &path.lookups)
            .map(|lookup| (self.inputs[lookup.input], lookup.on.right.as_slice()))
            .collect();
        let mut of_chain: HashSet<(NodeId, &[usize])> = HashSet::new();
        let mut grows = false;
        for id in &self.joins {
            let Op::Join { left, right, on } = &plan.nodes[*id].op else { continue };
            of_chain.insert((*left, &on.left));
            of_chain.insert((*right, &on.right));
            let last = self.joins.last() == Some(id);
            let unique = |side: NodeId, columns: &[usize]| plan.nodes[side].is_unique_by(columns);
            grows |= !last && !unique(*left, &on.left) && !unique(*right, &on.right);
        }
        of_inputs.len() < of_chain.len() || (grows && of_inputs.len() == of_chain.len())
    }
}

/// Whether a node is a join, but for projections.
fn is_join(plan: &Plan, id: NodeId) -> bool {
    match &plan.nodes[id].op {
        Op::Join { .. } => true,
        Op::Project { input, .. } => is_join(plan, *input),
        _ => false,
    }
}
