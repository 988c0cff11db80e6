//! `heliostat sql`: asks the ClickHouse of a running server as one who may read the views.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use reqwest::Client;
use serde::Serialize;

use super::serving::{ServingContents, ServingFile};
use super::{DONE, ENVIRONMENT, WRONG_INPUT, report};
use crate::sink::clickhouse::server::{Login, Logins, read_login};

/// Arguments of `heliostat sql`.
#[derive(clap::Args)]
pub struct SqlArgs {
    /// A query; without one, queries are read from standard input, each up to a semicolon at a line's
    /// end.
    query: Option<String>,
    /// Print how to connect, as JSON, and ask nothing.
    #[arg(long, conflicts_with = "query")]
    print: bool,
    /// The data directory of the server.
    #[arg(long, env = "HELIOSTAT_DATA_DIR", default_value = "data")]
    data_dir: PathBuf,
    /// ClickHouse's format of the answer [default: PrettyCompact on a terminal, else TabSeparatedWithNames]
    #[arg(long)]
    format: Option<String>,
    /// The user, where the ClickHouse is not the server's own.
    #[arg(long, env = "HELIOSTAT_CLICKHOUSE_USER", default_value = "")]
    clickhouse_user: String,
    /// A file that holds that user's password; without it the environment's HELIOSTAT_CLICKHOUSE_PASSWORD
    /// is taken.
    #[arg(long, env = "HELIOSTAT_CLICKHOUSE_PASSWORD_FILE")]
    clickhouse_password_file: Option<PathBuf>,
}

/// How to connect.
#[derive(Serialize)]
struct ClickHouseConnection {
    url: String,
    /// Where the own ClickHouse speaks its native protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    native: Option<String>,
    user: String,
    password: String,
    database: String,
}

/// Why nothing was asked.
#[derive(Debug, thiserror::Error)]
enum SqlError {
    #[error("no server with a ClickHouse serves over {0}: start one, or name another --data-dir")]
    NotServing(PathBuf),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("standard input or output: {0}")]
    Terminal(#[from] io::Error),
    #[error(transparent)]
    Request(#[from] reqwest::Error),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Runs the command.
pub async fn run(args: &SqlArgs) -> u8 {
    match ask(args).await {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            match error {
                SqlError::Refused(_) => WRONG_INPUT,
                _ => ENVIRONMENT,
            }
        }
    }
}

async fn ask(args: &SqlArgs) -> Result<u8, SqlError> {
    let connection = connection(args)?;
    if args.print {
        println!("{}", serde_json::to_string(&connection)?);
        return Ok(DONE);
    }
    let asker = Asker { client: Client::new(), connection, format: format(args) };
    match &args.query {
        Some(query) => asker.ask(query).await.map(|()| DONE),
        None => asker.prompt().await,
    }
}

fn format(args: &SqlArgs) -> String {
    let default = || match io::stdout().is_terminal() {
        true => "PrettyCompact".to_string(),
        false => "TabSeparatedWithNames".to_string(),
    };
    args.format.clone().unwrap_or_else(default)
}

fn connection(args: &SqlArgs) -> Result<ClickHouseConnection, SqlError> {
    let not_serving = || SqlError::NotServing(args.data_dir.clone());
    let ServingContents { clickhouse, clickhouse_native, database, .. } =
        ServingFile::read(&args.data_dir).ok_or_else(not_serving)?;
    let url = clickhouse.ok_or_else(not_serving)?;
    // A file of a ClickHouse that the server had before says nothing about one of somebody else's.
    let is_own = clickhouse_native.is_some();
    let Login { user, password } = if is_own {
        let file = Logins::reader_file(&args.data_dir);
        read_login(&file).map_err(|source| SqlError::File { path: file, source })?
    } else {
        given_login(args)?
    };
    Ok(ClickHouseConnection { url, native: clickhouse_native, user, password, database })
}

fn given_login(args: &SqlArgs) -> Result<Login, SqlError> {
    let password = match &args.clickhouse_password_file {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|source| SqlError::File { path: path.clone(), source })?
            .trim_end()
            .to_string(),
        None => std::env::var("HELIOSTAT_CLICKHOUSE_PASSWORD").unwrap_or_default(),
    };
    let user = match args.clickhouse_user.as_str() {
        "" => "default".to_string(),
        user => user.to_string(),
    };
    Ok(Login { user, password })
}

struct Asker {
    client: Client,
    connection: ClickHouseConnection,
    format: String,
}

impl Asker {
    async fn ask(&self, query: &str) -> Result<(), SqlError> {
        let ClickHouseConnection { url, user, password, database, .. } = &self.connection;
        let mut url = reqwest::Url::parse(url)
            .map_err(|error| SqlError::Refused(format!("{url} is no address: {error}")))?;
        url.query_pairs_mut()
            .append_pair("database", database)
            .append_pair("default_format", &self.format);
        let request = self.client.post(url);
        let request = request.header("x-clickhouse-user", user);
        let request = request.header("x-clickhouse-key", password).body(query.to_string());
        let mut response = request.send().await?;
        if !response.status().is_success() {
            return Err(SqlError::Refused(response.text().await?.trim_end().to_string()));
        }
        let mut out = io::stdout().lock();
        while let Some(chunk) = response.chunk().await? {
            out.write_all(&chunk)?;
        }
        out.flush()?;
        Ok(())
    }

    /// Asks what comes on standard input. An error ends it where nobody sees a prompt.
    async fn prompt(&self) -> Result<u8, SqlError> {
        let is_terminal = io::stdin().is_terminal();
        let mut query = String::new();
        loop {
            if is_terminal {
                print!("{}", if query.is_empty() { "heliostat> " } else { "        -> " });
                io::stdout().flush()?;
            }
            let mut line = String::new();
            let ended = io::stdin().lock().read_line(&mut line)? == 0;
            query.push_str(&line);
            let is_whole = ended || line.trim_end().ends_with(';');
            let text = query.trim().trim_end_matches(';').to_string();
            if is_whole && !text.is_empty() {
                query.clear();
                match self.ask(&text).await {
                    Err(error @ SqlError::Refused(_)) if is_terminal => report(&error),
                    answer => answer?,
                }
            }
            if ended {
                return Ok(DONE);
            }
        }
    }
}
