//! A search index that is kept up to date from the log, as any consumer outside can be: it follows
//! `GET /v1/events`, and remembers how far it is together with what it has made of it.
//!
//! Documents are the payloads of one type of events: the latest one per id, as `--id` names the
//! member; `{"deleted": true}` takes a document out. All of their texts are searched.
//!
//! ```sh
//! cargo run --release --example search_index -- --type ProductChanged --id sku follow
//! cargo run --release --example search_index -- search red bike
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use futures::StreamExt;
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How soon a connection that broke is made again.
const RECONNECT: Duration = Duration::from_millis(500);
/// How often the index is written, while it changes.
const SAVE_INTERVAL: Duration = Duration::from_millis(500);
/// The server sends an empty line every 15 seconds: a connection that is silent for longer is dead.
const SILENCE_MAX: Duration = Duration::from_secs(45);

#[derive(Parser)]
#[command(about = "A search index over events")]
struct Args {
    /// The address of Heliostat.
    #[arg(long, env = "HELIOSTAT_URL", default_value = "http://127.0.0.1:8080")]
    url: Url,
    /// The type of the events that are documents.
    #[arg(long = "type", default_value = "ProductChanged")]
    event_type: String,
    /// The member of `data` that tells documents apart.
    #[arg(long, default_value = "id")]
    id: String,
    /// Where the index is kept.
    #[arg(long, default_value = "search-index.json")]
    file: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keep the index up to date until told to end.
    Follow,
    /// The ids of the documents that have all of these words.
    Search { words: Vec<String> },
}

/// The index. It is written as a whole, so that position and documents always belong together:
/// whatever is handled again after a crash was not in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    /// The last event that was handled.
    position: u64,
    /// The documents that have a word.
    words: BTreeMap<String, BTreeSet<String>>,
    /// The words of a document.
    documents: BTreeMap<String, BTreeSet<String>>,
}

/// A line of the log, as far as it matters here.
#[derive(Deserialize)]
struct Event {
    position: u64,
    data: Value,
}

impl Index {
    fn load(file: &Path) -> anyhow::Result<Index> {
        match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is not an index", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(error).with_context(|| file.display().to_string()),
        }
    }

    fn save(&self, file: &Path) -> anyhow::Result<()> {
        let next = file.with_extension("next");
        std::fs::write(&next, serde_json::to_vec(self)?)?;
        std::fs::rename(next, file)?;
        Ok(())
    }

    /// Takes an event in. One that was handled before changes nothing.
    fn take(&mut self, event: &Event, id: &str) {
        if event.position <= self.position {
            return;
        }
        self.position = event.position;
        let id = match &event.data[id] {
            Value::String(id) => id.clone(),
            // Without an id it is no document.
            Value::Null => return,
            other => other.to_string(),
        };
        for word in self.documents.remove(&id).unwrap_or_default() {
            if let Some(documents) = self.words.get_mut(&word) {
                documents.remove(&id);
                if documents.is_empty() {
                    self.words.remove(&word);
                }
            }
        }
        if event.data["deleted"] == Value::Bool(true) {
            return;
        }
        let mut words = BTreeSet::new();
        gather_words(&event.data, &mut words);
        for word in &words {
            self.words.entry(word.clone()).or_default().insert(id.clone());
        }
        self.documents.insert(id, words);
    }

    fn search(&self, words: &[String]) -> BTreeSet<String> {
        let of = |word: &String| self.words.get(&word.to_lowercase()).cloned().unwrap_or_default();
        let found = words.iter().map(of);
        found.reduce(|all, more| all.intersection(&more).cloned().collect()).unwrap_or_default()
    }
}

fn gather_words(value: &Value, words: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            let split = text.split(|c: char| !c.is_alphanumeric());
            words.extend(split.filter(|word| !word.is_empty()).map(str::to_lowercase));
        }
        Value::Array(values) => values.iter().for_each(|value| gather_words(value, words)),
        Value::Object(members) => members.values().for_each(|value| gather_words(value, words)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Follows the log from where the index is, for as long as the connection lasts.
async fn follow(args: &Args, index: &mut Index) -> anyhow::Result<()> {
    let mut url = args.url.join("v1/events")?;
    url.query_pairs_mut()
        .append_pair("after", &index.position.to_string())
        .append_pair("type", &args.event_type)
        .append_pair("follow", "true");
    let response = Client::new().get(url).send().await?;
    if !response.status().is_success() {
        bail!("{}: {}", response.status(), response.text().await?);
    }
    let mut chunks = response.bytes_stream();
    let mut text: Vec<u8> = Vec::new();
    let mut saved = index.position;
    let mut save = tokio::time::interval(SAVE_INTERVAL);
    loop {
        let chunk = tokio::select! {
            chunk = tokio::time::timeout(SILENCE_MAX, chunks.next()) => chunk,
            _ = save.tick() => {
                if index.position > saved {
                    index.save(&args.file)?;
                    saved = index.position;
                }
                continue;
            }
        };
        let Some(chunk) = chunk.context("the server is silent")? else { break };
        text.extend_from_slice(&chunk?);
        // What comes after the last line's end is the beginning of the next line.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            index.take(&serde_json::from_slice(line)?, &args.id);
        }
        text.drain(..whole);
    }
    index.save(&args.file)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    // Who encrypts, where the server speaks HTTPS.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let args = Args::parse();
    let mut index = Index::load(&args.file)?;
    match &args.command {
        Command::Search { words } => {
            for id in index.search(words) {
                println!("{id}");
            }
            return Ok(());
        }
        Command::Follow => {}
    }
    eprintln!("following from position {}", index.position);
    loop {
        if let Err(error) = follow(&args, &mut index).await {
            eprintln!("{error:#}; again from position {}", index.position);
        }
        tokio::time::sleep(RECONNECT).await;
    }
}
