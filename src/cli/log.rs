//! `heliostat log`: a look into a data directory, without a server or beside one.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::{DONE, ENVIRONMENT, WRONG_INPUT, report};
use crate::http::write_event_line;
use crate::log::{self, Frame, LogError, LogInfo};

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
    Info,
    /// The events as NDJSON, in the form of GET /v1/events.
    Dump {
        /// Only events behind this position.
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// At most so many events.
        #[arg(long)]
        limit: Option<u64>,
    },
    /// Check every checksum, and that positions are dense and ticks increase.
    Verify,
}

/// Looks; the exit code says whether the log is sound.
pub fn run(args: &LogArgs) -> u8 {
    let directory = log::directory(&args.data_dir);
    let result = match &args.command {
        LogCommand::Info => log::info(&directory).map(|info| print_info(&info)),
        LogCommand::Verify => log::verify(&directory, readable).map(|info| print_verified(&info)),
        LogCommand::Dump { after, limit } => {
            let mut dump = Dump {
                out: BufWriter::new(std::io::stdout().lock()),
                after: *after,
                left: limit.unwrap_or(u64::MAX),
            };
            let result = log::verify(&directory, |frame| dump.frame(frame));
            // A reader that has seen enough closes its end.
            let _ = dump.out.flush();
            result.map(|_| ())
        }
    };
    match result {
        Ok(()) => DONE,
        Err(error @ LogError::Io { .. }) => {
            report(&error);
            ENVIRONMENT
        }
        Err(error) => {
            report(&error);
            WRONG_INPUT
        }
    }
}

fn readable(frame: &Frame) -> Result<(), String> {
    let count = frame.decompress()?.iter().count();
    if count == frame.count() as usize {
        Ok(())
    } else {
        Err(format!("{count} of {} events can be read", frame.count()))
    }
}

fn print_info(info: &LogInfo) {
    println!("log      {}", info.id);
    println!("position {}", info.head.position);
    println!("tick     {}", info.head.tick);
    println!("segment                      events      frames         bytes   torn");
    for s in &info.segments {
        println!(
            "{} {:>10} {:>11} {:>13} {:>6}",
            s.name, s.events, s.frames, s.bytes, s.torn_bytes
        );
    }
}

fn print_verified(info: &LogInfo) {
    let events: u64 = info.segments.iter().map(|s| s.events).sum();
    let torn: u64 = info.segments.iter().map(|s| s.torn_bytes).sum();
    println!("ok: {events} events in {} segments", info.segments.len());
    if torn > 0 {
        println!("{torn} bytes at the end are of a write that was not completed or goes on");
    }
}

struct Dump<W: Write> {
    out: W,
    after: u64,
    left: u64,
}

impl<W: Write> Dump<W> {
    fn frame(&mut self, frame: &Frame) -> Result<(), String> {
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
