//! Acknowledgements of single events.

use std::time::{Duration, Instant};

use super::bids::body;
use super::common::rng::Rng;
use super::numbers::{ms, percentile};
use super::server::{Server, Workplace, live};

/// A client that costs next to nothing, so that the server is what is measured: one connection, one
/// request at a time.
struct LeanClient {
    stream: tokio::net::TcpStream,
    answer: Vec<u8>,
}

impl LeanClient {
    async fn connect(server: &Server) -> Self {
        let address = server.http.strip_prefix("http://").unwrap();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        LeanClient { stream, answer: Vec::new() }
    }

    async fn post(&mut self, body: &[u8]) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut request = format!(
            "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request).await.unwrap();
        self.answer.clear();
        // The answer is one JSON object, which ends the message.
        while self.answer.last() != Some(&b'}') {
            assert!(self.stream.read_buf(&mut self.answer).await.unwrap() > 0);
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 200"));
    }
}

/// Acknowledgements of single events, by one client and by 64.
pub async fn acks(seconds: u64) {
    let place = Workplace::new();
    let server = Server::start(&place, false);
    let client = heliostat::internals::http::client();
    live(&client, &server, 0).await;
    let mut rates = Vec::new();
    for clients in [1_u64, 64] {
        let started = Instant::now();
        let mut tasks = Vec::new();
        for c in 0..clients {
            let mut client = LeanClient::connect(&server).await;
            tasks.push(tokio::spawn(async move {
                let bodies: Vec<Vec<u8>> =
                    (0..16).map(|n| body(n, &mut Rng::new(5 + c), 1)).collect();
                let mut times = Vec::new();
                while started.elapsed() < Duration::from_secs(seconds) {
                    let sent = Instant::now();
                    client.post(&bodies[times.len() % bodies.len()]).await;
                    times.push(sent.elapsed().as_secs_f64());
                }
                times
            }));
        }
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.unwrap());
        }
        times.sort_by(f64::total_cmp);
        let rate = times.len() as f64 / seconds as f64;
        println!(
            "acknowledgement of single events, {clients} clients: {rate:.0}/s, p50 {}, p99 {}",
            ms(percentile(&times, 0.5)),
            ms(percentile(&times, 0.99))
        );
        rates.push(rate);
    }
    println!("64 clients : 1 client = {:.1} : 1", rates[1] / rates[0]);
    server.stop();
}
