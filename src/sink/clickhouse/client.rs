//! ClickHouse over HTTP: the one place that talks to it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use clickhouse::error::Error as ClientError;
use clickhouse::{Client, Compression, Row, RowOwned, RowRead};
use serde::Deserialize;

use super::error::ClickHouseError;

/// How long a statement other than an insert may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long ClickHouse may take to accept one piece of an insert.
const SEND_TIMEOUT: Duration = Duration::from_secs(15);
/// How long ClickHouse may take for an insert once it has all of it.
const INSERT_TIMEOUT: Duration = Duration::from_secs(120);
/// hyper's messages about a peer that speaks another protocol.
const INVALID_HTTP: &str = "invalid HTTP";
/// Characters of a statement that an error shows.
const STATEMENT_CHARS_SHOWN: usize = 80;

/// Where ClickHouse is, and how to log in.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClickHouseConfig {
    /// `http://host:8123` or `https://host:8443`.
    pub url: String,
    /// The user's name; empty is ClickHouse's `default`.
    pub user: String,
    /// The user's password; may be empty.
    pub password: String,
    /// The database of the views; created if it is missing, as is `<database>_internal` for the tables
    /// behind them.
    pub database: String,
}

impl ClickHouseConfig {
    /// Whether the address can be one of ClickHouse.
    pub fn check(&self) -> Result<(), ClickHouseError> {
        self.host().map(drop)
    }

    /// The host that the address names.
    fn host(&self) -> Result<String, ClickHouseError> {
        let bad =
            |reason: &str| ClickHouseError::Url { url: self.url.clone(), reason: reason.into() };
        let uri: hyper::Uri = self.url.parse().map_err(|_| bad("it does not parse"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(bad("it does not start with http:// or https://"));
        }
        Ok(uri.host().ok_or_else(|| bad("it names no host"))?.to_string())
    }
}

impl fmt::Debug for ClickHouseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouseConfig")
            .field("url", &self.url)
            .field("user", &self.user)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// A ClickHouse and one database in it.
#[derive(Clone)]
pub(super) struct ClickHouse {
    client: Client,
    url: String,
    user: String,
    database: String,
    internal: String,
}

/// The query by which a ClickHouse is recognised.
const GREETING: u64 = 0x6865_6c69_6f73;

#[derive(Row, Deserialize)]
struct Greeting {
    number: u64,
}

impl ClickHouse {
    /// Checks the address; asks nothing yet.
    pub(super) fn new(config: &ClickHouseConfig) -> Result<Self, ClickHouseError> {
        let host = config.host()?;
        let mut client = Client::default()
            .with_url(&config.url)
            .with_compression(compression_for(&host))
            .with_setting("async_insert", "0")
            .with_product_info("heliostat", env!("CARGO_PKG_VERSION"));
        if !config.user.is_empty() {
            client = client.with_user(&config.user).with_password(&config.password);
        }
        let ClickHouseConfig { url, user, database, .. } = config.clone();
        let internal = format!("{database}_internal");
        Ok(ClickHouse { client, url, user, database, internal })
    }

    /// Makes sure that a ClickHouse answers at the address and lets us in, within `time_max`.
    pub(super) async fn greet(&self, time_max: Duration) -> Result<(), ClickHouseError> {
        let sql = format!("SELECT toUInt64({GREETING}) AS number");
        let asked = self.client.query_raw(&sql).fetch_all::<Greeting>();
        let answer = tokio::time::timeout(time_max, asked).await;
        match answer.unwrap_or(Err(ClientError::TimedOut)) {
            Ok(rows) if rows.iter().map(|row| row.number).eq([GREETING]) => Ok(()),
            Ok(_) => Err(ClickHouseError::not_clickhouse(&self.url, "it answers something else")),
            Err(
                error @ (ClientError::Network(_)
                | ClientError::TimedOut
                | ClientError::BadResponse(_)),
            ) => Err(self.error(&sql, time_max, error)),
            Err(error) => Err(ClickHouseError::not_clickhouse(&self.url, &chain(&error))),
        }
    }

    /// The database's name.
    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// The database of the tables behind the views, and of what the sink itself keeps.
    pub(super) fn internal(&self) -> &str {
        &self.internal
    }

    /// Runs a statement that answers nothing. Tables are named with their database.
    pub(super) async fn execute(&self, sql: &str) -> Result<(), ClickHouseError> {
        let query = self.client.query_raw(sql);
        let run = query.execute();
        self.within(STATEMENT_TIMEOUT, sql, run).await
    }

    /// Runs a query.
    pub(super) async fn fetch<T: RowOwned + RowRead>(
        &self,
        sql: &str,
    ) -> Result<Vec<T>, ClickHouseError> {
        let run = self.client.query_raw(sql).fetch_all::<T>();
        self.within(STATEMENT_TIMEOUT, sql, run).await
    }

    /// Inserts one Arrow stream. While an insert of the same `name` is running, which may have lost
    /// whoever sent it, this one is refused.
    ///
    /// Nothing is deduplicated: ClickHouse notes that it has seen an insert before the insert's part is in
    /// its place. One that is killed in between drops the repetition of an insert that it has lost.
    pub(super) async fn insert_arrow(
        &self,
        sql: &str,
        name: &str,
        stream: Bytes,
    ) -> Result<(), ClickHouseError> {
        let mut insert = self
            .client
            .insert_formatted_with(sql)
            .with_setting("query_id", name)
            .with_setting("insert_deduplicate", "0")
            .with_setting("input_format_null_as_default", "0")
            .with_setting("date_time_overflow_behavior", "throw")
            // Merging rows within the block is of no use: a block has one row per sorting key.
            .with_setting("optimize_on_insert", "0")
            .with_setting("max_partitions_per_insert_block", "0")
            // It is one block: more threads would only hand it to each other.
            .with_setting("max_threads", "1")
            .with_timeouts(Some(SEND_TIMEOUT), Some(INSERT_TIMEOUT));
        let run = async move {
            insert.send(stream).await?;
            insert.end().await
        };
        run.await.map_err(|e| self.error(sql, INSERT_TIMEOUT, e))
    }

    async fn within<T>(
        &self,
        limit: Duration,
        sql: &str,
        run: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClickHouseError> {
        let done = tokio::time::timeout(limit, run).await.unwrap_or(Err(ClientError::TimedOut));
        done.map_err(|e| self.error(sql, limit, e))
    }

    fn error(&self, sql: &str, limit: Duration, error: ClientError) -> ClickHouseError {
        let statement = || sql.chars().take(STATEMENT_CHARS_SHOWN).collect::<String>();
        match error {
            ClientError::Network(reason) => {
                let reason = chain(&*reason);
                match reason.contains(INVALID_HTTP) {
                    true => ClickHouseError::not_clickhouse(&self.url, &reason),
                    false => ClickHouseError::Unreachable { url: self.url.clone(), reason },
                }
            }
            ClientError::TimedOut => {
                ClickHouseError::Timeout { statement: statement(), limit_s: limit.as_secs() }
            }
            ClientError::BadResponse(reason) => {
                ClickHouseError::answered(&self.url, &self.user, statement(), reason)
            }
            other => ClickHouseError::Refused { statement: statement(), reason: chain(&other) },
        }
    }
}

/// On this very machine compression costs more than it saves.
fn compression_for(host: &str) -> Compression {
    match host {
        "127.0.0.1" | "localhost" | "[::1]" => Compression::None,
        _ => Compression::Lz4,
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
