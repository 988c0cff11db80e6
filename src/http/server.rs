//! Accepting connections, and ending them without losing a request.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::stall::StallGuard;
use super::{AppState, router};

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
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let result = loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break Ok(()),
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, slot)) => {
                let connection = Connection {
                    router: router.clone(),
                    stall_max: Duration::from_millis(state.limits.write_stall_ms_max),
                    header_time_max: Duration::from_millis(state.limits.request_read_ms_max),
                    stopping: state.stopping.subscribe(),
                    _slot: slot,
                };
                connections.spawn(connection.serve(stream));
            }
            Err(error) => break Err(error),
        }
        while connections.try_join_next().is_some() {}
    };
    drop(listener);
    state.stopping.send_replace(true);
    let drain = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN_TIME_MAX, drain).await.is_err() {
        tracing::warn!(open = connections.len(), "connections are cut off: they did not end");
        connections.shutdown().await;
    }
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

struct Connection {
    router: Router,
    header_time_max: Duration,
    stall_max: Duration,
    stopping: watch::Receiver<bool>,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(mut self, stream: TcpStream) {
        // Answers are small and are waited for.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_time_max)
            .serve_connection(
                TokioIo::new(StallGuard::new(stream, self.stall_max)),
                TowerToHyperService::new(self.router),
            );
        let mut connection = pin!(connection);
        let stopping = async { _ = self.stopping.wait_for(|stopping| *stopping).await };
        let served = tokio::select! {
            served = connection.as_mut() => Some(served),
            () = stopping => None,
        };
        let served = match served {
            Some(served) => served,
            None => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}
