//! Constructs that are short for others, rewritten in the syntax tree before planning.
//!
//! * `a ASOF [LEFT] JOIN b MATCH_CONDITION (a.t >= b.t) ON a.k = b.k` is a LATERAL join with the
//!   nearest row of `b`;
//! * `… INTERSECT ALL …` and `… EXCEPT ALL …` become a relation that [`super::set_operation`] plans;
//! * `json_array_elements(…)` and `generate_series(…)` in FROM are UNNEST of the array that they give;
//! * `FETCH FIRST n ROWS ONLY` is LIMIT n, and `mod(a, b)` is `a % b`.

use std::ops::ControlFlow;

use datafusion_common::{Result, plan_err};
use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Join,
    JoinConstraint, JoinOperator, LimitClause, OrderByKind, Query, Select, SetExpr, SetOperator,
    SetQuantifier, TableAlias, TableFactor, Value, VisitMut, VisitorMut,
};
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::set_operation::{EXCEPT_ALL, INTERSECT_ALL};

/// Stands in a match condition for the LEFT of `ASOF LEFT JOIN`, which the parser does not know.
const ASOF_LEFT: &str = "__asof_left";

/// Moves the LEFT of every `ASOF LEFT JOIN` into its match condition.
pub fn asof_tokens(tokens: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
    let keyword = |t: &TokenWithSpan| match &t.token {
        Token::Word(word) => word.keyword,
        _ => Keyword::NoKeyword,
    };
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut lefts = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let token = &tokens[index];
        out.push(token.clone());
        index += 1;
        match keyword(token) {
            Keyword::ASOF => {
                let next = tokens[index..]
                    .iter()
                    .position(|t| !matches!(t.token, Token::Whitespace(_)))
                    .map(|offset| index + offset);
                let left = next.is_some_and(|n| keyword(&tokens[n]) == Keyword::LEFT);
                lefts.push(left);
                if let (true, Some(next)) = (left, next) {
                    index = next + 1;
                }
            }
            Keyword::MATCH_CONDITION if lefts.pop() == Some(true) => {
                while let Some(token) = tokens.get(index) {
                    out.push(token.clone());
                    index += 1;
                    if token.token == Token::LParen {
                        for extra in [ASOF_LEFT, "AND"] {
                            let extra = Token::make_word(extra, None);
                            out.push(TokenWithSpan { token: extra, span: token.span });
                        }
                        break;
                    }
                }
            }
            _ => {}
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
        match fetch(query).and_then(|()| body(&mut query.body)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && let FunctionArguments::List(list) = &function.args
            && let [
                FunctionArg::Unnamed(FunctionArgExpr::Expr(left)),
                FunctionArg::Unnamed(FunctionArgExpr::Expr(right)),
            ] = list.args.as_slice()
            && function.name.to_string().eq_ignore_ascii_case("mod")
        {
            let nested = |e: &Expr| Box::new(Expr::Nested(Box::new(e.clone())));
            let (left, right) = (nested(left), nested(right));
            let modulo = Expr::BinaryOp { left, op: BinaryOperator::Modulo, right };
            *expr = Expr::Nested(Box::new(modulo));
        }
        ControlFlow::Continue(())
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
            for table in &mut select.from {
                set_function(&mut table.relation);
                for join in &mut table.joins {
                    asof(join)?;
                    set_function(&mut join.relation);
                }
            }
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

/// `json_array_elements(j)` and `generate_series(a, b)` in FROM unnest an array like any other.
fn set_function(relation: &mut TableFactor) {
    let (call, alias, with_ordinality) = match &*relation {
        TableFactor::Table { name, args: Some(args), alias, with_ordinality, .. } => {
            ((name, &args.args), alias, *with_ordinality)
        }
        TableFactor::Function { name, args, alias, .. } => ((name, args), alias, false),
        _ => return,
    };
    let (name, args) = (call.0.to_string().to_lowercase(), call.1.as_slice());
    let unnested = match name.as_str() {
        "json_array_elements" | "json_array_elements_text" => args.len() == 1,
        "generate_series" => (2..=3).contains(&args.len()),
        _ => false,
    };
    if !unnested {
        return;
    }
    let Ok(Expr::Function(mut function)) = parsed(&format!("{name}(x)")) else { return };
    if let FunctionArguments::List(list) = &mut function.args {
        list.args = args.to_vec();
    }
    *relation = TableFactor::UNNEST {
        alias: alias.clone(),
        array_exprs: vec![Expr::Function(function)],
        with_offset: false,
        with_offset_alias: None,
        with_ordinality,
    };
}

fn parsed(text: &str) -> Result<Expr> {
    Ok(Parser::new(&GenericDialect {}).try_with_sql(text)?.parse_expr()?)
}

fn no_rows() -> Result<Box<SetExpr>> {
    Ok(skeleton("SELECT 1")?.body)
}

fn skeleton(text: &str) -> Result<Query> {
    Ok(*Parser::new(&GenericDialect {}).try_with_sql(text)?.parse_query()?)
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

fn asof(join: &mut Join) -> Result<()> {
    let JoinOperator::AsOf { match_condition, constraint } = &join.join_operator else {
        return Ok(());
    };
    let JoinConstraint::On(on) = constraint else {
        return plan_err!("ASOF JOIN takes ON with the columns that are equal");
    };
    let (left_join, condition) = without_left(match_condition.clone());
    let Some(alias) = alias_of(&join.relation) else {
        return plan_err!("the right side of an ASOF JOIN needs a name: … AS b");
    };
    let (nearest, descending) = nearest(&condition, &alias.name)?;
    let mut query = skeleton("SELECT * FROM __r WHERE __c ORDER BY __o DESC NULLS LAST LIMIT 1")?;
    if let Some(order) = &mut query.order_by
        && let OrderByKind::Expressions(exprs) = &mut order.kind
    {
        exprs[0].expr = nearest;
        exprs[0].options.asc = Some(!descending);
    }
    let mut select = select_of(query.clone())?;
    select.from[0].relation = join.relation.clone();
    select.selection = Some(Expr::BinaryOp {
        left: Box::new(Expr::Nested(Box::new(on.clone()))),
        op: BinaryOperator::And,
        right: Box::new(condition),
    });
    query.body = Box::new(SetExpr::Select(Box::new(select)));
    join.relation = TableFactor::Derived {
        lateral: true,
        subquery: Box::new(query),
        alias: Some(alias),
        sample: None,
    };
    let always = JoinConstraint::On(Expr::value(Value::Boolean(true)));
    join.join_operator =
        if left_join { JoinOperator::Left(always) } else { JoinOperator::Inner(always) };
    Ok(())
}

fn without_left(condition: Expr) -> (bool, Expr) {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } if matches!(left.as_ref(), Expr::Identifier(i) if i.value == ASOF_LEFT) => {
            (true, *right)
        }
        other => (false, other),
    }
}

fn alias_of(relation: &TableFactor) -> Option<TableAlias> {
    let (alias, name) = match relation {
        TableFactor::Table { alias, name, .. } => (alias, name.0.last()?.as_ident().cloned()),
        TableFactor::Derived { alias, .. } => (alias, None),
        _ => return None,
    };
    let named = |name: Ident| TableAlias { explicit: true, name, columns: Vec::new(), at: None };
    let alias = alias.clone().map(|a| named(a.name));
    alias.or(name.map(named))
}

/// The right side's expression in a match condition, and whether its greatest value is nearest.
fn nearest(condition: &Expr, right_name: &Ident) -> Result<(Expr, bool)> {
    let Expr::BinaryOp { left, op, right } = condition else {
        return plan_err!("MATCH_CONDITION takes a comparison, such as (a.t >= b.t)");
    };
    let later = match op {
        BinaryOperator::GtEq | BinaryOperator::Gt => true,
        BinaryOperator::LtEq | BinaryOperator::Lt => false,
        other => return plan_err!("MATCH_CONDITION takes >=, >, <= or <, not {other}"),
    };
    let names_right = |e: &Expr| match e {
        Expr::CompoundIdentifier(parts) => {
            parts.first().is_some_and(|p| super::names::fold(p) == super::names::fold(right_name))
        }
        _ => false,
    };
    if names_right(left) && !names_right(right) {
        return Ok((left.as_ref().clone(), !later));
    }
    Ok((right.as_ref().clone(), later))
}
