//! The HTTP interface over a real log, with views of the test's own: every status and problem
//! document, and that the server goes on serving after each.

mod append;
mod backend;
mod cloudevents;
mod events;
mod ingest;
mod limits;
mod reads;
mod refusals;
mod sample;
mod shutdown;
mod support;
