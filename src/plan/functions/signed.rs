//! Counts as BIGINT: the functions of DataFusion that give unsigned numbers, with PostgreSQL's type.
//!
//! An unsigned number beside a BIGINT becomes a DECIMAL, which divides and rounds in another way.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, FieldRef};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::function::{ExpressionArgs, PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion_expr::{
    ColumnarValue, LimitEffect, PartitionEvaluator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, WindowUDF, WindowUDFImpl,
};
use datafusion_physical_expr::PhysicalExpr;

const WINDOW: [&str; 4] = ["dense_rank", "ntile", "rank", "row_number"];

const SCALAR: [&str; 6] = [
    "array_dims",
    "array_length",
    "array_ndims",
    "array_position",
    "array_positions",
    "cardinality",
];

/// The window function in its place.
pub fn window(inner: Arc<WindowUDF>) -> Arc<WindowUDF> {
    match WINDOW.contains(&inner.name()) {
        true => Arc::new(WindowUDF::new_from_impl(SignedWindow { inner })),
        false => inner,
    }
}

/// The scalar function in its place.
pub fn scalar(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match SCALAR.contains(&inner.name()) {
        true => Arc::new(ScalarUDF::new_from_impl(SignedScalar { inner })),
        false => inner,
    }
}

fn signed(data_type: &DataType) -> DataType {
    match data_type {
        DataType::UInt64 => DataType::Int64,
        DataType::List(item) => {
            let item_type = signed(item.data_type());
            DataType::List(Arc::new(item.as_ref().clone().with_data_type(item_type)))
        }
        other => other.clone(),
    }
}

fn signed_field(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(signed(field.data_type())))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SignedWindow {
    inner: Arc<WindowUDF>,
}

impl WindowUDFImpl for SignedWindow {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn expressions(&self, args: ExpressionArgs) -> Vec<Arc<dyn PhysicalExpr>> {
        self.inner.expressions(args)
    }

    fn partition_evaluator(
        &self,
        args: PartitionEvaluatorArgs,
    ) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(SignedEvaluator { inner: self.inner.partition_evaluator_factory(args)? }))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        let field = signed_field(&self.inner.field(args)?);
        // PostgreSQL's only one that is no BIGINT.
        Ok(match self.name() {
            "ntile" => Arc::new(field.as_ref().clone().with_data_type(DataType::Int32)),
            _ => field,
        })
    }

    fn sort_options(&self) -> Option<SortOptions> {
        self.inner.sort_options()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn limit_effect(&self, args: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        self.inner.inner().limit_effect(args)
    }
}

#[derive(Debug)]
struct SignedEvaluator {
    inner: Box<dyn PartitionEvaluator>,
}

impl PartitionEvaluator for SignedEvaluator {
    fn get_range(&self, index: usize, rows: usize) -> Result<Range<usize>> {
        self.inner.get_range(index, rows)
    }

    fn is_causal(&self) -> bool {
        self.inner.is_causal()
    }

    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        signed_array(&self.inner.evaluate_all(values, rows)?)
    }

    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        let value = self.inner.evaluate(values, range)?;
        value.cast_to(&signed(&value.data_type()))
    }

    fn evaluate_all_with_rank(&self, rows: usize, peers: &[Range<usize>]) -> Result<ArrayRef> {
        signed_array(&self.inner.evaluate_all_with_rank(rows, peers)?)
    }

    fn supports_bounded_execution(&self) -> bool {
        self.inner.supports_bounded_execution()
    }

    fn uses_window_frame(&self) -> bool {
        self.inner.uses_window_frame()
    }

    fn include_rank(&self) -> bool {
        self.inner.include_rank()
    }
}

fn signed_array(array: &ArrayRef) -> Result<ArrayRef> {
    Ok(cast(array, &signed(array.data_type()))?)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SignedScalar {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for SignedScalar {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(signed(&self.inner.return_type(arguments)?))
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(signed_field(&self.inner.return_field_from_args(arguments)?))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn invoke_with_args(&self, mut arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let fields = &arguments.arg_fields;
        let inner = self.inner.return_field_from_args(ReturnFieldArgs {
            arg_fields: fields,
            scalar_arguments: &vec![None; fields.len()],
        })?;
        arguments.return_field = inner;
        match self.inner.invoke_with_args(arguments)? {
            ColumnarValue::Array(array) => Ok(ColumnarValue::Array(signed_array(&array)?)),
            ColumnarValue::Scalar(value) => {
                Ok(ColumnarValue::Scalar(value.cast_to(&signed(&value.data_type()))?))
            }
        }
    }
}
