//! The write side's end: tells how far the log is, adopts catalogs, and asks for everything about
//! views.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::message::{
    FeedMessage, FromReadSide, FromWriteSide, LinkError, RowsHead, ViewCall, greet, read, write,
};
use super::rows;
use crate::decode::CatalogReceiver;
use crate::log::Log;
use crate::status::{
    Away, Backend, ChangeFeed, ChangePart, ChangesError, ChangesRequest, DeadLetterFilter,
    DeadLetters, DismissError, FeedEnd, ReadStatus, RebuildError, Retried, RowsAnswer, RowsError,
    RowsRequest, Selection, ViewPlace, WaitRequest, Waiting,
};

/// How often it is tried to reach a read side that is not there.
const CONNECT_INTERVAL: Duration = Duration::from_millis(20);
/// How long the status may take: `/readyz` waits for it, and appends for where views stand.
const STATUS_TIME: Duration = Duration::from_secs(2);
/// How long an answer may take beyond what the call itself asks for.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The same limit for calls that read the log or write to the disk.
const WORK_TIME: Duration = Duration::from_secs(60);
/// Idle connections that are kept for the next calls.
const IDLE_MAX: usize = 64;
/// The reason that is given while the read side has not begun to answer.
const STARTING: &str = "the views are being prepared: their process is starting";
/// The reason that is given when the read side has gone.
const GONE: &str = "the process that keeps the views has ended and is started again: events are accepted meanwhile";

/// The read side in another process.
pub struct ReadSideClient {
    path: PathBuf,
    /// Connections that no call uses now.
    idle: Mutex<Vec<UnixStream>>,
    away: watch::Sender<Option<Away>>,
}

impl ReadSideClient {
    /// The read side that listens on this socket, now or later.
    pub fn new(path: PathBuf) -> Arc<Self> {
        let away = Some(Away { reason: STARTING.to_string() });
        Arc::new(ReadSideClient { path, idle: Mutex::default(), away: watch::Sender::new(away) })
    }

    /// Lets the read side follow the log, each one that comes, until told to stop.
    pub async fn follow(
        self: Arc<Self>,
        log: Log,
        catalog: Arc<dyn CatalogReceiver>,
        stopping: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.follow_once(&log, &catalog) => {}
            }
            lock(&self.idle).clear();
        }
    }

    async fn follow_once(&self, log: &Log, catalog: &Arc<dyn CatalogReceiver>) {
        let Ok(mut stream) = UnixStream::connect(&self.path).await else {
            tokio::time::sleep(CONNECT_INTERVAL).await;
            return;
        };
        let followed = async {
            greet(&mut stream, true).await?;
            let (from, to) = stream.into_split();
            let adopted = watch::Sender::new(0);
            tokio::select! {
                ended = tell(log, adopted.subscribe(), to) => ended,
                ended = self.hear(log, catalog, &adopted, from) => ended,
            }
        };
        match followed.await {
            Ok(()) => {}
            Err(LinkError::Io(error)) => tracing::debug!(%error, "the read side is gone"),
            Err(error) => tracing::error!(%error, "the read side is not understood"),
        }
        self.away.send_replace(Some(Away { reason: GONE.to_string() }));
        tokio::time::sleep(CONNECT_INTERVAL).await;
    }

    async fn hear(
        &self,
        log: &Log,
        catalog: &Arc<dyn CatalogReceiver>,
        adopted: &watch::Sender<u64>,
        mut from: OwnedReadHalf,
    ) -> Result<(), LinkError> {
        self.away.send_replace(Some(Away { reason: STARTING.to_string() }));
        while let Some((message, _)) = read(&mut from).await? {
            match message {
                FromReadSide::Clock { interval_ms } => {
                    log.keep_time(interval_ms.map(Duration::from_millis));
                }
                FromReadSide::Note(control) => log.note(Some(control)),
                FromReadSide::Offer { number, catalog: offered } => {
                    let receiver = Arc::clone(catalog);
                    let adopting = tokio::task::spawn_blocking(move || receiver.offer(offered));
                    if let Err(error) = adopting.await {
                        std::panic::resume_unwind(error.into_panic());
                    }
                    catalog.adopted().await;
                    adopted.send_replace(number);
                    self.away.send_replace(None);
                }
            }
        }
        Ok(())
    }

    /// Makes a call and waits for the answer, at most so long; the answer, and the bytes behind it.
    async fn call<T, E>(&self, call: ViewCall, time: Duration) -> Result<(T, Vec<u8>), E>
    where
        T: DeserializeOwned,
        E: DeserializeOwned + From<Away>,
    {
        let (stream, answer, bytes) = self.begin::<Result<T, E>>(call, time).await?;
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_MAX {
            idle.push(stream);
        }
        Ok((answer?, bytes))
    }

    /// The same; with the connection, on which more may come.
    async fn begin<A: DeserializeOwned>(
        &self,
        call: ViewCall,
        time: Duration,
    ) -> Result<(UnixStream, A, Vec<u8>), Away> {
        if let Some(away) = self.away() {
            return Err(away);
        }
        let called = async {
            let mut stream = self.connect().await?;
            write(&mut stream, &call, &[]).await?;
            let (answer, bytes) = read(&mut stream).await?.ok_or(LinkError::Ended)?;
            Ok((stream, answer, bytes))
        };
        let called = tokio::time::timeout(time, called).await;
        called.unwrap_or(Err(LinkError::Timeout(time))).map_err(|error| self.failed(&error))
    }

    /// A connection for calls.
    async fn connect(&self) -> Result<UnixStream, LinkError> {
        loop {
            let Some(idle) = lock(&self.idle).pop() else { break };
            // One that the read side has closed can be read to its end.
            let mut byte = [0];
            if matches!(idle.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
            {
                return Ok(idle);
            }
        }
        let mut stream = UnixStream::connect(&self.path).await?;
        greet(&mut stream, false).await?;
        Ok(stream)
    }

    /// Why a call was not answered.
    fn failed(&self, error: &LinkError) -> Away {
        self.away().unwrap_or_else(|| Away {
            reason: format!("the process that keeps the views does not answer: {error}"),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells how far the log is, and which catalog is in use.
async fn tell(
    log: &Log,
    mut adopted: watch::Receiver<u64>,
    mut to: OwnedWriteHalf,
) -> Result<(), LinkError> {
    let mut heads = log.subscribe();
    let head = *heads.borrow_and_update();
    write(&mut to, &FromWriteSide::Log { history: log.history(), head }, &[]).await?;
    loop {
        let message = tokio::select! {
            Ok(()) = heads.changed() => FromWriteSide::Head(*heads.borrow_and_update()),
            Ok(()) = adopted.changed() => {
                FromWriteSide::Adopted { catalog: *adopted.borrow_and_update() }
            }
            // The log is closed: nothing more comes.
            else => return Ok(()),
        };
        write(&mut to, &message, &[]).await?;
    }
}

impl Backend for ReadSideClient {
    fn away(&self) -> Option<Away> {
        self.away.borrow().clone()
    }

    fn status(&self) -> BoxFuture<'_, Result<ReadStatus, Away>> {
        self.call(ViewCall::Status, STATUS_TIME).map_ok(answer).boxed()
    }

    fn places(&self, views: Vec<String>) -> BoxFuture<'_, Result<Vec<Option<ViewPlace>>, Away>> {
        self.call(ViewCall::Places { views }, STATUS_TIME).map_ok(answer).boxed()
    }

    fn rows(&self, request: RowsRequest) -> BoxFuture<'_, Result<RowsAnswer, RowsError>> {
        async move {
            let time = request.timeout + 2 * ANSWER_TIME;
            let (head, bytes) = self.call::<_, RowsError>(ViewCall::Rows(request), time).await?;
            let RowsHead { tick, position, schema, cursor } = head;
            let batches = rows::decode(&bytes).map_err(|error| self.failed(&error.into()))?;
            Ok(RowsAnswer { tick, position, schema, batches, cursor })
        }
        .boxed()
    }

    fn wait(&self, request: WaitRequest) -> BoxFuture<'_, Result<Vec<Waiting>, Away>> {
        let time = request.timeout + ANSWER_TIME;
        self.call(ViewCall::Wait(request), time).map_ok(answer).boxed()
    }

    fn changes(
        &self,
        request: ChangesRequest,
    ) -> BoxFuture<'_, Result<Box<dyn ChangeFeed>, ChangesError>> {
        async move {
            let call = ViewCall::Changes(request);
            let (stream, begun, _) =
                self.begin::<Result<(), ChangesError>>(call, ANSWER_TIME).await?;
            begun?;
            Ok(Box::new(RemoteFeed::new(stream)) as Box<dyn ChangeFeed>)
        }
        .boxed()
    }

    fn rebuild(&self, view: String) -> BoxFuture<'_, Result<String, RebuildError>> {
        self.call(ViewCall::Rebuild { view }, WORK_TIME).map_ok(answer).boxed()
    }

    fn dead_letters(
        &self,
        filter: DeadLetterFilter,
    ) -> BoxFuture<'_, Result<Option<DeadLetters>, Away>> {
        self.call(ViewCall::DeadLetters(filter), WORK_TIME).map_ok(answer).boxed()
    }

    fn dismiss(&self, selection: Selection) -> BoxFuture<'_, Result<u64, DismissError>> {
        self.call(ViewCall::Dismiss(selection), WORK_TIME).map_ok(answer).boxed()
    }

    fn retry(&self, selection: Selection) -> BoxFuture<'_, Result<Retried, Away>> {
        self.call(ViewCall::Retry(selection), WORK_TIME).map_ok(answer).boxed()
    }
}

/// An answer without bytes behind it.
fn answer<T>((answer, _): (T, Vec<u8>)) -> T {
    answer
}

/// The changes of a view in the other process. At most one part is read ahead: a subscriber that is
/// slow makes the read side wait, which counts there.
struct RemoteFeed {
    parts: mpsc::Receiver<Result<ChangePart, FeedEnd>>,
}

impl RemoteFeed {
    fn new(mut stream: UnixStream) -> Self {
        let (sender, parts) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let part = tokio::select! {
                    part = next_part(&mut stream) => part,
                    () = sender.closed() => return,
                };
                let is_end = part.is_err();
                if sender.send(part).await.is_err() || is_end {
                    return;
                }
            }
        });
        RemoteFeed { parts }
    }
}

async fn next_part(stream: &mut UnixStream) -> Result<ChangePart, FeedEnd> {
    let part = async {
        let (message, bytes) = read(stream).await?.ok_or(LinkError::Ended)?;
        let (tick, deleted_bytes, end) = match message {
            FeedMessage::Part { tick, deleted_bytes, end } => (tick, deleted_bytes, end),
            FeedMessage::End(end) => return Ok(Err(end)),
        };
        let (deleted, upserted) = bytes.split_at_checked(deleted_bytes).ok_or(LinkError::Ended)?;
        let one = |bytes| rows::decode(bytes)?.pop().ok_or(LinkError::Ended);
        Ok(Ok(ChangePart { tick, deleted: one(deleted)?, upserted: one(upserted)?, end }))
    };
    part.await.unwrap_or_else(|error: LinkError| {
        tracing::debug!(%error, "a change feed of the read side ends");
        Err(FeedEnd::Ended { reason: GONE.to_string() })
    })
}

impl ChangeFeed for RemoteFeed {
    fn next(&mut self) -> BoxFuture<'_, Result<ChangePart, FeedEnd>> {
        async move {
            let gone = || Err(FeedEnd::Ended { reason: GONE.to_string() });
            self.parts.recv().await.unwrap_or_else(gone)
        }
        .boxed()
    }
}
