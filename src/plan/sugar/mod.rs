//! Constructs that are short for others, rewritten before planning: some in the tokens, since the parser
//! does not know them, the others in the syntax tree.
//!
//! * `a ASOF [LEFT] JOIN b MATCH_CONDITION (a.t >= b.t) ON a.k = b.k` is a LATERAL join with the
//!   nearest row of `b`;
//! * `… INTERSECT ALL …` and `… EXCEPT ALL …` become a relation that [`super::set_operation`] plans;
//! * `json_array_elements(…)`, `generate_series(…)` and the like in FROM are UNNEST of the array that
//!   they give, and so they are in the SELECT list;
//! * an item beside them that is named like a column which they read gets that name in a SELECT around;
//! * `FULL JOIN unnest(…)` is a join with a sub-query; `LIMIT (SELECT 3)` is LIMIT 3, and
//!   `LIMIT (SELECT n FROM s)` a condition on the rows' numbers;
//! * `ARRAY(SELECT …)` is a scalar sub-query over array_agg;
//! * `BETWEEN SYMMETRIC a AND b` is either order of the bounds;
//! * `a && b` of arrays is array_overlaps, `GROUP BY ()` the one empty grouping set;
//! * `LIKE … ESCAPE '!'` has its pattern written with the backslash;
//! * `AS MATERIALIZED` is AS; `COLLATE "C"` is how all texts are compared;
//! * `TABLE t` is `SELECT * FROM t`, `FETCH FIRST n ROWS ONLY` is LIMIT n, `mod(a, b)` is `a % b`.

mod asof;
mod beside;
mod expression;
mod from;
mod limit;

use std::ops::ControlFlow;

use datafusion_common::{Result, plan_err};
use datafusion_sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArguments, GroupByExpr, LimitClause, Query, Select, SetExpr,
    SetOperator, SetQuantifier, TableFactor, Value, VisitMut, VisitorMut,
};
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::dialect::PostgresLike;
use super::set_operation::{EXCEPT_ALL, INTERSECT_ALL};

pub use from::FUNCTIONS as UNNESTED_FUNCTIONS;

/// The tokens, as far as the parser does not know what they stand for.
pub fn tokens(tokens: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
    expression::tokens(without_cte_hints(asof::tokens(tokens)))
}

/// Drops the word of `AS MATERIALIZED (…)` and `AS NOT MATERIALIZED (…)`: how a CTE is kept is no
/// question here.
fn without_cte_hints(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is_word = |token: &TokenWithSpan, text: &str| match &token.token {
        Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text),
        _ => false,
    };
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    // Where, among the tokens that say something, AS stands with no more than NOT behind it.
    let mut hint_from: Option<usize> = None;
    for token in tokens {
        if matches!(token.token, Token::Whitespace(_)) {
            out.push(token);
            continue;
        }
        match hint_from {
            Some(from) if is_word(&token, "materialized") => {
                out.truncate(from);
                hint_from = None;
            }
            Some(_) if is_word(&token, "not") => out.push(token),
            _ => {
                let is_as = is_word(&token, "as");
                out.push(token);
                hint_from = is_as.then_some(out.len());
            }
        }
    }
    out
}

/// The query without the constructs that are short for others.
pub fn desugar(mut query: Query) -> Result<Query> {
    let mut walk = Desugar { error: None };
    let _ = VisitMut::visit(&mut query, &mut walk);
    match walk.error {
        Some(error) => Err(error),
        None => Ok(query),
    }
}

struct Desugar {
    error: Option<datafusion_common::DataFusionError>,
}

impl VisitorMut for Desugar {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let spelled_out = beside::apart(query)
            .and_then(|()| fetch(query))
            .and_then(|()| limit::spelled_out(query))
            .and_then(|()| body(&mut query.body));
        match spelled_out {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expression::spelled_out(expr) {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(spelled_out)) => {
                *expr = spelled_out;
                ControlFlow::Continue(())
            }
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

/// `FETCH FIRST n ROWS ONLY` as LIMIT n.
fn fetch(query: &mut Query) -> Result<()> {
    let Some(fetch) = query.fetch.take() else { return Ok(()) };
    if fetch.with_ties || fetch.percent {
        return plan_err!("FETCH takes a number of rows, and ROWS ONLY: rank() finds ties");
    }
    let one = || Expr::value(Value::Number("1".to_string(), false));
    let limit = fetch.quantity.unwrap_or_else(one);
    match &mut query.limit_clause {
        None => {
            query.limit_clause = Some(LimitClause::LimitOffset {
                limit: Some(limit),
                offset: None,
                limit_by: Vec::new(),
            });
        }
        Some(LimitClause::LimitOffset { limit: taken @ None, .. }) => *taken = Some(limit),
        Some(_) => return plan_err!("there is a LIMIT beside FETCH: one of them is enough"),
    }
    Ok(())
}

fn body(set: &mut SetExpr) -> Result<()> {
    match set {
        SetExpr::Select(select) => {
            if let GroupByExpr::Expressions(keys, _) = &mut select.group_by {
                keys.iter_mut().for_each(expression::empty_key);
            }
            for table in &mut select.from {
                from::unnested(&mut table.relation);
                for join in &mut table.joins {
                    asof::as_lateral(join)?;
                    from::unnested(&mut join.relation);
                    from::apart(join)?;
                }
            }
            from::in_select_list(&mut select.projection)
        }
        SetExpr::Table(table) => {
            let name = table.table_name.as_deref().unwrap_or_default();
            *set = *skeleton(&format!("SELECT * FROM {name}"))?.body;
            Ok(())
        }
        SetExpr::SetOperation { op, set_quantifier, left, right } => {
            body(left)?;
            body(right)?;
            let marker = match (op, set_quantifier) {
                (SetOperator::Intersect, SetQuantifier::All) => INTERSECT_ALL,
                (SetOperator::Except | SetOperator::Minus, SetQuantifier::All) => EXCEPT_ALL,
                _ => return Ok(()),
            };
            let (left, right) = (std::mem::replace(left, no_rows()?), right.clone());
            *set = SetExpr::Select(Box::new(both_sides(marker, *left, *right)?));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The call of a function.
pub fn call(name: &str, args: Vec<FunctionArg>) -> Result<Expr> {
    let text = format!("{name}()");
    let mut call = Parser::new(&PostgresLike).try_with_sql(&text)?.parse_expr()?;
    if let Expr::Function(function) = &mut call
        && let FunctionArguments::List(list) = &mut function.args
    {
        list.args = args;
    }
    Ok(call)
}

fn no_rows() -> Result<Box<SetExpr>> {
    Ok(skeleton("SELECT 1")?.body)
}

pub fn skeleton(text: &str) -> Result<Query> {
    Ok(*Parser::new(&PostgresLike).try_with_sql(text)?.parse_query()?)
}

fn select_of(query: Query) -> Result<Select> {
    match *query.body {
        SetExpr::Select(select) => Ok(*select),
        other => plan_err!("{other} is no SELECT"),
    }
}

/// `SELECT * FROM (left, right) AS marker`.
fn both_sides(marker: &str, left: SetExpr, right: SetExpr) -> Result<Select> {
    let text = format!(
        "SELECT * FROM ((SELECT 1) AS __left CROSS JOIN (SELECT 1) AS __right) AS {marker}"
    );
    let mut select = select_of(skeleton(&text)?)?;
    if let TableFactor::NestedJoin { table_with_joins, .. } = &mut select.from[0].relation {
        let relations = [
            (&mut table_with_joins.relation, left),
            (&mut table_with_joins.joins[0].relation, right),
        ];
        for (relation, body) in relations {
            if let TableFactor::Derived { subquery, .. } = relation {
                *subquery.body = body;
            }
        }
    }
    Ok(select)
}
