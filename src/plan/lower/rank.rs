//! ORDER BY … LIMIT, and the first rows of a group.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion_expr::{Expr, ExprSchemable, FetchType, Limit, LogicalPlan, SkipType, SortExpr};

use super::{Lowering, Result, refuse};
use crate::plan::ir::{Node, NodeId, Op, OrderColumn};
use crate::plan::top_rows::TopRows;

/// Most rows of a group that an accumulator keeps.
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
            Op::First { input, key, order, limit: 1, numbered: false }
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
                Op::First { input, key, order, limit, numbered: false }
            }
            _ => Op::TopK { input, key, order, offset, limit },
        };
        self.add(op, schema, keys, false)
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
        // An expression that is no column of the input becomes a column behind the input's own.
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
