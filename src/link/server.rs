//! The read side's end: a socket on which the write side is followed, and asks.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::AsyncReadExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::message::{
    FeedMessage, FromReadSide, FromWriteSide, Hello, LinkError, PROTOCOL, RowsHead, ViewCall, read,
    write,
};
use super::rows;
use crate::decode::{CatalogReceiver, EventCatalog};
use crate::log::{Control, LogWriterRequests};
use crate::model::Head;
use crate::model::alarm::Alarms;
use crate::model::memory::resident_bytes;
use crate::status::{
    Away, Backend, ChangePart, ChangesError, ChangesRequest, DismissError, ReadStatus,
    RebuildError, RowsAnswer, RowsError,
};

/// How long to wait when no further connection can be opened.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The read side's end of the link. Clones share it.
#[derive(Clone)]
pub struct ReadSideServer(Arc<ServerShared>);

struct ServerShared {
    /// The backend that answers calls; `None` while it is being prepared.
    backend: watch::Sender<Option<Arc<dyn Backend>>>,
    alarms: Alarms,
    /// The name of the log that is followed.
    history: watch::Sender<Option<String>>,
    head: watch::Sender<Head>,
    clock: watch::Sender<Option<Duration>>,
    /// Control frames that are to be written, in order; the first one stays until it is told.
    notes: watch::Sender<VecDeque<Control>>,
    /// The catalog that is to be used, with its number.
    offered: watch::Sender<(u64, EventCatalog)>,
    /// The number of the one that is.
    adopted: watch::Sender<u64>,
}

impl ReadSideServer {
    /// Listens on a socket, in place of a read side that was there before. Its alarms are told with
    /// the status.
    pub fn listen(path: &Path, alarms: Alarms) -> std::io::Result<ReadSideServer> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let server = ReadSideServer(Arc::new(ServerShared {
            backend: watch::Sender::new(None),
            alarms,
            history: watch::Sender::new(None),
            head: watch::Sender::new(Head::default()),
            clock: watch::Sender::new(None),
            notes: watch::Sender::new(VecDeque::new()),
            offered: watch::Sender::new((0, EventCatalog::default())),
            adopted: watch::Sender::new(0),
        }));
        tokio::spawn(server.clone().accept(listener));
        Ok(server)
    }

    /// Resolves with the log's name once a write side has told it.
    pub async fn history(&self) -> String {
        let mut history = self.0.history.subscribe();
        match history.wait_for(Option::is_some).await {
            Ok(history) => history.clone().unwrap_or_default(),
            // The sender lives as long as `self`.
            Err(_) => std::future::pending().await,
        }
    }

    /// Resolves when a write side has come with another log than that of this name.
    pub async fn log_replaced(&self, history: &str) {
        let mut told = self.0.history.subscribe();
        let other = |told: &Option<String>| told.as_ref().is_some_and(|told| told != history);
        if told.wait_for(other).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The head of the log on disk.
    pub fn head(&self) -> watch::Receiver<Head> {
        self.0.head.subscribe()
    }

    /// Calls are answered from now on.
    pub fn answer_by(&self, backend: Arc<dyn Backend>) {
        self.0.backend.send_replace(Some(backend));
    }

    async fn accept(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(self.clone().serve(stream))),
                Err(error) => {
                    tracing::warn!(%error, "a connection of the write side is not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(self, mut stream: UnixStream) {
        let served = async {
            let Some((hello, _)) = read::<Hello>(&mut stream).await? else { return Ok(()) };
            write(&mut stream, &Hello { protocol: PROTOCOL, follows: hello.follows }, &[]).await?;
            match hello {
                Hello { protocol, .. } if protocol != PROTOCOL => {
                    Err(LinkError::Protocol { theirs: protocol })
                }
                Hello { follows: true, .. } => {
                    let (from, to) = stream.into_split();
                    tokio::select! {
                        ended = self.hear(from) => ended,
                        ended = self.tell(to) => ended,
                    }
                }
                Hello { follows: false, .. } => self.answer_calls(stream).await,
            }
        };
        match served.await {
            Ok(()) => {}
            // A write side that goes away in the middle of something is no news here.
            Err(LinkError::Io(error)) => {
                tracing::debug!(%error, "a connection of the write side ends");
            }
            Err(error) => tracing::warn!(%error, "a connection of the write side ends"),
        }
    }

    async fn hear(&self, mut from: OwnedReadHalf) -> Result<(), LinkError> {
        while let Some((message, _)) = read(&mut from).await? {
            match message {
                FromWriteSide::Log { history, head } => {
                    self.0.head.send_replace(head);
                    self.0.history.send_replace(Some(history));
                }
                FromWriteSide::Head(head) => {
                    self.0.head.send_replace(head);
                }
                FromWriteSide::Adopted { catalog } => {
                    self.0.adopted.send_replace(catalog);
                }
            }
        }
        Ok(())
    }

    /// Tells the wishes of the read side: those of now, and each change.
    async fn tell(&self, mut to: OwnedWriteHalf) -> Result<(), LinkError> {
        let (mut offered, mut clock) = (self.0.offered.subscribe(), self.0.clock.subscribe());
        let mut notes = self.0.notes.subscribe();
        offered.mark_changed();
        clock.mark_changed();
        loop {
            let message = tokio::select! {
                Ok(()) = offered.changed() => {
                    let (number, catalog) = offered.borrow_and_update().clone();
                    if number == 0 {
                        continue;
                    }
                    FromReadSide::Offer { number, catalog }
                }
                Ok(()) = clock.changed() => {
                    let interval = *clock.borrow_and_update();
                    let interval_ms = interval.map(|interval| interval.as_millis() as u64);
                    FromReadSide::Clock { interval_ms }
                }
                Some(note) = first_note(&mut notes) => FromReadSide::Note(note),
            };
            write(&mut to, &message, &[]).await?;
            if matches!(message, FromReadSide::Note(_)) {
                self.0.notes.send_modify(|notes| drop(notes.pop_front()));
            }
        }
    }

    async fn answer_calls(&self, mut to: UnixStream) -> Result<(), LinkError> {
        while let Some((call, _)) = read::<ViewCall>(&mut to).await? {
            let Some(backend) = self.0.backend.borrow().clone() else {
                refuse(&mut to, call).await?;
                continue;
            };
            match call {
                ViewCall::Changes(request) => return feed(to, backend, request).await,
                ViewCall::Status => {
                    let status = backend.status().await.map(|status| ReadStatus {
                        alarms: self.0.alarms.list(),
                        resident_bytes: resident_bytes(None),
                        ..status
                    });
                    write(&mut to, &status, &[]).await?;
                }
                ViewCall::Places { views } => {
                    write(&mut to, &backend.places(views).await, &[]).await?;
                }
                ViewCall::Rows(request) => match backend.rows(request).await {
                    Err(error) => write(&mut to, &Err::<RowsHead, _>(error), &[]).await?,
                    Ok(RowsAnswer { tick, position, schema, batches, cursor }) => {
                        let head = RowsHead { tick, position, schema, cursor };
                        let rows = rows::encode(&batches)?;
                        write(&mut to, &Ok::<_, RowsError>(head), &rows).await?;
                    }
                },
                ViewCall::Wait(request) => {
                    write(&mut to, &backend.wait(request).await, &[]).await?;
                }
                ViewCall::Rebuild { view } => {
                    write(&mut to, &backend.rebuild(view).await, &[]).await?;
                }
                ViewCall::DeadLetters(filter) => {
                    write(&mut to, &backend.dead_letters(filter).await, &[]).await?;
                }
                ViewCall::Dismiss(selection) => {
                    write(&mut to, &backend.dismiss(selection).await, &[]).await?;
                }
                ViewCall::Retry(selection) => {
                    write(&mut to, &backend.retry(selection).await, &[]).await?;
                }
            }
        }
        Ok(())
    }
}

impl LogWriterRequests for ReadSideServer {
    fn keep_time(&self, interval: Option<Duration>) {
        self.0.clock.send_replace(interval);
    }

    fn note(&self, control: Control) {
        self.0.notes.send_modify(|notes| notes.push_back(control));
    }
}

impl CatalogReceiver for ReadSideServer {
    fn offer(&self, catalog: EventCatalog) {
        self.0.offered.send_modify(|(number, offered)| {
            *number += 1;
            *offered = catalog;
        });
    }

    fn adopted(&self) -> BoxFuture<'_, ()> {
        async move {
            let wanted = self.0.offered.borrow().0;
            let mut adopted = self.0.adopted.subscribe();
            if adopted.wait_for(|adopted| *adopted >= wanted).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }
}

/// The first control frame that is to be written, once there is one.
async fn first_note(notes: &mut watch::Receiver<VecDeque<Control>>) -> Option<Control> {
    notes.wait_for(|notes| !notes.is_empty()).await.ok()?.front().cloned()
}

/// Answers while the query files are being planned.
async fn refuse(to: &mut UnixStream, call: ViewCall) -> Result<(), LinkError> {
    let away = Away { reason: "the views are being prepared: the query files are planned".into() };
    match call {
        ViewCall::Status
        | ViewCall::Places { .. }
        | ViewCall::Wait(_)
        | ViewCall::DeadLetters(_)
        | ViewCall::Retry(_) => write(to, &Err::<(), _>(away), &[]).await,
        ViewCall::Rows(_) => write(to, &Err::<(), RowsError>(away.into()), &[]).await,
        ViewCall::Changes(_) => write(to, &Err::<(), ChangesError>(away.into()), &[]).await,
        ViewCall::Rebuild { .. } => write(to, &Err::<(), RebuildError>(away.into()), &[]).await,
        ViewCall::Dismiss(_) => write(to, &Err::<(), DismissError>(away.into()), &[]).await,
    }
}

/// Sends a view's changes until the feed ends or the subscriber is gone.
async fn feed(
    stream: UnixStream,
    backend: Arc<dyn Backend>,
    request: ChangesRequest,
) -> Result<(), LinkError> {
    let (mut from, mut to) = stream.into_split();
    let mut feed = match backend.changes(request).await {
        Ok(feed) => feed,
        Err(error) => return write(&mut to, &Err::<(), _>(error), &[]).await,
    };
    write(&mut to, &Ok::<_, ChangesError>(()), &[]).await?;
    loop {
        let part = tokio::select! {
            part = feed.next() => part,
            // Nothing more is said on this connection.
            _ = from.read_u8() => return Ok(()),
        };
        match part {
            Err(end) => return write(&mut to, &FeedMessage::End(end), &[]).await,
            Ok(ChangePart { tick, deleted, upserted, end }) => {
                let mut bytes = rows::encode(&[deleted])?;
                let deleted_bytes = bytes.len();
                bytes.extend(rows::encode(&[upserted])?);
                write(&mut to, &FeedMessage::Part { tick, deleted_bytes, end }, &bytes).await?;
            }
        }
    }
}
