//! `heliostat serve`: the server.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::config::{ClickHouseChoice, Settings};
use super::serving::Serving;
use super::{DONE, ENVIRONMENT, WRONG_INPUT, report};
use crate::engine::{Engine, EngineError};
use crate::sink::server::{OwnClickHouse, ServerConfig, locate};

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
    /// Listen on an address that is not loopback, where anybody may post and read.
    #[arg(long, env = "HELIOSTAT_INSECURE")]
    pub insecure: bool,
}

/// Serves until SIGTERM or Ctrl-C.
pub fn run(args: ServeArgs) -> u8 {
    use_small_pages(true);
    start_logging();
    end_on_panic();
    let settings = match Settings::new(&args) {
        Ok(settings) => settings,
        Err(error) => {
            report(&error);
            return WRONG_INPUT;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(settings)),
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
/// is caught and becomes that row's failure.)
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if crate::dataflow::is_evaluating() {
            return;
        }
        print(info);
        std::process::exit(i32::from(ENVIRONMENT));
    }));
}

async fn serve(settings: Settings) -> u8 {
    match settings.listen.parse::<SocketAddr>() {
        Ok(address) if !address.ip().is_loopback() && !settings.insecure => {
            let listen = &settings.listen;
            eprintln!(
                "error: {listen} is not loopback, and everybody who reaches it could post and read: add --insecure if that is meant"
            );
            return WRONG_INPUT;
        }
        _ => {}
    }
    let listener = match TcpListener::bind(&settings.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("error: cannot listen on {}: {error}", settings.listen);
            return ENVIRONMENT;
        }
    };
    let (own, url) = match clickhouse(&settings).await {
        Ok(started) => started,
        Err(code) => return code,
    };
    let engine = match Engine::open(settings.engine(url.clone())) {
        Ok(engine) => engine,
        Err(error) => {
            report(&error);
            return ENVIRONMENT;
        }
    };
    let serving = listener.local_addr().and_then(|address| {
        tracing::info!(%address, clickhouse = url, "serving");
        Serving::tell(&settings.data_dir, address, url)
    });
    let serving = match serving {
        Ok(serving) => serving,
        Err(error) => {
            report(&error);
            return ENVIRONMENT;
        }
    };
    let code = match engine.serve(listener, ended()).await {
        Ok(()) => DONE,
        Err(error @ EngineError::LogFailed(_)) => {
            report(&error);
            ENVIRONMENT
        }
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

/// Starts our own ClickHouse if that is what the settings ask for; its address in any case.
async fn clickhouse(settings: &Settings) -> Result<(Option<OwnClickHouse>, Option<String>), u8> {
    let http_port = match &settings.clickhouse {
        ClickHouseChoice::None => return Ok((None, None)),
        ClickHouseChoice::Server { url } => return Ok((None, Some(url.clone()))),
        ClickHouseChoice::Own { http_port } => *http_port,
    };
    let program = std::env::current_exe().map_err(|error| {
        report(&error);
        ENVIRONMENT
    })?;
    let started = async {
        let config = ServerConfig {
            program: locate(&program)?,
            dir: settings.data_dir.join("clickhouse"),
            http_port,
        };
        OwnClickHouse::start(config).await
    };
    match started.await {
        Ok(own) => {
            let url = own.url();
            Ok((Some(own), Some(url)))
        }
        Err(error) => {
            report(&error);
            Err(ENVIRONMENT)
        }
    }
}

/// Resolves on SIGTERM or SIGINT.
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
}
