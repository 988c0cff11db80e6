//! Errors of ClickHouse.

use arrow::error::ArrowError;

use super::boundary::MissedBoundary;
use crate::model::sink::InvalidOption;
use crate::sink::{ErrorKind, SinkError};

/// An error of ClickHouse, or on the way to it.
#[derive(Debug, thiserror::Error)]
pub enum ClickHouseError {
    /// The address is not one that can be asked.
    #[error("`{url}` is not an address of ClickHouse: {reason}; it looks like http://host:8123")]
    Url {
        /// The address as it was given.
        url: String,
        /// The problem with it.
        reason: String,
    },
    /// Nothing answers, or the connection broke.
    #[error("ClickHouse at {url} does not answer: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// The network's error.
        reason: String,
    },
    /// The user or the password is not right.
    #[error(
        "ClickHouse at {url} does not let user `{user}` in: {reason}; check --clickhouse-user and \
         --clickhouse-password (HELIOSTAT_CLICKHOUSE_PASSWORD)"
    )]
    Login {
        /// The address.
        url: String,
        /// The user.
        user: String,
        /// ClickHouse's answer.
        reason: String,
    },
    /// Something else answers at this address.
    #[error(
        "{url} is not the HTTP interface of a ClickHouse: {reason}; check --clickhouse-url: it \
         looks like http://host:8123 (9000 is the port of another protocol)"
    )]
    NotClickHouse {
        /// The address.
        url: String,
        /// The answer, shortened.
        reason: String,
    },
    /// It took too long.
    #[error("ClickHouse did not finish `{statement}` within {limit_s} s")]
    Timeout {
        /// The start of the statement.
        statement: String,
        /// The limit, in seconds.
        limit_s: u64,
    },
    /// ClickHouse answered with an error.
    #[error("ClickHouse refused `{statement}`: {reason}")]
    Refused {
        /// The start of the statement.
        statement: String,
        /// ClickHouse's answer, its error code included.
        reason: String,
    },
    /// A column has a type that ClickHouse has no equal for.
    #[error("view `{view}`, column `{column}`: ClickHouse has no type for {sql_type}")]
    Type {
        /// The view.
        view: String,
        /// The column.
        column: String,
        /// Its type in SQL.
        sql_type: String,
    },
    /// An option of the view is not one that ClickHouse can follow.
    #[error("view `{view}`: {source}")]
    Option {
        /// The view.
        view: String,
        /// The problem.
        source: InvalidOption,
    },
    /// Changes do not end where an earlier flush did, so that it cannot be repeated.
    #[error(
        "view `{view}`: {source}; rebuild the view. If the log is not an older copy of what it was, \
         this is a fault of Heliostat: report it"
    )]
    Boundary {
        /// The view.
        view: String,
        /// The end of the changes, and the end that they should have.
        source: MissedBoundary,
    },
    /// The directory in which the ends of flushes are kept.
    #[error("{path}: the ends of flushes cannot be kept: {source}")]
    Intent {
        /// The directory.
        path: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// Rows from the dataflow do not fit the view's schema.
    #[error("view `{view}`: rows do not fit its columns: {source}")]
    Rows {
        /// The view.
        view: String,
        /// Arrow's error.
        source: ArrowError,
    },
}

/// ClickHouse's codes for problems that pass by themselves: time-outs, memory and load limits, lost
/// connections, tables that are being started or are read-only for now, an insert that is still running
/// although its answer was given up.
const TRANSIENT_CODES: [&str; 11] =
    ["159", "160", "202", "209", "210", "216", "236", "241", "242", "252", "439"];

/// ClickHouse's codes for a user, a password or a kind of login that it does not accept.
const LOGIN_CODES: [&str; 5] = ["192", "193", "194", "516", "519"];

/// ClickHouse's codes for a table, a database or a column that is not what the sink has made.
const CHANGED_CODES: [&str; 6] = ["8", "10", "16", "53", "60", "81"];

/// The number of an error that ClickHouse answered with.
fn code(reason: &str) -> Option<&str> {
    reason.strip_prefix("Code: ")?.split('.').next()
}

/// Characters that an error shows of an answer that is not ClickHouse's.
const ANSWER_CHARS_SHOWN: usize = 120;

impl ClickHouseError {
    /// The error that an answer with an error status means.
    pub(super) fn answered(url: &str, user: &str, statement: String, reason: String) -> Self {
        let url = url.to_string();
        match code(&reason) {
            Some(code) if LOGIN_CODES.contains(&code) => {
                let user = if user.is_empty() { "default" } else { user }.to_string();
                // The first sentence says it; what follows is advice for another program.
                let reason = reason.split("\n").next().unwrap_or_default().to_string();
                ClickHouseError::Login { url, user, reason }
            }
            Some(_) => ClickHouseError::Refused { statement, reason },
            None => ClickHouseError::not_clickhouse(&url, &reason),
        }
    }

    /// Something else than ClickHouse has answered.
    pub(super) fn not_clickhouse(url: &str, answer: &str) -> Self {
        let words = answer.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut reason: String = words.chars().take(ANSWER_CHARS_SHOWN).collect();
        if reason.is_empty() {
            reason = "the answer is empty".to_string();
        }
        ClickHouseError::NotClickHouse { url: url.to_string(), reason }
    }

    /// Whether somebody has to act on it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ClickHouseError::Unreachable { .. }
            | ClickHouseError::Timeout { .. }
            | ClickHouseError::Intent { .. } => ErrorKind::Transient,
            ClickHouseError::Refused { reason, .. } => match code(reason) {
                Some(code) if TRANSIENT_CODES.contains(&code) => ErrorKind::Transient,
                Some(code) if CHANGED_CODES.contains(&code) => ErrorKind::Tampered,
                _ => ErrorKind::Refused,
            },
            ClickHouseError::Url { .. }
            | ClickHouseError::Login { .. }
            | ClickHouseError::NotClickHouse { .. } => ErrorKind::Refused,
            ClickHouseError::Type { .. }
            | ClickHouseError::Option { .. }
            | ClickHouseError::Boundary { .. }
            | ClickHouseError::Rows { .. } => ErrorKind::Final,
        }
    }
}

impl From<ClickHouseError> for SinkError {
    fn from(error: ClickHouseError) -> Self {
        SinkError::new(error.kind(), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(reason: &str) -> ClickHouseError {
        ClickHouseError::answered(
            "http://host:8123",
            "",
            "SELECT 1".to_string(),
            reason.to_string(),
        )
    }

    #[test]
    fn answers_are_told_apart_by_their_codes() {
        let login =
            answered("Code: 516. DB::Exception: default: Authentication failed: no\n\nMore");
        assert!(matches!(&login, ClickHouseError::Login { user, .. } if user == "default"));
        assert!(login.to_string().contains("--clickhouse-password"));
        assert!(!login.to_string().contains("More"));
        let gone = answered("Code: 60. DB::Exception: Unknown table");
        assert_eq!(gone.kind(), ErrorKind::Tampered);
        assert_eq!(answered("Code: 241. DB::Exception: memory limit").kind(), ErrorKind::Transient);
        let other = answered("<html>\n  <h1>It works!</h1>");
        assert!(
            matches!(&other, ClickHouseError::NotClickHouse { reason, .. } if reason == "<html> <h1>It works!</h1>")
        );
    }
}
