//! The HTTP interface over a real log, with views of the test's own: every status and problem
//! document, and that the server goes on serving after each.

mod backend;
mod events;
mod ingest;
mod limits;
mod reads;
mod refusals;
mod shutdown;
mod support;
