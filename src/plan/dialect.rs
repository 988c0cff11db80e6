//! The dialect that queries are written in: the parser's generic one with PostgreSQL's operators.
//!
//! The precedences are those of PostgreSQL's grammar (`gram.y`), from the tightest: `.`, `::`, `[ ]`,
//! unary `+` and `-`, COLLATE, AT TIME ZONE, `^`, `* / %`, `+ -`, all other operators, BETWEEN IN LIKE
//! ILIKE SIMILAR, `< > = <= >= <>`, IS ISNULL NOTNULL, NOT, AND, OR. Comparisons, LIKE, BETWEEN and
//! IS DISTINCT FROM do not chain.

use std::any::TypeId;

use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, UnaryOperator,
};
use datafusion_sql::sqlparser::dialect::{Dialect, GenericDialect, Precedence};
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Word};

const PERIOD: u8 = 200;
const CAST: u8 = 140;
const SIGN: u8 = 125;
const COLLATE: u8 = 120;
const AT_TIME_ZONE: u8 = 110;
const POWER: u8 = 100;
const PRODUCT: u8 = 90;
const SUM: u8 = 80;
const OTHER: u8 = 70;
const LIKE: u8 = 60;
const COMPARISON: u8 = 50;
const IS: u8 = 40;
const NOT: u8 = 30;
const AND: u8 = 20;
const OR: u8 = 10;
const NONE: u8 = 0;

/// Words that the parser takes for operators or clauses, and that PostgreSQL knows as plain names.
const PLAIN_NAMES: [Keyword; 16] = [
    Keyword::CLUSTER,
    Keyword::CONNECT,
    Keyword::DISTRIBUTE,
    Keyword::DIV,
    Keyword::FORMAT,
    Keyword::MATCH,
    Keyword::MEMBER,
    Keyword::PREWHERE,
    Keyword::PRIOR,
    Keyword::REGEXP,
    Keyword::RLIKE,
    Keyword::SAMPLE,
    Keyword::SETTINGS,
    Keyword::SORT,
    Keyword::TOP,
    Keyword::XOR,
];

/// The tokens with the words that are plain names in PostgreSQL as plain names.
pub fn with_plain_names(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    for token in &mut tokens {
        if let Token::Word(word) = &mut token.token
            && PLAIN_NAMES.contains(&word.keyword)
        {
            word.keyword = Keyword::NoKeyword;
        }
    }
    tokens
}

/// See the module's description.
#[derive(Debug)]
pub struct PostgresLike;

macro_rules! supported {
    ($($name:ident),* $(,)?) => {
        $(fn $name(&self) -> bool { true })*
    };
}

impl Dialect for PostgresLike {
    /// The parser asks for the generic dialect by name: its answers hold for this one.
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>()
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '"'
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_' || !ch.is_ascii()
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_' || ch == '$' || !ch.is_ascii()
    }

    supported!(
        allow_extract_custom,
        allow_extract_single_quotes,
        support_map_literal_syntax,
        supports_array_typedef_with_brackets,
        supports_asc_desc_in_column_definition,
        supports_comma_separated_trim,
        supports_comment_on,
        supports_create_index_with_clause,
        supports_create_view_comment_syntax,
        supports_cte_without_as,
        supports_data_type_signed_suffix,
        supports_dictionary_syntax,
        supports_empty_projections,
        supports_extract_comma_syntax,
        supports_filter_during_aggregation,
        supports_group_by_expr,
        supports_group_by_with_modifier,
        supports_interval_options,
        supports_left_associative_joins_without_parens,
        supports_limit_by,
        supports_limit_comma,
        supports_match_recognize,
        supports_named_fn_args_with_assignment_operator,
        supports_nested_comments,
        supports_notnull_operator,
        supports_parens_around_table_factor,
        supports_partition_by_after_order_by,
        supports_projection_trailing_commas,
        supports_select_wildcard_except,
        supports_select_wildcard_exclude,
        supports_select_wildcard_ilike,
        supports_select_wildcard_rename,
        supports_select_wildcard_replace,
        supports_string_escape_constant,
        supports_string_literal_concatenation_with_newline,
        supports_struct_literal,
        supports_try_convert,
        supports_unicode_string_literal,
        supports_values_as_table_factor,
        supports_window_clause_named_window_reference,
        supports_window_function_null_treatment_arg,
        supports_bitwise_shift_operators,
    );

    fn prec_value(&self, precedence: Precedence) -> u8 {
        match precedence {
            Precedence::Period => PERIOD,
            Precedence::DoubleColon => CAST,
            Precedence::AtTz => AT_TIME_ZONE,
            Precedence::Caret => POWER,
            Precedence::MulDivModOp => PRODUCT,
            Precedence::PlusMinus => SUM,
            Precedence::Xor | Precedence::Ampersand | Precedence::Pipe | Precedence::PgOther => {
                OTHER
            }
            Precedence::Between | Precedence::Like => LIKE,
            Precedence::Eq => COMPARISON,
            Precedence::Is => IS,
            Precedence::UnaryNot => NOT,
            Precedence::And => AND,
            Precedence::Or => OR,
            // Within the brackets of an array an expression ends at the colon of a slice.
            Precedence::Colon => NONE,
        }
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        use Token::*;
        let precedence = match &parser.peek_token_ref().token {
            Word(word) => return word_precedence(word, parser).map(Ok),
            Eq | Lt | Gt | LtEq | GtEq | Neq => COMPARISON,
            Caret => POWER,
            Mul | Div | Mod => PRODUCT,
            Plus | Minus => SUM,
            Placeholder(mark) if mark == "?" => OTHER,
            Arrow
            | LongArrow
            | HashArrow
            | HashLongArrow
            | AtArrow
            | ArrowAt
            | HashMinus
            | AtQuestion
            | AtAt
            | Overlap
            | CaretAt
            | StringConcat
            | Sharp
            | ShiftLeft
            | ShiftRight
            | Ampersand
            | Pipe
            | Tilde
            | TildeAsterisk
            | ExclamationMarkTilde
            | ExclamationMarkTildeAsterisk
            | DoubleTilde
            | DoubleTildeAsterisk
            | ExclamationMarkDoubleTilde
            | ExclamationMarkDoubleTildeAsterisk
            | CustomBinaryOperator(_) => OTHER,
            DoubleColon => CAST,
            Period => PERIOD,
            _ => NONE,
        };
        Some(Ok(precedence))
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        let token = parser.peek_token_ref();
        let at = token.span.start;
        let op = match &token.token {
            Token::Minus => UnaryOperator::Minus,
            Token::Plus => UnaryOperator::Plus,
            Token::Tilde => UnaryOperator::BitwiseNot,
            Token::AtSign => UnaryOperator::PGAbs,
            Token::PGSquareRoot => UnaryOperator::PGSquareRoot,
            Token::PGCubeRoot => UnaryOperator::PGCubeRoot,
            _ => return None,
        };
        let precedence =
            if matches!(op, UnaryOperator::Minus | UnaryOperator::Plus) { SIGN } else { OTHER };
        parser.advance_token();
        let operand = parser.parse_subexpr(precedence);
        Some(operand.map(|operand| match op {
            UnaryOperator::PGAbs => call("abs", at, operand),
            UnaryOperator::PGSquareRoot => call("sqrt", at, operand),
            UnaryOperator::PGCubeRoot => call("cbrt", at, operand),
            UnaryOperator::BitwiseNot => call("bitwise_not", at, operand),
            op => Expr::UnaryOp { op, expr: Box::new(operand) },
        }))
    }

    fn parse_infix(
        &self,
        parser: &mut Parser,
        expr: &Expr,
        precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        let token = parser.peek_token_ref();
        if let Err(error) = check_chain(expr, precedence, token) {
            return Some(Err(error));
        }
        let left = || Box::new(expr.clone());
        match &token.token {
            Token::Caret => {
                parser.advance_token();
                let right = parser.parse_subexpr(POWER);
                Some(right.map(|right| Expr::BinaryOp {
                    left: left(),
                    op: BinaryOperator::PGExp,
                    right: Box::new(right),
                }))
            }
            Token::Sharp => {
                parser.advance_token();
                let right = parser.parse_subexpr(OTHER);
                Some(right.map(|right| Expr::BinaryOp {
                    left: left(),
                    op: BinaryOperator::PGBitwiseXor,
                    right: Box::new(right),
                }))
            }
            Token::Placeholder(_) => {
                parser.advance_token();
                let op = match parser.peek_token_ref().token {
                    Token::Pipe => Some(BinaryOperator::QuestionPipe),
                    Token::Ampersand => Some(BinaryOperator::QuestionAnd),
                    _ => None,
                };
                if op.is_some() {
                    parser.advance_token();
                }
                let right = parser.parse_subexpr(OTHER);
                Some(right.map(|right| Expr::BinaryOp {
                    left: left(),
                    op: op.unwrap_or(BinaryOperator::Question),
                    right: Box::new(right),
                }))
            }
            Token::Word(word) => word_infix(parser, word.keyword, is_isnull(word), &left),
            _ => None,
        }
    }
}

fn is_isnull(word: &Word) -> bool {
    word.quote_style.is_none() && word.value.eq_ignore_ascii_case("isnull")
}

/// The precedence of a word that stands where an operator may; `None` where the parser knows it.
fn word_precedence(word: &Word, parser: &Parser) -> Option<u8> {
    if is_isnull(word) {
        return Some(IS);
    }
    match word.keyword {
        Keyword::COLLATE if word.quote_style.is_none() => Some(COLLATE),
        Keyword::NOT => match &parser.peek_nth_token_ref(1).token {
            Token::Word(next) => match next.keyword {
                Keyword::IN
                | Keyword::BETWEEN
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::SIMILAR => Some(LIKE),
                _ => Some(NONE),
            },
            _ => Some(NONE),
        },
        Keyword::OPERATOR => Some(OTHER),
        _ => None,
    }
}

fn word_infix(
    parser: &mut Parser,
    keyword: Keyword,
    is_isnull: bool,
    left: &dyn Fn() -> Box<Expr>,
) -> Option<Result<Expr, ParserError>> {
    if is_isnull {
        parser.advance_token();
        return Some(Ok(Expr::IsNull(left())));
    }
    match keyword {
        Keyword::COLLATE => {
            parser.advance_token();
            let collation = parser.parse_object_name(false);
            Some(collation.map(|collation| Expr::Collate { expr: left(), collation }))
        }
        Keyword::IS => {
            let same: &[Keyword] = &[Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM];
            let differs: &[Keyword] = &[Keyword::IS, Keyword::DISTINCT, Keyword::FROM];
            if parser.parse_keywords(same) {
                let right = parser.parse_subexpr(IS);
                Some(right.map(|right| Expr::IsNotDistinctFrom(left(), Box::new(right))))
            } else if parser.parse_keywords(differs) {
                let right = parser.parse_subexpr(IS);
                Some(right.map(|right| Expr::IsDistinctFrom(left(), Box::new(right))))
            } else {
                None
            }
        }
        Keyword::BETWEEN => {
            parser.advance_token();
            Some(between(parser, left(), false))
        }
        Keyword::NOT if parser.parse_keywords(&[Keyword::NOT, Keyword::BETWEEN]) => {
            Some(between(parser, left(), true))
        }
        _ => None,
    }
}

/// The lower bound may be a comparison, as in PostgreSQL.
fn between(parser: &mut Parser, expr: Box<Expr>, negated: bool) -> Result<Expr, ParserError> {
    let low = Box::new(parser.parse_subexpr(NOT)?);
    parser.expect_keyword_is(Keyword::AND)?;
    let high = Box::new(parser.parse_subexpr(LIKE)?);
    Ok(Expr::Between { expr, negated, low, high })
}

/// Refuses a second operator of a kind that does not chain.
fn check_chain(left: &Expr, precedence: u8, next: &TokenWithSpan) -> Result<(), ParserError> {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    let chained = match precedence {
        COMPARISON => {
            matches!(left, Expr::BinaryOp { op: Eq | NotEq | Lt | LtEq | Gt | GtEq, .. })
        }
        LIKE => matches!(
            left,
            Expr::Between { .. } | Expr::Like { .. } | Expr::ILike { .. } | Expr::SimilarTo { .. }
        ),
        IS => matches!(left, Expr::IsDistinctFrom(..) | Expr::IsNotDistinctFrom(..)),
        _ => false,
    };
    if !chained {
        return Ok(());
    }
    let Location { line, column } = next.span.start;
    let what = &next.token;
    Err(ParserError::ParserError(format!(
        "{what} does not chain: one of the two needs parentheses at Line: {line}, Column: {column}"
    )))
}

fn call(name: &str, at: Location, argument: Expr) -> Expr {
    let span = datafusion_sql::sqlparser::tokenizer::Span::new(at, at);
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::with_span(span, name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))],
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(sql: &str) -> Result<Expr, ParserError> {
        let mut parser = Parser::new(&PostgresLike).try_with_sql(sql)?;
        let expr = parser.parse_expr()?;
        parser.expect_token(&Token::EOF)?;
        Ok(expr)
    }

    /// The expression with parentheses around every operator.
    fn explicit(expr: &Expr) -> String {
        let list = |list: &[Expr]| list.iter().map(explicit).collect::<Vec<_>>().join(", ");
        match expr {
            Expr::BinaryOp { left, op, right } => {
                format!("({} {op} {})", explicit(left), explicit(right))
            }
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => format!("(NOT {})", explicit(expr)),
            Expr::UnaryOp { op, expr } => format!("({op}{})", explicit(expr)),
            Expr::IsNull(e) => format!("({} IS NULL)", explicit(e)),
            Expr::IsNotNull(e) => format!("({} IS NOT NULL)", explicit(e)),
            Expr::IsTrue(e) => format!("({} IS TRUE)", explicit(e)),
            Expr::IsDistinctFrom(a, b) => format!("({} ISD {})", explicit(a), explicit(b)),
            Expr::IsNotDistinctFrom(a, b) => format!("({} ISND {})", explicit(a), explicit(b)),
            Expr::Nested(e) => explicit(e),
            Expr::InList { expr, list: items, negated } => {
                let not = if *negated { "NOT " } else { "" };
                format!("({} {not}IN [{}])", explicit(expr), list(items))
            }
            Expr::Between { expr, low, high, .. } => {
                format!("({} BTW {} TO {})", explicit(expr), explicit(low), explicit(high))
            }
            Expr::Like { expr, pattern, .. } => {
                format!("({} LIKE {})", explicit(expr), explicit(pattern))
            }
            Expr::AnyOp { left, compare_op, right, .. } => {
                format!("({} {compare_op} ANY [{}])", explicit(left), explicit(right))
            }
            Expr::Cast { expr, data_type, .. } => format!("({}::{data_type})", explicit(expr)),
            Expr::AtTimeZone { timestamp, time_zone } => {
                format!("({} AT {})", explicit(timestamp), explicit(time_zone))
            }
            Expr::Collate { expr, collation } => {
                format!("({} COLLATE {collation})", explicit(expr))
            }
            Expr::Function(f) => match &f.args {
                FunctionArguments::List(l) => match l.args.as_slice() {
                    [FunctionArg::Unnamed(FunctionArgExpr::Expr(e))] => {
                        format!("{}[{}]", f.name, explicit(e))
                    }
                    _ => f.to_string(),
                },
                _ => f.to_string(),
            },
            other => other.to_string(),
        }
    }

    #[test]
    fn operators_bind_as_in_postgresql() {
        for (written, meant) in [
            ("2 ^ 3 ^ 2", "((2 ^ 3) ^ 2)"),
            ("-2 ^ 2", "((-2) ^ 2)"),
            ("-2::int", "(-(2::INT))"),
            ("- - 2", "(-(-2))"),
            ("2 * -2 ^ 2", "(2 * ((-2) ^ 2))"),
            ("a - b - c", "((a - b) - c)"),
            ("a / b * c % d", "(((a / b) * c) % d)"),
            ("1 + 2 || 'x'", "((1 + 2) || 'x')"),
            ("7 & 3 + 1 | 2", "((7 & (3 + 1)) | 2)"),
            ("1 << 2 + 1", "(1 << (2 + 1))"),
            ("6 # 3 & 2", "((6 # 3) & 2)"),
            ("a#b", "(a # b)"),
            ("~ 1 + 2", "bitwise_not[(1 + 2)]"),
            ("@ -5 + 2", "abs[((-5) + 2)]"),
            ("|/ 16 + 9", "sqrt[(16 + 9)]"),
            ("a IS DISTINCT FROM b AND c", "((a ISD b) AND c)"),
            ("a IS NOT DISTINCT FROM b OR c", "((a ISND b) OR c)"),
            ("a = b IS DISTINCT FROM c", "((a = b) ISD c)"),
            ("a IS DISTINCT FROM b = c", "(a ISD (b = c))"),
            ("NOT a IS DISTINCT FROM b", "(NOT (a ISD b))"),
            ("a IS NULL IS NULL", "((a IS NULL) IS NULL)"),
            ("a = b IS NULL", "((a = b) IS NULL)"),
            ("a IS NULL = b", "((a IS NULL) = b)"),
            ("a ISNULL OR b NOTNULL", "((a IS NULL) OR (b IS NOT NULL))"),
            ("1 = 2 ISNULL", "((1 = 2) IS NULL)"),
            ("NOT a = b AND c OR d", "(((NOT (a = b)) AND c) OR d)"),
            ("NOT a IN (1, 2)", "(NOT (a IN [1, 2]))"),
            ("a IN (1) IN (b)", "((a IN [1]) IN [b])"),
            ("a NOT IN (1) OR b", "((a NOT IN [1]) OR b)"),
            ("a = b IN (c)", "(a = (b IN [c]))"),
            ("a BETWEEN 1 AND 2 AND b", "((a BTW 1 TO 2) AND b)"),
            ("a BETWEEN 1 AND 2 = b", "((a BTW 1 TO 2) = b)"),
            ("a BETWEEN b < c AND d", "(a BTW (b < c) TO d)"),
            ("a + 1 BETWEEN 2 AND 1 + 1 * 2", "((a + 1) BTW 2 TO (1 + (1 * 2)))"),
            ("a || 'b' LIKE 'a' || '%'", "((a || 'b') LIKE ('a' || '%'))"),
            ("a = ANY (b) = c", "((a = ANY [b]) = c)"),
            ("a < b IS TRUE", "((a < b) IS TRUE)"),
            ("a < b COLLATE \"C\" || c", "(a < ((b COLLATE \"C\") || c))"),
            ("a::text COLLATE \"C\" = b", "(((a::TEXT) COLLATE \"C\") = b)"),
            ("a AT TIME ZONE 'UTC' + b", "((a AT 'UTC') + b)"),
            ("j ->> 'a' = 'x'", "((j ->> 'a') = 'x')"),
            ("x = j ->> 'a'", "(x = (j ->> 'a'))"),
            ("x <> j -> 'a' ->> 'b'", "(x <> ((j -> 'a') ->> 'b'))"),
            ("j ->> 'a' = k -> 'b' ->> 'c'", "((j ->> 'a') = ((k -> 'b') ->> 'c'))"),
            ("j ->> 'a' IS NOT NULL AND b", "(((j ->> 'a') IS NOT NULL) AND b)"),
            ("j #>> '{a,b}' IN ('x', 'y')", "((j #>> '{a,b}') IN ['x', 'y'])"),
            ("j ->> 'a' LIKE k ->> 'b'", "((j ->> 'a') LIKE (k ->> 'b'))"),
            ("j ->> 'a' BETWEEN 'x' AND k ->> 'b'", "((j ->> 'a') BTW 'x' TO (k ->> 'b'))"),
            ("j ->> 'a' || 'x' = 'y'", "(((j ->> 'a') || 'x') = 'y')"),
            ("'y' || j ->> 'a'", "(('y' || j) ->> 'a')"),
            ("j -> 1 + 1", "(j -> (1 + 1))"),
            ("j @> '1' AND j ? 'a'", "((j @> '1') AND (j ? 'a'))"),
            ("j ?| k OR j ?& k", "((j ?| k) OR (j ?& k))"),
            ("a ~ b || c = d", "(((a ~ b) || c) = d)"),
            ("(x = j) ->> 'a'", "((x = j) ->> 'a')"),
        ] {
            let expr = parsed(written).unwrap_or_else(|error| panic!("{written}: {error}"));
            assert_eq!(explicit(&expr), meant, "{written}");
        }
    }

    #[test]
    fn operators_that_do_not_chain_are_refused() {
        for written in [
            "1 < 2 < 3",
            "a = b <> c",
            "a BETWEEN 0 AND 2 BETWEEN b AND c",
            "a LIKE b LIKE c",
            "a LIKE b IN (c)",
            "a IS DISTINCT FROM b IS DISTINCT FROM c",
            "a IS DISTINCT FROM b IS NULL",
        ] {
            let error = parsed(written).unwrap_err().to_string();
            assert!(error.contains("does not chain"), "{written}: {error}");
        }
    }
}
