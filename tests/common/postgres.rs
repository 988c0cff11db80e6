//! A PostgreSQL of the tests' own: a cluster in a temporary directory, reached over a socket there.
//!
//! PostgreSQL refuses to run as root, so as root everything runs as `nobody`. The shell that keeps the
//! server waits on a pipe which ends with this process, however it ends; then it stops the server and
//! removes the directory.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Where Debian has the server's programs, which are not in the path.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const NOBODY: &str = "65534";

/// Makes the cluster, tells its directory once it answers, and keeps it until standard input ends.
const KEEPER: &str = r#"
set -eu
programs=$1
dir=$(mktemp -d "${TMPDIR:-/tmp}/heliostat-postgres.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap '' INT TERM HUP
"$programs/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$dir/initdb.log" 2>&1 \
  || { cat "$dir/initdb.log" >&2; exit 1; }
"$programs/postgres" -D "$dir/data" -k "$dir" -c listen_addresses= -c fsync=off -c full_page_writes=off \
  -c synchronous_commit=off -c autovacuum=off -c max_connections=10 -c client_min_messages=error \
  -c timezone=UTC -c DateStyle=ISO -c IntervalStyle=postgres >"$dir/log" 2>&1 </dev/null &
server=$!
tries=0
until "$programs/pg_isready" -q -h "$dir" -U postgres; do
  tries=$((tries + 1))
  if [ $tries -gt 300 ] || ! kill -0 $server; then cat "$dir/log" >&2; exit 1; fi
  sleep 0.1
done
echo "$dir"
cat >/dev/null
kill -QUIT $server
wait $server || true
"#;

/// A running server. It is gone when this is dropped, or when the process ends.
pub struct Postgres {
    socket: PathBuf,
    keeper: Child,
    pipe: Option<ChildStdin>,
}

impl Postgres {
    /// Makes a cluster and starts its server.
    pub fn start() -> Postgres {
        // SAFETY: asks for the user, and cannot fail.
        let root = unsafe { libc::geteuid() } == 0;
        let mut command = match root {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "sh"]);
                command
            }
            false => Command::new("sh"),
        };
        command.args(["-c", KEEPER, "keeper", PROGRAMS]).current_dir("/");
        // A group of its own: an interrupt at the terminal ends the tests, and with them the pipe.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut keeper = command.spawn().expect("sh and setpriv are there");
        let pipe = keeper.stdin.take();
        let mut line = String::new();
        let output = keeper.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("the shell answers");
        assert!(!line.is_empty(), "PostgreSQL 15 does not start: `make postgres` installs it");
        Postgres { socket: line.trim().into(), keeper, pipe }
    }

    /// Runs a script, whose statements must all succeed; what its queries and COPYs wrote.
    pub fn run(&self, script: &str) -> String {
        let mut child = Command::new("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"])
            .arg(&self.socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql is there");
        let mut input = child.stdin.take().expect("it is piped");
        let output = std::thread::scope(|scope| {
            scope.spawn(move || {
                // It stops reading at the first error, which its status tells.
                let _ = input.write_all(script.as_bytes());
            });
            child.wait_with_output().expect("psql ends")
        });
        assert!(output.status.success(), "psql failed; its error is above");
        String::from_utf8(output.stdout).expect("psql writes UTF-8")
    }

    /// The rows of a query.
    pub fn rows(&self, query: &str) -> Vec<Vec<Option<String>>> {
        let query = query.trim().trim_end_matches(';');
        let text = self.run(&format!("COPY ({query}) TO STDOUT;"));
        text.lines().map(|line| line.split('\t').map(field).collect()).collect()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.keeper.wait();
    }
}

/// A field of COPY's text format.
fn field(text: &str) -> Option<String> {
    if text == "\\N" {
        return None;
    }
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some('b') => '\u{8}',
                Some('f') => '\u{c}',
                Some('v') => '\u{b}',
                Some(other) => other,
                None => '\\',
            },
            c => c,
        });
    }
    Some(out)
}
