//! `heliostat test`: the golden tests of views.

use std::path::PathBuf;
use std::time::Instant;

use super::golden::{self, GoldenTest};
use super::{DONE, ENVIRONMENT, WRONG_INPUT};
use crate::engine::trial;
use crate::plan::QuerySet;

/// Arguments of `heliostat test`.
#[derive(clap::Args)]
pub struct TestArgs {
    /// The directory of the query files, whose tests are in `**/tests/<name>/`.
    #[arg(env = "HELIOSTAT_QUERIES", default_value = "queries")]
    directory: PathBuf,
    /// Write what the views are into the expected files.
    #[arg(long)]
    bless: bool,
    /// Write the results as JUnit XML.
    #[arg(long)]
    junit: Option<PathBuf>,
}

struct TestOutcome {
    name: String,
    seconds: f64,
    failures: Vec<String>,
}

/// Runs the tests; prints one line per test and what does not match.
pub fn run(args: &TestArgs) -> u8 {
    let loaded = trial::try_and_plan(&args.directory)
        .and_then(|set| Ok((set, golden::find(&args.directory)?)));
    let (set, tests) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("error: {error}");
            return ENVIRONMENT;
        }
    };
    if !set.diagnostics.is_empty() {
        set.diagnostics.iter().for_each(|diagnostic| eprintln!("{diagnostic}"));
        return WRONG_INPUT;
    }
    let outcomes: Vec<TestOutcome> =
        tests.iter().map(|test| outcome(test, &set, args.bless)).collect();
    for outcome in &outcomes {
        let word = if outcome.failures.is_empty() { "ok" } else { "FAILED" };
        println!("{word:6} {}", outcome.name);
        outcome.failures.iter().for_each(|failure| println!("       {failure}"));
    }
    let failed = outcomes.iter().filter(|o| !o.failures.is_empty()).count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    if let Some(path) = &args.junit
        && let Err(error) = std::fs::write(path, junit(&outcomes))
    {
        eprintln!("error: {}: {error}", path.display());
        return ENVIRONMENT;
    }
    if failed == 0 { DONE } else { WRONG_INPUT }
}

fn outcome(test: &GoldenTest, set: &QuerySet, bless: bool) -> TestOutcome {
    let started = Instant::now();
    let failures = test.run(set, bless).unwrap_or_else(|error| vec![error.to_string()]);
    TestOutcome { name: test.name.clone(), seconds: started.elapsed().as_secs_f64(), failures }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn junit(outcomes: &[TestOutcome]) -> String {
    let failed = outcomes.iter().filter(|o| !o.failures.is_empty()).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"heliostat\" tests=\"{}\" failures=\"{failed}\">\n",
        outcomes.len()
    );
    for outcome in outcomes {
        let (name, seconds) = (escaped(&outcome.name), outcome.seconds);
        xml.push_str(&format!("  <testcase name=\"{name}\" time=\"{seconds:.3}\""));
        if outcome.failures.is_empty() {
            xml.push_str("/>\n");
        } else {
            let text = escaped(&outcome.failures.join("\n"));
            xml.push_str(&format!(">\n    <failure>{text}</failure>\n  </testcase>\n"));
        }
    }
    xml.push_str("</testsuite>\n");
    xml
}
