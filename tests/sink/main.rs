//! The sink against a real ClickHouse.

mod changes;
mod generations;
mod recovery;
mod server;
mod support;
mod types;
