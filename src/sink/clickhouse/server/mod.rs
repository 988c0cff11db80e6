//! A ClickHouse of one's own: a child process on loopback that keeps its data in a folder, is
//! started again when it dies, and goes with its parent, however that ends.

mod config;
mod locate;
mod logins;
mod supervise;

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;
use tokio::sync::watch;

use crate::model::alarm::Alarms;

pub use locate::{ClickHouseProgram, LIBCHDB_VERSION, locate};
pub use logins::{Login, Logins, read_login};
use supervise::{ChildCommand, ChildSupervisor};

/// How long a port may be taken, or the data in use, before it is given up.
const PORT_PATIENCE: Duration = Duration::from_secs(5);
/// How often a port is tried that is taken.
const PORT_POLL: Duration = Duration::from_millis(100);

/// Why the own ClickHouse does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no ClickHouse on this machine.
    #[error(
        "no ClickHouse on this machine: there is no `clickhouse` on PATH and no libchdb.so at \
         {library}; run `make clickhouse` to fetch it, set HELIOSTAT_LIBCHDB to a libchdb.so, name \
         a server with --clickhouse-url, or do without by --no-clickhouse"
    )]
    NotFound {
        /// Where the library was looked for.
        library: PathBuf,
    },
    /// The port cannot be listened on.
    #[error(
        "ClickHouse's HTTP port 127.0.0.1:{port} cannot be used: {source}; choose another with \
         --clickhouse-http-port"
    )]
    Port {
        /// The port.
        port: u16,
        /// The operating system's error.
        source: io::Error,
    },
    /// A file of the data directory cannot be used.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The process cannot be started.
    #[error("ClickHouse cannot be started as `{program}`: {source}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// It ended, or did not answer, before it was ready.
    #[error("ClickHouse {reason}; its log is {log}")]
    NotReady {
        /// The event, in words that follow "ClickHouse".
        reason: String,
        /// Its log.
        log: PathBuf,
    },
}

/// How to run the own ClickHouse.
#[derive(Clone)]
pub struct ServerConfig {
    /// Which ClickHouse; see [`locate`].
    pub program: ClickHouseProgram,
    /// The folder for its data, configuration and log; created if it is missing.
    pub dir: PathBuf,
    /// The HTTP port on 127.0.0.1; 0 takes a free one.
    pub http_port: u16,
    /// The users.
    pub logins: Logins,
    /// The database of the views, which readers may read.
    pub database: String,
    /// The alarms, one of which lasts while ClickHouse is away.
    pub alarms: Alarms,
}

/// A running ClickHouse. Dropping it kills the child; [`stop`](Self::stop) ends it in good order.
pub struct OwnClickHouse {
    http: Port,
    tcp: Port,
    pid: watch::Receiver<Option<u32>>,
    commands: mpsc::Sender<ChildCommand>,
    thread: Option<thread::JoinHandle<()>>,
}

impl OwnClickHouse {
    /// Starts ClickHouse and returns once it answers.
    pub async fn start(config: ServerConfig) -> Result<Self, ServerError> {
        let started = tokio::task::spawn_blocking(move || Self::start_blocking(&config)).await;
        match started {
            Ok(started) => started,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn start_blocking(config: &ServerConfig) -> Result<Self, ServerError> {
        let (http, tcp) = match config.http_port {
            0 => (Port::reserved()?, Port::reserved()?),
            port => (Port::usable(port)?, Port::usable(0)?),
        };
        let (http_port, tcp_port) = (http.number, tcp.number);
        create_dir(&config.dir)?;
        let dir = canonical(&config.dir)?;
        wait_for_data(&dir);
        let file = dir.join("config.xml");
        let is_reserved = http.reserved.is_some();
        let text = config::render(&dir, http_port, tcp_port, is_reserved);
        fs::write(&file, text)
            .map_err(|source| ServerError::File { path: file.clone(), source })?;
        let boots = matches!(config.program, ClickHouseProgram::Library { .. });
        let users = config::render_users(&config.logins, &config.database, boots);
        write_secret(&dir.join("users.xml"), &users)?;
        let supervisor = ChildSupervisor {
            program: config.program.clone(),
            config_file: file,
            log: dir.join("clickhouse.log"),
            output: dir.join("clickhouse-output.log"),
            http_port,
            tcp_port,
            boots,
            login: config.logins.own.clone(),
            alarms: config.alarms.clone(),
        };
        let (commands, received) = mpsc::channel();
        let (pid_sender, pid) = watch::channel(None);
        let (ready_sender, ready) = mpsc::channel();
        // The child's life hangs on the thread that forks it (PR_SET_PDEATHSIG), so that is a
        // thread of its own and not one of a runtime's.
        let thread = thread::Builder::new()
            .name("clickhouse".into())
            .spawn(move || supervisor.run(&received, &pid_sender, &ready_sender))
            .map_err(|source| ServerError::Spawn { program: "a thread".into(), source })?;
        let ended = || ServerError::NotReady {
            reason: "was given up".into(),
            log: config.dir.join("clickhouse.log"),
        };
        ready.recv().unwrap_or_else(|_| Err(ended()))?;
        Ok(OwnClickHouse { http, tcp, pid, commands, thread: Some(thread) })
    }

    /// The address of its HTTP interface.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http.number)
    }

    /// The port of its native protocol on 127.0.0.1.
    pub fn tcp_port(&self) -> u16 {
        self.tcp.number
    }

    /// The process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// Ends it: SIGTERM, and SIGKILL if that takes too long. Returns when it is gone.
    pub async fn stop(mut self) {
        // An error means that the thread has ended, and the child with it.
        let _ = self.commands.send(ChildCommand::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for OwnClickHouse {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.commands.send(ChildCommand::Kill);
            let _ = thread.join();
        }
    }
}

/// A port of ClickHouse on 127.0.0.1.
struct Port {
    number: u16,
    /// Keeps others from taking the port. It does not listen, so that ClickHouse can beside it.
    reserved: Option<TcpSocket>,
}

impl Port {
    /// The port itself, if it is free, or a free one for 0.
    fn usable(port: u16) -> Result<Port, ServerError> {
        let taken = |source| ServerError::Port { port, source };
        let deadline = Instant::now() + PORT_PATIENCE;
        loop {
            match TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
                Ok(listener) => {
                    let number = listener.local_addr().map_err(taken)?.port();
                    return Ok(Port { number, reserved: None });
                }
                // The port may still belong to a server that was killed a moment ago and has not ended yet.
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline =>
                {
                    thread::sleep(PORT_POLL);
                }
                Err(error) => return Err(taken(error)),
            }
        }
    }

    /// A free port that stays ours until ClickHouse listens, and after it has ended.
    fn reserved() -> Result<Port, ServerError> {
        let reserve = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseport(true)?;
            socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            Ok(Port { number: socket.local_addr()?.port(), reserved: Some(socket) })
        };
        reserve().map_err(|source| ServerError::Port { port: 0, source })
    }
}

/// Waits while a ClickHouse whose parent was killed a moment ago still has the data. One that stays is
/// told by the next, which refuses to start.
fn wait_for_data(dir: &Path) {
    let deadline = Instant::now() + PORT_PATIENCE;
    let is_locked = || match fs::File::open(dir.join("data/status")) {
        Ok(status) => matches!(status.try_lock(), Err(fs::TryLockError::WouldBlock)),
        Err(_) => false,
    };
    while is_locked() && Instant::now() < deadline {
        thread::sleep(PORT_POLL);
    }
}

/// Writes a file that is its user's alone.
fn write_secret(path: &Path, text: &str) -> Result<(), ServerError> {
    let write = || {
        let parent = path.parent().unwrap_or(Path::new("."));
        // Temporary files are made with 0600.
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        file.write_all(text.as_bytes())?;
        file.persist(path).map_err(|error| error.error).map(drop)
    };
    write().map_err(|source| ServerError::File { path: path.into(), source })
}

fn create_dir(path: &Path) -> Result<(), ServerError> {
    fs::create_dir_all(path).map_err(|source| ServerError::File { path: path.into(), source })
}

fn canonical(path: &Path) -> Result<PathBuf, ServerError> {
    path.canonicalize().map_err(|source| ServerError::File { path: path.into(), source })
}
