//! The commands of the `heliostat` program, one file each.

pub mod clickhouse_child;
