//! Regular expressions as PostgreSQL means them, written for the engine that runs them.
//!
//! PostgreSQL takes the longest match, the engine the first alternative that fits. Whether there is a match is the
//! same; where it ends is not, so functions that tell it are refused for patterns for which the two may differ.

use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion_expr::expr::{Like, ScalarFunction};
use datafusion_expr::{BinaryExpr, Expr, ExprSchemable, Operator, binary_expr, lit};
use datafusion_functions::regex::compile_regex;

use super::regex_calls::{RegexArgument, arguments};

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
pub fn in_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
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
            let right = match pattern {
                Some(pattern) => lit(opaque(translated(&pattern)?)),
                None => *right,
            };
            Ok(Transformed::yes(binary_expr(*left, op, right)))
        }
        Expr::SimilarTo(Like { negated, expr, pattern, escape_char, .. }) => {
            let pattern = match literal(&pattern, "a pattern of SIMILAR TO")? {
                Some(pattern) => lit(opaque(similar(&pattern, escape_char.unwrap_or('\\'))?)),
                None => *pattern,
            };
            let op = if negated { Operator::RegexNotMatch } else { Operator::RegexMatch };
            Ok(Transformed::yes(binary_expr(*expr, op, pattern)))
        }
        Expr::ScalarFunction(ScalarFunction { func, mut args }) if func.name() == "regexp_like" => {
            if let Some(pattern) = literal(&args[1], "a regular expression")? {
                let flags = match args.get(2) {
                    Some(flags) => literal(flags, "a flag of a regular expression")?,
                    None => Some(String::new()),
                };
                if let Some(flags) = flags {
                    args.truncate(2);
                    args[1] = lit(opaque(flagged("regexp_like", &pattern, &flags)?));
                }
            }
            Ok(Transformed::yes(func.call(args)))
        }
        Expr::ScalarFunction(ScalarFunction { func, mut args }) => {
            let is_text = |expr: &Expr| expr.get_type(schema).is_ok_and(|t| t.is_string());
            let fourth_is_text = args.get(3).is_some_and(is_text);
            let Some(arguments) = arguments(func.name(), args.len(), fourth_is_text) else {
                return Ok(Transformed::no(func.call(args)));
            };
            let Some(pattern) = literal(&args[1], "a regular expression")? else {
                return Ok(Transformed::no(func.call(args)));
            };
            let mut flags = String::new();
            for (expr, argument) in args[2..].iter_mut().zip(arguments) {
                if argument == RegexArgument::Flags
                    && let Some(given) = literal(expr, "a flag of a regular expression")?
                {
                    // The pattern has the other flags: only `g` is left.
                    *expr = lit(if given.contains('g') { "g" } else { "" });
                    flags = given;
                }
            }
            let global = ["regexp_replace", "regexp_matches"].contains(&func.name());
            if flags.contains('g') && !global {
                return plan_err!("{} does not support the \"global\" option", func.name());
            }
            refuse_ambiguous(func.name(), &pattern)?;
            args[1] = lit(flagged(func.name(), &pattern, &flags.replace('g', ""))?);
            Ok(Transformed::yes(func.call(args)))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// A pattern that only says whether it matches, so that the planner does not make a LIKE of it: it would take a
/// backslash that is meant as one for LIKE's escape.
fn opaque(pattern: String) -> String {
    match pattern.contains("\\\\") {
        true => format!("({pattern})"),
        false => pattern,
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

/// A pattern with its flags, as the engine reads both.
fn flagged(function: &str, pattern: &str, flags: &str) -> Result<String> {
    let (mut prefix, mut lines) = (String::new(), false);
    for flag in flags.chars() {
        match flag {
            'i' => prefix = "(?i)".to_string(),
            'c' => prefix.clear(),
            'n' | 'm' => lines = true,
            's' => lines = false,
            _ => return plan_err!("{function} does not support the flags '{flags}'"),
        }
    }
    let translated = translated(pattern)?;
    if !lines {
        return Ok(format!("{prefix}{translated}"));
    }
    if pattern.contains("[^") {
        return plan_err!("{function} does not support the flag n with '[^': '{pattern}'");
    }
    // A point is no end of a line, and lines have ends of their own.
    Ok(format!("{prefix}(?m){}", translated.trim_start_matches("(?s)")))
}

fn translated(pattern: &str) -> Result<String> {
    let out = written(pattern)?;
    match compile_regex(&out, None) {
        Ok(_) => Ok(out),
        Err(_) => plan_err!("invalid regular expression: '{pattern}'"),
    }
}

fn written(pattern: &str) -> Result<String> {
    // A point is any character, the end of a line too.
    let mut out = String::from("(?s)");
    let mut rest = pattern;
    let mut in_brackets = false;
    // Whether a quantifier may come next: not behind another one, nor behind a constraint.
    let mut quantifiable = true;
    while let Some(c) = rest.chars().next() {
        let bound = || rest[1..].starts_with(|c: char| c.is_ascii_digit());
        if !in_brackets && (matches!(c, '*' | '+' | '?') || c == '{' && bound()) {
            if !quantifiable {
                return plan_err!(
                    "invalid regular expression: '{pattern}': a quantifier follows nothing that it can repeat"
                );
            }
            let end = if c == '{' { rest.find('}').map_or(rest.len(), |at| at + 1) } else { 1 };
            let end = if rest[end..].starts_with('?') { end + 1 } else { end };
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            quantifiable = false;
            continue;
        }
        quantifiable = in_brackets || !matches!(c, '^' | '$');
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
                quantifiable = in_brackets || !matches!(escaped, 'y' | 'Y' | 'A' | 'Z');
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
    // An optional group at the end is taken where it fits, if nothing before it may be shorter.
    let before = plain.strip_suffix(")?").unwrap_or(&plain);
    let fixed = !before.contains(['|', '*', '+', '?', '{']);
    if fixed {
        return Ok(());
    }
    let optional = [")?", ")*", "){0"].iter().any(|end| plain.contains(end));
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
    // For each open group the length of the alternative before, the length of the one so far, and whether it
    // is fixed.
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
        for pattern in ["foo|foobar", "o+?", "(a|ab)c", "(fo*)(bar)?", "a|b+"] {
            assert!(refuse_ambiguous("regexp_replace", pattern).is_err(), "{pattern}");
        }
        for pattern in ["foobar|foo", "(&|^)id=([^&]*)", "[^0-9]", "\\d+", "a(b|c)d", "(foo)(bar)?"]
        {
            assert!(refuse_ambiguous("regexp_replace", pattern).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn similar_patterns_match_the_whole_text() {
        assert_eq!(similar("(a|b)%_.", '\\').unwrap(), "(?s)^(?:(?:a|b).*.\\.)$");
    }
}
