//! Recover, wire, run, drain. The only module that names all the others; it decides nothing.

pub mod local;
