//! For each row the nearest row of another relation, as a logical node: what an ASOF join means, and
//! what a sub-query with `… AND inner.t <= outer.t ORDER BY inner.t DESC LIMIT 1` finds.

use std::cmp::Ordering;
use std::sync::Arc;

use datafusion_common::{DFSchema, DFSchemaRef, JoinType, Result, plan_err};
use datafusion_expr::logical_plan::builder::build_join_schema;
use datafusion_expr::type_coercion::binary::comparison_coercion;
use datafusion_expr::{
    Expr, ExprSchemable, LogicalPlan, Operator, SortExpr, UserDefinedLogicalNodeCore, cast,
};

/// Each left row beside the right row that is nearest to it among those with equal keys. Left rows
/// without one are left out, or, if `outer`, beside NULLs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Nearest {
    pub left: LogicalPlan,
    pub right: LogicalPlan,
    /// Expressions over both sides that are equal.
    pub on: Vec<(Expr, Expr)>,
    /// The left expression and the right one whose values are near.
    pub order: (Expr, Expr),
    pub direction: Direction,
    /// Order of right rows that are equally near: the first one is taken. Equal ones go by the whole row.
    pub ties: Vec<SortExpr>,
    pub outer: bool,
    schema: DFSchemaRef,
}

/// Which right rows count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Direction {
    /// Right rows that are not after the left row count; otherwise right rows that are not before it.
    pub back: bool,
    /// Right rows at the same place do not count.
    pub strict: bool,
}

impl Direction {
    /// The direction that `right <op> left` means.
    pub fn of(op: Operator) -> Option<Direction> {
        Some(match op {
            Operator::LtEq => Direction { back: true, strict: false },
            Operator::Lt => Direction { back: true, strict: true },
            Operator::GtEq => Direction { back: false, strict: false },
            Operator::Gt => Direction { back: false, strict: true },
            _ => return None,
        })
    }
}

impl Nearest {
    /// A node over two relations. `None` where the expressions cannot be compared.
    pub fn try_new(
        left: LogicalPlan,
        right: LogicalPlan,
        on: Vec<(Expr, Expr)>,
        order: (Expr, Expr),
        direction: Direction,
        ties: Vec<SortExpr>,
        outer: bool,
    ) -> Result<Option<Self>> {
        let alike = |(l, r): (Expr, Expr)| -> Result<Option<(Expr, Expr)>> {
            let types = (l.get_type(left.schema())?, r.get_type(right.schema())?);
            let Some(both) = comparison_coercion(&types.0, &types.1) else { return Ok(None) };
            let cast_to =
                |expr: Expr, from| if from == both { expr } else { cast(expr, both.clone()) };
            Ok(Some((cast_to(l, types.0), cast_to(r, types.1))))
        };
        let on: Option<Vec<_>> = on.into_iter().map(alike).collect::<Result<_>>()?;
        let (Some(on), Some(order)) = (on, alike(order)?) else { return Ok(None) };
        let schema = Arc::new(joined(&left, &right, outer)?);
        Ok(Some(Nearest { left, right, on, order, direction, ties, outer, schema }))
    }
}

fn joined(left: &LogicalPlan, right: &LogicalPlan, outer: bool) -> Result<DFSchema> {
    let kind = if outer { JoinType::Left } else { JoinType::Inner };
    build_join_schema(left.schema(), right.schema(), &kind)
}

impl PartialOrd for Nearest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.order.partial_cmp(&other.order)
    }
}

impl UserDefinedLogicalNodeCore for Nearest {
    fn name(&self) -> &str {
        "Nearest"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let pairs = self.on.iter().chain([&self.order]);
        let pairs = pairs.flat_map(|(left, right)| [left.clone(), right.clone()]);
        pairs.chain(self.ties.iter().map(|s| s.expr.clone())).collect()
    }

    fn fmt_for_explain(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Nearest: on {:?} by {:?} {:?}", self.on, self.order, self.direction)
    }

    fn with_exprs_and_inputs(
        &self,
        mut exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> Result<Self> {
        let pairs = 2 * (self.on.len() + 1);
        let (Some(right), Some(left), true) =
            (inputs.pop(), inputs.pop(), exprs.len() == pairs + self.ties.len())
        else {
            return plan_err!("a search for nearest rows lost its inputs");
        };
        let ties = exprs.split_off(pairs).into_iter().zip(&self.ties);
        let ties = ties.map(|(expr, s)| SortExpr { expr, ..s.clone() }).collect();
        let mut exprs = exprs.into_iter();
        let mut on = Vec::new();
        while let (Some(left), Some(right)) = (exprs.next(), exprs.next()) {
            on.push((left, right));
        }
        let Some(order) = on.pop() else {
            return plan_err!("a search for nearest rows lost its order");
        };
        let (direction, outer) = (self.direction, self.outer);
        let schema = Arc::new(joined(&left, &right, outer)?);
        Ok(Nearest { left, right, on, order, direction, ties, outer, schema })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.left.schema().fields().len();
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for column in output_columns {
            match column.checked_sub(width) {
                Some(column) => right.push(column),
                None => left.push(*column),
            }
        }
        let note = |expr: &Expr, plan: &LogicalPlan, into: &mut Vec<usize>| -> Option<()> {
            for column in expr.column_refs() {
                into.push(plan.schema().maybe_index_of_column(column)?);
            }
            Some(())
        };
        for (l, r) in self.on.iter().chain([&self.order]) {
            note(l, &self.left, &mut left)?;
            note(r, &self.right, &mut right)?;
        }
        for tie in &self.ties {
            note(&tie.expr, &self.right, &mut right)?;
        }
        for side in [&mut left, &mut right] {
            side.sort_unstable();
            side.dedup();
        }
        Some(vec![left, right])
    }
}
