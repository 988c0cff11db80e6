//! Regular expressions as PostgreSQL means them, written for the engine that runs them.
//!
//! PostgreSQL takes the longest match, the engine the first alternative that fits. Whether there is a match is the
//! same; where it ends is not, so functions that tell it are refused for patterns for which the two may differ.

use datafusion_common::tree_node::Transformed;
use datafusion_common::{Result, ScalarValue, plan_err};
use datafusion_expr::expr::{Like, ScalarFunction};
use datafusion_expr::{BinaryExpr, Expr, Operator, binary_expr, lit};

/// Classes in brackets, with the characters that the C library counts among them.
const CLASSES: [(&str, &str); 6] = [
    ("[:alpha:]", "\\p{Alphabetic}"),
    ("[:digit:]", "0-9"),
    ("[:alnum:]", "\\p{Alphabetic}0-9"),
    ("[:upper:]", "\\p{Uppercase}"),
    ("[:lower:]", "\\p{Lowercase}"),
    ("[:space:]", "\\s"),
];

/// The expression with its patterns translated.
pub fn in_expr(expr: Expr) -> Result<Transformed<Expr>> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if matches!(
                op,
                Operator::RegexMatch
                    | Operator::RegexIMatch
                    | Operator::RegexNotMatch
                    | Operator::RegexNotIMatch
            ) =>
        {
            let pattern = literal(&right, "a regular expression")?;
            let right = pattern.map_or(Ok(*right), |pattern| translated(&pattern).map(lit))?;
            Ok(Transformed::yes(binary_expr(*left, op, right)))
        }
        Expr::SimilarTo(Like { negated, expr, pattern, escape_char, .. }) => {
            let pattern = match literal(&pattern, "a pattern of SIMILAR TO")? {
                Some(pattern) => lit(similar(&pattern, escape_char.unwrap_or('\\'))?),
                None => *pattern,
            };
            let op = if negated { Operator::RegexNotMatch } else { Operator::RegexMatch };
            Ok(Transformed::yes(binary_expr(*expr, op, pattern)))
        }
        Expr::ScalarFunction(ScalarFunction { func, mut args })
            if ["regexp_like", "regexp_match", "regexp_replace"].contains(&func.name()) =>
        {
            let name = func.name().to_string();
            if let Some(pattern) = literal(&args[1], "a regular expression")? {
                if name != "regexp_like" {
                    refuse_ambiguous(&name, &pattern)?;
                }
                args[1] = lit(translated(&pattern)?);
            }
            let flags = if name == "regexp_replace" { 3 } else { 2 };
            if name == "regexp_replace"
                && let Some(text) = literal(&args[2], "what regexp_replace puts in")?
            {
                args[2] = lit(replacement(&text));
            }
            if let Some(expr) = args.get(flags) {
                let known = if name == "regexp_replace" { "gi" } else { "i" };
                match literal(expr, "a flag of a regular expression")? {
                    Some(text) if text.chars().all(|c| known.contains(c)) => {}
                    Some(text) => {
                        return plan_err!("{name} does not support the flags '{text}'");
                    }
                    None => {}
                }
            }
            if args.len() > flags + 1 {
                return plan_err!("{name} takes {} arguments at most", flags + 1);
            }
            Ok(Transformed::yes(func.call(args)))
        }
        Expr::ScalarFunction(call)
            if ["regexp_count", "regexp_instr"].contains(&call.func.name()) =>
        {
            plan_err!("{} is not supported yet as PostgreSQL has it", call.func.name())
        }
        other => Ok(Transformed::no(other)),
    }
}

/// A constant text; `None` for NULL.
fn literal(expr: &Expr, what: &str) -> Result<Option<String>> {
    match expr {
        Expr::Literal(
            ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text),
            _,
        ) => Ok(text.clone()),
        Expr::Literal(ScalarValue::Null, _) => Ok(None),
        Expr::Cast(cast) => literal(&cast.expr, what),
        Expr::Alias(alias) => literal(&alias.expr, what),
        _ => plan_err!("{what} has to be a constant text"),
    }
}

fn translated(pattern: &str) -> Result<String> {
    // A point is any character, the end of a line too.
    let mut out = String::from("(?s)");
    let mut rest = pattern;
    let mut in_brackets = false;
    while let Some(c) = rest.chars().next() {
        if in_brackets
            && let Some((class, with)) = CLASSES.iter().find(|(c, _)| rest.starts_with(c))
        {
            out.push_str(with);
            rest = &rest[class.len()..];
            continue;
        }
        if in_brackets
            && (rest.starts_with("[:") || rest.starts_with("[.") || rest.starts_with("[="))
        {
            return plan_err!(
                "the regular expression '{pattern}' has a class that is not supported"
            );
        }
        match c {
            '\\' => {
                let Some(escaped) = rest[1..].chars().next() else {
                    return plan_err!("the regular expression '{pattern}' ends with an escape");
                };
                match (escaped, in_brackets) {
                    ('d', true) => out.push_str("0-9"),
                    ('d', false) => out.push_str("[0-9]"),
                    ('D', false) => out.push_str("[^0-9]"),
                    ('w', true) => out.push_str("\\p{Alphabetic}0-9_"),
                    ('w', false) => out.push_str("[\\p{Alphabetic}0-9_]"),
                    ('W', false) => out.push_str("[^\\p{Alphabetic}0-9_]"),
                    ('y', false) => out.push_str("\\b"),
                    ('Y', false) => out.push_str("\\B"),
                    ('A', false) => out.push_str("\\A"),
                    ('Z', false) => out.push_str("\\z"),
                    ('s' | 'S' | 'n' | 't' | 'r' | 'f' | 'v', _) => {
                        out.push('\\');
                        out.push(escaped);
                    }
                    (c, _) if !c.is_ascii_alphanumeric() => {
                        out.push('\\');
                        out.push(c);
                    }
                    (c, _) => {
                        return plan_err!(
                            "the regular expression '{pattern}' has \\{c}, which is not supported"
                        );
                    }
                }
                rest = &rest[1 + escaped.len_utf8()..];
                continue;
            }
            '[' if !in_brackets => {
                in_brackets = true;
                out.push('[');
                rest = &rest[1..];
                for first in ["^]", "]", "^"] {
                    if let Some(behind) = rest.strip_prefix(first) {
                        out.push_str(&first.replace(']', "\\]"));
                        rest = behind;
                        break;
                    }
                }
                continue;
            }
            '[' | '&' | '~' if in_brackets => {
                out.push('\\');
                out.push(c);
            }
            ']' if in_brackets => {
                in_brackets = false;
                out.push(']');
            }
            '(' if !in_brackets && rest.starts_with("(?") => {
                let known = ["(?:", "(?i)"].into_iter().find(|known| rest.starts_with(known));
                let Some(known) = known.filter(|known| *known == "(?:" || rest == pattern) else {
                    return plan_err!(
                        "the regular expression '{pattern}' has a group that is not supported"
                    );
                };
                out.push_str(known);
                rest = &rest[known.len()..];
                continue;
            }
            c => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    Ok(out)
}

/// Refuses a pattern whose longest match may not be the first one, or of which a group may have no part.
fn refuse_ambiguous(function: &str, pattern: &str) -> Result<()> {
    let plain = without_brackets(pattern);
    let optional = [")?", ")*", "){0"].iter().any(|end| plain.contains(end));
    if optional && function == "regexp_match" {
        return plan_err!(
            "regexp_match: a group of '{pattern}' may have no part in a match, which is not supported"
        );
    }
    let lazy = ["*?", "+?", "??", "}?"].iter().any(|end| plain.contains(end));
    if lazy || optional || !alternatives_agree(&plain) {
        return plan_err!(
            "{function}: the longest match of '{pattern}' may not be the first one, which is not supported: \
             put the longer alternative first, without ? behind a group or a quantifier"
        );
    }
    Ok(())
}

/// The pattern with one letter for each bracket and each escape.
fn without_brackets(pattern: &str) -> String {
    let mut out = String::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
                out.push('x');
            }
            '[' => {
                let mut first = true;
                let mut inner = false;
                for c in chars.by_ref() {
                    match c {
                        '[' => inner = true,
                        ']' if inner => inner = false,
                        ']' if !first => break,
                        '^' if first => continue,
                        _ => {}
                    }
                    first = false;
                }
                out.push('x');
            }
            c => out.push(c),
        }
    }
    out
}

/// Whether alternatives have fixed lengths that do not grow, so that the first one that fits is the longest.
fn alternatives_agree(plain: &str) -> bool {
    // Of each group that is open: the length of the alternative before, the one so far, and whether it is fixed.
    let mut open: Vec<(Option<usize>, usize, bool)> = vec![(None, 0, true)];
    let mut agree = true;
    for c in plain.chars() {
        let Some((before, length, fixed)) = open.last_mut() else { return false };
        match c {
            '(' => open.push((None, 0, true)),
            ')' => {
                let (before, length, fixed) = (*before, *length, *fixed);
                agree &= before.is_none_or(|before| fixed && before >= length);
                open.pop();
                if let Some((_, outer, outer_fixed)) = open.last_mut() {
                    *outer += length;
                    *outer_fixed &= fixed && before.is_none();
                }
            }
            '|' => {
                agree &= *fixed && before.is_none_or(|before| before >= *length);
                (*before, *length, *fixed) = (Some(*length), 0, true);
            }
            '*' | '+' | '?' | '{' => *fixed = false,
            '^' | '$' => {}
            _ => *length += 1,
        }
    }
    let whole = open.first().is_none_or(|(before, length, fixed)| {
        before.is_none_or(|before| *fixed && before >= *length)
    });
    agree && whole
}

/// PostgreSQL's `\1` and `\&` for the engine, which has `${1}` and `${0}`.
fn replacement(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some('&') => out.push_str("${0}"),
                Some(digit @ '1'..='9') => out.push_str(&format!("${{{digit}}}")),
                Some('\\') | None => out.push('\\'),
                Some(other) => {
                    out.push('\\');
                    out.push(other);
                }
            },
            c => out.push(c),
        }
    }
    out
}

/// SQL's own regular expressions, which match a whole text.
fn similar(pattern: &str, escape: char) -> Result<String> {
    let mut out = String::from("(?s)^(?:");
    let mut chars = pattern.chars().peekable();
    let mut in_brackets = false;
    while let Some(c) = chars.next() {
        match c {
            c if c == escape => match chars.next() {
                Some(c) if !c.is_ascii_alphanumeric() => {
                    out.push('\\');
                    out.push(c);
                }
                Some(c) if c.is_ascii_digit() || c == '"' => {
                    return plan_err!("the pattern '{pattern}' of SIMILAR TO is not supported");
                }
                Some(c) => out.push(c),
                None => return plan_err!("the pattern '{pattern}' ends with an escape"),
            },
            '[' if !in_brackets => {
                in_brackets = true;
                out.push('[');
            }
            '[' => return plan_err!("the pattern '{pattern}' of SIMILAR TO is not supported"),
            ']' if in_brackets => {
                in_brackets = false;
                out.push(']');
            }
            '\\' => out.push_str("\\\\"),
            c if in_brackets => out.push(c),
            '%' => out.push_str(".*"),
            '_' => out.push('.'),
            '(' => out.push_str("(?:"),
            '.' | '^' | '$' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.push_str(")$");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_whose_first_match_may_be_shorter_are_refused() {
        for pattern in ["foo|foobar", "o+?", "(a|ab)c", "(foo)(bar)?", "a|b+"] {
            assert!(refuse_ambiguous("regexp_replace", pattern).is_err(), "{pattern}");
        }
        for pattern in ["foobar|foo", "(&|^)id=([^&]*)", "[^0-9]", "\\d+", "a(b|c)d"] {
            assert!(refuse_ambiguous("regexp_replace", pattern).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn similar_patterns_match_the_whole_text() {
        assert_eq!(similar("(a|b)%_.", '\\').unwrap(), "(?s)^(?:(?:a|b).*.\\.)$");
    }
}
