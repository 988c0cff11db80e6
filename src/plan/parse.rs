//! Query files → statements. One bad statement does not hide the errors of the next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion_sql::sqlparser::ast::Statement;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{
    Location, Token, TokenWithSpan, Tokenizer, TokenizerError,
};

use super::catalog::Catalog;
use super::diagnostic::{Diagnostic, SourceFile};
use super::dialect::{PostgresLike, with_plain_names};
use super::step::{Stage, Steps};

/// Deepest nesting of a statement. Each level costs the parser some kilobytes of stack, and a construct that
/// it has to try twice doubles its time with each level.
const NESTING_MAX: usize = 250;

/// The character that stands for bytes that are not UTF-8.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// A statement and the file that it stands in.
#[derive(Debug)]
pub struct ParsedStatement {
    pub file: Arc<SourceFile>,
    /// Where the statement begins.
    pub at: Location,
    pub statement: Statement,
}

/// All `*.sql` files below `directory`, in the order of their paths.
///
/// Errors name the file or directory that could not be read.
pub fn read_files(directory: &Path) -> io::Result<Vec<Arc<SourceFile>>> {
    let mut paths = Vec::new();
    collect_paths(directory, &mut paths)?;
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(&path).map_err(|error| named(&path, &error))?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let path = path.to_string_lossy().into_owned().into();
            Ok(Arc::new(SourceFile { path, text }))
        })
        .collect()
}

fn collect_paths(directory: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = std::fs::read_dir(directory).map_err(|error| named(directory, &error))?;
    for entry in entries {
        let path = entry.map_err(|error| named(directory, &error))?.path();
        if path.is_dir() {
            collect_paths(&path, paths)?;
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("sql"))
            // A pipe would be read for ever. An entry that cannot be looked at is reported when it is read.
            && !std::fs::metadata(&path).is_ok_and(|file| !file.is_file())
        {
            paths.push(path);
        }
    }
    Ok(())
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Declares the statements of a file; the answer is what is wrong with them.
pub fn declare_file(
    file: &Arc<SourceFile>,
    steps: &Steps<'_>,
    catalog: &mut Catalog,
) -> Vec<Diagnostic> {
    let begin = Location::new(1, 1);
    let tokens = match steps.run(file, begin, Stage::Tokens, || tokens_of(file)) {
        Ok(Ok(tokens)) => tokens,
        Ok(Err(diagnostic)) | Err(diagnostic) => return vec![diagnostic],
    };
    let mut diagnostics = Vec::new();
    for tokens in tokens.split(|t| t.token == Token::SemiColon) {
        let Some(first) = tokens.iter().find(|t| !matches!(t.token, Token::Whitespace(_))) else {
            continue;
        };
        let at = first.span.start;
        let declared = steps.run(file, at, Stage::Statement, || match parse_statement(tokens) {
            Ok(statement) => catalog.add(ParsedStatement { file: Arc::clone(file), at, statement }),
            Err(error) => Err(parse_error(file, tokens, at, error)),
        });
        diagnostics.extend(declared.and_then(|declared| declared).err());
    }
    diagnostics
}

fn tokens_of(file: &Arc<SourceFile>) -> Result<Vec<TokenWithSpan>, Diagnostic> {
    if let Some((line, text)) = file.text.lines().enumerate().find(|(_, l)| l.contains(REPLACEMENT))
    {
        let column = text.chars().take_while(|c| *c != REPLACEMENT).count();
        let at = Location::new(line as u64 + 1, column as u64 + 1);
        return Err(Diagnostic::new(file, at, "the file is not UTF-8 here"));
    }
    Tokenizer::new(&PostgresLike, &file.text)
        .tokenize_with_location()
        .map_err(|TokenizerError { message, location }| Diagnostic::new(file, location, message))
}

fn parse_statement(tokens: &[TokenWithSpan]) -> Result<Statement, ParserError> {
    let tokens = with_plain_names(super::windows::tokens(super::exclusion::tokens(
        super::sugar::tokens(tokens),
    )));
    let parser = Parser::new(&PostgresLike).with_recursion_limit(NESTING_MAX);
    let mut parser = parser.with_tokens_with_locations(tokens);
    let statement = parser.parse_statement()?;
    match parser.peek_token() {
        TokenWithSpan { token: Token::EOF, .. } => Ok(statement),
        extra => Err(ParserError::ParserError(format!(
            "Expected: end of statement, found: {extra} at Line: {}, Column: {}",
            extra.span.start.line, extra.span.start.column
        ))),
    }
}

/// The parser tells its location only inside the message: take it out of there.
fn parse_error(
    file: &Arc<SourceFile>,
    tokens: &[TokenWithSpan],
    statement_at: Location,
    error: ParserError,
) -> Diagnostic {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => {
            format!("nested too deeply: a statement has {NESTING_MAX} levels at most")
        }
    };
    let (message, at) = match text.rsplit_once(" at Line: ") {
        Some((message, place)) => (message.to_string(), parse_location(place)),
        None => (text, None),
    };
    let end = tokens.last().map(|t| t.span.end);
    let at = at.or(if message.contains("found: EOF") { end } else { None });
    Diagnostic::new(file, at.unwrap_or(statement_at), message)
}

fn parse_location(place: &str) -> Option<Location> {
    let (line, column) = place.split_once(", Column: ")?;
    Some(Location::new(line.trim().parse().ok()?, column.trim().parse().ok()?))
}
