//! `heliostat rebuild`: asks a running server to build a view anew from the log.

use std::time::Duration;

use serde::Deserialize;

use super::client::ClientArgs;
use super::{DONE, ENVIRONMENT, WRONG_INPUT, report};

/// How often the server is asked how far the view is.
const POLL: Duration = Duration::from_millis(200);

/// Arguments of `heliostat rebuild`.
#[derive(clap::Args)]
pub struct RebuildArgs {
    /// The view.
    view: String,
    /// The server.
    #[arg(long, env = "HELIOSTAT_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// End as soon as the server has begun; otherwise once the new rows answer.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Deserialize)]
struct RebuildResponse {
    generation: String,
}

#[derive(Deserialize)]
struct RebuiltView {
    generation: String,
    next_generation: Option<BuiltGeneration>,
}

#[derive(Deserialize)]
struct BuiltGeneration {
    generation: String,
    failed: Option<String>,
}

/// Asks, and waits until the new generation answers; returns the exit code.
pub async fn run(args: &RebuildArgs) -> u8 {
    let client = match args.client.client(None) {
        Ok(client) => client,
        Err(error) => {
            report(&error);
            return WRONG_INPUT;
        }
    };
    match rebuild(args, &client).await {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ENVIRONMENT
        }
    }
}

async fn rebuild(args: &RebuildArgs, client: &reqwest::Client) -> Result<u8, reqwest::Error> {
    let mut address = reqwest::Url::parse(&args.url).map(|mut url| {
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["v1", "views", &args.view]);
        }
        url
    });
    let Ok(view) = &mut address else {
        eprintln!("error: --url: {} is no address", args.url);
        return Ok(WRONG_INPUT);
    };
    let response = client.post(format!("{view}/rebuild")).send().await?;
    if !response.status().is_success() {
        eprintln!("error: {}: {}", response.status(), response.text().await?);
        return Ok(WRONG_INPUT);
    }
    let RebuildResponse { generation } = response.json().await?;
    println!("building generation {generation} of {}", args.view);
    if args.no_wait {
        return Ok(DONE);
    }
    loop {
        let now: RebuiltView =
            client.get(view.clone()).send().await?.error_for_status()?.json().await?;
        if now.generation == generation {
            println!("it answers");
            return Ok(DONE);
        }
        match now.next_generation {
            Some(BuiltGeneration { generation: next, failed: Some(reason) })
                if next == generation =>
            {
                eprintln!("error: {reason}");
                return Ok(ENVIRONMENT);
            }
            Some(BuiltGeneration { generation: next, .. }) if next == generation => {}
            _ => {
                eprintln!("error: the query files or another rebuild have replaced it");
                return Ok(WRONG_INPUT);
            }
        }
        tokio::time::sleep(POLL).await;
    }
}
