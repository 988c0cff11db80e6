//! Window functions: see [`Windows`].

use arrow::error::ArrowError;

use super::{Deltas, Renderer};
use crate::dataflow::difference::Difference;
use crate::dataflow::ordered::Ordered;
use crate::dataflow::reached::WindowScope;
use crate::dataflow::windows::Windows;
use crate::plan::ir::{NodeId, OrderColumn, WindowFunction};

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn window(
        &self,
        id: NodeId,
        input: NodeId,
        key: &[usize],
        order: &[OrderColumn],
        functions: &[WindowFunction],
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(input);
        let ordered = || Ordered::new(&schema, key, order, order.len(), false);
        let rows = self.in_order(self.input(input), ordered()?, "Partitions");
        let windows = Windows {
            ordered: ordered()?,
            difference: Difference::new(self.schema(id))?,
            scope: WindowScope::of(functions),
            functions: functions.to_vec(),
        };
        Ok(self.partitioned("Window", [rows], windows))
    }
}
