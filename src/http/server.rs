//! Accepting connections, and ending them without losing a request.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{AppState, router};
use crate::model::limits::Limits;

/// A connection whose writes fail when the client takes nothing for a while.
type Stalling = Pin<Box<TimeoutStream<TcpStream>>>;

/// How often a quiet HTTP/2 connection is asked whether it is still there, and how long it may take
/// to answer.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How many requests of one HTTP/2 connection are served at once.
const HTTP2_STREAMS_MAX: u32 = 100;

/// How long requests may take to finish once the server is stopping: with what ends after them, all
/// is over within ten seconds.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(3);

/// Serves, over TLS where it is given, until `shutdown` resolves: then no connection is accepted any more, requests that have
/// begun are finished, and answers that follow the log end.
///
/// Fails when the listener cannot accept connections for a reason that will not pass.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
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
        let stream = prepare(stream, &state.limits);
        let (router, limits) = (router.clone(), Arc::clone(&state.limits));
        let (tls, watcher) = (tls.clone(), graceful.watcher());
        connections.spawn(async move {
            let served = match tls {
                None => serve_connection(stream, router, &limits, watcher).await,
                Some(tls) => match handshake(&tls, stream, &limits).await {
                    Ok(stream) => serve_connection(stream, router, &limits, watcher).await,
                    Err(error) => Err(error.into()),
                },
            };
            if let Err(error) = served {
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

/// Sets what holds for every connection.
fn prepare(stream: TcpStream, limits: &Limits) -> Stalling {
    // Answers are small and are waited for.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(Duration::from_millis(limits.write_stall_ms_max)));
    Box::pin(stream)
}

/// The client has as long for the handshake as for the head of a request.
async fn handshake(
    tls: &TlsAcceptor,
    stream: Stalling,
    limits: &Limits,
) -> io::Result<TlsStream<Stalling>> {
    let patience = Duration::from_millis(limits.request_read_ms_max);
    timeout(patience, tls.accept(stream))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Serves the requests of a connection. It fails when the client takes too long for the head of a
/// request, or takes nothing of an answer for too long.
async fn serve_connection<S>(
    stream: S,
    router: Router,
    limits: &Limits,
    watcher: Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.request_read_ms_max));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .max_concurrent_streams(HTTP2_STREAMS_MAX);
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    watcher.watch(connection).await
}
