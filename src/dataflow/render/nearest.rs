//! ASOF joins: see [`NearestRows`].

use arrow::error::ArrowError;

use super::{Deltas, Renderer};
use crate::dataflow::nearest::NearestRows;
use crate::dataflow::ordered::Ordered;
use crate::plan::ir::{JoinKeys, NodeId, OrderColumn};

/// The search's parameters; see [`crate::plan::ir::Op::Nearest`].
pub struct NearestParameters<'a> {
    pub on: &'a JoinKeys,
    pub at: usize,
    pub order: &'a [OrderColumn],
    pub strict: bool,
    pub outer: bool,
}

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn nearest(
        &self,
        id: NodeId,
        left: NodeId,
        right: NodeId,
        nearest: &NearestParameters<'_>,
    ) -> Result<Deltas<'scope>, ArrowError> {
        let (left_schema, right_schema) = (self.schema(left), self.schema(right));
        let place = OrderColumn { column: nearest.at, ..nearest.order[0] };
        // Without a match a left row is kept beside NULLs, also when it has none to be matched by.
        let lefts = || Ordered::new(&left_schema, &nearest.on.left, &[place], 1, !nearest.outer);
        let rights = || Ordered::new(&right_schema, &nearest.on.right, nearest.order, 1, true);
        let inputs = [
            self.in_order(self.input(left), lefts()?, "Left rows"),
            self.in_order(self.input(right), rights()?, "Right rows"),
        ];
        let search = NearestRows {
            left: lefts()?,
            right: rights()?,
            schema: self.schema(id),
            strict: nearest.strict,
            outer: nearest.outer,
        };
        Ok(self.partitioned("Nearest", inputs, search))
    }
}
