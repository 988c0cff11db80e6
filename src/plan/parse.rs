//! Query files → statements. One bad statement does not hide the errors of the next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion_sql::sqlparser::ast::Statement;
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{
    Location, Token, TokenWithSpan, Tokenizer, TokenizerError,
};

use super::diagnostic::{Diagnostic, SourceFile};

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
            let text = std::fs::read_to_string(&path).map_err(|error| named(&path, &error))?;
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
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("sql")) {
            paths.push(path);
        }
    }
    Ok(())
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The statements of a file, and what could not be parsed of it.
pub fn parse_file(file: &Arc<SourceFile>) -> (Vec<ParsedStatement>, Vec<Diagnostic>) {
    let dialect = GenericDialect {};
    let tokens = match Tokenizer::new(&dialect, &file.text).tokenize_with_location() {
        Ok(tokens) => tokens,
        Err(TokenizerError { message, location }) => {
            return (Vec::new(), vec![Diagnostic::new(file, location, message)]);
        }
    };
    let mut statements = Vec::new();
    let mut diagnostics = Vec::new();
    for tokens in tokens.split(|t| t.token == Token::SemiColon) {
        let Some(first) = tokens.iter().find(|t| !matches!(t.token, Token::Whitespace(_))) else {
            continue;
        };
        let at = first.span.start;
        match parse_statement(tokens) {
            Ok(statement) => {
                statements.push(ParsedStatement { file: Arc::clone(file), at, statement });
            }
            Err(error) => diagnostics.push(parse_error(file, tokens, at, error)),
        }
    }
    (statements, diagnostics)
}

fn parse_statement(tokens: &[TokenWithSpan]) -> Result<Statement, ParserError> {
    let dialect = GenericDialect {};
    let tokens = super::sugar::tokens(tokens);
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokens);
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
        ParserError::RecursionLimitExceeded => "nested too deeply".to_string(),
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
