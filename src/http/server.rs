//! Accepting connections, and ending them without losing a request.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use super::{AppState, router};
use crate::model::limits::Limits;

/// A connection whose writes fail when the client takes nothing for a while.
type Stalling = Pin<Box<TimeoutStream<TcpStream>>>;

/// How long requests may take to finish once the server is stopping: with what ends after them, all
/// is over within ten seconds.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(3);

/// Serves until `shutdown` resolves: then no connection is accepted any more, requests that have
/// begun are finished, and answers that follow the log end.
///
/// Fails when the listener cannot accept connections for a reason that will not pass.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let router = router(state.clone());
    let slots = Arc::new(Semaphore::new(state.limits.connections_max));
    let (mut connections, graceful) = (JoinSet::new(), GracefulShutdown::new());
    let mut shutdown = pin!(shutdown);
    let result = loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break Ok(()),
            accepted = accept(&listener, &slots) => accepted,
        };
        let (stream, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => break Err(error),
        };
        let connection = graceful.watch(connection(stream, router.clone(), &state.limits));
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(slot);
        });
        while connections.try_join_next().is_some() {}
    };
    drop(listener);
    state.stopping.send_replace(true);
    if timeout(DRAIN_TIME_MAX, graceful.shutdown()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections are cut off: they did not end");
    }
    connections.shutdown().await;
    result
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Ok((stream, slot)),
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => {
                // The client is gone already, or files or memory are short for a while.
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn is_final(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK))
}

/// What serves the requests of a connection. It fails when the client takes too long for the head of
/// a request, or takes nothing of an answer for too long.
fn connection(
    stream: TcpStream,
    router: Router,
    limits: &Limits,
) -> http1::Connection<TokioIo<Stalling>, TowerToHyperService<Router>> {
    // Answers are small and are waited for.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(Duration::from_millis(limits.write_stall_ms_max)));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.request_read_ms_max))
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router))
}
