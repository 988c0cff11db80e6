//! `a ASOF [LEFT] JOIN b MATCH_CONDITION (…) ON …` as a LATERAL join with the nearest row of `b`.

use datafusion_common::{Result, plan_err};
use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr, Ident, Join, JoinConstraint, JoinOperator, OrderByKind, SetExpr,
    TableAlias, TableFactor, Value,
};
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::{select_of, skeleton};
use crate::plan::names;

/// Stands in a match condition for the LEFT of `ASOF LEFT JOIN`, which the parser does not know.
const ASOF_LEFT: &str = "__asof_left";

/// Moves the LEFT of every `ASOF LEFT JOIN` into its match condition.
pub(super) fn tokens(tokens: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
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

/// The join without ASOF.
pub(super) fn as_lateral(join: &mut Join) -> Result<()> {
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
            parts.first().is_some_and(|p| names::fold(p) == names::fold(right_name))
        }
        _ => false,
    };
    if names_right(left) && !names_right(right) {
        return Ok((left.as_ref().clone(), !later));
    }
    Ok((right.as_ref().clone(), later))
}
