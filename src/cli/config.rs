//! Settings of the server: flag over environment over `heliostat.toml`.
//!
//! Flags and environment are clap's; the file fills in what neither has given.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::serve::ServeArgs;
use crate::access::{IssuerConfig, IssuerConfigError};
use crate::engine::{ArchiveConfig, ReadSideConfig};
use crate::http::TlsFiles;
use crate::model::limits::Limits;
use crate::model::memory::{MemoryEnd, total_bytes};
use crate::objects::{Objects, ObjectsError};
use crate::sink::SinkConfig;
use crate::sink::clickhouse::ClickHouseConfig;
use crate::sink::clickhouse::server::Login;

/// `heliostat.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FileConfig {
    listen: Option<String>,
    data_dir: Option<PathBuf>,
    queries: Option<PathBuf>,
    workers: Option<usize>,
    memory: Option<String>,
    clickhouse_url: Option<String>,
    clickhouse_user: Option<String>,
    clickhouse_password: Option<String>,
    clickhouse_database: Option<String>,
    clickhouse_http_port: Option<u16>,
    no_clickhouse: Option<bool>,
    clickhouse_password_file: Option<PathBuf>,
    clickhouse_readers: Vec<ReaderConfig>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    insecure: Option<bool>,
    single_process: Option<bool>,
    hosts: Option<Vec<String>>,
    allow_origins: Option<Vec<String>>,
    issuers: Vec<IssuerConfig>,
    archive: ArchiveConfig,
    backup: BackupConfig,
    limits: Limits,
}

/// Where the server backs itself up to, and how often.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackupConfig {
    /// The directory or the URL of the store; `None`: it does not.
    pub to: Option<String>,
    /// The pause between two backups, in milliseconds.
    pub every_ms: u64,
}

impl Default for BackupConfig {
    fn default() -> Self {
        BackupConfig { to: None, every_ms: 300_000 }
    }
}

/// A further user of the own ClickHouse, who may read the views.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReaderConfig {
    name: String,
    password_file: PathBuf,
}

impl ReaderConfig {
    fn login(&self) -> Result<Login, ConfigError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let starts_well = self.name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !self.name.chars().all(is_plain) {
            let message = format!(
                "clickhouse_readers: expected a name of letters, digits, _ and -, got {:?}",
                self.name
            );
            return Err(ConfigError::Wrong(message));
        }
        if ["heliostat", "default"].contains(&self.name.as_str()) {
            let message = format!("clickhouse_readers: {} is not a reader's name", self.name);
            return Err(ConfigError::Wrong(message));
        }
        let password = read_secret(&self.password_file)?;
        if password.is_empty() {
            let path = self.password_file.display();
            return Err(ConfigError::Wrong(format!("{path}: the password is empty")));
        }
        Ok(Login { user: self.name.clone(), password })
    }
}

/// Where views are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    pub listen: String,
    pub data_dir: PathBuf,
    pub queries: PathBuf,
    pub workers: usize,
    /// The budget of memory, in bytes.
    pub memory: u64,
    pub clickhouse: ClickHouseChoice,
    pub user: String,
    pub password: String,
    pub database: String,
    /// Further readers of the own ClickHouse.
    pub readers: Vec<Login>,
    /// The certificate, where HTTP goes over TLS.
    pub tls: Option<TlsFiles>,
    pub insecure: bool,
    /// Both sides in one process.
    pub single_process: bool,
    /// Names of the server beside those of loopback.
    pub hosts: Vec<String>,
    /// Origins of pages that may use the server.
    pub allow_origins: Vec<String>,
    /// Issuers whose tokens are accepted.
    pub issuers: Vec<IssuerConfig>,
    /// When old segments of the log are archived, and where they are moved to.
    pub archive: ArchiveConfig,
    pub backup: BackupConfig,
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
    #[error(transparent)]
    Issuer(#[from] IssuerConfigError),
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

/// A secret from a file of its own. A line's end at the end is not part of it.
fn read_secret(path: &Path) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
    Ok(text.strip_suffix('\n').map_or(text.as_str(), |t| t.trim_end_matches('\r')).to_string())
}

/// An origin is written as browsers send it: a scheme and a host, without a path.
fn check_origin(origin: &str) -> Result<(), ConfigError> {
    let host = origin.strip_prefix("https://").or(origin.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(['/', '*', ' ']) => Ok(()),
        _ => Err(ConfigError::Wrong(format!(
            "allow-origin: expected https://shop.example, say, without a path, got {origin:?}"
        ))),
    }
}

/// Whether the value of a setting is the name of a store. It may be away for now.
fn check_place(setting: &str, place: &str) -> Result<(), ConfigError> {
    match Objects::open(place) {
        Err(error @ ObjectsError::Place { .. }) => {
            Err(ConfigError::Wrong(format!("{setting}: {error}")))
        }
        _ => Ok(()),
    }
}

/// Whether the store that segments are moved to is the name of one.
fn check_archive(mut archive: ArchiveConfig) -> Result<ArchiveConfig, ConfigError> {
    let Some(to) = &archive.to else { return Ok(archive) };
    if archive.after_ms.is_none() {
        let message = "archive: `to` goes with `after_ms`, which is missing";
        return Err(ConfigError::Wrong(message.to_string()));
    }
    check_place("archive.to", to)?;
    if !to.contains("://") {
        // Other commands read the log from other directories.
        let absolute = std::path::absolute(to);
        let absolute = absolute.map_err(|source| ConfigError::Read { path: to.into(), source })?;
        archive.to = Some(absolute.to_string_lossy().into_owned());
    }
    Ok(archive)
}

/// Whether the server can back itself up there, and so often.
fn check_backup(backup: BackupConfig) -> Result<BackupConfig, ConfigError> {
    if backup.every_ms == 0 {
        return Err(ConfigError::Wrong("backup.every_ms: expected at least 1, got 0".to_string()));
    }
    backup.to.as_deref().map_or(Ok(()), |to| check_place("backup.to", to))?;
    Ok(backup)
}

fn check_issuers(issuers: Vec<IssuerConfig>) -> Result<Vec<IssuerConfig>, ConfigError> {
    let mut names = HashSet::new();
    for config in &issuers {
        config.check()?;
        if !names.insert(&config.issuer) {
            let message = format!("issuers: {:?} is there twice", config.issuer);
            return Err(ConfigError::Wrong(message));
        }
    }
    Ok(issuers)
}

/// The budget of memory where nothing else is said.
const DEFAULT_MEMORY: &str = "60%";

/// A budget of memory in bytes: `8G`, `500M`, `1073741824`, or `60%` of what there is.
fn memory_bytes(text: &str) -> Result<u64, ConfigError> {
    let wrong = || {
        let message = format!("memory: expected bytes (8G) or a percentage (60%), got {text:?}");
        ConfigError::Wrong(message)
    };
    let number = |digits: &str| digits.trim().parse::<u64>().map_err(|_| wrong());
    if let Some(percent) = text.strip_suffix('%') {
        let percent = number(percent)?;
        if !(1..=100).contains(&percent) {
            return Err(wrong());
        }
        let total = total_bytes().ok_or_else(|| {
            let message = "memory: the machine does not say how much it has: give bytes";
            ConfigError::Wrong(message.to_string())
        })?;
        return Ok(total / 100 * percent);
    }
    let units = [("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1_u64 << 40)];
    let unit = units.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (digits, bytes) = unit.unwrap_or((text, 1));
    number(digits)?.checked_mul(bytes).filter(|bytes| *bytes > 0).ok_or_else(wrong)
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
        let memory = args.memory.clone().or(file.memory);
        let memory = memory_bytes(memory.as_deref().unwrap_or(DEFAULT_MEMORY))?;
        let url = args.clickhouse_url.clone().or(file.clickhouse_url);
        let clickhouse = if args.no_clickhouse || file.no_clickhouse == Some(true) {
            ClickHouseChoice::None
        } else if let Some(url) = url {
            ClickHouseChoice::Server { url }
        } else {
            let http_port = args.clickhouse_http_port.or(file.clickhouse_http_port).unwrap_or(8123);
            ClickHouseChoice::Own { http_port }
        };
        let password = match args.clickhouse_password_file.clone().or(file.clickhouse_password_file)
        {
            Some(path) => Some(read_secret(&path)?),
            None => args.clickhouse_password.clone().or(file.clickhouse_password),
        };
        let list = |flag: &[String], file: Option<Vec<String>>| match flag {
            [] => file.unwrap_or_default(),
            given => given.to_vec(),
        };
        let allow_origins = list(&args.allow_origin, file.allow_origins);
        allow_origins.iter().try_for_each(|origin| check_origin(origin))?;
        let (cert, key) =
            (args.tls_cert.clone().or(file.tls_cert), args.tls_key.clone().or(file.tls_key));
        let tls = match (cert, key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            _ => {
                let message = "--tls-cert and --tls-key go together: one of them is missing";
                return Err(ConfigError::Wrong(message.to_string()));
            }
        };
        let or = |flag: &Option<String>, file: Option<String>, default: &str| {
            flag.clone().or(file).unwrap_or_else(|| default.to_string())
        };
        Ok(Settings {
            listen: or(&args.listen, file.listen, "127.0.0.1:8080"),
            data_dir: args.data_dir.clone().or(file.data_dir).unwrap_or_else(|| "data".into()),
            queries: args.queries.clone().or(file.queries).unwrap_or_else(|| "queries".into()),
            workers,
            memory,
            clickhouse,
            user: or(&args.clickhouse_user, file.clickhouse_user, ""),
            password: password.unwrap_or_default(),
            database: or(&args.clickhouse_database, file.clickhouse_database, "heliostat"),
            readers: file
                .clickhouse_readers
                .iter()
                .map(ReaderConfig::login)
                .collect::<Result<_, _>>()?,
            tls,
            single_process: args.single_process || file.single_process == Some(true),
            insecure: args.insecure || file.insecure == Some(true),
            hosts: list(&args.host, file.hosts),
            allow_origins,
            issuers: check_issuers(file.issuers)?,
            archive: check_archive(file.archive)?,
            backup: check_backup(file.backup)?,
            limits: file.limits,
        })
    }

    /// The options of the side that keeps the views, once it is known where ClickHouse answers.
    pub fn read_side(
        &self,
        clickhouse: Option<ClickHouseConfig>,
        memory_end: Option<MemoryEnd>,
    ) -> ReadSideConfig {
        ReadSideConfig {
            data_dir: self.data_dir.clone(),
            queries: self.queries.clone(),
            workers: self.workers,
            memory_bytes_max: self.memory,
            limits: self.limits.clone(),
            memory_end,
            sink: clickhouse.map(|clickhouse| Arc::new(clickhouse) as Arc<dyn SinkConfig>),
        }
    }

    /// How to log in at a ClickHouse.
    pub fn clickhouse_at(&self, url: String) -> ClickHouseConfig {
        let (user, password) = (self.user.clone(), self.password.clone());
        ClickHouseConfig { url, user, password, database: self.database.clone() }
    }
}
