//! Logical expressions → physical ones that fail on overflow.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{
    BinaryExpr as LogicalBinary, ColumnarValue, Expr, ExprSchemable, Operator, Volatility,
    binary_expr,
};
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};

use super::{LowerError, Result, refuse, temporal};
use crate::model::schema::{SqlField, SqlType};
use crate::plan::functions::{arithmetic, cast};
use crate::plan::ir::Scalar;
use crate::plan::size::{CONSTANT_BYTES_MAX, EXPRESSION_DEPTH_MAX};

/// Chains of AND and OR as long as this are made into trees.
const CHAIN_MAX: usize = 32;

/// Binds expressions to the columns of an input.
pub struct ExprPlanner {
    props: ExecutionProps,
    context: PhysicalPlanningContext,
}

impl ExprPlanner {
    pub fn new(options: &Arc<ConfigOptions>) -> Self {
        let mut props = ExecutionProps::new();
        props.query_execution_start_time = None;
        props.config_options = Some(Arc::clone(options));
        ExprPlanner { props, context: PhysicalPlanningContext::default() }
    }

    /// The expression over columns of `schema`.
    pub fn scalar(&self, expr: &Expr, schema: &DFSchema) -> Result<Scalar> {
        refuse_unrepeatable(expr)?;
        let balanced = balanced(expr.clone())?;
        let physical = create_physical_expr(&balanced, schema, &self.props, &self.context)?;
        let depth = depth(&physical);
        if depth > EXPRESSION_DEPTH_MAX {
            let max = EXPRESSION_DEPTH_MAX;
            return refuse(format!("an expression nests {depth} levels deep, more than {max}"));
        }
        try_constants(&physical)?;
        let bare = match expr {
            Expr::Alias(alias) => alias.expr.as_ref(),
            other => other,
        };
        let text = text(bare, schema)?;
        Ok(Scalar { expr: checked(physical)?, text: text.into() })
    }
}

/// The expression as people write it. A cast of a text is written out, because it can fail; others
/// are mostly the planner's own, and left out.
fn text(expr: &Expr, schema: &DFSchema) -> Result<String> {
    let written = expr.clone().transform_up(|expr| {
        let (to, from) = match &expr {
            Expr::Cast(cast) => {
                let to = SqlField::from_arrow(&cast.field);
                (to.map_or(SqlType::Text, |field| field.sql_type), cast.expr.as_ref())
            }
            Expr::ScalarFunction(call) => match cast::target(&call.func) {
                Some(to) => (to, &call.args[0]),
                None => {
                    return Ok(match arithmetic::written(&call.func, &call.args) {
                        Some(written) => Transformed::yes(written),
                        None => Transformed::no(expr),
                    });
                }
            },
            _ => return Ok(Transformed::no(expr)),
        };
        let is_cast = matches!(expr, Expr::Cast(_));
        if to == SqlType::Text || !from.get_type(schema).is_ok_and(|from| from.is_string()) {
            return Ok(match is_cast {
                true => Transformed::no(expr),
                false => Transformed::yes(from.clone()),
            });
        }
        let call = format!("CAST({} AS {to})", from.human_display());
        Ok(Transformed::yes(Expr::Column(datafusion_common::Column::new_unqualified(call))))
    })?;
    Ok(written.data.human_display().to_string())
}

/// Refuses what does not give the same result for the same row at any time.
fn refuse_unrepeatable(expr: &Expr) -> Result<()> {
    let mut found: Option<String> = None;
    expr.apply(|e| {
        let message = match e {
            Expr::ScalarFunction(call) => match call.func.signature().volatility {
                Volatility::Immutable => None,
                Volatility::Volatile => Some(format!(
                    "{}() gives another value each time, so a view over it has no exact content",
                    call.func.name()
                )),
                Volatility::Stable if temporal::mentions_now(e) => {
                    Some("now() is supported in comparisons in WHERE, HAVING and ON only".into())
                }
                Volatility::Stable => Some(format!(
                    "{}() depends on when or where it is asked, which a kept result cannot",
                    call.func.name()
                )),
            },
            Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) => {
                Some("a sub-query is not supported here".into())
            }
            Expr::Unnest(_) => {
                Some("UNNEST is not supported here: FROM t, UNNEST(t.items) AS i is".into())
            }
            _ => None,
        };
        found = found.take().or(message);
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })
    .map_err(LowerError::from)?;
    match found {
        Some(message) => refuse(message),
        None => Ok(()),
    }
}

/// Long chains of AND and OR as trees whose depth is the logarithm of the chain's length. Operands
/// keep their order, so each is still evaluated after those that guard it.
fn balanced(expr: Expr) -> Result<Expr> {
    let balanced = expr.transform_down(|expr| {
        let Expr::BinaryExpr(LogicalBinary { op, .. }) = &expr else {
            return Ok(Transformed::no(expr));
        };
        let op = *op;
        if !matches!(op, Operator::And | Operator::Or) || !is_chain(&expr, op) {
            return Ok(Transformed::no(expr));
        }
        let mut operands = Vec::new();
        let mut todo = vec![expr];
        while let Some(expr) = todo.pop() {
            match expr {
                Expr::BinaryExpr(binary) if binary.op == op => {
                    todo.extend([*binary.right, *binary.left]);
                }
                other => operands.push(other),
            }
        }
        while operands.len() > 1 {
            let mut operands_left = operands.into_iter();
            let mut pairs = Vec::new();
            while let Some(left) = operands_left.next() {
                pairs.push(match operands_left.next() {
                    Some(right) => binary_expr(left, op, right),
                    None => left,
                });
            }
            operands = pairs;
        }
        Ok(Transformed::yes(operands.remove(0)))
    })?;
    Ok(balanced.data)
}

/// Whether the left side of this operator goes on with the same one for long.
fn is_chain(expr: &Expr, op: Operator) -> bool {
    let mut expr = expr;
    for _ in 0..CHAIN_MAX {
        match expr {
            Expr::BinaryExpr(binary) if binary.op == op => expr = &binary.left,
            _ => return false,
        }
    }
    true
}

/// Depth of an expression's nesting.
fn depth(expr: &Arc<dyn PhysicalExpr>) -> usize {
    let mut deepest = 0;
    let mut todo = vec![(expr, 1)];
    while let Some((expr, depth)) = todo.pop() {
        deepest = deepest.max(depth);
        todo.extend(expr.children().into_iter().map(|child| (child, depth + 1)));
    }
    deepest
}

/// Evaluates what depends on no row, so that what it costs is known before a worker pays for it. An
/// error is not one of the query: nothing may ever ask for the value.
fn try_constants(expr: &Arc<dyn PhysicalExpr>) -> Result<()> {
    let mut constants = Vec::new();
    gather_constants(expr, &mut constants);
    if constants.is_empty() {
        return Ok(());
    }
    let one = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &one)?;
    for constant in constants {
        let bytes = match constant.evaluate(&row) {
            Ok(ColumnarValue::Scalar(value)) => value.size(),
            Ok(ColumnarValue::Array(array)) => array.get_array_memory_size(),
            Err(_) => 0,
        };
        if bytes > CONSTANT_BYTES_MAX {
            let (mib, max) = (bytes >> 20, CONSTANT_BYTES_MAX >> 20);
            return refuse(format!("a constant has {mib} MiB, more than {max} MiB"));
        }
    }
    Ok(())
}

/// Adds the largest computed parts that are constant; true if all of the expression is.
fn gather_constants<'e>(
    expr: &'e Arc<dyn PhysicalExpr>,
    constants: &mut Vec<&'e Arc<dyn PhysicalExpr>>,
) -> bool {
    let any: &dyn Any = expr.as_ref();
    let children = expr.children();
    if children.is_empty() {
        return any.is::<Literal>();
    }
    let before = constants.len();
    let mut all = true;
    for child in children {
        all &= gather_constants(child, constants);
    }
    if all {
        constants.truncate(before);
        constants.push(expr);
    }
    all
}

/// Integer arithmetic that overflows is an error, not a wrapped number.
fn checked(expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
    let expr = expr
        .transform_up(|e| {
            let any: &dyn Any = e.as_ref();
            match any.downcast_ref::<BinaryExpr>() {
                Some(binary) => {
                    let checked: Arc<dyn PhysicalExpr> =
                        Arc::new(binary.clone().with_fail_on_overflow(true));
                    Ok(Transformed::yes(checked))
                }
                None => Ok(Transformed::no(e)),
            }
        })
        .data()?;
    Ok(expr)
}

/// The input column that an expression is, when it is nothing more.
pub fn column_index(scalar: &Scalar) -> Option<usize> {
    let any: &dyn Any = scalar.expr.as_ref();
    any.downcast_ref::<Column>().map(Column::index)
}

/// The expression that is column `index` of `schema`.
pub fn column(schema: &Schema, index: usize) -> Scalar {
    let name = schema.field(index).name();
    Scalar { expr: Arc::new(Column::new(name, index)), text: name.as_str().into() }
}

/// The same value for every row.
pub fn constant(value: ScalarValue) -> Scalar {
    let text = value.to_string().into();
    Scalar { expr: Arc::new(Literal::new(value)), text }
}

/// NULL of a type.
pub fn null(data_type: &DataType) -> Result<Scalar> {
    let value = ScalarValue::try_from(data_type)?;
    Ok(Scalar { expr: Arc::new(Literal::new(value)), text: "NULL".into() })
}
