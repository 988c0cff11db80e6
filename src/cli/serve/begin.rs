//! The preparations of a server, in one process or in several: its address, its directory,
//! ClickHouse.

use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::config::{ClickHouseChoice, Settings};
use super::super::serving::ServingFile;
use super::super::{ENVIRONMENT, WRONG_INPUT, report};
use crate::access::{Access, AdminRecord};
use crate::backup;
use crate::engine::WriteSideConfig;
use crate::http::{Gate, acceptor};
use crate::model::alarm::Alarms;
use crate::sink::clickhouse::server::{
    Login, Logins, OwnClickHouse, ServerConfig, ServerError, locate,
};
use crate::sink::clickhouse::{ClickHouseConfig, ClickHouseError, probe};

/// A server that may serve: it listens, its directory is its own, ClickHouse runs.
pub struct Begun {
    pub settings: Settings,
    pub listener: TcpListener,
    /// True if it listens on a loopback address, so that only this machine reaches it.
    pub loopback: bool,
    pub access: Access,
    pub own_clickhouse: Option<OwnClickHouse>,
    pub clickhouse: Option<ClickHouseConfig>,
}

impl Begun {
    /// ClickHouse's HTTP address, and the native one of our own ClickHouse.
    pub fn clickhouse_addresses(&self) -> (Option<String>, Option<String>) {
        let native = |own: &OwnClickHouse| format!("127.0.0.1:{}", own.tcp_port());
        let http = self.clickhouse.as_ref().map(|clickhouse| clickhouse.url.clone());
        (http, self.own_clickhouse.as_ref().map(native))
    }

    /// Checks everything that can be wrong with the settings; else the code to end with.
    pub async fn new(settings: Settings, alarms: &Alarms) -> Result<Begun, u8> {
        let addresses = match tokio::net::lookup_host(&settings.listen).await {
            Ok(addresses) => addresses.collect::<Vec<SocketAddr>>(),
            Err(error) => {
                eprintln!("error: cannot listen on {}: {error}", settings.listen);
                return Err(ENVIRONMENT);
            }
        };
        if backup::is_unfinished(&settings.data_dir) {
            let data_dir = settings.data_dir.display();
            eprintln!(
                "error: {data_dir} is being restored, or a restore was cut off: run `heliostat restore` again"
            );
            return Err(WRONG_INPUT);
        }
        let loopback = addresses.iter().all(|address| address.ip().to_canonical().is_loopback());
        let access = open_access(&settings, alarms)?;
        check_access(&settings, &access, loopback)?;
        tls(&settings)?;
        let listener = match listen(&addresses).await {
            Ok(listener) => listener,
            Err(error) => {
                eprintln!("error: cannot listen on {}: {error}", settings.listen);
                return Err(ENVIRONMENT);
            }
        };
        if let Err(error) = close_directory(&settings.data_dir) {
            eprintln!("error: {}: {error}", settings.data_dir.display());
            return Err(ENVIRONMENT);
        }
        if let Err(error) = may_begin(&settings).await {
            report(&error);
            return Err(match error {
                ClickHouseError::Url { .. } => WRONG_INPUT,
                _ => ENVIRONMENT,
            });
        }
        let (own_clickhouse, clickhouse) = start_clickhouse(&settings, alarms).await?;
        Ok(Begun { settings, listener, loopback, access, own_clickhouse, clickhouse })
    }
}

/// How long to wait for the address, which a process of a killed server may still hold.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two attempts to listen there.
const ADDRESS_POLL: Duration = Duration::from_millis(20);

async fn listen(addresses: &[SocketAddr]) -> std::io::Result<TcpListener> {
    let end = tokio::time::Instant::now() + ADDRESS_PATIENCE;
    loop {
        match TcpListener::bind(addresses).await {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse
                    && tokio::time::Instant::now() < end =>
            {
                tokio::time::sleep(ADDRESS_POLL).await;
            }
            bound => return bound,
        }
    }
}

/// The certificate, if HTTP goes over TLS.
fn tls(settings: &Settings) -> Result<Option<TlsAcceptor>, u8> {
    settings.tls.clone().map(acceptor).transpose().map_err(|error| {
        report(&error);
        WRONG_INPUT
    })
}

/// Tells where the server and ClickHouse (HTTP and its native protocol) listen, in the log and in a file.
pub fn tell(
    settings: &Settings,
    address: std::io::Result<SocketAddr>,
    clickhouse: (Option<String>, Option<String>),
) -> Option<ServingFile> {
    let told = address.and_then(|address| {
        tracing::info!(%address, clickhouse = clickhouse.0, "serving");
        let (dir, database) = (&settings.data_dir, settings.database.clone());
        ServingFile::tell(dir, address, settings.tls.is_some(), clickhouse, database)
    });
    told.inspect_err(|error| {
        tracing::warn!(%error, "where the server listens cannot be written down");
    })
    .ok()
}

/// The tokens, and the issuers of others; else the code to end with.
pub fn open_access(settings: &Settings, alarms: &Alarms) -> Result<Access, u8> {
    Access::open(&settings.data_dir, &settings.issuers, alarms.clone()).map_err(|error| {
        report(&error);
        ENVIRONMENT
    })
}

/// Refuses to let everybody in from beyond loopback: that takes tokens, or `--insecure`.
fn check_access(settings: &Settings, access: &Access, loopback: bool) -> Result<(), u8> {
    let tokens = access.is_required();
    if !loopback && !tokens && !settings.insecure {
        let (listen, data_dir) = (&settings.listen, settings.data_dir.display());
        eprintln!(
            "error: {listen} is not loopback, and everybody who reaches it could post and read: \
             create tokens by `heliostat token create --role admin --data-dir {data_dir}`, or add \
             --insecure if that is meant"
        );
        return Err(WRONG_INPUT);
    }
    if !loopback && !tokens {
        tracing::warn!("everybody who reaches {} may post, read and rebuild", settings.listen);
    }
    Ok(())
}

/// The options of the write side, or the code to end with.
pub fn write_side(
    settings: &Settings,
    loopback: bool,
    access: Access,
) -> Result<WriteSideConfig, u8> {
    Ok(WriteSideConfig {
        data_dir: settings.data_dir.clone(),
        limits: settings.limits.clone(),
        gate: gate(settings, loopback, access),
        tls: tls(settings)?,
        archive: settings.archive.clone(),
    })
}

/// The gate that decides which requests are let in.
fn gate(settings: &Settings, loopback: bool, access: Access) -> Gate {
    // On loopback a page of another name must not pass for one of this machine. Elsewhere there are
    // tokens, or everybody is let in on purpose.
    let hosts = loopback.then(|| settings.hosts.clone());
    let record = AdminRecord::new(&settings.data_dir);
    Gate::new(access, record, hosts, settings.allow_origins.clone())
}

/// Makes the data directory, or makes it the server's user's alone.
fn close_directory(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let permissions = std::fs::metadata(path)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Refuses an address or a login of ClickHouse that cannot be right. A data directory that has
/// served already is another matter: events are accepted there while somebody mends it.
async fn may_begin(settings: &Settings) -> Result<(), ClickHouseError> {
    let ClickHouseChoice::Server { url } = &settings.clickhouse else { return Ok(()) };
    let config = settings.clickhouse_at(url.clone());
    config.check()?;
    if crate::log::directory(&settings.data_dir).exists() {
        return Ok(());
    }
    match probe(&config).await {
        // A server that does not answer may be starting: views begin once it does.
        Err(ClickHouseError::Unreachable { .. }) => Ok(()),
        answered => answered,
    }
}

/// Starts our own ClickHouse if the settings ask for it. Returns how to reach the own ClickHouse or another
/// one.
async fn start_clickhouse(
    settings: &Settings,
    alarms: &Alarms,
) -> Result<(Option<OwnClickHouse>, Option<ClickHouseConfig>), u8> {
    let http_port = match &settings.clickhouse {
        ClickHouseChoice::None => return Ok((None, None)),
        ClickHouseChoice::Server { url } => {
            return Ok((None, Some(settings.clickhouse_at(url.clone()))));
        }
        ClickHouseChoice::Own { http_port } => *http_port,
    };
    let program = std::env::current_exe().map_err(|error| {
        report(&error);
        ENVIRONMENT
    })?;
    let started = async {
        let logins = Logins::open(&settings.data_dir, settings.readers.clone())?;
        let own = logins.own.clone();
        let config = ServerConfig {
            program: locate(&program)?,
            dir: settings.data_dir.join("clickhouse"),
            http_port,
            logins,
            database: settings.database.clone(),
            alarms: alarms.clone(),
        };
        Ok::<_, ServerError>((OwnClickHouse::start(config).await?, own))
    };
    match started.await {
        Ok((server, Login { user, password })) => {
            let (url, database) = (server.url(), settings.database.clone());
            Ok((Some(server), Some(ClickHouseConfig { url, user, password, database })))
        }
        Err(error) => {
            report(&error);
            Err(ENVIRONMENT)
        }
    }
}
