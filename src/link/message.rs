//! The messages, and how they are written to a connection.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::decode::EventCatalog;
use crate::log::Control;
use crate::model::Position;
use crate::model::view::ViewRef;
use crate::model::{Head, Tick};
use crate::status::{
    ChangesRequest, DeadLetterFilter, FeedEnd, RowsRequest, Selection, TickEnd, WaitRequest,
};

/// The version of the messages. Sides of different versions do not talk.
pub const PROTOCOL: u32 = 2;
/// The longest message, in bytes.
const BYTES_MAX: u32 = 256 << 20;

/// Why the other side cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("a message that is none: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a message of {bytes} bytes; at most {BYTES_MAX} are allowed")]
    TooLarge { bytes: u64 },
    #[error("rows that are none: {0}")]
    Rows(#[from] arrow::error::ArrowError),
    #[error("the other side speaks version {theirs} of the protocol, this one {PROTOCOL}")]
    Protocol { theirs: u32 },
    #[error("it does not answer within {0:?}")]
    Timeout(std::time::Duration),
    #[error("it ends before its answer does")]
    Ended,
}

/// The first message in both directions.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    /// Whether the connection follows the log; else it is for calls.
    pub follows: bool,
}

/// Messages of the write side on the connection that follows.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromWriteSide {
    /// The log's name, see [`Log::history`](crate::log::Log::history), and how far it is on disk.
    Log { history: String, head: Head },
    /// The log is on disk up to here.
    Head(Head),
    /// This catalog is in use.
    Adopted { catalog: u64 },
}

/// Messages of the read side on the connection that follows.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromReadSide {
    /// Use this catalog, and say so. Numbers rise.
    Offer { number: u64, catalog: EventCatalog },
    /// While nothing is appended, write a frame without events each time that so much has passed.
    Clock { interval_ms: Option<u64> },
    /// Write this control frame.
    Note(Control),
}

/// A call of the write side. Its answer is the result of the method of
/// [`Backend`](crate::status::Backend) that it stands for.
#[derive(Debug, Serialize, Deserialize)]
pub enum ViewCall {
    Status,
    Places {
        views: Vec<String>,
    },
    /// The answer has [`RowsHead`] in place of the rows, which follow the JSON.
    Rows(RowsRequest),
    Wait(WaitRequest),
    /// The answer has nothing in place of the feed, which follows it: [`FeedMessage`]s.
    Changes(ChangesRequest),
    Rebuild {
        view: String,
    },
    DeadLetters(DeadLetterFilter),
    Dismiss(Selection),
    Retry(Selection),
}

/// A message of a feed.
#[derive(Debug, Serialize, Deserialize)]
pub enum FeedMessage {
    /// The rows that went and those that came follow the JSON.
    Part { tick: Tick, deleted_bytes: usize, end: Option<TickEnd> },
    /// Nothing more comes.
    End(FeedEnd),
}

/// An answer's rows, but for the rows.
#[derive(Debug, Serialize, Deserialize)]
pub struct RowsHead {
    pub tick: Tick,
    pub position: Position,
    pub schema: ViewRef,
    pub cursor: Option<String>,
}

/// Writes a message with bytes behind it.
pub async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
    bytes: &[u8],
) -> Result<(), LinkError> {
    let mut out = vec![0; 8];
    serde_json::to_writer(&mut out, message)?;
    let json = out.len() - 8;
    let total = 4 + json as u64 + bytes.len() as u64;
    let length = u32::try_from(total).ok().filter(|length| *length <= BYTES_MAX);
    let length = length.ok_or(LinkError::TooLarge { bytes: total })?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out[4..8].copy_from_slice(&(json as u32).to_be_bytes());
    out.extend_from_slice(bytes);
    to.write_all(&out).await?;
    Ok(to.flush().await?)
}

/// Reads a message and the bytes behind it; `None` where the other side has closed the connection.
pub async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> Result<Option<(T, Vec<u8>)>, LinkError> {
    let length = match from.read_u32().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !(4..=BYTES_MAX).contains(&length) {
        return Err(LinkError::TooLarge { bytes: length.into() });
    }
    let json = from.read_u32().await?;
    let Some(rest) = (length - 4).checked_sub(json) else {
        return Err(LinkError::TooLarge { bytes: json.into() });
    };
    let mut text = vec![0; json as usize];
    from.read_exact(&mut text).await?;
    let mut bytes = vec![0; rest as usize];
    from.read_exact(&mut bytes).await?;
    Ok(Some((serde_json::from_slice(&text)?, bytes)))
}

/// Says hello and hears the answer.
pub async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    follows: bool,
) -> Result<(), LinkError> {
    write(stream, &Hello { protocol: PROTOCOL, follows }, &[]).await?;
    let (Hello { protocol: theirs, .. }, _) = read(stream).await?.ok_or(LinkError::Ended)?;
    if theirs == PROTOCOL { Ok(()) } else { Err(LinkError::Protocol { theirs }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_is_read_as_it_was_written_and_lengths_are_not_believed() {
        let (mut a, mut b) = tokio::io::duplex(1 << 16);
        let head = Head { position: 7, tick: 9 };
        write(&mut a, &FromWriteSide::Head(head), b"rows").await.unwrap();
        let (message, bytes) = read::<FromWriteSide>(&mut b).await.unwrap().unwrap();
        assert!(matches!(message, FromWriteSide::Head(found) if found == head));
        assert_eq!(bytes, b"rows");
        for wrong in [[0xff; 8], [0, 0, 0, 3, 0, 0, 0, 0], [0, 0, 0, 8, 0, 0, 0, 5]] {
            let (mut a, mut b) = tokio::io::duplex(64);
            a.write_all(&wrong).await.unwrap();
            let read = read::<FromWriteSide>(&mut b).await;
            assert!(matches!(read, Err(LinkError::TooLarge { .. })), "{wrong:?}: {read:?}");
        }
        drop(a);
        assert!(read::<FromWriteSide>(&mut b).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn another_version_is_refused() {
        let (mut a, mut b) = tokio::io::duplex(1 << 10);
        write(&mut b, &Hello { protocol: PROTOCOL + 1, follows: false }, &[]).await.unwrap();
        let greeted = greet(&mut a, false).await;
        assert!(matches!(greeted, Err(LinkError::Protocol { theirs }) if theirs == PROTOCOL + 1));
    }
}
