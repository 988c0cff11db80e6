//! Rows in comparisons: `(a, b) IN (SELECT …)`, `(a, b) IN ((1, 2), (3, 4))`, `(a, b) = (c, d)`,
//! `(a, b) < (c, d)`.
//!
//! Each becomes what the SQL standard defines it by: comparisons of the columns. IN is true if a row
//! equals, else NULL if one would but for NULLs, else false.

use std::ops::ControlFlow;

use datafusion_common::{DataFusionError, Result, plan_err};
use datafusion_sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion_sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, Ident, Query, Select, SelectItem, SetExpr, TableAlias,
    TableAliasColumnDef, TableFactor, UnaryOperator, Value, VisitMut, VisitorMut,
};
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::parser::Parser;

/// The query with rows compared column by column.
pub fn by_column(mut query: Query) -> Result<Query> {
    let mut walk = Walk { error: None };
    let _ = VisitMut::visit(&mut query, &mut walk);
    match walk.error {
        Some(error) => Err(error),
        None => Ok(query),
    }
}

struct Walk {
    error: Option<DataFusionError>,
}

impl VisitorMut for Walk {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let conditions = [&mut select.selection, &mut select.having, &mut select.qualify];
        let result = conditions.into_iter().flatten().try_for_each(condition);
        self.note(result)
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let result = value(expr);
        self.note(result)
    }
}

impl Walk {
    fn note(&mut self, result: Result<()>) -> ControlFlow<()> {
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

/// Of what has to be true, NULL is as good as false.
fn condition(expr: &mut Expr) -> Result<()> {
    match expr {
        Expr::Nested(inner) => condition(inner),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            condition(left)?;
            condition(right)
        }
        Expr::InSubquery { expr: row, subquery, negated: false } => {
            if let Expr::Tuple(items) = row.as_ref() {
                *expr = exists(subquery, items, equal)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn value(expr: &mut Expr) -> Result<()> {
    let replaced = match expr {
        Expr::InSubquery { expr: row, subquery, negated } => {
            let Expr::Tuple(items) = row.as_ref() else { return Ok(()) };
            let when = |condition, value| CaseWhen { condition, result: literal(value) };
            let found = exists(subquery, items, equal)?;
            let unknown = exists(subquery, items, equal_but_for_nulls)?;
            let value = Expr::Case {
                case_token: AttachedToken::empty(),
                end_token: AttachedToken::empty(),
                operand: None,
                conditions: vec![
                    when(found, Value::Boolean(!*negated)),
                    when(unknown, Value::Null),
                ],
                else_result: Some(Box::new(literal(Value::Boolean(*negated)))),
            };
            Expr::Nested(Box::new(value))
        }
        Expr::InList { expr: row, list, negated } => {
            let Expr::Tuple(items) = row.as_ref() else { return Ok(()) };
            let rows = list.iter().map(|row| match row {
                Expr::Tuple(values) => equal_rows(items, values),
                other => {
                    plan_err!("{other} is no row: ({}) is compared with rows", row_text(items))
                }
            });
            let any = chained(rows.collect::<Result<Vec<_>>>()?, BinaryOperator::Or);
            if *negated { not(any) } else { any }
        }
        Expr::BinaryOp { left, op, right } => {
            let (Expr::Tuple(left), Expr::Tuple(right)) = (left.as_ref(), right.as_ref()) else {
                return Ok(());
            };
            match op {
                BinaryOperator::Eq => equal_rows(left, right)?,
                BinaryOperator::NotEq => not(equal_rows(left, right)?),
                BinaryOperator::Lt
                | BinaryOperator::LtEq
                | BinaryOperator::Gt
                | BinaryOperator::GtEq => ordered_rows(left, op, right)?,
                op => return plan_err!("rows are compared, {op} is no comparison"),
            }
        }
        _ => return Ok(()),
    };
    *expr = replaced;
    Ok(())
}

fn row_text(items: &[Expr]) -> String {
    items.iter().map(Expr::to_string).collect::<Vec<_>>().join(", ")
}

fn literal(value: Value) -> Expr {
    Expr::value(value)
}

fn not(expr: Expr) -> Expr {
    Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) }
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

/// Conditions in parentheses, with an operator between each two.
fn chained(conditions: Vec<Expr>, op: BinaryOperator) -> Expr {
    let all = conditions.into_iter().reduce(|a, b| binary(a, op.clone(), b));
    Expr::Nested(Box::new(all.unwrap_or_else(|| literal(Value::Boolean(true)))))
}

fn check_widths(left: &[Expr], right: &[Expr]) -> Result<()> {
    if left.len() == right.len() {
        return Ok(());
    }
    plan_err!(
        "rows of {} and {} columns are compared: ({}) and ({})",
        left.len(),
        right.len(),
        row_text(left),
        row_text(right)
    )
}

/// The first columns that differ decide: `a < c OR (a = c AND b < d)`.
fn ordered_rows(left: &[Expr], op: &BinaryOperator, right: &[Expr]) -> Result<Expr> {
    check_widths(left, right)?;
    let strict = match op {
        BinaryOperator::LtEq => BinaryOperator::Lt,
        BinaryOperator::GtEq => BinaryOperator::Gt,
        strict => strict.clone(),
    };
    let mut pairs = left.iter().zip(right).rev();
    let Some((l, r)) = pairs.next() else { return Ok(literal(Value::Boolean(true))) };
    let last = binary(l.clone(), op.clone(), r.clone());
    Ok(pairs.fold(last, |rest, (l, r)| {
        let same = chained(vec![equal(l.clone(), r.clone()), rest], BinaryOperator::And);
        let before = binary(l.clone(), strict.clone(), r.clone());
        chained(vec![before, same], BinaryOperator::Or)
    }))
}

fn equal_rows(left: &[Expr], right: &[Expr]) -> Result<Expr> {
    check_widths(left, right)?;
    let pairs = left.iter().zip(right).map(|(l, r)| equal(l.clone(), r.clone()));
    Ok(chained(pairs.collect(), BinaryOperator::And))
}

fn equal(left: Expr, right: Expr) -> Expr {
    binary(left, BinaryOperator::Eq, right)
}

fn equal_but_for_nulls(left: Expr, right: Expr) -> Expr {
    let nulls = [&left, &right].map(|e| Expr::IsNull(Box::new(e.clone())));
    let [a, b] = nulls;
    chained(vec![equal(left, right), a, b], BinaryOperator::Or)
}

/// The sub-query with a name for each of its columns: two may be one expression.
fn with_names(mut query: Query) -> Query {
    if let SetExpr::Select(select) = query.body.as_mut() {
        for (n, item) in select.projection.iter_mut().enumerate() {
            if let SelectItem::UnnamedExpr(expr) = item {
                let alias = Ident::new(format!("__i{n}"));
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
            }
        }
    }
    query
}

/// EXISTS a row of the sub-query that compares so with a row.
fn exists(subquery: &Query, items: &[Expr], compare: fn(Expr, Expr) -> Expr) -> Result<Expr> {
    const ROW: &str = "__row";
    let names: Vec<Ident> = (0..items.len()).map(|n| Ident::new(format!("__c{n}"))).collect();
    let text = format!("EXISTS (SELECT 1 FROM (SELECT 1) AS {ROW} WHERE true)");
    let mut exists = Parser::new(&GenericDialect {}).try_with_sql(&text)?.parse_expr()?;
    if let Expr::Exists { subquery: around, .. } = &mut exists
        && let SetExpr::Select(select) = around.body.as_mut()
    {
        let columns = names.iter().cloned();
        let column = |name| TableAliasColumnDef { name, data_type: None };
        select.from[0].relation = TableFactor::Derived {
            lateral: false,
            subquery: Box::new(with_names(subquery.clone())),
            alias: Some(TableAlias {
                explicit: true,
                name: Ident::new(ROW),
                columns: columns.map(column).collect(),
                at: None,
            }),
            sample: None,
        };
        let pairs = names.into_iter().zip(items).map(|(name, item)| {
            compare(Expr::CompoundIdentifier(vec![Ident::new(ROW), name]), item.clone())
        });
        select.selection = Some(chained(pairs.collect(), BinaryOperator::And));
    }
    Ok(exists)
}
