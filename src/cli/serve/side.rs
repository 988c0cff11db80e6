//! What the parent and a side tell each other, on a socket that the side has as its standard input.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, watch};

use super::super::ENVIRONMENT;
use super::super::config::Settings;
use crate::link::{read_message, write_message};
use crate::model::alarm::Alarm;
use crate::sink::clickhouse::ClickHouseConfig;

/// How often a side says that it lives.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// The descriptor under which the write side has the socket that is listened on.
const LISTENER_FD: RawFd = 19;

/// What the parent tells.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromParent {
    /// The first message: what to serve.
    Start(Box<SideStart>),
    /// What is wrong in the parent.
    Alarms(Vec<Alarm>),
    /// End in good order.
    Stop,
}

/// What a side begins with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SideStart {
    pub settings: Settings,
    /// Whether only this machine reaches the server.
    pub loopback: bool,
    /// Where ClickHouse answers.
    pub clickhouse: Option<ClickHouseConfig>,
    /// The socket of the read side.
    pub socket: PathBuf,
}

/// What a side tells.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromSide {
    /// It does what it is for.
    Serving,
    /// It lives.
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
    /// What the parent says is wrong with it.
    pub alarms: watch::Receiver<Vec<Alarm>>,
    stop: watch::Receiver<bool>,
    say: mpsc::UnboundedSender<FromSide>,
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
        let (say, mut said) = mpsc::unbounded_channel();
        tokio::spawn(hear(from, alarms_sender, stop_sender));
        tokio::spawn(async move {
            let mut beat = tokio::time::interval(BEAT_INTERVAL);
            loop {
                let message = tokio::select! {
                    message = said.recv() => message.unwrap_or(FromSide::Beat),
                    _ = beat.tick() => FromSide::Beat,
                };
                if write_message(&mut to, &message, &[]).await.is_err() {
                    return;
                }
            }
        });
        Ok((start, Parent { alarms, stop, say }))
    }

    /// Says that this side does what it is for.
    pub fn is_served(&self) {
        // Without a parent the process ends anyway.
        let _ = self.say.send(FromSide::Serving);
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
