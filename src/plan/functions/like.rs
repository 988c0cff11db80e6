//! `LIKE` and `ILIKE` with a pattern that is computed: PostgreSQL's matching, escapes and errors. Constant patterns
//! are Arrow's, once it is known that they do not end with an escape.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchema, Result, exec_err, plan_err};
use datafusion_expr::expr::Like;
use datafusion_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};

use super::texts::lower;

/// The expression in which LIKE is PostgreSQL's.
pub fn in_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let like = match expr {
        Expr::Like(like) => like,
        // `~~` is LIKE.
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (negated, case_insensitive) = match op {
                Operator::LikeMatch => (false, false),
                Operator::NotLikeMatch => (true, false),
                Operator::ILikeMatch => (false, true),
                Operator::NotILikeMatch => (true, true),
                _ => return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }))),
            };
            Like { negated, expr: left, pattern: right, escape_char: None, case_insensitive }
        }
        other => return Ok(Transformed::no(other)),
    };
    let Like { negated, expr, pattern, escape_char, case_insensitive } = like;
    let escape = escape_char.unwrap_or('\\');
    if let Expr::Literal(value, _) = pattern.as_ref() {
        if let Some(Some(text)) = value.try_as_str() {
            let mut chars = text.chars();
            while let Some(c) = chars.next() {
                if c == escape && chars.next().is_none() {
                    return plan_err!("LIKE pattern must not end with escape character: '{text}'");
                }
            }
        }
        let like = Like { negated, expr, pattern, escape_char, case_insensitive };
        return Ok(Transformed::no(Expr::Like(like)));
    }
    let bytes = matches!(pattern.get_type(schema)?, DataType::Binary) && !case_insensitive;
    if !bytes && !pattern.get_type(schema)?.is_string() {
        let like = Like { negated, expr, pattern, escape_char, case_insensitive };
        return Ok(Transformed::no(Expr::Like(like)));
    }
    let signature = Signature::any(2, Volatility::Immutable);
    let function =
        ScalarUDF::new_from_impl(Matches { negated, case_insensitive, escape, signature });
    Ok(Transformed::yes(function.call(vec![*expr, *pattern])))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Matches {
    negated: bool,
    case_insensitive: bool,
    escape: char,
    signature: Signature,
}

impl ScalarUDFImpl for Matches {
    fn name(&self) -> &str {
        match (self.negated, self.case_insensitive) {
            (false, false) => "like",
            (true, false) => "not_like",
            (false, true) => "ilike",
            (true, true) => "not_ilike",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        if *arrays[1].data_type() == DataType::Binary {
            let values = cast(&arrays[0], &DataType::Binary)?;
            let (values, patterns) = (values.as_binary::<i32>(), arrays[1].as_binary::<i32>());
            let value = |row: usize| {
                if values.is_null(row) || patterns.is_null(row) {
                    return Ok(None);
                }
                let found = matched(values.value(row), patterns.value(row), b"%_\\")?;
                Ok(Some((found == LikeOutcome::Yes) != self.negated))
            };
            let values = (0..values.len()).map(value).collect::<Result<BooleanArray>>()?;
            return Ok(ColumnarValue::Array(Arc::new(values)));
        }
        let (texts, patterns) =
            (cast(&arrays[0], &DataType::Utf8)?, cast(&arrays[1], &DataType::Utf8)?);
        let (texts, patterns) = (texts.as_string::<i32>(), patterns.as_string::<i32>());
        let fold = |text: &str| -> Vec<char> {
            match self.case_insensitive {
                true => text.chars().map(lower).collect(),
                false => text.chars().collect(),
            }
        };
        let value = |row: usize| {
            if texts.is_null(row) || patterns.is_null(row) {
                return Ok(None);
            }
            let (text, pattern) = (fold(texts.value(row)), fold(patterns.value(row)));
            let found = matched(&text, &pattern, &['%', '_', self.escape])?;
            Ok(Some((found == LikeOutcome::Yes) != self.negated))
        };
        let values = (0..texts.len()).map(value).collect::<Result<BooleanArray>>()?;
        Ok(ColumnarValue::Array(Arc::new(values)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LikeOutcome {
    Yes,
    No,
    /// No match here, and none from a later place either.
    Never,
}

/// Whether a text is like a pattern, of characters or of bytes, with these for any part, any one, and the escape. As in
/// PostgreSQL an escape at the end of the pattern is an error where it is met before the text ends.
fn matched<C: Copy + PartialEq>(
    mut text: &[C],
    mut pattern: &[C],
    special: &[C; 3],
) -> Result<LikeOutcome> {
    let [any, one, escape] = *special;
    let at_end = || exec_err!("LIKE pattern must not end with escape character");
    while let (Some(c), Some(p)) = (text.first(), pattern.first()) {
        if *p == escape {
            let Some(escaped) = pattern.get(1) else { return at_end() };
            if escaped != c {
                return Ok(LikeOutcome::No);
            }
            pattern = &pattern[1..];
        } else if *p == any {
            // `%` and `_` in a row need one character for each `_`.
            pattern = &pattern[1..];
            while let Some(next) = pattern.first() {
                if *next == any {
                    pattern = &pattern[1..];
                } else if *next == one {
                    if text.is_empty() {
                        return Ok(LikeOutcome::Never);
                    }
                    (text, pattern) = (&text[1..], &pattern[1..]);
                } else {
                    break;
                }
            }
            let first = match pattern {
                [] => return Ok(LikeOutcome::Yes),
                [c] if *c == escape => return at_end(),
                [c, escaped, ..] if *c == escape => *escaped,
                [c, ..] => *c,
            };
            while let Some(c) = text.first() {
                if *c == first {
                    match matched(text, pattern, special)? {
                        LikeOutcome::No => {}
                        found => return Ok(found),
                    }
                }
                text = &text[1..];
            }
            return Ok(LikeOutcome::Never);
        } else if *p != one && p != c {
            return Ok(LikeOutcome::No);
        }
        (text, pattern) = (&text[1..], &pattern[1..]);
    }
    if !text.is_empty() {
        return Ok(LikeOutcome::No);
    }
    match pattern.iter().all(|c| *c == any) {
        true => Ok(LikeOutcome::Yes),
        false => Ok(LikeOutcome::Never),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_postgres() {
        let of = |text: &str, pattern: &str| {
            let (text, pattern): (Vec<char>, Vec<char>) =
                (text.chars().collect(), pattern.chars().collect());
            matched(&text, &pattern, &['%', '_', '\\']).map(|found| found == LikeOutcome::Yes)
        };
        for (text, pattern, found) in [
            ("abc", "a%c", true),
            ("abc", "a_", false),
            ("a%c", "a\\%c", true),
            ("abc", "a\\%c", false),
            ("", "%", true),
            ("abcabd", "%ab_", true),
            ("aaab", "%a%b%", true),
            ("日本", "__", true),
        ] {
            assert_eq!(of(text, pattern).unwrap(), found, "{text} {pattern}");
        }
        assert!(of("a", "%\\").is_err());
        assert!(!of("", "\\").unwrap());
    }
}
