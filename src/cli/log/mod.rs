//! `heliostat log`: a look into a data directory, without a server or beside one, and its repair.

mod trim;

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{DONE, ENVIRONMENT, QueriesArg, WRONG_INPUT, report};
use crate::backup::rfc3339;
use crate::http::write_event_line;
use crate::log::{self, Examination, Finding, Frame, FrameError, Gap, LogError, LogInfo, Repair};

/// Arguments of `heliostat log`.
#[derive(clap::Args)]
pub struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
    /// The data directory.
    #[arg(long, env = "HELIOSTAT_DATA_DIR", default_value = "data", global = true)]
    data_dir: PathBuf,
}

#[derive(clap::Subcommand)]
enum LogCommand {
    /// The log in numbers, segment by segment.
    Info {
        #[command(flatten)]
        place: DataDirectory,
    },
    /// The events as NDJSON, in the form of GET /v1/events.
    Dump {
        /// Only events behind this position.
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// At most so many events.
        #[arg(long)]
        limit: Option<u64>,
        #[command(flatten)]
        place: DataDirectory,
    },
    /// Check every checksum, that no segment is missing, that positions are dense and that ticks
    /// increase. Lists all that is wrong; exit code 1 if there is something.
    Verify {
        #[command(flatten)]
        place: DataDirectory,
    },
    /// Remove the oldest segments, as far as all views have snapshots behind them. No server may have
    /// the log open.
    ///
    /// Says first what the server then refuses: views that change, are new or are rebuilt cannot be
    /// computed from the beginning any more, and events before that position cannot be read. Positions go
    /// on, events that are sent again are known, and streams keep their versions.
    Trim {
        /// Remove events before this position, or that were appended before this time, as
        /// 2026-11-23T10:00:00Z. Only whole segments go.
        #[arg(long, value_name = "POSITION|TIME")]
        before: String,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        queries: QueriesArg,
        /// The configuration file [default: heliostat.toml, if there is one]
        #[arg(long, env = "HELIOSTAT_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        place: DataDirectory,
    },
    /// Say which events would be lost if the log went on without what is damaged, and do so only
    /// with --accept-loss. No server may have the log open.
    ///
    /// Events that are left keep their positions, and those of lost events are never used again.
    /// A server then builds all views anew. Events that are lost can be sent again: they are new.
    /// Exit code 1 if there is something to repair and --accept-loss is not given.
    Repair {
        /// Do it.
        #[arg(long)]
        accept_loss: bool,
        #[command(flatten)]
        place: DataDirectory,
    },
}

/// The data directory, as an argument of its own.
#[derive(clap::Args)]
struct DataDirectory {
    /// The data directory, in place of --data-dir.
    #[arg(value_name = "DATA_DIR")]
    directory: Option<PathBuf>,
}

/// Looks, or repairs; the exit code says whether the log is sound.
pub fn run(args: &LogArgs) -> u8 {
    let place = match &args.command {
        LogCommand::Info { place }
        | LogCommand::Dump { place, .. }
        | LogCommand::Verify { place }
        | LogCommand::Trim { place, .. }
        | LogCommand::Repair { place, .. } => place,
    };
    let data_dir = place.directory.as_ref().unwrap_or(&args.data_dir);
    let directory = log::directory(data_dir);
    if let LogCommand::Trim { before, dry_run, queries, config, .. } = &args.command {
        return trim::run(data_dir, before, *dry_run, &queries.queries, config.as_deref());
    }
    let result = match &args.command {
        LogCommand::Info { .. } => log::info(&directory).map(|info| {
            print_info(&info);
            DONE
        }),
        LogCommand::Verify { .. } => {
            log::examine(&directory, log::readable).map(|e| print_verified(&e))
        }
        LogCommand::Repair { accept_loss, .. } => repair(&directory, *accept_loss),
        LogCommand::Trim { .. } => unreachable!("it has run"),
        LogCommand::Dump { after, limit, .. } => {
            let mut dump = Dump {
                out: BufWriter::new(std::io::stdout().lock()),
                after: *after,
                left: limit.unwrap_or(u64::MAX),
            };
            let result = log::verify(&directory, |frame| dump.frame(frame));
            // A reader that has seen enough closes its end.
            let _ = dump.out.flush();
            result.map(|_| DONE)
        }
    };
    result.unwrap_or_else(|error| {
        report(&error);
        code_of(&error)
    })
}

/// The code to end with after an error.
pub fn code_of(error: &LogError) -> u8 {
    match error {
        LogError::Io { .. } | LogError::Locked { .. } => ENVIRONMENT,
        _ => WRONG_INPUT,
    }
}

fn print_info(info: &LogInfo) {
    println!("log      {}", info.id);
    println!("position {}", info.head.position);
    println!("tick     {}", info.head.tick);
    println!("epoch    {}", info.epoch);
    print_trimmed(info);
    println!(
        "segment                   format  epoch     events      frames    control         bytes   torn"
    );
    for s in &info.segments {
        println!(
            "{:<25} {:>6} {:>6} {:>10} {:>11} {:>10} {:>13} {:>6}",
            s.name, s.format, s.epoch, s.events, s.frames, s.control_frames, s.bytes, s.torn_bytes
        );
    }
    print_gaps(&info.gaps);
}

fn print_trimmed(info: &LogInfo) {
    if let Some(trimmed) = &info.trimmed {
        let last = rfc3339(trimmed.tick);
        println!("trimmed  up to position {}, appended by {last}", trimmed.position);
    }
}

fn print_gaps(gaps: &[Gap]) {
    for gap in gaps {
        let lost = positions((gap.first, gap.last), false);
        println!("loss that was accepted: {lost}");
    }
}

fn print_verified(examination: &Examination) -> u8 {
    let Examination { info, findings, .. } = examination;
    let events: u64 = info.segments.iter().map(|s| s.events).sum();
    let torn: u64 = info.segments.iter().map(|s| s.torn_bytes).sum();
    for finding in findings {
        eprintln!("error: {}", describe(finding));
    }
    let state = if findings.is_empty() { "ok" } else { "damaged" };
    println!("{state}: {events} events in {} segments", info.segments.len());
    print_trimmed(info);
    print_gaps(&info.gaps);
    if torn > 0 {
        println!("{torn} bytes at the end are of a write that was not completed or goes on");
    }
    if findings.is_empty() {
        return DONE;
    }
    println!("{}: see heliostat log repair", count(findings.len(), "problem"));
    WRONG_INPUT
}

fn repair(directory: &Path, accept_loss: bool) -> Result<u8, LogError> {
    let repair = Repair::plan(directory, log::readable)?;
    let findings = repair.findings();
    if findings.is_empty() {
        println!("nothing is to be repaired");
        return Ok(DONE);
    }
    for finding in findings {
        println!("{}", describe(finding));
    }
    let lost: u64 = findings.iter().map(Finding::lost_positions).sum();
    let most = if findings.iter().any(|finding| finding.at_most) { "at most " } else { "" };
    let problems = count(findings.len(), "problem");
    if !accept_loss {
        println!("{problems}, {most}{lost} events would be lost");
        println!("nothing was changed: --accept-loss repairs the log without them");
        return Ok(WRONG_INPUT);
    }
    repair.accept_loss()?;
    let after = log::examine(directory, log::readable)?;
    println!("{problems} repaired, {most}{lost} events lost");
    Ok(print_verified(&after))
}

/// A finding in a line: the damage, its place, what is lost with it.
fn describe(finding: &Finding) -> String {
    let Finding { segment, offset, what, lost, at_most, .. } = finding;
    format!("{segment}, offset {offset}: {what}; lost: {}", positions(*lost, *at_most))
}

fn positions((first, last): (u64, u64), at_most: bool) -> String {
    match (last + 1).saturating_sub(first) {
        0 => "no events".to_string(),
        1 => format!("position {first}"),
        n if at_most => format!("positions {first} to at most {last}, at most {n} events"),
        n => format!("positions {first} to {last}, {n} events"),
    }
}

fn count(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

struct Dump<W: Write> {
    out: W,
    after: u64,
    left: u64,
}

impl<W: Write> Dump<W> {
    fn frame(&mut self, frame: &Frame) -> Result<(), FrameError> {
        if frame.last_position() <= self.after || self.left == 0 {
            return Ok(());
        }
        let mut lines = Vec::new();
        let events = frame.decompress()?;
        for event in events.iter().filter(|event| event.position > self.after) {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            write_event_line(&event, &mut lines);
        }
        if self.out.write_all(&lines).is_err() {
            self.left = 0;
        }
        Ok(())
    }
}
