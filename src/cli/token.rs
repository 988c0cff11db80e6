//! `heliostat token`: create, list and revoke tokens.

use std::path::PathBuf;
use std::time::Duration;

use chrono::Utc;

use super::{DONE, ENVIRONMENT, WRONG_INPUT, report};
use crate::access::{
    AccessError, AdminAct, AdminRecord, Narrowing, NewToken, Role, TokenEntry, TokenStore,
};

/// Arguments of `heliostat token`.
#[derive(clap::Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(clap::Subcommand)]
enum TokenCommand {
    /// Create a token and print it, once. From the first one on, a server asks for tokens.
    Create(CreateArgs),
    /// Show the tokens: name, role, when they were created and expire, what they are narrowed to.
    List(DataDirectoryArg),
    /// Revoke a token. A running server refuses it at once.
    Revoke(RevokeArgs),
}

#[derive(clap::Args)]
struct DataDirectoryArg {
    /// The data directory of the server.
    #[arg(long, env = "HELIOSTAT_DATA_DIR", default_value = "data")]
    data_dir: PathBuf,
}

#[derive(clap::Args)]
struct CreateArgs {
    /// write: append events and read streams. read: read events, views and dead letters. follow: copy
    /// the log. admin: everything.
    #[arg(long)]
    role: Role,
    /// What the token is known by, in the record of acts and to revoke it.
    #[arg(long)]
    name: Option<String>,
    /// After which time it is refused: 90d, 12h, 30m or 45s.
    #[arg(long, value_parser = duration)]
    expires: Option<Duration>,
    /// Narrow it to these event types; `*` stands for any characters.
    #[arg(long, value_delimiter = ',')]
    types: Vec<String>,
    /// Narrow it to events of these sources; `*` stands for any characters.
    #[arg(long, value_delimiter = ',')]
    sources: Vec<String>,
    /// Narrow it to streams that begin with one of these.
    #[arg(long, value_delimiter = ',')]
    streams: Vec<String>,
    /// Narrow it to these views; `*` stands for any characters.
    #[arg(long, value_delimiter = ',')]
    views: Vec<String>,
    #[command(flatten)]
    directory: DataDirectoryArg,
}

#[derive(clap::Args)]
struct RevokeArgs {
    /// The token's name.
    name: String,
    #[command(flatten)]
    directory: DataDirectoryArg,
}

/// Runs the command.
pub fn run(args: TokenArgs) -> u8 {
    let result = match args.command {
        TokenCommand::Create(args) => create(args),
        TokenCommand::List(directory) => list(&directory),
        TokenCommand::Revoke(args) => revoke(&args),
    };
    match result {
        Ok(()) => DONE,
        Err(error) => {
            report(&error);
            match error {
                AccessError::Refused(_) | AccessError::NotFound(_) => WRONG_INPUT,
                _ => ENVIRONMENT,
            }
        }
    }
}

fn create(args: CreateArgs) -> Result<(), AccessError> {
    let CreateArgs { role, name, expires, types, sources, streams, views, directory } = args;
    let narrowing = Narrowing { types, sources, streams, views };
    let new = NewToken { name, role, expires_in: expires, narrowing };
    let (token, entry) = TokenStore::new(&directory.data_dir).create(new)?;
    note(&directory, "token create", &entry.name, &line(&entry));
    eprintln!("{}: {}; it is shown only now", entry.name, line(&entry));
    println!("{token}");
    Ok(())
}

fn list(directory: &DataDirectoryArg) -> Result<(), AccessError> {
    for token in TokenStore::new(&directory.data_dir).list()? {
        println!("{}: {}", token.name, line(&token));
    }
    Ok(())
}

fn revoke(args: &RevokeArgs) -> Result<(), AccessError> {
    TokenStore::new(&args.directory.data_dir).revoke(&args.name)?;
    note(&args.directory, "token revoke", &args.name, "revoked");
    Ok(())
}

fn note(directory: &DataDirectoryArg, act: &str, about: &str, result: &str) {
    let record = AdminRecord::new(&directory.data_dir);
    if let Err(error) = record.write(&AdminAct { by: "command line", act, about, result }) {
        eprintln!("warning: it could not be written down: {error}");
    }
}

/// A token's properties, in a line.
fn line(token: &TokenEntry) -> String {
    let time = |time: chrono::DateTime<Utc>| time.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut line = format!("role {}, created {}", token.role, time(token.created));
    if let Some(expires) = token.expires {
        let word = if token.is_expired(Utc::now()) { "expired" } else { "expires" };
        line += &format!(", {word} {}", time(expires));
    }
    let Narrowing { types, sources, streams, views } = &token.narrowing;
    let lists = [("types", types), ("sources", sources), ("streams", streams), ("views", views)];
    for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        line += &format!(", {name} {}", list.join(" "));
    }
    line
}

/// A text that is no duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 90d, 12h, 30m or 45s, say, got {0:?}")]
struct NoDuration(String);

fn duration(text: &str) -> Result<Duration, NoDuration> {
    let expected = || NoDuration(text.to_string());
    let unit = text.chars().next_back().ok_or_else(expected)?;
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| expected())?;
    let seconds = match unit {
        'd' => 86_400,
        'h' => 3_600,
        'm' => 60,
        's' => 1,
        _ => return Err(expected()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for wrong in
            ["", "d", "1", "1w", "-1d", "1é", "99999999999999999999d", "9999999999999999999d"]
        {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
