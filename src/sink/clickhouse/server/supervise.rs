//! Keeps the child running.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::config::BOOT_QUERIES;
use super::{ClickHouseProgram, Login, ServerError};
use crate::model::alarm::{Alarms, Part};

/// How often the child is looked after.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long it may take until it answers.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// The wait before it is started again, the first time and at most.
const RESTART_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// After so long a life, its death counts as the first again.
const LIFE_SOUND: Duration = Duration::from_secs(30);
/// How long ClickHouse may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// After this many pings in a row without an answer an alarm is raised.
const SILENT_QUESTIONS: u32 = 3;
/// How often it is checked that the child listens and answers.
const LISTEN_INTERVAL: Duration = Duration::from_secs(2);
/// More questions than its quota allows to `default`.
const QUOTA_QUESTIONS: u32 = 2 * BOOT_QUERIES;

/// The most that is read of an answer.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// Fails unless the statement runs that keeps the boot from ending: `SELECT throwIf(countIf(query LIKE
/// '%sleepEachRow(1)%' AND query NOT LIKE '%throwIf%') = 0) FROM system.processes`.
const BOOTED_QUERY: &str = "/?query=SELECT%20throwIf(countIf(query%20LIKE%20%27%25sleepEachRow(1)%25%27%20AND%20\
    query%20NOT%20LIKE%20%27%25throwIf%25%27)%20=%200)%20FROM%20system.processes";
/// A query that counts for its user's quota, as those without a table do not.
const COUNTED_QUERY: &str = "/?query=SELECT%20number%20FROM%20system.numbers%20LIMIT%201";

/// Subject of alarms about the child.
const OWN_PROCESS: &str = "process";

/// A command to the supervising thread.
pub(super) enum ChildCommand {
    /// End the child in good order.
    Stop,
    /// End it at once.
    Kill,
}

pub(super) struct ChildSupervisor {
    pub(super) program: ClickHouseProgram,
    pub(super) config_file: PathBuf,
    pub(super) log: PathBuf,
    /// Where the child's standard output and error go.
    pub(super) output: PathBuf,
    pub(super) http_port: u16,
    pub(super) tcp_port: u16,
    /// Whether it logs in as `default` to open its listeners.
    pub(super) boots: bool,
    /// Heliostat's own login.
    pub(super) login: Login,
    pub(super) alarms: Alarms,
}

impl ChildSupervisor {
    /// The body of the supervising thread: starts the child, says when it answers, and starts it
    /// again whenever it dies, until told otherwise.
    pub(super) fn run(
        &self,
        commands: &Receiver<ChildCommand>,
        pid: &watch::Sender<Option<u32>>,
        ready: &Sender<Result<(), ServerError>>,
    ) {
        // The receiver of `ready` waits for exactly one answer. If it is gone, nobody needs the child.
        let mut child = match self.start_first() {
            Ok(child) => child,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        // Whoever hears that it answers may ask at once which process it is.
        pid.send_replace(Some(child.id()));
        if ready.send(Ok(())).is_err() {
            return kill(child);
        }
        let mut wait = RESTART_WAIT.0;
        loop {
            let born = Instant::now();
            let answering = || self.is_ready();
            let listening = || listens(self.http_port) && listens(self.tcp_port);
            let answered = || self.alarms.clear(Part::ClickHouse, OWN_PROCESS);
            let silent = || {
                let message = "the own ClickHouse runs and does not answer: views go on, and are \
                               written when it answers again";
                self.alarms.raise(Part::ClickHouse, OWN_PROCESS, message);
            };
            let look = ChildLook { answering, pings: || answers(self.http_port), listening };
            let status = match watch_child(&mut child, commands, look, answered, silent) {
                Watched::Died(status) => status,
                Watched::Told(ChildCommand::Stop) => return stop(child),
                Watched::Told(ChildCommand::Kill) => return kill(child),
            };
            pid.send_replace(None);
            if born.elapsed() >= LIFE_SOUND {
                wait = RESTART_WAIT.0;
            }
            let log = self.log.display();
            let message =
                format!("the own ClickHouse died ({status}) and is started again: see {log}");
            self.alarms.raise(Part::ClickHouse, OWN_PROCESS, message);
            child = loop {
                match commands.recv_timeout(wait) {
                    Err(RecvTimeoutError::Timeout) => {}
                    _ => return,
                }
                wait = (wait * 2).min(RESTART_WAIT.1);
                match self.spawn() {
                    Ok(child) => {
                        pid.send_replace(Some(child.id()));
                        break child;
                    }
                    Err(error) => {
                        self.alarms.raise(Part::ClickHouse, OWN_PROCESS, error.to_string());
                    }
                }
            };
        }
    }

    fn start_first(&self) -> Result<Child, ServerError> {
        let mut child = self.spawn()?;
        let deadline = Instant::now() + READY_TIMEOUT;
        while !self.is_ready() {
            let not_ready = |reason| ServerError::NotReady { reason, log: self.log.clone() };
            if let Ok(Some(status)) = child.try_wait() {
                return Err(not_ready(format!("ended with {status} instead of answering")));
            }
            if Instant::now() > deadline {
                kill(child);
                let limit = READY_TIMEOUT.as_secs();
                return Err(not_ready(format!("did not answer within {limit} s")));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(child)
    }

    /// Whether it answers, over both protocols, and nobody can log in as `default` any more.
    fn is_ready(&self) -> bool {
        answers(self.http_port)
            && listens(self.tcp_port)
            && (!self.boots || self.has_booted() && use_up_quota(self.http_port))
    }

    /// Whether the last statement of the boot runs: what uses up the quota before that would end it.
    fn has_booted(&self) -> bool {
        ask(self.http_port, BOOTED_QUERY, Some(&self.login)).unwrap_or(false)
    }

    fn spawn(&self) -> Result<Child, ServerError> {
        let (program, mut command) = match &self.program {
            ClickHouseProgram::Binary(binary) => {
                let mut command = std::process::Command::new(binary);
                command.arg("server").arg("--config-file").arg(&self.config_file);
                (binary, command)
            }
            ClickHouseProgram::Library { library, heliostat } => {
                let mut command = std::process::Command::new(heliostat);
                command.arg("clickhouse-child").arg(library).arg(&self.config_file);
                (heliostat, command)
            }
        };
        let output = self.open_output()?;
        let errors = output.try_clone();
        let errors = errors.map_err(|source| self.output_error(source))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // Ctrl-C at the terminal is for the parent, which ends the child after its own work.
        command.process_group(0);
        die_with_parent(&mut command);
        command.spawn().map_err(|source| ServerError::Spawn { program: program.clone(), source })
    }

    fn open_output(&self) -> Result<File, ServerError> {
        let opened = OpenOptions::new().create(true).append(true).open(&self.output);
        opened.map_err(|source| self.output_error(source))
    }

    fn output_error(&self, source: io::Error) -> ServerError {
        ServerError::File { path: self.output.clone(), source }
    }
}

enum Watched {
    Died(ExitStatus),
    Told(ChildCommand),
}

/// The checks of a running child.
struct ChildLook<A, P, L> {
    /// It has begun to answer.
    answering: A,
    /// It answers now.
    pings: P,
    /// Somebody listens at its ports.
    listening: L,
}

/// Waits for the child to end, or for a command. Calls `answered` once the child answers, and `silent` when it
/// does not any more. A child that has answered and is not listening is ended: its listeners were
/// closed, and nobody can open them again.
fn watch_child(
    child: &mut Child,
    commands: &Receiver<ChildCommand>,
    look: ChildLook<impl Fn() -> bool, impl Fn() -> bool, impl Fn() -> bool>,
    answered: impl Fn(),
    silent: impl Fn(),
) -> Watched {
    let mut has_answered = false;
    // The number of pings in a row that were not answered.
    let mut unanswered = 0;
    let mut looked = Instant::now();
    loop {
        match commands.recv_timeout(POLL_INTERVAL) {
            Ok(command) => return Watched::Told(command),
            Err(RecvTimeoutError::Disconnected) => return Watched::Told(ChildCommand::Kill),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Watched::Died(status);
        }
        if !has_answered && (look.answering)() {
            has_answered = true;
            answered();
        }
        if has_answered && looked.elapsed() >= LISTEN_INTERVAL {
            looked = Instant::now();
            if !(look.listening)() {
                tracing::error!("ClickHouse does not listen any more: it is ended");
                // An error means that it has ended already.
                let _ = child.kill();
                continue;
            }
            if (look.pings)() {
                if unanswered >= SILENT_QUESTIONS {
                    answered();
                }
                unanswered = 0;
            } else {
                unanswered += 1;
                if unanswered == SILENT_QUESTIONS {
                    silent();
                }
            }
        }
    }
}

fn stop(mut child: Child) {
    // SAFETY: a signal to a child that has not been waited for, so the number is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    let deadline = Instant::now() + STOP_TIMEOUT;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    tracing::warn!("ClickHouse did not end within {} s; killing it", STOP_TIMEOUT.as_secs());
    kill(child);
}

fn kill(mut child: Child) {
    // Errors mean that it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

/// Lets the kernel kill the child when the thread that forked it ends, and so when the process
/// does, by `kill -9` too. Inserts are in the page cache by the time they are acknowledged, so
/// this costs no data.
#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut std::process::Command) {
    let parent = std::process::id() as libc::pid_t;
    let bind = move || {
        // SAFETY: both are plain system calls, allowed between fork and exec.
        let (bound, now) =
            unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), libc::getppid()) };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        match now == parent {
            true => Ok(()),
            // It died before the signal was asked for.
            false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(bind) };
}

/// Elsewhere there is no such signal: after a `kill -9` the child has to be ended by hand.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut std::process::Command) {}

/// True when the HTTP interface answers `/ping`.
fn answers(port: u16) -> bool {
    ask(port, "/ping", None).unwrap_or(false)
}

/// Asks as `default` until its quota is used up; false where it is not used up by then.
fn use_up_quota(port: u16) -> bool {
    (0..QUOTA_QUESTIONS).any(|_| matches!(ask(port, COUNTED_QUERY, None), Ok(false)))
}

/// Whether the HTTP interface answers this with 200.
fn ask(port: u16, path: &str, login: Option<&Login>) -> io::Result<bool> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PING_TIMEOUT)?;
    stream.set_read_timeout(Some(PING_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n")?;
    if let Some(Login { user, password }) = login {
        write!(stream, "X-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer.get(..12).is_some_and(|start| start.ends_with(b"200")))
}

/// False when nobody listens on the port. A busy listener is one.
fn listens(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpStream::connect_timeout(&address, PING_TIMEOUT) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::ConnectionRefused,
    }
}
