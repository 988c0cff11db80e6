//! `heliostat backup` and `heliostat restore`.

use std::path::PathBuf;

use super::replay::tick;
use super::{DONE, ENVIRONMENT, QueriesArg, WRONG_INPUT, report};
use crate::backup::{self, BackupError, RestoreOptions};
use crate::log::LogError;
use crate::model::Tick;
use crate::objects::{Objects, ObjectsError};

/// Arguments of `heliostat backup`.
#[derive(clap::Args)]
pub struct BackupArgs {
    /// Where backups are kept: a directory, s3://bucket/prefix, gs://bucket/prefix or
    /// az://container/prefix. Credentials come from the environment: AWS_ACCESS_KEY_ID and so on.
    #[arg(long, env = "HELIOSTAT_BACKUP_TO", value_name = "DIR|URL")]
    to: String,
    /// Read everything back that the backup needs, and compare checksums.
    #[arg(long)]
    verify: bool,
    /// The data directory. A server may be using it.
    #[arg(long, env = "HELIOSTAT_DATA_DIR", default_value = "data")]
    data_dir: PathBuf,
}

/// Arguments of `heliostat restore`.
#[derive(clap::Args)]
pub struct RestoreArgs {
    /// Where backups are kept.
    #[arg(long, value_name = "DIR|URL")]
    from: String,
    /// Drop what was appended after this time: `2026-11-23T10:00:00Z`, or a tick (milliseconds since
    /// 1970). If that drops events, the log gets a new id, and ClickHouse's tables are written anew.
    #[arg(long, value_name = "TIME", value_parser = tick)]
    until: Option<Tick>,
    /// The data directory to make: empty, or not there yet.
    #[arg(long, env = "HELIOSTAT_DATA_DIR", default_value = "data")]
    data_dir: PathBuf,
    /// The query files that were in use go there, if nothing is there.
    #[command(flatten)]
    queries: QueriesArg,
}

/// Backs up; the exit code.
pub fn back_up(args: &BackupArgs) -> u8 {
    let backed_up = Objects::open(&args.to)
        .map_err(BackupError::from)
        .and_then(|objects| backup::back_up(&args.data_dir, &objects, args.verify));
    match backed_up {
        Ok(done) => {
            let manifest = &done.manifest;
            println!(
                "backup {} of log {}: up to position {}, {}",
                done.number,
                manifest.log,
                manifest.position,
                backup::rfc3339(manifest.tick)
            );
            println!(
                "sent {} of {} objects, {} of {} bytes",
                done.sent_objects, done.objects, done.sent_bytes, done.bytes
            );
            if args.verify {
                println!("verified {} objects, {} bytes", done.objects, done.bytes);
            }
            if let Some(reason) = done.without_snapshot {
                println!(
                    "without a snapshot: {reason}; a restored server reads the whole log at its first start"
                );
            }
            DONE
        }
        Err(error) => failed(&error),
    }
}

/// Restores; the exit code.
pub fn restore(args: &RestoreArgs) -> u8 {
    let (data_dir, queries) = (args.data_dir.clone(), args.queries.queries.clone());
    let options = RestoreOptions { data_dir, queries, until: args.until };
    let restored = Objects::open(&args.from)
        .map_err(BackupError::from)
        .and_then(|objects| backup::restore(&objects, &options));
    match restored {
        Ok(done) => {
            println!(
                "restored backup {} of {} into {}: log {}, up to position {}, {}",
                done.number,
                done.manifest.taken,
                args.data_dir.display(),
                done.log,
                done.head.position,
                backup::rfc3339(done.head.tick)
            );
            if done.dropped > 0 {
                println!(
                    "dropped {} events that were appended later: the log has a new id, views are computed from the log, and ClickHouse's tables are written anew",
                    done.dropped
                );
            }
            match done.query_files {
                Some(count) => {
                    println!("{count} query files are in {}", args.queries.queries.display());
                }
                None => println!(
                    "the query files in {} are as they were",
                    args.queries.queries.display()
                ),
            }
            DONE
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &BackupError) -> u8 {
    report(error);
    match error {
        BackupError::Objects(ObjectsError::Place { .. })
        | BackupError::OtherLog { .. }
        | BackupError::Behind { .. }
        | BackupError::Empty { .. }
        | BackupError::Manifest { .. }
        | BackupError::Damaged { .. }
        | BackupError::Missing { .. }
        | BackupError::NotEmpty { .. }
        | BackupError::BeforeFirst { .. }
        | BackupError::Log(
            LogError::NotALog { .. }
            | LogError::Damaged { .. }
            | LogError::Missing { .. }
            | LogError::Newer { .. },
        ) => WRONG_INPUT,
        _ => ENVIRONMENT,
    }
}
