//! `heliostat serve`: the server. A small parent (`parent`) owns what must outlive the two sides: the
//! socket that is listened on and the own ClickHouse. It runs the write side (`write`: HTTP and the log)
//! and the read side (`read`: the views) as processes, and starts each one again when it ends. With
//! `--single-process` both are in one (`both`).

mod backups;
mod begin;
mod both;
mod parent;
pub mod read;
mod side;
pub mod write;

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::config::Settings;
use super::{DONE, ENVIRONMENT, WRONG_INPUT, report};
use crate::engine::EngineError;
use crate::model::alarm::Alarms;
use begin::Begun;
use side::{Parent, SideStart};

/// The longest time between the signal to end and the end of the process.
const END_TIME_MAX: Duration = Duration::from_secs(9);
/// How long to wait for the runtime's threads when all else has ended.
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
    /// The user's password. As an argument it is read by every user of the machine: give it by
    /// --clickhouse-password-file or the environment.
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
    /// Keep everything in one process: for small machines, where a view that takes too much ends
    /// the server, and ingest with it.
    #[arg(long, env = "HELIOSTAT_SINGLE_PROCESS")]
    pub single_process: bool,
    /// Listen without tokens on an address that is not loopback, where anybody may post and read.
    #[arg(long, env = "HELIOSTAT_INSECURE")]
    pub insecure: bool,
}

/// Serves until SIGTERM or Ctrl-C.
pub fn run(args: ServeArgs) -> u8 {
    use_small_pages(true);
    match Settings::new(&args) {
        Ok(settings) => run_process(serve(settings)),
        Err(error) => {
            report(&error);
            WRONG_INPUT
        }
    }
}

/// Runs one of the two sides, as the parent tells on standard input.
pub fn run_side<F: Future<Output = u8>>(side: impl FnOnce(SideStart, Parent) -> F) -> u8 {
    // The parent tells when to end, also where the signal goes to all processes of a service.
    // SAFETY: nothing runs in place of the signals.
    unsafe {
        libc::signal(libc::SIGTERM, libc::SIG_IGN);
        libc::signal(libc::SIGINT, libc::SIG_IGN);
    }
    run_process(async {
        match Parent::meet().await {
            Ok((start, parent)) => side(start, parent).await,
            Err(error) => {
                report(&error);
                ENVIRONMENT
            }
        }
    })
}

/// Runs a process of the server; the code to end with.
fn run_process(process: impl Future<Output = u8>) -> u8 {
    let _failpoints = fail::FailScenario::setup();
    start_logging();
    end_on_panic();
    survive_file_limits();
    open_many_files();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(process);
            // Threads that still compute or wait end with the process.
            runtime.shutdown_timeout(RUNTIME_END_TIME_MAX);
            code
        }
        Err(error) => {
            report(&error);
            ENVIRONMENT
        }
    }
}

/// The code to end with, once an error is told.
fn code_of(served: Result<(), EngineError>) -> u8 {
    match served {
        Ok(()) => DONE,
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

/// Lets the process open as many files as it may ever: many systems begin with 1,024, which connections
/// alone would use up.
fn open_many_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls read and write the given structure alone. Where they fail nothing changes.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Standard error, which may be a file on a full disk: what cannot be written is left out, and ends
/// nobody.
struct LogOutput;

impl Write for LogOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = std::io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn start_logging() {
    let filter = EnvFilter::try_from_env("HELIOSTAT_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,clickhouse=warn,fjall=warn,lsm_tree=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| LogOutput);
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

/// Whether the arguments of this process, which every user of the machine can read, have a password.
fn password_is_argument() -> bool {
    let is_password = |argument: std::ffi::OsString| {
        let argument = argument.to_string_lossy();
        argument.split('=').next() == Some("--clickhouse-password")
    };
    std::env::args_os().any(is_password)
}

async fn serve(settings: Settings) -> u8 {
    if password_is_argument() {
        tracing::warn!(
            "--clickhouse-password can be read by every user of this machine: give the password by \
             --clickhouse-password-file, or by HELIOSTAT_CLICKHOUSE_PASSWORD in the environment"
        );
    }
    let alarms = Alarms::default();
    let begun = match Begun::new(settings, &alarms).await {
        Ok(begun) => begun,
        Err(code) => return code,
    };
    if begun.settings.single_process {
        both::serve(begun, alarms).await
    } else {
        parent::serve(begun, alarms).await
    }
}

/// Resolves on SIGTERM or SIGINT. From then on the process ends within [`END_TIME_MAX`], whatever is
/// going on in it: what is acknowledged is on disk.
pub(super) async fn ended() {
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
