//! Logical expressions → physical ones that fail on overflow.

use std::any::Any;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{
    BinaryExpr as LogicalBinary, Expr, ExprSchemable, Operator, Volatility, binary_expr,
};
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};

use super::{LowerError, Result, refuse, temporal};
use crate::model::schema::{SqlField, SqlType};
use crate::plan::ir::Scalar;

/// How deep an expression may nest that is evaluated: workers evaluate it, and others drop it, on
/// stacks of 2 MiB, of which a level takes about 2 KiB.
const DEPTH_MAX: usize = 400;
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
        if depth(&physical) > DEPTH_MAX {
            return refuse(format!(
                "an expression nests {} levels deep, more than {DEPTH_MAX}: a chain of operators \
                 has one for each of them",
                depth(&physical)
            ));
        }
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
        let Expr::Cast(cast) = &expr else { return Ok(Transformed::no(expr)) };
        let to = SqlField::from_arrow(&cast.field).map_or(SqlType::Text, |field| field.sql_type);
        if to == SqlType::Text || !cast.expr.get_type(schema).is_ok_and(|from| from.is_string()) {
            return Ok(Transformed::no(expr));
        }
        let call = format!("CAST({} AS {to})", cast.expr.human_display());
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

/// How deep an expression nests.
fn depth(expr: &Arc<dyn PhysicalExpr>) -> usize {
    let mut deepest = 0;
    let mut todo = vec![(expr, 1)];
    while let Some((expr, depth)) = todo.pop() {
        deepest = deepest.max(depth);
        todo.extend(expr.children().into_iter().map(|child| (child, depth + 1)));
    }
    deepest
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
