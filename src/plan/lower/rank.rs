//! DISTINCT ON, ORDER BY … LIMIT, and the first row of a group.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion_expr::{
    DistinctOn, Expr, ExprSchemable, FetchType, Limit, LogicalPlan, SkipType, SortExpr,
};

use super::expr;
use super::{Lowering, Result, refuse};
use crate::plan::ir::{Node, NodeId, Op, OrderColumn};
use crate::plan::top_rows::TopRows;

/// How many rows of a group an accumulator keeps at most.
const FEW: u64 = 64;

impl Lowering {
    /// The first row of each group: the winner alone is kept where rows are never taken back.
    pub(super) fn first(
        &mut self,
        input: NodeId,
        key: Vec<usize>,
        order: Vec<OrderColumn>,
    ) -> NodeId {
        let Node { schema, keys, monotonic, .. } = self.nodes[input].clone();
        let keys = keys.into_iter().chain([key.clone()]).collect();
        let op = if monotonic {
            Op::First { input, key, order, limit: 1 }
        } else {
            Op::TopK { input, key, order, offset: 0, limit: Some(1) }
        };
        self.add(op, schema, keys, false)
    }

    /// The rows `offset .. offset + limit` of each group: no more than these few where rows are never
    /// taken back.
    fn some(
        &mut self,
        input: NodeId,
        key: Vec<usize>,
        order: Vec<OrderColumn>,
        offset: u64,
        limit: Option<u64>,
    ) -> NodeId {
        if (offset, limit) == (0, Some(1)) {
            return self.first(input, key, order);
        }
        let Node { schema, keys, monotonic, .. } = self.nodes[input].clone();
        let op = match limit {
            Some(limit) if monotonic && offset == 0 && (1..=FEW).contains(&limit) => {
                Op::First { input, key, order, limit }
            }
            _ => Op::TopK { input, key, order, offset, limit },
        };
        self.add(op, schema, keys, false)
    }

    pub(super) fn distinct_on(&mut self, on: &DistinctOn) -> Result<NodeId> {
        let input = self.plan(&on.input)?;
        let no_order = Vec::new();
        let sort = on.sort_expr.as_ref().unwrap_or(&no_order);
        let exprs: Vec<Expr> = on
            .select_expr
            .iter()
            .chain(&on.on_expr)
            .chain(sort.iter().map(|s| &s.expr))
            .cloned()
            .collect();
        let node = self.with_columns(input, &exprs, &on.input)?;
        let width = on.select_expr.len();
        let key_end = width + on.on_expr.len();
        let order = order_columns(sort, key_end);
        let node = self.first(node, (width..key_end).collect(), order);
        let names = on.schema.as_arrow().fields();
        let schema = Arc::clone(&self.nodes[node].schema);
        let columns = (0..width).map(|i| expr::column(&schema, i)).collect();
        let fields: Vec<Field> = names.iter().map(|f| f.as_ref().clone()).collect();
        let id = self.project_scalars(node, columns, Arc::new(Schema::new(fields)));
        self.key_through_selection(id, on);
        Ok(id)
    }

    /// The ON expressions are a key of the result where the SELECT list shows them all.
    fn key_through_selection(&mut self, id: NodeId, on: &DistinctOn) {
        let bare = |e: &Expr| match e {
            Expr::Alias(alias) => alias.expr.as_ref().clone(),
            other => other.clone(),
        };
        let selected: Vec<Expr> = on.select_expr.iter().map(bare).collect();
        let key: Option<Vec<usize>> =
            on.on_expr.iter().map(|e| selected.iter().position(|s| *s == bare(e))).collect();
        if let Some(mut key) = key {
            key.sort_unstable();
            if !self.nodes[id].keys.contains(&key) {
                self.nodes[id].keys.push(key);
            }
        }
    }

    pub(super) fn with_columns(
        &mut self,
        input: NodeId,
        exprs: &[Expr],
        plan: &LogicalPlan,
    ) -> Result<NodeId> {
        let mut fields = Vec::new();
        for (index, expr) in exprs.iter().enumerate() {
            let (_, field) = expr.to_field(plan.schema())?;
            fields.push(field.as_ref().clone().with_name(format!("{index}")));
        }
        self.project(input, exprs, plan.schema(), Arc::new(Schema::new(fields)))
    }

    pub(super) fn limit(&mut self, limit: &Limit) -> Result<NodeId> {
        let SkipType::Literal(offset) = limit.get_skip_type()? else {
            return refuse("OFFSET takes a number");
        };
        let FetchType::Literal(fetch) = limit.get_fetch_type()? else {
            return refuse("LIMIT takes a number");
        };
        let fetch = fetch.map(|f| f as u64);
        match limit.input.as_ref() {
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
                self.top(&sort.input, &sort.expr, offset as u64, fetch)
            }
            input => self.top(input, &[], offset as u64, fetch),
        }
    }

    /// The rows `offset .. offset + limit` of all rows in order.
    pub(super) fn top(
        &mut self,
        plan: &LogicalPlan,
        sort: &[SortExpr],
        offset: u64,
        limit: Option<u64>,
    ) -> Result<NodeId> {
        self.first_rows(plan, &[], sort, offset, limit)
    }

    pub(super) fn top_rows(&mut self, top: &TopRows) -> Result<NodeId> {
        let (skip, fetch) = (top.skip as u64, top.fetch.map(|f| f as u64));
        self.first_rows(&top.input, &top.partition, &top.order, skip, fetch)
    }

    /// The rows `offset .. offset + limit` of each partition in order.
    fn first_rows(
        &mut self,
        plan: &LogicalPlan,
        partition: &[Expr],
        sort: &[SortExpr],
        offset: u64,
        limit: Option<u64>,
    ) -> Result<NodeId> {
        let input = self.plan(plan)?;
        let width = self.width(input);
        // What is no column of the input becomes one behind its own.
        let mut exprs: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
        let mut place = |expr: &Expr| match exprs.iter().position(|e| e == expr) {
            Some(known) => known,
            None => {
                exprs.push(expr.clone());
                exprs.len() - 1
            }
        };
        let key: Vec<usize> = partition.iter().map(&mut place).collect();
        let mut order = order_columns(sort, 0);
        for (column, sort) in order.iter_mut().zip(sort) {
            column.column = place(&sort.expr);
        }
        let node = self.with_columns(input, &exprs, plan)?;
        let node = self.some(node, key, order, offset, limit);
        Ok(self.select(node, &(0..width).collect::<Vec<_>>()))
    }
}

pub(super) fn order_columns(sort: &[SortExpr], from: usize) -> Vec<OrderColumn> {
    let column = |(index, s): (usize, &SortExpr)| OrderColumn {
        column: from + index,
        descending: !s.asc,
        nulls_first: s.nulls_first,
    };
    sort.iter().enumerate().map(column).collect()
}
