//! EXCLUDE of frames, which neither the parser nor the planner knows. Until a window function is lowered, it is one more
//! constant by which the window is partitioned, and that is no text that SQL can have.

use datafusion_common::ScalarValue;
use datafusion_expr::Expr;
use datafusion_sql::sqlparser::ast::{Expr as SqlExpr, Value};
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::ir::Exclusion;

const EXCLUSIONS: [(Exclusion, &[&str], &str); 3] = [
    (Exclusion::CurrentRow, &["current", "row"], "\0EXCLUDE CURRENT ROW"),
    (Exclusion::Group, &["group"], "\0EXCLUDE GROUP"),
    (Exclusion::Ties, &["ties"], "\0EXCLUDE TIES"),
];
/// The words that leave nothing out.
const NOTHING: [&str; 2] = ["no", "others"];

/// The clauses of a window that are found so far within one pair of parentheses.
#[derive(Default)]
struct ParenthesisLevel {
    /// Place behind BY of PARTITION BY.
    partition: Option<usize>,
    /// Place before ORDER, or before the frame.
    behind: Option<usize>,
    has_frame: bool,
}

/// The tokens with the constant in the place of EXCLUDE.
pub fn tokens(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is_space = |token: &TokenWithSpan| matches!(token.token, Token::Whitespace(_));
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut levels = vec![ParenthesisLevel::default()];
    let mut at = 0;
    let mut after_partition = false;
    while let Some(token) = tokens.get(at) {
        let is_outermost = levels.len() == 1;
        let Some(level) = levels.last_mut() else { break };
        match &token.token {
            Token::LParen => levels.push(ParenthesisLevel::default()),
            Token::RParen if !is_outermost => drop(levels.pop()),
            Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                Keyword::ORDER if level.behind.is_none() => level.behind = Some(out.len()),
                Keyword::ROWS | Keyword::RANGE | Keyword::GROUPS => {
                    level.has_frame = true;
                    level.behind.get_or_insert(out.len());
                }
                Keyword::BY if after_partition => level.partition = Some(out.len() + 1),
                _ if level.has_frame && word.value.eq_ignore_ascii_case("exclude") => {
                    if let Some((exclusion, end)) = excluded(&tokens, at + 1) {
                        if let Some(marker) = exclusion {
                            insert(&mut out, level, marker, token.span);
                        }
                        at = end;
                        continue;
                    }
                }
                _ => {}
            },
            _ => {}
        }
        if !is_space(token) {
            after_partition =
                matches!(&token.token, Token::Word(word) if word.keyword == Keyword::PARTITION);
        }
        out.push(token.clone());
        at += 1;
    }
    out
}

/// The marker for the rows that the words from here up to a closing parenthesis leave out, and the index of
/// that parenthesis. The marker is `None` if they leave out nothing.
fn excluded(tokens: &[TokenWithSpan], from: usize) -> Option<(Option<&'static str>, usize)> {
    let mut words: Vec<String> = Vec::new();
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match &token.token {
            Token::Whitespace(_) => {}
            Token::Word(word) => words.push(word.value.to_lowercase()),
            Token::RParen if words == NOTHING => return Some((None, at)),
            Token::RParen => {
                let found = EXCLUSIONS.iter().find(|(_, named, _)| words == *named)?;
                return Some((Some(found.2), at));
            }
            _ => return None,
        }
    }
    None
}

fn insert(out: &mut Vec<TokenWithSpan>, level: &ParenthesisLevel, marker: &str, span: Span) {
    let token = |token| TokenWithSpan { token, span };
    let word = |text| token(Token::make_word(text, None));
    // In parentheses, since the planner leaves plain constants out.
    let marker = Token::SingleQuotedString(marker.to_string());
    let marker = [Token::LParen, marker, Token::RParen].map(token);
    let (place, before, after) = match (level.partition, level.behind) {
        (Some(place), _) => (place, None, Some(token(Token::Comma))),
        (None, Some(place)) => (place, Some(["PARTITION", "BY"].map(word)), None),
        // There is a frame, so there is a place before it.
        (None, None) => return,
    };
    let added = before.into_iter().flatten().chain(marker).chain(after);
    let added: Vec<TokenWithSpan> = added.collect();
    out.splice(place..place, added);
}

fn is_marker(text: &str) -> bool {
    EXCLUSIONS.iter().any(|(_, _, marker)| *marker == text)
}

/// Takes the constant out of what a window is partitioned by.
pub fn take(partition: &mut Vec<SqlExpr>) -> Option<SqlExpr> {
    let value = |expr: &SqlExpr| match expr {
        SqlExpr::Nested(inner) => match inner.as_ref() {
            SqlExpr::Value(value) => Some(value.value.clone()),
            _ => None,
        },
        _ => None,
    };
    let at = partition.iter().position(
        |expr| matches!(value(expr), Some(Value::SingleQuotedString(text)) if is_marker(&text)),
    )?;
    Some(partition.remove(at))
}

/// The same in a plan: what frames leave out.
pub fn take_planned(partition: &mut Vec<Expr>) -> Option<Exclusion> {
    let (at, exclusion) = partition.iter().enumerate().find_map(|(at, expr)| {
        let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = expr else { return None };
        let found = EXCLUSIONS.iter().find(|(_, _, marker)| marker == text)?;
        Some((at, found.0))
    })?;
    partition.remove(at);
    Some(exclusion)
}
