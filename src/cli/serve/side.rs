//! The messages between the parent and a side, on a socket that is the side's standard input.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot, watch};

use super::super::ENVIRONMENT;
use super::super::config::Settings;
use crate::engine::EngineError;
use crate::link::{read_message, write_message};
use crate::model::alarm::Alarm;
use crate::model::memory::MemoryEnd;
use crate::sink::clickhouse::ClickHouseConfig;

/// The pause between two messages of a side that it lives.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a side waits for its last message to be sent.
const SAY_TIME_MAX: Duration = Duration::from_millis(500);
/// The descriptor under which the write side has the socket that is listened on.
const LISTENER_FD: RawFd = 19;

/// A message of the parent to a side.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromParent {
    /// The first message: what to serve.
    Start(Box<SideStart>),
    /// The alarms of the parent, all that there are.
    Alarms(Vec<Alarm>),
    /// End in good order.
    Stop,
}

/// The first message to a side: all that it needs to begin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SideStart {
    pub settings: Settings,
    /// True if the server listens on a loopback address, so that only this machine reaches it.
    pub loopback: bool,
    /// The address and login of ClickHouse; `None` without one.
    pub clickhouse: Option<ClickHouseConfig>,
    /// The socket of the read side.
    pub socket: PathBuf,
    /// How the side before this one ended, if it was killed for its memory.
    pub memory_end: Option<MemoryEnd>,
}

/// A message of a side to the parent.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromSide {
    /// The side serves.
    Serving,
    /// The side ends, since a part of it has failed with this error.
    Failed(String),
    /// The side lives.
    Beat,
}

/// Starts a side of this program. It dies with the calling thread.
pub fn spawn(
    command: &str,
    listener: Option<&impl AsRawFd>,
) -> std::io::Result<(Child, UnixStream)> {
    let (ours, theirs) = BlockingStream::pair()?;
    ours.set_nonblocking(true)?;
    let listener = listener.map(|listener| listener.as_raw_fd());
    let mut child = Command::new(program()?);
    child.arg0("heliostat").arg(command).stdin(Stdio::from(OwnedFd::from(theirs))).process_group(0);
    // SAFETY: between fork and exec only system calls are made, on numbers.
    unsafe {
        child.pre_exec(move || {
            if let Some(listener) = listener {
                inherit(listener)?;
            }
            #[cfg(target_os = "linux")]
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        })
    };
    Ok((child.spawn()?, UnixStream::from_std(ours)?))
}

/// This very program, also where another version has taken its place on disk.
fn program() -> std::io::Result<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() { Ok(running) } else { std::env::current_exe() }
}

/// Keeps a descriptor open in the program that is executed next, as [`LISTENER_FD`].
unsafe fn inherit(listener: RawFd) -> std::io::Result<()> {
    // SAFETY: the call takes numbers only.
    let done = unsafe {
        match listener {
            // A copy onto itself would be closed as the original is.
            LISTENER_FD => libc::fcntl(listener, libc::F_SETFD, 0),
            _ => libc::dup2(listener, LISTENER_FD),
        }
    };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// The socket that the parent listens on.
pub fn listener() -> std::io::Result<tokio::net::TcpListener> {
    // SAFETY: the parent has put it there, and nobody else takes it.
    let listener = unsafe { std::net::TcpListener::from_raw_fd(LISTENER_FD) };
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

/// A side's connection to its parent.
pub struct Parent {
    /// The alarms that the parent told last.
    pub alarms: watch::Receiver<Vec<Alarm>>,
    stop: watch::Receiver<bool>,
    say: mpsc::UnboundedSender<Said>,
}

/// A message to the parent, and who is told once it is sent.
struct Said {
    message: FromSide,
    sent: Option<oneshot::Sender<()>>,
}

impl Parent {
    /// Hears what to begin with. Without a parent there is nothing to do.
    pub async fn meet() -> std::io::Result<(SideStart, Parent)> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
        let stream = BlockingStream::from(stdin);
        stream.set_nonblocking(true)?;
        let (mut from, mut to) = UnixStream::from_std(stream)?.into_split();
        let invalid = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidInput, what);
        let start = match read_message::<FromParent>(&mut from).await {
            Ok(Some((FromParent::Start(start), _))) => *start,
            Ok(_) => return Err(invalid("this command is for `heliostat serve`".to_string())),
            Err(error) => return Err(invalid(error.to_string())),
        };
        let (alarms_sender, alarms) = watch::channel(Vec::new());
        let (stop_sender, stop) = watch::channel(false);
        let (say, mut said) = mpsc::unbounded_channel::<Said>();
        tokio::spawn(hear(from, alarms_sender, stop_sender));
        tokio::spawn(async move {
            let mut beat = tokio::time::interval(BEAT_INTERVAL);
            loop {
                let beats = Said { message: FromSide::Beat, sent: None };
                let Said { message, sent } = tokio::select! {
                    said = said.recv() => said.unwrap_or(beats),
                    _ = beat.tick() => beats,
                };
                if write_message(&mut to, &message, &[]).await.is_err() {
                    return;
                }
                if let Some(sent) = sent {
                    let _ = sent.send(());
                }
            }
        });
        Ok((start, Parent { alarms, stop, say }))
    }

    /// Says that this side serves.
    pub fn is_served(&self) {
        // Without a parent the process ends anyway.
        let _ = self.say.send(Said { message: FromSide::Serving, sent: None });
    }

    /// Says why this side is about to end, and waits until that is sent.
    pub async fn has_failed(&self, error: &EngineError) {
        let (sent, is_sent) = oneshot::channel();
        let message = FromSide::Failed(error.to_string());
        let _ = self.say.send(Said { message, sent: Some(sent) });
        // Without a parent, or with one that does not read, the exit code has to do.
        let _ = tokio::time::timeout(SAY_TIME_MAX, is_sent).await;
    }

    /// Resolves when the side is to end.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.clone();
        async move {
            if stop.wait_for(|stop| *stop).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn hear(
    mut from: OwnedReadHalf,
    alarms: watch::Sender<Vec<Alarm>>,
    stop: watch::Sender<bool>,
) {
    loop {
        match read_message(&mut from).await {
            Ok(Some((FromParent::Alarms(told), _))) => drop(alarms.send_replace(told)),
            Ok(Some((FromParent::Stop, _))) => drop(stop.send_replace(true)),
            Ok(Some((FromParent::Start(_), _))) => {}
            // The parent is gone: what is acknowledged is on disk, and another one may begin.
            Ok(None) | Err(_) => std::process::exit(i32::from(ENVIRONMENT)),
        }
    }
}
