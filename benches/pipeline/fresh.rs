//! From POST to visible in ClickHouse, at a pace.

use std::time::{Duration, Instant};

use super::bids::body;
use super::common::rng::Rng;
use super::numbers::{ms, percentile};
use super::server::{Server, Workplace, count_at, live, post};

/// When batches were posted, with how many events there were by then.
type Posts = std::sync::Mutex<std::collections::VecDeque<(u64, Instant)>>;

/// Notes the delays of what is shown by now.
fn drain(posts: &Posts, shown: u64, delays: &mut Vec<f64>) {
    let mut posts = posts.lock().unwrap();
    while posts.front().is_some_and(|(total, _)| *total <= shown) {
        let (_, at) = posts.pop_front().unwrap();
        delays.push(at.elapsed().as_secs_f64());
    }
}

/// At 5,000 events a second: from POST to visible in ClickHouse.
pub async fn fresh(seconds: u64) {
    let place = Workplace::new();
    let server = Server::start(&place, true);
    let client = heliostat::internals::http::client();
    live(&client, &server, 0).await;
    let url = format!("{}/v1/events", server.http);
    let mut rng = Rng::new(4);
    let mut sent = 0_u64;
    let posts = std::sync::Arc::new(Posts::default());
    let watcher = {
        let (client, clickhouse, posts) =
            (client.clone(), server.clickhouse.clone(), posts.clone());
        let data = server.data.clone();
        tokio::spawn(async move {
            let mut delays = Vec::new();
            let end = Instant::now() + Duration::from_secs(seconds + 5);
            while Instant::now() < end {
                let shown = count_at(&client, &clickhouse, &data).await;
                drain(&posts, shown, &mut delays);
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
            delays
        })
    };
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(seconds) {
        pace.tick().await;
        let body = body(sent, &mut rng, 100);
        sent += 100;
        posts.lock().unwrap().push_back((sent, Instant::now()));
        assert!(post(&client, &url, body.into()).await.unwrap());
    }
    let mut delays = watcher.await.unwrap();
    delays.sort_by(f64::total_cmp);
    println!(
        "POST → visible in ClickHouse at {:.0} events/s: p50 {}, p99 {} ({} of {} batches)",
        sent as f64 / seconds as f64,
        ms(percentile(&delays, 0.5)),
        ms(percentile(&delays, 0.99)),
        delays.len(),
        sent / 100
    );
    server.stop();
}
