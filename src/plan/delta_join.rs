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
type Place = (usize, usize);

/// The plan with chains of joins replaced where that pays.
pub fn delta_joins(plan: &mut Plan) {
    let readers = readers(plan);
    let mut inner = HashSet::new();
    for id in (0..plan.nodes.len()).rev() {
        if !matches!(plan.nodes[id].op, Op::Join { .. }) || inner.contains(&id) {
            continue;
        }
        let mut tree = Tree::default();
        tree.columns = match tree.flatten(plan, &readers, id, true) {
            Some(columns) => columns,
            None => continue,
        };
        inner.extend(tree.joins.iter().copied());
        let Some(paths) = tree.paths(plan).filter(|paths| tree.pays(plan, paths)) else {
            continue;
        };
        plan.nodes[id].op = Op::DeltaJoin { inputs: tree.inputs, paths };
    }
}

/// How many nodes read each node.
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
struct Tree {
    inputs: Vec<NodeId>,
    joins: Vec<NodeId>,
    equal: Vec<(Place, Place)>,
    /// The columns of the last result.
    columns: Vec<Place>,
}

impl Tree {
    /// Takes a node apart into inputs; where its columns come from. `None`: it has a join that cannot
    /// be taken apart.
    fn flatten(
        &mut self,
        plan: &Plan,
        readers: &[usize],
        id: NodeId,
        first: bool,
    ) -> Option<Vec<Place>> {
        match &plan.nodes[id].op {
            Op::Join { left, right, on } if first || readers[id] == 1 => {
                if on.nulls_equal || on.left.is_empty() {
                    return if first { None } else { Some(self.input(plan, id)) };
                }
                let mut columns = self.flatten(plan, readers, *left, false)?;
                let right = self.flatten(plan, readers, *right, false)?;
                self.equal
                    .extend(on.left.iter().zip(&on.right).map(|(l, r)| (columns[*l], right[*r])));
                self.joins.push(id);
                columns.extend(right);
                Some(columns)
            }
            Op::Project { input, columns } if readers[id] == 1 && is_join(plan, *input) => {
                let places: Option<Vec<usize>> =
                    columns.iter().map(super::lower::column_index).collect();
                let Some(places) = places else { return Some(self.input(plan, id)) };
                let below = self.flatten(plan, readers, *input, false)?;
                Some(places.into_iter().map(|place| below[place]).collect())
            }
            _ => Some(self.input(plan, id)),
        }
    }

    fn input(&mut self, plan: &Plan, id: NodeId) -> Vec<Place> {
        let number = self.inputs.len();
        self.inputs.push(id);
        (0..plan.nodes[id].schema.fields().len()).map(|column| (number, column)).collect()
    }

    /// The class of equal columns that a column is in.
    fn class(&self, of: Place) -> Vec<Place> {
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
        let mut row: Vec<Place> = (0..width(first)).map(|column| (first, column)).collect();
        let mut met = vec![first];
        let mut lookups = Vec::new();
        while met.len() < self.inputs.len() {
            let others = (0..self.inputs.len()).filter(|input| !met.contains(input));
            let best = others
                .map(|input| (input, self.keys(&row, input)))
                .filter(|(_, on)| !on.left.is_empty())
                // Inputs of which one row matches at most do not make rows more.
                .max_by_key(|(input, on)| {
                    (self.is_unique(plan, *input, &on.right), on.right.len(), usize::MAX - input)
                });
            let (input, on) = best?;
            row.extend((0..width(input)).map(|column| (input, column)));
            met.push(input);
            lookups.push(super::ir::Lookup { input, on });
        }
        let at = |place: &Place| row.iter().position(|p| p == place);
        let output = self.columns.iter().map(at).collect::<Option<Vec<usize>>>()?;
        Some(DeltaPath { lookups, output })
    }

    /// By which columns a row of these meets an input.
    fn keys(&self, row: &[Place], input: usize) -> JoinKeys {
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

    fn is_unique(&self, plan: &Plan, input: usize, columns: &[usize]) -> bool {
        let keys = &plan.nodes[self.inputs[input]].keys;
        keys.iter().any(|key| key.iter().all(|column| columns.contains(column)))
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
            let unique = |side: NodeId, columns: &[usize]| {
                let keys = &plan.nodes[side].keys;
                keys.iter().any(|key| key.iter().all(|column| columns.contains(column)))
            };
            let last = self.joins.last() == Some(id);
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
