//! Rows in comparisons: `(a, b) IN (SELECT …)`, `(a, b) IN ((1, 2), (3, 4))`, `(a, b) = (c, d)`,
//! `(a, b) < (c, d)`, `(a, b) < ANY (SELECT …)`, `ROW(a, b) IS NULL`.
//!
//! Each becomes what the SQL standard defines it by: comparisons of the columns. IN is true if a row
//! equals, else NULL if one would but for NULLs, else false. A row IS NULL where all of its members are,
//! and IS NOT NULL where none is.

use std::ops::ControlFlow;

use datafusion_common::{DataFusionError, Result, plan_err};
use datafusion_sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion_sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Query,
    Select, SelectItem, SetExpr, TableAlias, TableAliasColumnDef, TableFactor, UnaryOperator,
    Value, VisitMut, VisitorMut, visit_expressions_mut,
};
use datafusion_sql::sqlparser::parser::Parser;

use super::dialect::PostgresLike;
use super::sugar::{call, skeleton};

/// The query with rows compared column by column, and other rows as structs.
pub fn by_column(mut query: Query) -> Result<Query> {
    let mut walk = RowValueWalk { error: None };
    let _ = VisitMut::visit(&mut query, &mut walk);
    if let Some(error) = walk.error {
        return Err(error);
    }
    let structs = visit_expressions_mut(&mut query, |expr| {
        let is_row =
            matches!(expr, Expr::Function(f) if f.name.to_string().eq_ignore_ascii_case("row"));
        if is_row && let Some(items) = members(expr) {
            match as_struct(items) {
                Ok(row) => *expr = row,
                Err(error) => return ControlFlow::Break(error),
            }
        }
        ControlFlow::Continue(())
    });
    match structs {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(query),
    }
}

/// A row as a value, whose members are called f1, f2 and so on.
fn as_struct(items: Vec<Expr>) -> Result<Expr> {
    let argument = |expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr));
    let members = items.into_iter().enumerate().flat_map(|(at, item)| {
        let name = literal(Value::SingleQuotedString(format!("f{}", at + 1)));
        [argument(name), argument(item)]
    });
    call("named_struct", members.collect())
}

struct RowValueWalk {
    error: Option<DataFusionError>,
}

impl VisitorMut for RowValueWalk {
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

impl RowValueWalk {
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

/// The members of a row: `(a, b)` and `ROW(a)`.
fn members(expr: &Expr) -> Option<Vec<Expr>> {
    match expr {
        Expr::Nested(inner) => members(inner),
        Expr::Tuple(items) => Some(items.clone()),
        Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("row") => {
            let FunctionArguments::List(list) = &function.args else { return None };
            let argument = |argument: &FunctionArg| match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
                _ => None,
            };
            list.args.iter().map(argument).collect()
        }
        _ => None,
    }
}

/// Rewrites a condition: it has to be true, so NULL is as good as false.
fn condition(expr: &mut Expr) -> Result<()> {
    match expr {
        Expr::Nested(inner) => condition(inner),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            condition(left)?;
            condition(right)
        }
        Expr::InSubquery { expr: row, subquery, negated: false } => {
            if let Some(items) = members(row) {
                *expr = exists(subquery, &items, &|row, found| equal_rows(found, row))?;
            }
            Ok(())
        }
        Expr::AnyOp { left, compare_op, right, .. } => {
            if let (Some(items), Expr::Subquery(subquery)) = (members(left), right.as_ref()) {
                *expr = exists(subquery, &items, &|row, found| compared(row, compare_op, found))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn value(expr: &mut Expr) -> Result<()> {
    let replaced = match expr {
        Expr::InSubquery { expr: row, subquery, negated } => {
            let Some(items) = members(row) else { return Ok(()) };
            any(subquery, &items, &BinaryOperator::Eq, *negated)?
        }
        Expr::AnyOp { left, compare_op, right, .. } => {
            let (Some(items), Expr::Subquery(subquery)) = (members(left), right.as_ref()) else {
                return Ok(());
            };
            any(subquery, &items, compare_op, false)?
        }
        Expr::AllOp { left, compare_op, right } => {
            let (Some(items), Expr::Subquery(subquery)) = (members(left), right.as_ref()) else {
                return Ok(());
            };
            // All compare so where none compares in the opposite way.
            any(subquery, &items, &opposite(compare_op)?, true)?
        }
        Expr::InList { expr: row, list, negated } => {
            let Some(items) = members(row) else { return Ok(()) };
            let rows = list.iter().map(|row| match members(row) {
                Some(values) => equal_rows(&items, &values),
                None => {
                    plan_err!("{row} is no row: ({}) is compared with rows", row_text(&items))
                }
            });
            let any = chained(rows.collect::<Result<Vec<_>>>()?, BinaryOperator::Or);
            if *negated { not(any) } else { any }
        }
        Expr::Between { expr: row, negated, low, high } => {
            let Some(items) = members(row) else { return Ok(()) };
            let (Some(low), Some(high)) = (members(low), members(high)) else { return Ok(()) };
            let within = vec![
                compared(&items, &BinaryOperator::GtEq, &low)?,
                compared(&items, &BinaryOperator::LtEq, &high)?,
            ];
            let within = chained(within, BinaryOperator::And);
            if *negated { not(within) } else { within }
        }
        Expr::IsNull(row) => {
            let Some(items) = members(row) else { return Ok(()) };
            // A row among the members is a value, whatever is in it.
            let is_null = |item| match members(item) {
                Some(_) => literal(Value::Boolean(false)),
                None => Expr::IsNull(Box::new(item.clone())),
            };
            chained(items.iter().map(is_null).collect(), BinaryOperator::And)
        }
        Expr::IsNotNull(row) => {
            let Some(items) = members(row) else { return Ok(()) };
            let is_value = |item| match members(item) {
                Some(_) => literal(Value::Boolean(true)),
                None => Expr::IsNotNull(Box::new(item.clone())),
            };
            chained(items.iter().map(is_value).collect(), BinaryOperator::And)
        }
        Expr::IsDistinctFrom(left, right) => match (members(left), members(right)) {
            (Some(left), Some(right)) => not(same_rows(&left, &right)?),
            _ => return Ok(()),
        },
        Expr::IsNotDistinctFrom(left, right) => match (members(left), members(right)) {
            (Some(left), Some(right)) => same_rows(&left, &right)?,
            _ => return Ok(()),
        },
        Expr::BinaryOp { left, op, right } => match (members(left), members(right)) {
            (Some(left), Some(right)) => compared(&left, op, &right)?,
            (Some(row), None) => match right.as_ref() {
                Expr::Subquery(subquery) => one_row(&row, op, subquery)?,
                _ => return Ok(()),
            },
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    *expr = replaced;
    Ok(())
}

/// Whether a row compares so with any row of a sub-query; NULL where none does, and one might but for
/// NULLs.
fn any(subquery: &Query, row: &[Expr], op: &BinaryOperator, negated: bool) -> Result<Expr> {
    let when = |condition, value| CaseWhen { condition, result: literal(value) };
    let found = exists(subquery, row, &|row, found| compared(row, op, found))?;
    let unknown = exists(subquery, row, &|row, found| {
        Ok(Expr::IsNull(Box::new(Expr::Nested(Box::new(compared(row, op, found)?)))))
    })?;
    let value = Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![when(found, Value::Boolean(!negated)), when(unknown, Value::Null)],
        else_result: Some(Box::new(literal(Value::Boolean(negated)))),
    };
    Ok(Expr::Nested(Box::new(value)))
}

fn opposite(op: &BinaryOperator) -> Result<BinaryOperator> {
    Ok(match op {
        BinaryOperator::Eq => BinaryOperator::NotEq,
        BinaryOperator::NotEq => BinaryOperator::Eq,
        BinaryOperator::Lt => BinaryOperator::GtEq,
        BinaryOperator::LtEq => BinaryOperator::Gt,
        BinaryOperator::Gt => BinaryOperator::LtEq,
        BinaryOperator::GtEq => BinaryOperator::Lt,
        op => return plan_err!("rows are compared, {op} is no comparison"),
    })
}

/// Two rows of the same width, compared.
fn compared(left: &[Expr], op: &BinaryOperator, right: &[Expr]) -> Result<Expr> {
    match op {
        BinaryOperator::Eq => equal_rows(left, right),
        BinaryOperator::NotEq => Ok(not(equal_rows(left, right)?)),
        BinaryOperator::Lt | BinaryOperator::LtEq | BinaryOperator::Gt | BinaryOperator::GtEq => {
            ordered_rows(left, op, right)
        }
        op => plan_err!("rows are compared, {op} is no comparison"),
    }
}

/// A row compared with the one row of a sub-query: NULL where there is none.
fn one_row(row: &[Expr], op: &BinaryOperator, subquery: &Query) -> Result<Expr> {
    let mut query = skeleton(&format!("SELECT 1 FROM (SELECT 1) AS {ROW}"))?;
    if let SetExpr::Select(select) = query.body.as_mut() {
        let found = relation_of(select, subquery, row)?;
        select.projection = vec![SelectItem::ExprWithAlias {
            expr: compared(&moved(row)?, op, &found)?,
            alias: Ident::new("__compared"),
        }];
    }
    Ok(Expr::Subquery(Box::new(query)))
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
    match (members(&left), members(&right)) {
        (Some(l), Some(r)) if l.len() == r.len() => {
            chained(l.into_iter().zip(r).map(|(l, r)| equal(l, r)).collect(), BinaryOperator::And)
        }
        _ => binary(left, BinaryOperator::Eq, right),
    }
}

/// Rows of which NULL equals NULL.
fn same_rows(left: &[Expr], right: &[Expr]) -> Result<Expr> {
    check_widths(left, right)?;
    let pairs = left
        .iter()
        .zip(right)
        .map(|(l, r)| Expr::IsNotDistinctFrom(Box::new(l.clone()), Box::new(r.clone())));
    Ok(chained(pairs.collect(), BinaryOperator::And))
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

/// The relation that a sub-query is which a row is compared with.
pub const ROW: &str = "__row";

/// Stands around what a query's clause has moved into a sub-query of its own; `resolve` takes it away.
pub const MOVED: &str = "__moved";

/// Puts a sub-query into the FROM of a SELECT; its columns, as many as the row has.
fn relation_of(select: &mut Select, subquery: &Query, row: &[Expr]) -> Result<Vec<Expr>> {
    for item in row {
        let mut item = item.clone();
        let found = visit_expressions_mut(&mut item, |expr| match expr {
            Expr::Function(function) if function.over.is_some() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        if found.is_break() {
            return plan_err!(
                "a window function in a row that is compared with a sub-query is not supported: \
                 give it a name in a sub-query in FROM"
            );
        }
    }
    let names: Vec<Ident> = (0..row.len()).map(|n| Ident::new(format!("__c{n}"))).collect();
    let column = |name: Ident| TableAliasColumnDef { name, data_type: None };
    select.from[0].relation = TableFactor::Derived {
        lateral: false,
        subquery: Box::new(with_names(subquery.clone())),
        alias: Some(TableAlias {
            explicit: true,
            name: Ident::new(ROW),
            columns: names.iter().cloned().map(column).collect(),
            at: None,
        }),
        sample: None,
    };
    Ok(names.into_iter().map(|n| Expr::CompoundIdentifier(vec![Ident::new(ROW), n])).collect())
}

/// The members of a row that is moved into a sub-query: what is computed there is marked, since its
/// aggregates are those of the query around.
fn moved(row: &[Expr]) -> Result<Vec<Expr>> {
    let mark = |item: &Expr| match item {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_) => Ok(item.clone()),
        item => call(MOVED, vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(item.clone()))]),
    };
    row.iter().map(mark).collect()
}

/// Makes the condition on a row and a row of the sub-query.
type Comparison<'a> = &'a dyn Fn(&[Expr], &[Expr]) -> Result<Expr>;

/// EXISTS a row of the sub-query that compares so with a row.
fn exists(subquery: &Query, row: &[Expr], compare: Comparison<'_>) -> Result<Expr> {
    let text = format!("EXISTS (SELECT 1 FROM (SELECT 1) AS {ROW} WHERE true)");
    let mut exists = Parser::new(&PostgresLike).try_with_sql(&text)?.parse_expr()?;
    if let Expr::Exists { subquery: around, .. } = &mut exists
        && let SetExpr::Select(select) = around.body.as_mut()
    {
        let found = relation_of(select, subquery, row)?;
        select.selection = Some(compare(&moved(row)?, &found)?);
    }
    Ok(exists)
}
