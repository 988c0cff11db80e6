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

use super::{ClickHouseProgram, ServerError};
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
/// How long one question whether it answers may take.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

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
        // The other side waits for exactly one answer; if it is gone, nobody needs the child.
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
            let answering = || answers(self.http_port);
            let answered = || self.alarms.clear(Part::ClickHouse, OWN_PROCESS);
            let status = match watch_child(&mut child, commands, answering, answered) {
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
        while !answers(self.http_port) {
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

/// Waits for the child to end, or for a command. Calls `answered` once `answering` says yes.
fn watch_child(
    child: &mut Child,
    commands: &Receiver<ChildCommand>,
    answering: impl Fn() -> bool,
    answered: impl Fn(),
) -> Watched {
    let mut has_answered = false;
    loop {
        match commands.recv_timeout(POLL_INTERVAL) {
            Ok(command) => return Watched::Told(command),
            Err(RecvTimeoutError::Disconnected) => return Watched::Told(ChildCommand::Kill),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Watched::Died(status);
        }
        if !has_answered && answering() {
            has_answered = true;
            answered();
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
    let ask = || -> io::Result<bool> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, PING_TIMEOUT)?;
        stream.set_read_timeout(Some(PING_TIMEOUT))?;
        stream.write_all(b"GET /ping HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start.ends_with(b"200"))
    };
    ask().unwrap_or(false)
}
