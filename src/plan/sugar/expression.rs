//! Expressions that are short for others.

use datafusion_common::{Result, plan_err};
use datafusion_sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Distinct, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, Ident, OrderByExpr, OrderByKind, Query, SelectItem, SetExpr, Subscript,
    TableAliasColumnDef, TableFactor, UnaryOperator, Value, ValueWithSpan,
};
use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::skeleton;

/// Stands before the lower bound of `BETWEEN SYMMETRIC`, which the parser does not know.
const SYMMETRIC: &str = "__symmetric";

/// Makes `__symmetric IS DISTINCT FROM a` of `SYMMETRIC a`: of what may stand there, IS binds least.
pub(super) fn tokens(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out = Vec::with_capacity(tokens.len());
    let mut after_between = false;
    for token in tokens {
        let word = match &token.token {
            Token::Word(word) if word.quote_style.is_none() => word.value.to_lowercase(),
            Token::Whitespace(_) => {
                out.push(token);
                continue;
            }
            _ => String::new(),
        };
        match (after_between, word.as_str()) {
            (true, "symmetric") => {
                let words = [SYMMETRIC, "IS", "DISTINCT", "FROM"];
                let words = words.map(|word| Token::make_word(word, None));
                out.extend(words.map(|word| TokenWithSpan { token: word, span: token.span }));
            }
            // The rule without the word.
            (true, "asymmetric") => {}
            _ => out.push(token),
        }
        after_between = word == "between";
    }
    out
}

/// The expression that another one is short for; `None` where it is short for nothing.
pub(super) fn spelled_out(expr: &Expr) -> Result<Option<Expr>> {
    match expr {
        Expr::Between { expr, negated, low, high } => {
            let Some(low) = without_symmetric(low) else { return Ok(None) };
            Ok(Some(symmetric(expr, *negated, &low, high)))
        }
        Expr::Function(function) => call(function),
        Expr::Collate { expr, collation } => {
            let name = collation.to_string().replace('"', "").to_lowercase();
            match name.as_str() {
                // Texts are compared by their bytes, here and in ClickHouse.
                "c" | "posix" | "ucs_basic" => Ok(Some(Expr::Nested(expr.clone()))),
                _ => plan_err!("COLLATE {collation} is not supported: texts compare as in \"C\""),
            }
        }
        Expr::CompoundFieldAccess { root, access_chain } => {
            let mut chain = access_chain.clone();
            let open = chain.iter_mut().fold(false, |open, access| open | closed(access));
            let root = root.clone();
            Ok(open.then_some(Expr::CompoundFieldAccess { root, access_chain: chain }))
        }
        Expr::BinaryOp { left, op: BinaryOperator::PGOverlap, right } => {
            let argument = |e: &Expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(e.clone()));
            super::call("array_overlaps", vec![argument(left), argument(right)]).map(Some)
        }
        Expr::Like { escape_char: Some(escape), pattern, .. }
        | Expr::ILike { escape_char: Some(escape), pattern, .. } => {
            Ok(with_backslash(pattern, escape).map(|written| {
                let mut like = expr.clone();
                if let Expr::Like { pattern, escape_char, .. }
                | Expr::ILike { pattern, escape_char, .. } = &mut like
                {
                    **pattern = written;
                    *escape_char = None;
                }
                like
            }))
        }
        _ => Ok(None),
    }
}

/// Gives a slice both bounds: `a[:2]` and `a[2:]`. True where one was missing.
fn closed(access: &mut AccessExpr) -> bool {
    let AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, .. }) = access else {
        return false;
    };
    let number = |text: &str| Expr::value(Value::Number(text.to_string(), false));
    let open = lower_bound.is_none() || upper_bound.is_none();
    lower_bound.get_or_insert_with(|| number("1"));
    upper_bound.get_or_insert_with(|| number(&i32::MAX.to_string()));
    open
}

/// `()` among the keys of GROUP BY: the grouping set of no keys.
pub(super) fn empty_key(key: &mut Expr) {
    if matches!(key, Expr::Tuple(columns) if columns.is_empty()) {
        *key = Expr::GroupingSets(vec![Vec::new()]);
    }
}

/// A pattern whose escape character is another one, with the backslash in its place.
fn with_backslash(pattern: &Expr, escape: &ValueWithSpan) -> Option<Expr> {
    let text = |value: &ValueWithSpan| match &value.value {
        Value::SingleQuotedString(text) => Some(text.clone()),
        _ => None,
    };
    let Expr::Value(written) = pattern else { return None };
    let (written, escape) = (text(written)?, text(escape)?);
    let mut rest = written.chars();
    let mut out = String::new();
    while let Some(char) = rest.next() {
        match char {
            char if escape.starts_with(char) => out.extend(['\\', rest.next()?]),
            '\\' => out.push_str("\\\\"),
            char => out.push(char),
        }
    }
    Some(Expr::value(Value::SingleQuotedString(out)))
}

fn call(function: &Function) -> Result<Option<Expr>> {
    let name = function.name.to_string().to_lowercase();
    let arguments = match &function.args {
        FunctionArguments::Subquery(query) if name == "array" => {
            return array_of(query).map(Some);
        }
        FunctionArguments::List(list) => list.args.as_slice(),
        _ => return Ok(None),
    };
    Ok(match (name.as_str(), arguments) {
        ("row_to_json", [row]) => Some(super::call("to_json", vec![row.clone()])?),
        (
            "mod",
            [
                FunctionArg::Unnamed(FunctionArgExpr::Expr(left)),
                FunctionArg::Unnamed(FunctionArgExpr::Expr(right)),
            ],
        ) => {
            let nested = |e: &Expr| Box::new(Expr::Nested(Box::new(e.clone())));
            let (left, right) = (nested(left), nested(right));
            let modulo = Expr::BinaryOp { left, op: BinaryOperator::Modulo, right };
            Some(Expr::Nested(Box::new(modulo)))
        }
        _ => None,
    })
}

/// The lower bound, if the word stood before it.
fn without_symmetric(low: &Expr) -> Option<Expr> {
    let Expr::IsDistinctFrom(word, low) = low else { return None };
    match word.as_ref() {
        Expr::Identifier(name) if name.value == SYMMETRIC => Some(low.as_ref().clone()),
        _ => None,
    }
}

/// Between the bounds, whichever is the lower one.
fn symmetric(expr: &Expr, negated: bool, low: &Expr, high: &Expr) -> Expr {
    let between = |low: &Expr, high: &Expr| {
        Box::new(Expr::Between {
            expr: Box::new(expr.clone()),
            negated: false,
            low: Box::new(low.clone()),
            high: Box::new(high.clone()),
        })
    };
    let (left, right) = (between(low, high), between(high, low));
    let either = Expr::BinaryOp { left, op: BinaryOperator::Or, right };
    let either = Expr::Nested(Box::new(either));
    match negated {
        true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(either) },
        false => either,
    }
}

/// `ARRAY(SELECT x … ORDER BY y)`: the scalar sub-query that collects the values in that order.
fn array_of(query: &Query) -> Result<Expr> {
    let mut query = query.clone();
    if let SetExpr::Select(select) = query.body.as_ref()
        && select.projection.len() > 1
    {
        return plan_err!("ARRAY(SELECT …) takes one column, found {}", select.projection.len());
    }
    let sorts: Vec<OrderByExpr> = match query.order_by.as_ref().map(|by| &by.kind) {
        Some(OrderByKind::Expressions(sorts)) => sorts.clone(),
        Some(OrderByKind::All(_)) => {
            return plan_err!("ORDER BY ALL in ARRAY(…): name the columns");
        }
        None => Vec::new(),
    };
    let value = Ident::new("__value");
    let mut columns = vec![value.clone()];
    let mut order = Vec::new();
    for mut sort in sorts {
        let name = if is_value(&sort.expr, &query.body) {
            value.clone()
        } else {
            let name = Ident::new(format!("__order{}", columns.len()));
            show(&mut query.body, &sort.expr, &name)?;
            columns.push(name.clone());
            name
        };
        sort.expr = Expr::Identifier(name);
        order.push(sort);
    }
    let order: Vec<String> = order.iter().map(OrderByExpr::to_string).collect();
    let order = match order.is_empty() {
        true => String::new(),
        false => format!(" ORDER BY {}", order.join(", ")),
    };
    let mut outer = skeleton(&format!(
        "SELECT coalesce(array_agg(__value{order}), make_array()) FROM (SELECT 1) AS __array"
    ))?;
    if let SetExpr::Select(select) = outer.body.as_mut()
        && let TableFactor::Derived { subquery, alias: Some(alias), .. } =
            &mut select.from[0].relation
    {
        **subquery = query;
        alias.columns =
            columns.into_iter().map(|c| TableAliasColumnDef::from_name(c.value)).collect();
    }
    Ok(Expr::Subquery(Box::new(outer)))
}

/// Whether an order is by the one column of the query: by its number, its name or its expression.
fn is_value(sort: &Expr, body: &SetExpr) -> bool {
    if let Expr::Value(number) = sort {
        return matches!(&number.value, Value::Number(n, _) if n == "1");
    }
    let SetExpr::Select(select) = body else { return true };
    match select.projection.first() {
        Some(SelectItem::UnnamedExpr(expr)) => sort == expr,
        Some(SelectItem::ExprWithAlias { expr, alias }) => {
            sort == expr || matches!(sort, Expr::Identifier(name) if name == alias)
        }
        _ => false,
    }
}

/// Adds a column to a SELECT.
fn show(body: &mut SetExpr, expr: &Expr, name: &Ident) -> Result<()> {
    match body {
        SetExpr::Select(select) if !matches!(select.distinct, Some(Distinct::Distinct)) => {
            let item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: name.clone() };
            select.projection.push(item);
            Ok(())
        }
        _ => plan_err!(
            "ORDER BY {expr} in ARRAY(SELECT DISTINCT …): only what is selected has an order"
        ),
    }
}
