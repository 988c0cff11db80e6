//! `heliostat serve`: the server.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::config::{ClickHouseChoice, Settings};
use super::serving::ServingFile;
use super::{DONE, ENVIRONMENT, WRONG_INPUT, report};
use crate::access::{Access, AdminRecord};
use crate::engine::Engine;
use crate::http::{Gate, acceptor};
use crate::model::alarm::Alarms;
use crate::sink::clickhouse::server::{
    Login, Logins, OwnClickHouse, ServerConfig, ServerError, locate,
};
use crate::sink::clickhouse::{ClickHouseConfig, ClickHouseError, probe};

/// How long the process lives after it was told to end.
const END_TIME_MAX: Duration = Duration::from_secs(9);
/// How long threads may take that work for the runtime when all else has ended.
const RUNTIME_END_TIME_MAX: Duration = Duration::from_millis(500);

/// Arguments of `heliostat serve`.
#[derive(clap::Args)]
pub struct ServeArgs {
    /// The address to serve HTTP on [default: 127.0.0.1:8080]
    #[arg(long, env = "HELIOSTAT_LISTEN")]
    pub listen: Option<String>,
    /// Where the log and all other state is kept [default: data]
    #[arg(long, env = "HELIOSTAT_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// The directory of the query files [default: queries]
    #[arg(long, env = "HELIOSTAT_QUERIES")]
    pub queries: Option<PathBuf>,
    /// How many dataflow workers to run [default: one per core]
    #[arg(long, env = "HELIOSTAT_WORKERS")]
    pub workers: Option<usize>,
    /// How much memory may be used before views wait, and the largest are set aside: bytes (8G), or
    /// a part of the machine's or the control group's [default: 60%]
    #[arg(long, env = "HELIOSTAT_MEMORY")]
    pub memory: Option<String>,
    /// The configuration file [default: heliostat.toml, if there is one]
    #[arg(long, env = "HELIOSTAT_CONFIG")]
    pub config: Option<PathBuf>,
    /// A ClickHouse server to write views to, instead of one of our own.
    #[arg(long, env = "HELIOSTAT_CLICKHOUSE_URL")]
    pub clickhouse_url: Option<String>,
    /// The user there.
    #[arg(long, env = "HELIOSTAT_CLICKHOUSE_USER")]
    pub clickhouse_user: Option<String>,
    /// The user's password.
    #[arg(long, env = "HELIOSTAT_CLICKHOUSE_PASSWORD", hide_env_values = true)]
    pub clickhouse_password: Option<String>,
    /// The database that holds the views [default: heliostat]
    #[arg(long, env = "HELIOSTAT_CLICKHOUSE_DATABASE")]
    pub clickhouse_database: Option<String>,
    /// The HTTP port of our own ClickHouse [default: 8123]
    #[arg(long, env = "HELIOSTAT_CLICKHOUSE_HTTP_PORT")]
    pub clickhouse_http_port: Option<u16>,
    /// Keep views readable over HTTP only.
    #[arg(long, env = "HELIOSTAT_NO_CLICKHOUSE")]
    pub no_clickhouse: bool,
    /// A file that holds the user's password, in place of the password itself.
    #[arg(long, env = "HELIOSTAT_CLICKHOUSE_PASSWORD_FILE")]
    pub clickhouse_password_file: Option<PathBuf>,
    /// A certificate and those that sign it, in PEM: HTTP goes over TLS.
    #[arg(long, env = "HELIOSTAT_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(long, env = "HELIOSTAT_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// A name under which the server is reached beside those of loopback; without tokens, requests to
    /// other names are refused.
    #[arg(long, env = "HELIOSTAT_HOST", value_delimiter = ',')]
    pub host: Vec<String>,
    /// An origin whose pages may use the server from a browser: https://shop.example
    #[arg(long, env = "HELIOSTAT_ALLOW_ORIGIN", value_delimiter = ',')]
    pub allow_origin: Vec<String>,
    /// Listen without tokens on an address that is not loopback, where anybody may post and read.
    #[arg(long, env = "HELIOSTAT_INSECURE")]
    pub insecure: bool,
}

/// Serves until SIGTERM or Ctrl-C.
pub fn run(args: ServeArgs) -> u8 {
    use_small_pages(true);
    let _failpoints = fail::FailScenario::setup();
    start_logging();
    end_on_panic();
    survive_file_limits();
    let settings = match Settings::new(&args) {
        Ok(settings) => settings,
        Err(error) => {
            report(&error);
            return WRONG_INPUT;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(serve(settings));
            // What still computes or waits for somebody else ends with the process.
            runtime.shutdown_timeout(RUNTIME_END_TIME_MAX);
            code
        }
        Err(error) => {
            report(&error);
            ENVIRONMENT
        }
    }
}

/// Huge pages cost a quarter of the resident memory of a view at rest, for a speed that cannot be
/// told from noise. A child process inherits the choice.
pub fn use_small_pages(yes: bool) {
    // SAFETY: the call takes numbers only. Where it is not allowed nothing changes.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(yes), 0, 0, 0)
    };
    #[cfg(not(target_os = "linux"))]
    let _ = yes;
}

/// A write past the limit of file sizes is an error like that of a full disk, and not the end.
fn survive_file_limits() {
    // SAFETY: nothing runs in place of the signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

fn start_logging() {
    let filter = EnvFilter::try_from_env("HELIOSTAT_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,clickhouse=warn,fjall=warn,lsm_tree=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().init();
    }
}

/// A panic that nobody catches would leave the server half alive. (One in the evaluation of a row
/// is caught and becomes that row's failure, one in planning an error of the file.)
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if crate::dataflow::is_evaluating() || crate::plan::step::is_planning() {
            return;
        }
        print(info);
        std::process::exit(i32::from(ENVIRONMENT));
    }));
}

async fn serve(settings: Settings) -> u8 {
    let alarms = Alarms::default();
    let addresses = match tokio::net::lookup_host(&settings.listen).await {
        Ok(addresses) => addresses.collect::<Vec<SocketAddr>>(),
        Err(error) => {
            eprintln!("error: cannot listen on {}: {error}", settings.listen);
            return ENVIRONMENT;
        }
    };
    let loopback = addresses.iter().all(|address| address.ip().to_canonical().is_loopback());
    let gate = match gate(&settings, loopback, &alarms) {
        Ok(gate) => gate,
        Err(code) => return code,
    };
    let tls = match settings.tls.clone().map(acceptor).transpose() {
        Ok(tls) => tls,
        Err(error) => {
            report(&error);
            return WRONG_INPUT;
        }
    };
    let listener = match TcpListener::bind(&*addresses).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("error: cannot listen on {}: {error}", settings.listen);
            return ENVIRONMENT;
        }
    };
    if let Err(error) = close_directory(&settings.data_dir) {
        eprintln!("error: {}: {error}", settings.data_dir.display());
        return ENVIRONMENT;
    }
    if let Err(error) = may_begin(&settings).await {
        report(&error);
        return match error {
            ClickHouseError::Url { .. } => WRONG_INPUT,
            _ => ENVIRONMENT,
        };
    }
    let (own, clickhouse) = match start_clickhouse(&settings, &alarms).await {
        Ok(started) => started,
        Err(code) => return code,
    };
    let engine = match Engine::open(settings.engine(clickhouse.clone(), alarms, gate, tls)) {
        Ok(engine) => engine,
        Err(error) => {
            report(&error);
            return ENVIRONMENT;
        }
    };
    let url = clickhouse.map(|clickhouse| clickhouse.url);
    let serving = listener.local_addr().and_then(|address| {
        tracing::info!(%address, clickhouse = url, "serving");
        ServingFile::tell(
            &settings.data_dir,
            address,
            settings.tls.is_some(),
            url,
            settings.database.clone(),
        )
    });
    if let Err(error) = &serving {
        tracing::warn!(%error, "where the server listens cannot be written down");
    }
    let code = match engine.serve(listener, ended()).await {
        Ok(()) => DONE,
        Err(error) => {
            report(&error);
            ENVIRONMENT
        }
    };
    drop(serving);
    if let Some(own) = own {
        own.stop().await;
    }
    code
}

/// Who is let in. Beyond loopback that takes tokens, or `--insecure`.
fn gate(settings: &Settings, loopback: bool, alarms: &Alarms) -> Result<Gate, u8> {
    let access = Access::open(&settings.data_dir, alarms.clone()).map_err(|error| {
        report(&error);
        ENVIRONMENT
    })?;
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
    // On loopback a page of another name must not pass for one of this machine. Elsewhere there are
    // tokens, or everybody is let in on purpose.
    let hosts = loopback.then(|| settings.hosts.clone());
    let record = AdminRecord::new(&settings.data_dir);
    Ok(Gate::new(access, record, hosts, settings.allow_origins.clone()))
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
        // It may be starting, too.
        Err(ClickHouseError::Unreachable { .. }) => Ok(()),
        answered => answered,
    }
}

/// Starts our own ClickHouse if that is what the settings ask for; how to reach it in any case.
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

/// Resolves on SIGTERM or SIGINT. From then on the process ends within [`END_TIME_MAX`], whatever is
/// going on in it: what is acknowledged is on disk.
async fn ended() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending");
    let watchdog = std::thread::Builder::new().name("watchdog".to_string()).spawn(|| {
        std::thread::sleep(END_TIME_MAX);
        tracing::warn!("a part did not end within {} s: the process does", END_TIME_MAX.as_secs());
        std::process::exit(i32::from(DONE));
    });
    if let Err(error) = watchdog {
        tracing::warn!(%error, "nothing limits the time that ending takes");
    }
}
