//! The `heliostat` program.

use std::path::Path;
use std::process::ExitCode;

/// Something in the environment failed.
const EXIT_ENVIRONMENT: u8 = 3;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [command, library, config] if command == "clickhouse-child" => {
            let child = heliostat::cli::clickhouse_child::run;
            match child(Path::new(library), Path::new(config)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{error}");
                    ExitCode::from(EXIT_ENVIRONMENT)
                }
            }
        }
        _ => ExitCode::from(2),
    }
}
