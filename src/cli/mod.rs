//! The command line: flags over environment over file; one file per command.

mod audit;
mod backup;
mod check;
pub mod client;
mod clickhouse_child;
mod config;
mod explain;
mod golden;
mod log;
mod rebuild;
mod replay;
pub mod sample;
mod serve;
mod serving;
mod sql;
mod test;
mod token;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The command did what it was asked.
pub const DONE: u8 = 0;
/// The input was wrong.
pub const WRONG_INPUT: u8 = 1;
/// The environment failed: disk, port, ClickHouse.
pub const ENVIRONMENT: u8 = 3;

/// Live read models: SQL views over event streams, kept exactly, in ClickHouse.
#[derive(Parser)]
#[command(name = "heliostat", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    Serve(Box<serve::ServeArgs>),
    /// Parse, type-check and plan every query file; report all errors at once.
    Check(check::CheckArgs),
    /// Show the plan that will run, with keys, monotonicity and state per operator.
    Explain(explain::ExplainArgs),
    /// Run the views' golden tests, in process.
    Test(test::TestArgs),
    /// Ask a running server to build a view anew from the log, beside the one that answers.
    Rebuild(rebuild::RebuildArgs),
    /// Print a view as it was at some time, from the log alone.
    Replay(replay::ReplayArgs),
    /// Send sample orders to a running server.
    Sample(sample::SampleArgs),
    /// Look into a data directory without a server, or repair its log.
    Log(log::LogArgs),
    /// Back up the data directory of a server, running or not: what is new since the last backup.
    Backup(backup::BackupArgs),
    /// Make a data directory from a backup.
    Restore(backup::RestoreArgs),
    /// Ask the ClickHouse of a running server for its views.
    Sql(sql::SqlArgs),
    /// Create, list and revoke the tokens that give access to a server.
    Token(token::TokenArgs),
    /// The process in which our own ClickHouse runs.
    #[command(hide = true)]
    ClickhouseChild { library: PathBuf, config: PathBuf },
    /// The process that has the log and HTTP.
    #[command(hide = true, name = serve::write::COMMAND)]
    WriteSide,
    /// The process that keeps the views.
    #[command(hide = true, name = serve::read::COMMAND)]
    ReadSide,
    /// The process in which query files are planned on trial.
    #[command(hide = true, name = crate::engine::trial::COMMAND)]
    PlanChild,
}

/// Where the query files are.
#[derive(clap::Args, Clone, Debug)]
pub struct QueriesArg {
    /// The directory of the query files.
    #[arg(long, env = "HELIOSTAT_QUERIES", default_value = "queries")]
    pub queries: PathBuf,
}

/// Chooses who encrypts for every client of TLS in this process.
pub fn choose_tls_provider() {
    // An error means that it was chosen before.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    choose_tls_provider();
    let cli = Cli::parse();
    let code = match cli.command {
        Command::Serve(args) => serve::run(*args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Rebuild(args) => block_on(rebuild::run(&args)),
        Command::Replay(args) => replay::run(&args),
        Command::Sample(args) => block_on(sample::run(&args)),
        Command::Log(args) => log::run(&args),
        Command::Backup(args) => backup::back_up(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::Sql(args) => block_on(sql::run(&args)),
        Command::Token(args) => token::run(args),
        Command::WriteSide => serve::run_side(serve::write::serve),
        Command::ReadSide => serve::run_side(serve::read::serve),
        Command::PlanChild => match crate::engine::trial::child() {
            Ok(()) => DONE,
            Err(error) => {
                report(&error);
                ENVIRONMENT
            }
        },
        Command::ClickhouseChild { library, config } => {
            serve::use_small_pages(false);
            match clickhouse_child::run(&library, &config) {
                Ok(()) => DONE,
                Err(error) => {
                    eprintln!("error: {error}");
                    ENVIRONMENT
                }
            }
        }
    };
    ExitCode::from(code)
}

/// Runs a command that talks to a server.
fn block_on(command: impl Future<Output = u8>) -> u8 {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => {
            report(&error);
            ENVIRONMENT
        }
    }
}

/// Says on standard error what went wrong, with its causes.
fn report(error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    // It may be a file on a full disk.
    let _ = writeln!(std::io::stderr(), "error: {text}");
}
