//! LIMIT and OFFSET. Constants stay; with a sub-query that reads rows they are a condition on the rows' numbers:
//! `SELECT … ORDER BY o LIMIT (SELECT n FROM s)` keeps the rows whose `row_number() OVER (ORDER BY o)` is at most that.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion_common::{Result, plan_err};
use datafusion_sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Function, FunctionArg, FunctionArgExpr, Ident, LimitClause,
    ObjectName, OrderByExpr, OrderByKind, Query, SelectItem, SetExpr, TableFactor, Value,
    WindowType, visit_expressions,
};
use datafusion_sql::sqlparser::parser::Parser;

use super::{call, skeleton};
use crate::plan::dialect::PostgresLike;
use crate::plan::functions::ROW_LIMIT;
use crate::plan::names::fold;

/// The number of a row.
const ROW: &str = "__row";
/// More rows than there are.
const ALL: &str = "4611686018427387904";

/// `LIMIT (SELECT 3)` is LIMIT 3; what reads rows becomes a condition.
pub(super) fn spelled_out(query: &mut Query) -> Result<()> {
    let numbers: Vec<&mut Expr> = match &mut query.limit_clause {
        Some(LimitClause::LimitOffset { limit, offset, .. }) => {
            limit.iter_mut().chain(offset.iter_mut().map(|offset| &mut offset.value)).collect()
        }
        Some(LimitClause::OffsetCommaLimit { offset, limit }) => vec![offset, limit],
        None => Vec::new(),
    };
    let mut reads_rows = false;
    for number in numbers {
        while let Some(inner) = constant_of(number) {
            *number = inner;
        }
        reads_rows |= matches!(number, Expr::Subquery(_));
    }
    if reads_rows { by_number(query) } else { Ok(()) }
}

/// The expression in parentheses, or one that is selected from nothing.
fn constant_of(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Nested(inner) => Some(inner.as_ref().clone()),
        Expr::Subquery(query) if query.with.is_none() && query.limit_clause.is_none() => {
            match query.body.as_ref() {
                SetExpr::Select(select)
                    if select.from.is_empty()
                        && select.selection.is_none()
                        && select.having.is_none() =>
                {
                    match select.projection.as_slice() {
                        [SelectItem::UnnamedExpr(expr)]
                        | [SelectItem::ExprWithAlias { expr, .. }]
                            if !reads_columns(expr) =>
                        {
                            Some(expr.clone())
                        }
                        _ => None,
                    }
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn reads_columns(expr: &Expr) -> bool {
    visit_expressions(expr, |expr| match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .is_break()
}

fn by_number(query: &mut Query) -> Result<()> {
    let (limit, offset) = match query.limit_clause.take() {
        Some(LimitClause::LimitOffset { limit, offset, .. }) => (limit, offset.map(|o| o.value)),
        Some(LimitClause::OffsetCommaLimit { offset, limit }) => (Some(limit), Some(offset)),
        None => (None, None),
    };
    let mut sorts = match query.order_by.take().map(|order_by| order_by.kind) {
        None => Vec::new(),
        Some(OrderByKind::Expressions(sorts)) => sorts,
        Some(OrderByKind::All(_)) => return plan_err!("ORDER BY ALL beside such a LIMIT"),
    };
    let hidden = sorted_by_columns(&mut query.body, &mut sorts)?;
    let inner = std::mem::replace(query, skeleton("SELECT 1")?);

    let mut numbered =
        skeleton(&format!("SELECT *, row_number() OVER () AS {ROW} FROM (SELECT 1) AS __rows"))?;
    if let SetExpr::Select(select) = numbered.body.as_mut() {
        put(&mut select.from[0].relation, inner);
        if let Some(SelectItem::ExprWithAlias {
            expr: Expr::Function(Function { over: Some(WindowType::WindowSpec(window)), .. }),
            ..
        }) = select.projection.last_mut()
        {
            window.order_by = sorts;
        }
    }
    let mut kept = skeleton(&format!(
        "SELECT * FROM (SELECT 1) AS __numbered WHERE {ROW} > 0 AND {ROW} <= {ALL} + 0"
    ))?;
    if let SetExpr::Select(select) = kept.body.as_mut() {
        put(&mut select.from[0].relation, numbered);
        if let Some(SelectItem::Wildcard(options)) = select.projection.first_mut() {
            let names = hidden.iter().map(String::as_str).chain([ROW]);
            let names = names.map(|name| ObjectName::from(vec![Ident::new(name)])).collect();
            options.opt_exclude = Some(ExcludeSelectItem::Multiple(names));
        }
        if let Some(Expr::BinaryOp { left, right, .. }) = &mut select.selection
            && let Expr::BinaryOp { right: first, .. } = left.as_mut()
            && let Expr::BinaryOp { right: last, .. } = right.as_mut()
            && let Expr::BinaryOp { left: count, right: skipped, .. } = last.as_mut()
        {
            if let Some(limit) = limit {
                **count = count_of("LIMIT", limit, ALL)?;
            }
            if let Some(offset) = offset {
                **first = count_of("OFFSET", offset, "0")?;
                **skipped = first.as_ref().clone();
            }
        }
    }
    *query = kept;
    Ok(())
}

fn put(relation: &mut TableFactor, query: Query) {
    if let TableFactor::Derived { subquery, .. } = relation {
        **subquery = query;
    }
}

/// A number of rows, or another one where it is NULL; a negative one fails.
fn count_of(word: &str, number: Expr, otherwise: &str) -> Result<Expr> {
    let argument = |expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr));
    let text = |text: &str| Expr::value(Value::SingleQuotedString(text.to_string()));
    let otherwise = Expr::value(Value::Number(otherwise.to_string(), false));
    let mut whole = Parser::new(&PostgresLike).try_with_sql("CAST(1 AS BIGINT)")?.parse_expr()?;
    if let Expr::Cast { expr, .. } = &mut whole {
        **expr = number;
    }
    let checked = call(&format!("\"{ROW_LIMIT}\""), vec![argument(whole), argument(text(word))])?;
    call("coalesce", vec![argument(checked), argument(otherwise)])
}

/// Makes what a query is ordered by columns of it; the names of those that were added.
fn sorted_by_columns(body: &mut SetExpr, sorts: &mut [OrderByExpr]) -> Result<Vec<String>> {
    let mut hidden = Vec::new();
    let SetExpr::Select(select) = body else {
        return match sorts.iter().all(|sort| matches!(sort.expr, Expr::Identifier(_))) {
            true => Ok(hidden),
            false => plan_err!("beside such a LIMIT, ORDER BY of a set operation names columns"),
        };
    };
    let name = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.clone()),
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => Some(name.clone()),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().cloned(),
        _ => None,
    };
    let names: Vec<Option<Ident>> = select.projection.iter().map(name).collect();
    let known: BTreeSet<String> = names.iter().flatten().map(fold).collect();
    for (at, sort) in sorts.iter_mut().enumerate() {
        if let Expr::Value(value) = &sort.expr
            && let Value::Number(number, _) = &value.value
        {
            let place = number.parse::<usize>().ok().and_then(|n| names.get(n.checked_sub(1)?));
            let Some(Some(column)) = place else {
                return plan_err!("ORDER BY {number} beside such a LIMIT: give the column a name");
            };
            sort.expr = Expr::Identifier(column.clone());
            continue;
        }
        if matches!(&sort.expr, Expr::Identifier(column) if known.contains(&fold(column))) {
            continue;
        }
        if select.distinct.is_some() {
            return plan_err!("beside such a LIMIT, ORDER BY of DISTINCT names columns");
        }
        let column = format!("__sort{at}");
        let expr = std::mem::replace(&mut sort.expr, Expr::Identifier(Ident::new(column.clone())));
        select
            .projection
            .push(SelectItem::ExprWithAlias { expr, alias: Ident::new(column.clone()) });
        hidden.push(column);
    }
    Ok(hidden)
}
