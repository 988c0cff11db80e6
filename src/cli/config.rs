//! Settings of the server: flag over environment over `heliostat.toml`.
//!
//! Flags and environment are clap's; the file fills in what neither has given.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::serve::ServeArgs;
use crate::engine::EngineConfig;
use crate::model::alarm::Alarms;
use crate::model::limits::Limits;
use crate::sink::SinkConfig;
use crate::sink::clickhouse::ClickHouseConfig;

/// `heliostat.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FileConfig {
    listen: Option<String>,
    data_dir: Option<PathBuf>,
    queries: Option<PathBuf>,
    workers: Option<usize>,
    clickhouse_url: Option<String>,
    clickhouse_user: Option<String>,
    clickhouse_password: Option<String>,
    clickhouse_database: Option<String>,
    clickhouse_http_port: Option<u16>,
    no_clickhouse: Option<bool>,
    insecure: Option<bool>,
    limits: Limits,
}

/// Where views are written.
#[derive(Clone, Debug, PartialEq)]
pub enum ClickHouseChoice {
    None,
    /// A ClickHouse of our own, on this port of the loopback interface.
    Own {
        http_port: u16,
    },
    /// A server that somebody else runs.
    Server {
        url: String,
    },
}

/// Configuration of `serve`, from all three sources.
#[derive(Debug)]
pub struct Settings {
    pub listen: String,
    pub data_dir: PathBuf,
    pub queries: PathBuf,
    pub workers: usize,
    pub clickhouse: ClickHouseChoice,
    pub user: String,
    pub password: String,
    pub database: String,
    pub insecure: bool,
    pub limits: Limits,
}

/// A setting that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{0}")]
    Wrong(String),
}

/// The file that is read when `--config` names none, if it is there.
const DEFAULT_FILE: &str = "heliostat.toml";

fn read_file(named: Option<&Path>) -> Result<FileConfig, ConfigError> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_path_buf(),
            source: Box::new(source),
        }),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            Ok(FileConfig::default())
        }
        Err(source) => Err(ConfigError::Read { path: path.to_path_buf(), source }),
    }
}

/// The limits of this file, or of the default one.
pub fn limits(named: Option<&Path>) -> Result<Limits, ConfigError> {
    read_file(named).map(|file| file.limits)
}

impl Settings {
    /// The settings that these arguments and their file make.
    pub fn new(args: &ServeArgs) -> Result<Self, ConfigError> {
        let file = read_file(args.config.as_deref())?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = args.workers.or(file.workers).unwrap_or(cores);
        if workers == 0 {
            return Err(ConfigError::Wrong("workers is at least 1, found 0".to_string()));
        }
        let url = args.clickhouse_url.clone().or(file.clickhouse_url);
        let clickhouse = if args.no_clickhouse || file.no_clickhouse == Some(true) {
            ClickHouseChoice::None
        } else if let Some(url) = url {
            ClickHouseChoice::Server { url }
        } else {
            let http_port = args.clickhouse_http_port.or(file.clickhouse_http_port).unwrap_or(8123);
            ClickHouseChoice::Own { http_port }
        };
        let or = |flag: &Option<String>, file: Option<String>, default: &str| {
            flag.clone().or(file).unwrap_or_else(|| default.to_string())
        };
        Ok(Settings {
            listen: or(&args.listen, file.listen, "127.0.0.1:8080"),
            data_dir: args.data_dir.clone().or(file.data_dir).unwrap_or_else(|| "data".into()),
            queries: args.queries.clone().or(file.queries).unwrap_or_else(|| "queries".into()),
            workers,
            clickhouse,
            user: or(&args.clickhouse_user, file.clickhouse_user, ""),
            password: or(&args.clickhouse_password, file.clickhouse_password, ""),
            database: or(&args.clickhouse_database, file.clickhouse_database, "heliostat"),
            insecure: args.insecure || file.insecure == Some(true),
            limits: file.limits,
        })
    }

    /// The engine's options, once it is known where ClickHouse answers.
    pub fn engine(&self, clickhouse_url: Option<String>, alarms: Alarms) -> EngineConfig {
        EngineConfig {
            data_dir: self.data_dir.clone(),
            queries: self.queries.clone(),
            workers: self.workers,
            limits: self.limits.clone(),
            alarms,
            sink: clickhouse_url
                .map(|url| Arc::new(self.clickhouse_at(url)) as Arc<dyn SinkConfig>),
        }
    }

    /// How to log in at a ClickHouse.
    pub fn clickhouse_at(&self, url: String) -> ClickHouseConfig {
        let (user, password) = (self.user.clone(), self.password.clone());
        ClickHouseConfig { url, user, password, database: self.database.clone() }
    }
}
