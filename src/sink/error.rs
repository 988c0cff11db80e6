//! What can go wrong between the sink and ClickHouse.

use arrow::error::ArrowError;

/// An error of the sink.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The address is not one that can be asked.
    #[error("`{url}` is not an address of ClickHouse: {reason}; it looks like http://host:8123")]
    Url {
        /// The address as it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing answers, or the connection broke.
    #[error("ClickHouse at {url} does not answer: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// What the network said.
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
        /// What ClickHouse said, its error code included.
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
    /// Rows from the dataflow do not fit the view's schema.
    #[error("view `{view}`: rows do not fit its columns: {source}")]
    Rows {
        /// The view.
        view: String,
        /// What Arrow said.
        source: ArrowError,
    },
}

/// ClickHouse's codes for what passes by itself: time-outs, memory and load limits, lost
/// connections, tables that are being started or are read-only for now.
const TRANSIENT_CODES: [&str; 10] =
    ["159", "160", "202", "209", "210", "236", "241", "242", "252", "439"];

impl SinkError {
    /// True when the same request may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            SinkError::Unreachable { .. } | SinkError::Timeout { .. } => true,
            SinkError::Refused { reason, .. } => {
                let code = reason.strip_prefix("Code: ").and_then(|r| r.split('.').next());
                code.is_some_and(|code| TRANSIENT_CODES.contains(&code))
            }
            SinkError::Url { .. } | SinkError::Type { .. } | SinkError::Rows { .. } => false,
        }
    }
}
