//! A PostgreSQL of the tests' own: a cluster in a temporary directory, reached over a socket there.
//!
//! PostgreSQL refuses to run as root, so as root everything runs as `nobody`. The shell that keeps the
//! server waits on a pipe which ends with this process, however it ends; then it stops the server and
//! removes the directory.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
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
# A temporary directory of root's may be closed to others.
dir=$(mktemp -d "${TMPDIR:-/tmp}/heliostat-postgres.XXXXXX" 2>/dev/null || mktemp -d /tmp/heliostat-postgres.XXXXXX)
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
                // psql stops reading at the first error, which its status tells.
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

/// A connection that stays open: PostgreSQL's simple query protocol, version 3.0.
pub struct Connection {
    stream: BufReader<UnixStream>,
}

/// The answer to a query.
#[derive(Debug, Default)]
pub struct Answer {
    /// The types of the columns, as `pg_type.oid`.
    pub types: Vec<u32>,
    /// Values as text; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

impl Postgres {
    /// Opens a connection.
    pub fn connect(&self) -> Connection {
        let socket = self.socket.join(".s.PGSQL.5432");
        let stream = UnixStream::connect(socket).expect("PostgreSQL listens");
        let mut connection = Connection { stream: BufReader::new(stream) };
        let mut start = 196_608_u32.to_be_bytes().to_vec();
        start.extend(b"user\0postgres\0database\0postgres\0\0");
        connection.send(&start);
        connection.answer().expect("PostgreSQL lets us in");
        connection
    }
}

impl Connection {
    /// Runs statements; the rows of the last one that has some, or the first error.
    pub fn query(&mut self, sql: &str) -> Result<Answer, String> {
        self.stream.get_mut().write_all(b"Q").expect("PostgreSQL reads");
        self.send(&[sql.as_bytes(), b"\0"].concat());
        self.answer()
    }

    /// Runs statements that must succeed.
    #[track_caller]
    pub fn execute(&mut self, sql: &str) -> Answer {
        self.query(sql).unwrap_or_else(|error| panic!("{error}\n{sql}"))
    }

    /// Adds lines in COPY's text format to a table.
    pub fn copy(&mut self, table: &str, lines: &str) -> Result<(), String> {
        self.stream.get_mut().write_all(b"Q").expect("PostgreSQL reads");
        self.send(format!("COPY {table} FROM STDIN\0").as_bytes());
        let (kind, body) = self.message();
        if kind != b'G' {
            let refused = if kind == b'E' { error_text(&body) } else { "no COPY".to_string() };
            return self.answer().and(Err(refused));
        }
        self.stream.get_mut().write_all(b"d").expect("PostgreSQL reads");
        self.send(lines.as_bytes());
        self.stream.get_mut().write_all(b"c").expect("PostgreSQL reads");
        self.send(&[]);
        self.answer().map(drop)
    }

    /// A message's length and body.
    fn send(&mut self, body: &[u8]) {
        let length = u32::try_from(body.len() + 4).expect("a message has less than 4 GiB");
        let message = [&length.to_be_bytes(), body].concat();
        self.stream.get_mut().write_all(&message).expect("PostgreSQL reads");
    }

    fn message(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).expect("PostgreSQL answers");
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut body = vec![0; length as usize - 4];
        self.stream.read_exact(&mut body).expect("PostgreSQL answers");
        (head[0], body)
    }

    /// All messages until the server waits for the next query.
    fn answer(&mut self) -> Result<Answer, String> {
        let (mut answer, mut error) = (Answer::default(), None);
        loop {
            let (kind, body) = self.message();
            match kind {
                b'T' => answer = Answer { types: column_types(&body), rows: Vec::new() },
                b'D' => answer.rows.push(row(&body)),
                b'E' => error = error.or(Some(error_text(&body))),
                b'Z' => return error.map_or(Ok(answer), Err),
                _ => {}
            }
        }
    }
}

/// Reads the parts of a message from its front.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn number16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn number32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    /// A text that ends with a zero byte.
    fn text(&mut self) -> String {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        let text = String::from_utf8_lossy(self.take(end)).into_owned();
        self.take(1);
        text
    }
}

fn column_types(body: &[u8]) -> Vec<u32> {
    let mut parts = Parts(body);
    let count = parts.number16();
    let column = |_| {
        // Name, table, number in the table; type; size, modifier, format.
        parts.text();
        parts.take(6);
        let oid = parts.number32();
        parts.take(8);
        oid
    };
    (0..count).map(column).collect()
}

fn row(body: &[u8]) -> Vec<Option<String>> {
    let mut parts = Parts(body);
    let count = parts.number16();
    let value = |_| {
        let length = parts.number32();
        let is_null = length == u32::MAX;
        (!is_null).then(|| String::from_utf8_lossy(parts.take(length as usize)).into_owned())
    };
    (0..count).map(value).collect()
}

/// The message of an error, with its code.
fn error_text(body: &[u8]) -> String {
    let mut parts = Parts(body);
    let (mut code, mut message) = (String::new(), String::new());
    while let Some(field) = parts.0.first().copied().filter(|field| *field != 0) {
        parts.take(1);
        let text = parts.text();
        match field {
            b'C' => code = text,
            b'M' => message = text,
            _ => {}
        }
    }
    format!("PostgreSQL: {message} ({code})")
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
