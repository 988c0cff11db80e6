//! Joins: the outer ones become an inner join and the rows that it left out.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::{JoinType, NullEquality};
use datafusion_expr::{Expr, ExprSchemable, Join};

use super::expr;
use super::rank::order_columns;
use super::{Lowering, Result, arrow_schema, refuse};
use crate::plan::ir::{JoinKeys, NodeId, Op, OrderColumn, Scalar};
use crate::plan::nearest::Nearest;

/// A side of a join: its rows, with the key's expressions as further columns where they are more
/// than columns.
struct KeyedSide {
    /// The side as planned.
    plain: NodeId,
    /// The side with the key's columns.
    keyed: NodeId,
    width: usize,
    keys: Vec<usize>,
}

impl Lowering {
    pub(super) fn join(&mut self, join: &Join) -> Result<NodeId> {
        let (left_keys, right_keys): (Vec<_>, Vec<_>) = join.on.iter().cloned().unzip();
        let left = self.side(&join.left, &left_keys)?;
        let right = self.side(&join.right, &right_keys)?;
        let nulls_equal = join.null_equality == NullEquality::NullEqualsNull;
        match join.join_type {
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
                self.pairs(join, &left, &right, nulls_equal)
            }
            JoinType::LeftSemi | JoinType::LeftAnti => {
                let anti = join.join_type == JoinType::LeftAnti;
                self.semi(join, &left, &right, nulls_equal, anti, false)
            }
            JoinType::RightSemi | JoinType::RightAnti => {
                let anti = join.join_type == JoinType::RightAnti;
                self.semi(join, &right, &left, nulls_equal, anti, true)
            }
            other => {
                refuse(format!("{other} joins (sub-queries inside OR, say) are not supported yet"))
            }
        }
    }

    fn side(&mut self, plan: &datafusion_expr::LogicalPlan, keys: &[Expr]) -> Result<KeyedSide> {
        let plain = self.plan(plan)?;
        let width = self.width(plain);
        let schema = Arc::clone(&self.nodes[plain].schema);
        let mut columns: Vec<Scalar> = (0..width).map(|i| expr::column(&schema, i)).collect();
        let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        let mut indexes = Vec::new();
        for key in keys {
            let scalar = self.exprs.scalar(key, plan.schema())?;
            match expr::column_index(&scalar) {
                Some(index) => indexes.push(index),
                None => {
                    let data_type = key.get_type(plan.schema())?;
                    fields.push(Field::new(format!("key {}", indexes.len()), data_type, true));
                    indexes.push(columns.len());
                    columns.push(scalar);
                }
            }
        }
        let keyed = self.project_scalars(plain, columns, Arc::new(Schema::new(fields)));
        Ok(KeyedSide { plain, keyed, width, keys: indexes })
    }

    /// The rows of both sides that match, side by side, further conditions included.
    fn matched(
        &mut self,
        join: &Join,
        left: &KeyedSide,
        right: &KeyedSide,
        nulls_equal: bool,
    ) -> Result<NodeId> {
        let on = JoinKeys { left: left.keys.clone(), right: right.keys.clone(), nulls_equal };
        let offset = self.width(left.keyed);
        let keys = self.joined_keys(left, right, offset);
        let node = self.inner_join(left.keyed, right.keyed, on, keys);
        let columns: Vec<usize> = (0..left.width).chain(offset..offset + right.width).collect();
        let node = self.select(node, &columns);
        match &join.filter {
            Some(filter) => {
                let schema = join.left.schema().join(join.right.schema())?;
                self.filter(node, filter, &schema)
            }
            None => Ok(node),
        }
    }

    /// An inner join of two nodes whose output has these keys.
    pub(super) fn inner_join(
        &mut self,
        left: NodeId,
        right: NodeId,
        on: JoinKeys,
        keys: Vec<Vec<usize>>,
    ) -> NodeId {
        let fields: Vec<_> = self.nodes[left]
            .schema
            .fields()
            .iter()
            .chain(self.nodes[right].schema.fields().iter())
            .cloned()
            .collect();
        let monotonic = self.nodes[left].monotonic && self.nodes[right].monotonic;
        self.add(Op::Join { left, right, on }, Arc::new(Schema::new(fields)), keys, monotonic)
    }

    /// Whether a row of the other side meets at most one row of this side.
    fn is_unique(&self, side: &KeyedSide) -> bool {
        self.nodes[side.keyed].is_unique_by(&side.keys)
    }

    fn joined_keys(&self, left: &KeyedSide, right: &KeyedSide, offset: usize) -> Vec<Vec<usize>> {
        let left_keys = &self.nodes[left.keyed].keys;
        let right_keys: Vec<Vec<usize>> = self.nodes[right.keyed]
            .keys
            .iter()
            .map(|key| key.iter().map(|c| c + offset).collect())
            .collect();
        let mut keys = Vec::new();
        if self.is_unique(right) {
            keys.extend(left_keys.iter().cloned());
        }
        if self.is_unique(left) {
            keys.extend(right_keys.iter().cloned());
        }
        for l in left_keys {
            for r in &right_keys {
                keys.push(l.iter().chain(r).copied().collect());
            }
        }
        keys
    }

    fn pairs(
        &mut self,
        join: &Join,
        left: &KeyedSide,
        right: &KeyedSide,
        nulls_equal: bool,
    ) -> Result<NodeId> {
        let schema = arrow_schema(&join.schema);
        let matched = self.matched(join, left, right, nulls_equal)?;
        let mut inputs = vec![matched];
        if matches!(join.join_type, JoinType::Left | JoinType::Full) {
            let rest = self.unmatched(join, matched, 0, left, right, nulls_equal);
            inputs.push(self.padded(rest, &schema, 0)?);
        }
        if matches!(join.join_type, JoinType::Right | JoinType::Full) {
            let rest = self.unmatched(join, matched, left.width, right, left, nulls_equal);
            inputs.push(self.padded(rest, &schema, left.width)?);
        }
        if inputs.len() == 1 {
            return Ok(matched);
        }
        let keys = self.outer_keys(join.join_type, left, right);
        let node = self.union(inputs, schema);
        self.nodes[node].keys = keys;
        self.nodes[node].monotonic = false;
        Ok(node)
    }

    /// The rows of `side` that are in no pair; `from` is where its columns begin in the pairs.
    fn unmatched(
        &mut self,
        join: &Join,
        matched: NodeId,
        from: usize,
        side: &KeyedSide,
        other: &KeyedSide,
        nulls_equal: bool,
    ) -> NodeId {
        let all: Vec<usize> = (0..side.width).collect();
        let (left, right, on) = match &join.filter {
            None => {
                let on =
                    JoinKeys { left: side.keys.clone(), right: other.keys.clone(), nulls_equal };
                (side.keyed, other.keyed, on)
            }
            Some(_) => {
                let columns: Vec<usize> = (from..from + side.width).collect();
                let found = self.select(matched, &columns);
                let on = JoinKeys { left: all.clone(), right: all.clone(), nulls_equal: true };
                (side.plain, found, on)
            }
        };
        let node = self.semi_join(left, right, on, true);
        self.select(node, &all)
    }

    /// Each left row with the nearest right one.
    pub(super) fn nearest(&mut self, nearest: &Nearest) -> Result<NodeId> {
        let (left_keys, mut right_keys): (Vec<_>, Vec<_>) =
            nearest.on.iter().cloned().chain([nearest.order.clone()]).unzip();
        right_keys.extend(nearest.ties.iter().map(|s| s.expr.clone()));
        let left = self.side(&nearest.left, &left_keys)?;
        let right = self.side(&nearest.right, &right_keys)?;
        let keys = nearest.on.len();
        let on = JoinKeys {
            left: left.keys[..keys].to_vec(),
            right: right.keys[..keys].to_vec(),
            nulls_equal: false,
        };
        // NULL is before everything, so that there is nothing near it.
        let place = right.keys[keys];
        let mut order = vec![OrderColumn {
            column: place,
            descending: !nearest.direction.back,
            nulls_first: true,
        }];
        order.extend(
            order_columns(&nearest.ties, 0)
                .into_iter()
                .zip(&right.keys[keys + 1..])
                .map(|(by, column)| OrderColumn { column: *column, ..by }),
        );
        let op = Op::Nearest {
            left: left.keyed,
            right: right.keyed,
            on,
            at: left.keys[keys],
            order,
            strict: nearest.direction.strict,
            outer: nearest.outer,
        };
        let fields = self.nodes[left.keyed].schema.fields().iter();
        let fields = fields.chain(self.nodes[right.keyed].schema.fields().iter()).cloned();
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let offset = self.width(left.keyed);
        let node_keys = self.nodes[left.keyed].keys.clone();
        let node = self.add(op, schema, node_keys, false);
        let columns: Vec<usize> = (0..left.width).chain(offset..offset + right.width).collect();
        Ok(self.select(node, &columns))
    }

    fn semi_join(&mut self, left: NodeId, right: NodeId, on: JoinKeys, anti: bool) -> NodeId {
        let schema = Arc::clone(&self.nodes[left].schema);
        let keys = self.nodes[left].keys.clone();
        let monotonic = !anti && self.nodes[left].monotonic && self.nodes[right].monotonic;
        self.add(Op::SemiJoin { left, right, on, anti }, schema, keys, monotonic)
    }

    /// Puts NULLs in the place of the side that is missing.
    fn padded(&mut self, rest: NodeId, schema: &SchemaRef, from: usize) -> Result<NodeId> {
        let rest_schema = Arc::clone(&self.nodes[rest].schema);
        let own = from..from + self.width(rest);
        let mut columns = Vec::new();
        for (index, field) in schema.fields().iter().enumerate() {
            columns.push(if own.contains(&index) {
                expr::column(&rest_schema, index - from)
            } else {
                expr::null(field.data_type())?
            });
        }
        Ok(self.project_scalars(rest, columns, Arc::clone(schema)))
    }

    fn outer_keys(
        &self,
        join_type: JoinType,
        left: &KeyedSide,
        right: &KeyedSide,
    ) -> Vec<Vec<usize>> {
        let original = |side: &KeyedSide, offset: usize| -> Vec<Vec<usize>> {
            let keys = self.nodes[side.plain].keys.iter();
            keys.map(|key| key.iter().map(|c| c + offset).collect()).collect()
        };
        let (left_keys, right_keys) = (original(left, 0), original(right, left.width));
        let mut keys = Vec::new();
        match join_type {
            JoinType::Left if self.is_unique(right) => keys.extend(left_keys.iter().cloned()),
            JoinType::Right if self.is_unique(left) => keys.extend(right_keys.iter().cloned()),
            _ => {}
        }
        // An empty key says "at most one row", which padding rows would break.
        let usable = |key: &Vec<usize>, side: &KeyedSide, offset: usize| {
            !key.is_empty()
                && key
                    .iter()
                    .all(|c| !self.nodes[side.plain].schema.field(c - offset).is_nullable())
        };
        for l in left_keys.iter().filter(|k| usable(k, left, 0)) {
            for r in right_keys.iter().filter(|k| usable(k, right, left.width)) {
                keys.push(l.iter().chain(r).copied().collect());
            }
        }
        keys.sort_by_key(|k: &Vec<usize>| k.len());
        keys.truncate(super::KEYS_MAX);
        keys
    }

    fn semi(
        &mut self,
        join: &Join,
        kept: &KeyedSide,
        other: &KeyedSide,
        nulls_equal: bool,
        anti: bool,
        swapped: bool,
    ) -> Result<NodeId> {
        let all: Vec<usize> = (0..kept.width).collect();
        let (left, right, on) = match &join.filter {
            None => {
                let on =
                    JoinKeys { left: kept.keys.clone(), right: other.keys.clone(), nulls_equal };
                (kept.keyed, other.keyed, on)
            }
            Some(_) => {
                let (left, right) = if swapped { (other, kept) } else { (kept, other) };
                let matched = self.matched(join, left, right, nulls_equal)?;
                let from = if swapped { other.width } else { 0 };
                let columns: Vec<usize> = (from..from + kept.width).collect();
                let found = self.select(matched, &columns);
                let on = JoinKeys { left: all.clone(), right: all.clone(), nulls_equal: true };
                (kept.plain, found, on)
            }
        };
        let node = self.semi_join(left, right, on, anti);
        Ok(self.select(node, &all))
    }
}
