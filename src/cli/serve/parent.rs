//! The parent: starts both sides, starts each one again when it ends, and ends them in order.
//!
//! The write side comes first, since the read side follows its log. A side that ends by itself before
//! it has ever served (the data directory is damaged, say) has said why, and ends the server with its
//! code; later it is started again, after a pause that grows.

use std::os::unix::net::UnixListener;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::super::{DONE, ENVIRONMENT, report};
use super::begin::{self, Begun};
use super::side::{self, FromParent, FromSide, SideStart};
use super::{backups, ended, read, write};
use crate::link::{LinkError, read_message, write_message};
use crate::model::alarm::{Alarm, Alarms, Part};
use crate::model::memory::{MemoryEnd, anonymous_bytes, total_bytes};

/// The pause between two looks at the sides.
const WATCH_INTERVAL: Duration = Duration::from_millis(10);
/// The pause between two looks at the memory of the read side.
const MEASURE_INTERVAL: Duration = Duration::from_millis(100);
/// From this silence of a side on an alarm tells of it.
const SILENCE_TOLD: Duration = Duration::from_secs(3);
/// The longest silence of a side; after it the parent kills the side.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The pauses before a side is started again: the first after one that came at once, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A side that has served for so long is started again at once.
const PAUSE_FORGOTTEN: Duration = Duration::from_secs(30);
/// How long an alarm tells that a side has failed, once the side serves again.
const FAILURE_TOLD: Duration = Duration::from_secs(10);
/// How long to wait for the last messages of a side that has ended.
const LAST_MESSAGES_TIME_MAX: Duration = Duration::from_millis(500);
/// How long the write side may take to end, and both together: the read side writes a snapshot.
const WRITE_SIDE_END_TIME_MAX: Duration = Duration::from_secs(3);
const SIDES_END_TIME_MAX: Duration = Duration::from_millis(8_400);
/// The longest path that a socket may have.
const SOCKET_PATH_MAX: usize = 100;

/// Serves until SIGTERM or Ctrl-C; the code to end with.
pub async fn serve(begun: Begun, alarms: Alarms) -> u8 {
    let addresses = begun.clickhouse_addresses();
    let Begun { settings, listener, loopback, own_clickhouse, clickhouse, .. } = begun;
    let address = listener.local_addr();
    let socket = match Socket::new(&settings.data_dir) {
        Ok(socket) => socket,
        Err(error) => {
            report(&error);
            return ENVIRONMENT;
        }
    };
    let start = SideStart {
        settings: settings.clone(),
        loopback,
        clickhouse,
        socket: socket.path.clone(),
        memory_end: None,
    };
    let _backups = backups::begin(&settings, alarms.clone());
    let mut sides = SideProcesses::new(start, listener, alarms);
    let mut serving = None;
    let mut interval = tokio::time::interval(WATCH_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopped = ended();
    tokio::pin!(stopped);
    let code = loop {
        tokio::select! {
            () = &mut stopped => break DONE,
            _ = interval.tick() => {}
        }
        if let Err(code) = sides.watch().await {
            break code;
        }
        if serving.is_none() && sides.serve() {
            serving = Some(begin::tell(
                &settings,
                address.as_ref().copied().map_err(|error| error.kind().into()),
                addresses.clone(),
            ));
        }
    };
    sides.end().await;
    drop(serving);
    if let Some(own) = own_clickhouse {
        own.stop().await;
    }
    code
}

/// Where the read side listens: in the data directory, or in a temporary one where the path is too long
/// for a socket, or the file system has none.
struct Socket {
    path: std::path::PathBuf,
    /// Removed with this.
    _directory: Option<TempDir>,
}

impl Socket {
    fn new(data_dir: &std::path::Path) -> std::io::Result<Socket> {
        const NAME: &str = "read-side.sock";
        let path = data_dir.join(NAME);
        if path.as_os_str().len() <= SOCKET_PATH_MAX {
            // A killed server leaves its socket behind.
            let _ = std::fs::remove_file(&path);
            if UnixListener::bind(&path).is_ok() {
                return Ok(Socket { path, _directory: None });
            }
        }
        let directory = tempfile::tempdir()?;
        Ok(Socket { path: directory.path().join(NAME), _directory: Some(directory) })
    }
}

/// The memory that there is for all processes.
fn memory_there_is() -> Option<u64> {
    // Where tests say that the machine is a small one.
    #[cfg(feature = "failpoints")]
    fail::fail_point!("memory there is", |bytes| bytes.and_then(|bytes| bytes.parse().ok()));
    total_bytes()
}

/// Both sides.
struct SideProcesses {
    write: SideProcess,
    read: SideProcess,
    listener: tokio::net::TcpListener,
    start: SideStart,
    alarms: Alarms,
    watched: Instant,
    measured: Instant,
    /// The most bytes that the read side may take.
    memory_max: u64,
}

impl SideProcesses {
    fn new(start: SideStart, listener: tokio::net::TcpListener, alarms: Alarms) -> Self {
        let write = SideProcess::new("write side", write::COMMAND, Part::Server);
        let read = SideProcess::new("read side", read::COMMAND, Part::ReadSide);
        let now = Instant::now();
        // Over its budget the read side has means of its own: views wait, and are set aside.
        let budget = start.settings.memory;
        let memory_max =
            memory_there_is().map_or(u64::MAX, |total| (budget / 2 + total / 2).max(budget));
        SideProcesses {
            write,
            read,
            listener,
            start,
            alarms,
            watched: now,
            measured: now,
            memory_max,
        }
    }

    /// True while both sides serve.
    fn serve(&self) -> bool {
        self.write.is_serving() && self.read.is_serving()
    }

    /// Looks at both sides, and starts those that are due. The error is the code to end with, where starting
    /// again would not help.
    async fn watch(&mut self) -> Result<(), u8> {
        // A process that was stopped for a while, or a machine that slept, has heard nothing.
        let slept = self.watched.elapsed() > SILENCE_MAX / 2;
        self.watched = Instant::now();
        let budget = self.start.settings.memory;
        for side in [&mut self.write, &mut self.read] {
            side.hear(slept);
            side.look(&self.alarms, budget).await?;
        }
        for side in [&mut self.write, &mut self.read] {
            side.end_if_silent();
        }
        if self.measured.elapsed() >= MEASURE_INTERVAL {
            self.measured = Instant::now();
            self.read.end_if_large(self.memory_max);
        }
        if self.write.is_due() {
            self.write.start(&self.start, Some(&self.listener)).await?;
        }
        // It follows the log of the write side.
        if self.read.is_due() && self.write.has_served {
            self.read.start(&self.start, None).await?;
        }
        self.write.tell_alarms(&self.alarms).await;
        Ok(())
    }

    /// Ends the write side, which takes requests, and then the read side, which answers them.
    async fn end(&mut self) {
        let now = Instant::now();
        self.write.end(now + WRITE_SIDE_END_TIME_MAX).await;
        self.read.end(now + SIDES_END_TIME_MAX).await;
    }
}

/// A side, whether it runs or not.
struct SideProcess {
    name: &'static str,
    command: &'static str,
    /// The part that alarms about this side name.
    part: Part,
    /// The subject of the alarm that nothing is heard of it.
    silence: &'static str,
    running: Option<RunningSide>,
    has_served: bool,
    /// The error with which it ended by itself last, as long as that is told.
    failed: Option<String>,
    /// How it ended last, if it was killed for its memory; told to the next one.
    memory_end: Option<MemoryEnd>,
    /// When it is started next.
    due: Instant,
    pause: Duration,
}

struct RunningSide {
    child: Child,
    to: OwnedWriteHalf,
    said: mpsc::UnboundedReceiver<FromSide>,
    serving_since: Option<Instant>,
    heard: Instant,
    /// The alarms that it was told last.
    alarms: Vec<Alarm>,
    /// Bytes of memory that it took when it was last measured.
    taken: u64,
    /// Why this parent has killed it.
    killed: Option<String>,
    /// It was killed since it took more memory than this.
    killed_over: Option<u64>,
    /// The error with which it ends, as it says.
    failed: Option<String>,
}

impl SideProcess {
    fn new(name: &'static str, command: &'static str, part: Part) -> Self {
        let (due, pause) = (Instant::now(), Duration::ZERO);
        let silence = match part {
            Part::ReadSide => "silent read side",
            _ => "silent write side",
        };
        SideProcess {
            name,
            command,
            part,
            silence,
            running: None,
            has_served: false,
            failed: None,
            memory_end: None,
            due,
            pause,
        }
    }

    fn is_serving(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.serving_since.is_some())
    }

    fn is_due(&self) -> bool {
        self.running.is_none() && Instant::now() >= self.due
    }

    async fn start(
        &mut self,
        start: &SideStart,
        listener: Option<&tokio::net::TcpListener>,
    ) -> Result<(), u8> {
        // Called on the main thread, whose end is that of the process: a side ends with the thread
        // that has started it.
        let (child, stream) = match side::spawn(self.command, listener) {
            Ok(spawned) => spawned,
            Err(error) if !self.has_served => {
                eprintln!("error: the {} cannot be started: {error}", self.name);
                return Err(ENVIRONMENT);
            }
            Err(error) => {
                tracing::error!(%error, "the {} cannot be started", self.name);
                self.wait();
                return Ok(());
            }
        };
        let (from, to) = stream.into_split();
        let (sender, said) = mpsc::unbounded_channel();
        tokio::spawn(forward(from, sender));
        let mut running = RunningSide {
            child,
            to,
            said,
            serving_since: None,
            heard: Instant::now(),
            alarms: Vec::new(),
            taken: 0,
            killed: None,
            killed_over: None,
            failed: None,
        };
        // An error is ignored: a side that ends at once is noticed by its end.
        let start = SideStart { memory_end: self.memory_end, ..start.clone() };
        let _ = running.tell(&FromParent::Start(Box::new(start))).await;
        self.running = Some(running);
        Ok(())
    }

    /// Takes what the side has said. `slept`: nobody has listened for a while.
    fn hear(&mut self, slept: bool) {
        let Some(running) = &mut self.running else { return };
        if slept {
            running.heard = Instant::now();
        }
        while let Ok(message) = running.said.try_recv() {
            running.hear(message);
        }
        self.has_served |= running.serving_since.is_some();
    }

    /// Looks whether the side has ended; the code to end with if it never served. `budget`: how much memory
    /// it may take before it has to do something about it.
    async fn look(&mut self, alarms: &Alarms, budget: u64) -> Result<(), u8> {
        let Some(running) = &mut self.running else { return Ok(()) };
        if let Some(since) = running.serving_since {
            self.failed.take_if(|_| since.elapsed() >= FAILURE_TOLD);
            match &self.failed {
                None => alarms.clear(self.part, self.name),
                Some(why) => {
                    let message = format!("the {} has failed and serves again: {why}", self.name);
                    alarms.raise(self.part, self.name, message);
                }
            }
        }
        let silent = running.heard.elapsed();
        if silent >= SILENCE_TOLD {
            let message = format!(
                "nothing is heard of the {} for {} s: it is killed after {} s",
                self.name,
                silent.as_secs(),
                SILENCE_MAX.as_secs()
            );
            alarms.raise(self.part, self.silence, message);
        } else {
            alarms.clear(self.part, self.silence);
        }
        let status = match running.child.try_wait() {
            Ok(None) => return Ok(()),
            Ok(Some(status)) => status,
            Err(error) => {
                tracing::error!(%error, "the {} cannot be waited for", self.name);
                return Err(ENVIRONMENT);
            }
        };
        if let (false, Some(code)) = (self.has_served, status.code()) {
            return Err(u8::try_from(code).unwrap_or(ENVIRONMENT));
        }
        let long = |since: Instant| since.elapsed() >= PAUSE_FORGOTTEN;
        if running.serving_since.is_some_and(long) {
            self.pause = Duration::ZERO;
        }
        // Its last messages may still be in the socket.
        let _ = tokio::time::timeout(LAST_MESSAGES_TIME_MAX, async {
            while let Some(message) = running.said.recv().await {
                running.hear(message);
            }
        })
        .await;
        alarms.clear(self.part, self.silence);
        let memory_end = running.memory_end(status, budget);
        // A side that ended before it served may not have had the time to judge the end before, so that one
        // is kept.
        if memory_end.is_some() || running.serving_since.is_some() {
            self.memory_end = memory_end;
        }
        self.failed = running.failed.take();
        let why = match (running.killed.take().or(self.failed.clone()), memory_end) {
            (Some(why), _) => why,
            (None, None) => told(status),
            (None, Some(MemoryEnd { taken, bytes_max })) => format!(
                "{} while it took {taken} bytes of memory, more than its budget of {bytes_max} \
                 (--memory): the system may have been short of it",
                told(status)
            ),
        };
        self.running = None;
        let pause = self.wait();
        let consequence = match self.part {
            Part::ReadSide => "events are accepted, views are not answered until then",
            _ => "events are not accepted until then",
        };
        let message = format!(
            "the {} has ended ({why}) and is started again in {} ms: {consequence}",
            self.name,
            pause.as_millis()
        );
        alarms.raise(self.part, self.name, message);
        Ok(())
    }

    /// Plans the next start; after how long.
    fn wait(&mut self) -> Duration {
        let pause = self.pause;
        self.due = Instant::now() + pause;
        self.pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        pause
    }

    /// Kills a side that does not say that it lives.
    fn end_if_silent(&mut self) {
        let Some(running) = &mut self.running else { return };
        let silent = running.heard.elapsed();
        if running.killed.is_none() && silent > SILENCE_MAX {
            running.killed =
                Some(format!("it was killed: nothing was heard of it for {} s", silent.as_secs()));
            let _ = running.child.kill();
        }
    }

    /// Kills a side that takes so much memory that the kernel may soon choose what to end.
    fn end_if_large(&mut self, bytes_max: u64) {
        let Some(running) = &mut self.running else { return };
        if running.killed.is_some() {
            return;
        }
        // A side that has just ended cannot be measured: the last measurement stays.
        let now = anonymous_bytes(Some(running.child.id()));
        let taken = now.unwrap_or(running.taken);
        running.taken = taken;
        if taken > bytes_max {
            running.killed_over = Some(bytes_max);
            running.killed = Some(format!(
                "it was killed: it took {taken} bytes of memory, more than {bytes_max}, which is half way \
                 from its budget (--memory) to all there is"
            ));
            let _ = running.child.kill();
        }
    }

    async fn tell_alarms(&mut self, alarms: &Alarms) {
        let Some(running) = &mut self.running else { return };
        let now = alarms.list();
        if running.alarms != now {
            // An error is ignored: a side that has ended is noticed by its end.
            let _ = running.tell(&FromParent::Alarms(now.clone())).await;
            running.alarms = now;
        }
    }

    /// Ends it, until `end` at the latest.
    async fn end(&mut self, end: Instant) {
        let Some(mut running) = self.running.take() else { return };
        let _ = running.tell(&FromParent::Stop).await;
        while Instant::now() < end {
            if !matches!(running.child.try_wait(), Ok(None)) {
                return;
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
        tracing::warn!("the {} did not end in time: it is killed", self.name);
        let _ = running.child.kill();
        let _ = running.child.wait();
    }
}

impl RunningSide {
    fn hear(&mut self, message: FromSide) {
        self.heard = Instant::now();
        match message {
            FromSide::Serving => self.serving_since = Some(self.heard),
            FromSide::Failed(why) => self.failed = Some(why),
            FromSide::Beat => {}
        }
    }

    /// The memory that it took and the limit, if it was killed for its memory: by this parent, or while over
    /// its budget by somebody else, mostly the kernel.
    fn memory_end(&self, status: ExitStatus, budget: u64) -> Option<MemoryEnd> {
        use std::os::unix::process::ExitStatusExt;
        let by_another =
            self.killed.is_none() && status.signal() == Some(libc::SIGKILL) && self.taken > budget;
        let bytes_max = self.killed_over.or(by_another.then_some(budget))?;
        Some(MemoryEnd { taken: self.taken, bytes_max })
    }

    /// How long to wait until a side reads a message.
    const TELL_TIME: Duration = Duration::from_secs(1);

    async fn tell(&mut self, message: &FromParent) -> Result<(), LinkError> {
        let told = write_message(&mut self.to, message, &[]);
        let told = tokio::time::timeout(Self::TELL_TIME, told).await;
        told.unwrap_or(Err(LinkError::Timeout(Self::TELL_TIME)))
    }
}

impl Drop for RunningSide {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn forward(mut from: OwnedReadHalf, said: mpsc::UnboundedSender<FromSide>) {
    while let Ok(Some((message, _))) = read_message(&mut from).await {
        if said.send(message).is_err() {
            return;
        }
    }
}

/// The exit code or signal of a process, in words.
fn told(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "without a word".to_string(),
    }
}
