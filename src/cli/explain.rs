//! `heliostat explain`: the plan of a view.

use super::{DONE, ENVIRONMENT, QueriesArg, WRONG_INPUT};
use crate::engine::trial;
use crate::plan;

/// Arguments of `heliostat explain`.
#[derive(clap::Args)]
pub struct ExplainArgs {
    /// The materialized view.
    view: String,
    #[command(flatten)]
    queries: QueriesArg,
}

/// Prints the plan.
pub fn run(args: &ExplainArgs) -> u8 {
    let set = match trial::try_and_plan(&args.queries.queries) {
        Ok(set) => set,
        Err(error) => {
            eprintln!("error: {error}");
            return ENVIRONMENT;
        }
    };
    if let Some(view) = set.views.iter().find(|view| view.schema.name == args.view) {
        print!("{}", plan::explain::explain(view));
        return DONE;
    }
    for diagnostic in &set.diagnostics {
        eprintln!("{diagnostic}");
    }
    let names: Vec<&str> = set.views.iter().map(|view| view.schema.name.as_str()).collect();
    let known = if names.is_empty() { "none".to_string() } else { names.join(", ") };
    eprintln!("error: there is no materialized view {}: there is {known}", args.view);
    WRONG_INPUT
}
