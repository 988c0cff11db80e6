//! Accepting connections, and ending them without losing a request.

use std::future::Future;
use std::io::{self, Write};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::Service;

use super::connections::{Connection, Connections, Place};
use super::{AppState, router};
use crate::model::limits::Limits;

/// A connection whose writes fail when the client takes nothing for a while.
type Stalling = Pin<Box<TimeoutStream<TcpStream>>>;

/// Why a connection ends early.
type ServeError = Box<dyn std::error::Error + Send + Sync>;

/// How often a quiet HTTP/2 connection is asked whether it is still there, and how long it may take
/// to answer.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Most requests of one HTTP/2 connection that are served at once.
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
    let (mut connections, graceful) = (JoinSet::new(), GracefulShutdown::new());
    let mut shutdown = pin!(shutdown);
    let result = loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break Ok(()),
            accepted = accept(&listener, &state.connections, tls.is_none()) => accepted,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => break Err(error),
        };
        let stream = prepare(stream, &state.limits);
        let (router, limits) = (router.clone(), Arc::clone(&state.limits));
        let (tls, watcher) = (tls.clone(), graceful.watcher());
        let connection = place.connection();
        connections.spawn(async move {
            let serving = async {
                let stream = match tls {
                    None => {
                        return serve_connection(stream, router, connection, &limits, watcher)
                            .await;
                    }
                    Some(tls) => handshake(&tls, stream, &limits).await?,
                };
                serve_connection(stream, router, connection, &limits, watcher).await
            };
            // A request that has arrived comes before the end of its connection.
            let served = tokio::select! {
                biased;
                served = serving => served,
                () = place.evicted() => Ok(()),
            };
            if let Err(error) = served {
                tracing::debug!(%error, "a connection ended early");
            }
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

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Connections>,
    is_plain: bool,
) -> io::Result<(TcpStream, Place)> {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Some(place) = connections.admit(peer.ip()).await {
                    return Ok((stream, place));
                }
                if is_plain && let Err(error) = refuse(stream) {
                    tracing::debug!(%error, "a client was not told why it is refused");
                }
            }
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => {
                // The client is gone already, or files or memory are short for a while.
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// The answer to a connection of an address that has too many.
const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\
    \"detail\":\"this address has too many connections: close some, or reuse them\",\
    \"errors\":[{\"index\":null,\"pointer\":\"\",\"code\":\"too_many_connections\",\
    \"message\":\"this address has too many connections: close some, or reuse them\"}]}";

/// Tells why a connection is refused, as far as that takes no waiting.
fn refuse(stream: TcpStream) -> io::Result<()> {
    let mut stream = stream.into_std()?;
    stream.write_all(REFUSAL.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)
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
    connection: Connection,
    limits: &Limits,
    watcher: Watcher,
) -> Result<(), ServeError>
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
    let service = service_fn(move |request| answer(router.clone(), connection.clone(), request));
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    watcher.watch(connection).await
}

/// Answers a request, which counts as in progress until its answer is sent.
async fn answer(
    mut router: Router,
    connection: Connection,
    request: Request<Incoming>,
) -> io::Result<Response<Body>> {
    let Some(in_progress) = connection.begin() else {
        return Err(io::Error::other("the connection is being closed for another one"));
    };
    let mut request = request.map(|body| Body::new(in_progress.receiving(body)));
    request.extensions_mut().insert(connection);
    let Ok(response) = router.call(request).await;
    Ok(response.map(|body| Body::new(in_progress.answering(body))))
}
