//! Reading a request's body within its limits: size, time, and memory over all requests.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::AppState;
use super::problem::Problem;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Identity,
    Gzip,
    Zstd,
}

impl Coding {
    /// The values of the headers.
    pub fn of(headers: &HeaderMap) -> Result<Coding, Problem> {
        let Some(value) = headers.get(CONTENT_ENCODING) else { return Ok(Coding::Identity) };
        match value.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Coding::Identity),
            "gzip" | "x-gzip" => Ok(Coding::Gzip),
            "zstd" => Ok(Coding::Zstd),
            other => {
                let message = format!("expected Content-Encoding gzip or zstd, got {other:?}");
                let problem =
                    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_encoding", message);
                Err(problem
                    .with_header(ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd, identity")))
            }
        }
    }
}

/// A share of the memory that all bodies may take together; given back when dropped.
pub struct HeldMemory {
    semaphore: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl HeldMemory {
    fn new(semaphore: Arc<Semaphore>) -> Self {
        HeldMemory { semaphore, permit: None }
    }

    /// Takes `bytes` more, or asks the client to come back.
    fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        let busy = || Problem::too_busy("too many large requests are being read").closing();
        let permits = u32::try_from(bytes).map_err(|_| busy())?;
        let more =
            Arc::clone(&self.semaphore).try_acquire_many_owned(permits).map_err(|_| busy())?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}

/// A body as it was sent, with the memory that it is allowed to take.
pub struct ReceivedBody {
    bytes: Vec<u8>,
    held: HeldMemory,
}

/// Receives a body: 413 past the size limit, 408 past the time limit.
pub async fn receive(
    state: &AppState,
    headers: &HeaderMap,
    body: Body,
) -> Result<ReceivedBody, Problem> {
    let bytes_max = state.limits.body_bytes_max;
    let mut stream = body.into_data_stream();
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > bytes_max as u64) {
        if !headers.contains_key(EXPECT) {
            discard(stream).await;
        }
        return Err(too_large(bytes_max));
    }
    let deadline = Instant::now() + Duration::from_millis(state.limits.request_read_ms_max);
    let mut held = HeldMemory::new(Arc::clone(&state.body_bytes));
    let mut bytes = Vec::new();
    loop {
        let chunk = match timeout_at(deadline, stream.next()).await {
            Err(_) => return Err(too_slow(state.limits.request_read_ms_max)),
            Ok(None) => return Ok(ReceivedBody { bytes, held }),
            Ok(Some(Err(error))) => {
                let message = format!("the body ended early: {error}");
                return Err(Problem::bad_request("incomplete_body", message).closing());
            }
            Ok(Some(Ok(chunk))) => chunk,
        };
        if bytes.len() + chunk.len() > bytes_max {
            discard(stream).await;
            return Err(too_large(bytes_max));
        }
        held.take(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
}

impl ReceivedBody {
    /// The size as it was sent.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Undoes the compression, stopping at `bytes_max`. Blocking for as long as that computes.
    pub fn decompress(
        self,
        coding: Coding,
        bytes_max: usize,
    ) -> Result<(Vec<u8>, HeldMemory), Problem> {
        let ReceivedBody { bytes, mut held } = self;
        let read = match coding {
            Coding::Identity => return Ok((bytes, held)),
            Coding::Gzip => {
                read_all(flate2::read::MultiGzDecoder::new(&bytes[..]), bytes_max, &mut held)
            }
            Coding::Zstd => zstd::stream::read::Decoder::with_buffer(&bytes[..])
                .and_then(|mut decoder| {
                    decoder.window_log_max(window_log_max(bytes_max))?;
                    Ok(decoder)
                })
                .map_err(ReadError::Io)
                .and_then(|decoder| read_all(decoder, bytes_max, &mut held)),
        };
        match read {
            Ok(plain) => Ok((plain, held)),
            Err(ReadError::Problem(problem)) => Err(problem),
            Err(ReadError::Io(error)) => {
                let message = format!("the body is not what Content-Encoding says: {error}");
                Err(Problem::bad_request("bad_encoding", message))
            }
        }
    }
}

enum ReadError {
    Io(io::Error),
    Problem(Problem),
}

/// Reads to the end, and never holds more than `bytes_max`.
fn read_all(
    mut reader: impl Read,
    bytes_max: usize,
    held: &mut HeldMemory,
) -> Result<Vec<u8>, ReadError> {
    const CHUNK_BYTES: usize = 64 << 10;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut plain = Vec::new();
    loop {
        let n = match reader.read(&mut chunk) {
            Ok(0) => return Ok(plain),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ReadError::Io(error)),
        };
        if plain.len() + n > bytes_max {
            return Err(ReadError::Problem(too_large(bytes_max)));
        }
        held.take(n).map_err(ReadError::Problem)?;
        plain.extend_from_slice(chunk.get(..n).unwrap_or_default());
    }
}

/// A frame may ask its reader for a window of gigabytes. RFC 8878 wants 8 MiB to be taken; one that
/// is larger than the largest body is of use to nobody.
fn window_log_max(bytes_max: usize) -> u32 {
    bytes_max.next_power_of_two().ilog2().clamp(23, 27)
}

/// Reads on for a moment without keeping anything. A connection that is closed while the client
/// is still sending is reset, and the client would never see the answer.
async fn discard(mut stream: BodyDataStream) {
    const DISCARD_BYTES_MAX: usize = 64 << 20;
    const DISCARD_TIME_MAX: Duration = Duration::from_secs(2);
    let reading = async {
        let mut bytes = 0;
        while let Some(Ok(chunk)) = stream.next().await {
            bytes += chunk.len();
            if bytes > DISCARD_BYTES_MAX {
                break;
            }
        }
    };
    let _ = timeout(DISCARD_TIME_MAX, reading).await;
}

fn too_large(bytes_max: usize) -> Problem {
    let message = format!("the body is larger than {bytes_max} bytes: send it in parts");
    Problem::too_large(message).closing()
}

fn too_slow(ms_max: u64) -> Problem {
    let message = format!("the body did not arrive within {ms_max} ms");
    Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message).closing()
}
