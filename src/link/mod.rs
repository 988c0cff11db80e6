//! Messages between the two sides: the write side, which has the log and HTTP, and the read side, which keeps
//! the views. They share no memory, and read the same files.
//!
//! The read side listens on a socket; the write side opens connections and begins each one with a
//! [`Hello`](message::Hello), which the read side answers with its own. A message is
//!
//! ```text
//! u32  length of the rest, big endian, at most 256 MiB
//! u32  length of the JSON, big endian
//!      JSON
//!      further bytes: rows as an Arrow IPC stream
//! ```
//!
//! One connection *follows*: the write side tells the head of the log after each sync, the read side
//! its catalog and the wish for frames that tell the time. On every other one a call is answered at a
//! time; a client that goes away closes its connection, which ends the call.

mod client;
mod message;
mod rows;
mod server;

pub use client::ReadSideClient;
pub use message::{LinkError, read as read_message, write as write_message};
pub use server::ReadSideServer;
