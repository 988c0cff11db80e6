//! SQL files → catalog → logical plan → [`ir`]. Pure: no I/O but reading files, no timely.

pub mod catalog;
mod context;
pub mod diagnostic;
mod logical;
mod names;
mod parse;
mod push_filter;
mod types;
mod unnest;
