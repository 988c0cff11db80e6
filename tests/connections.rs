//! Two thousand connections that are idle and five hundred that drip, from many addresses: health
//! and appends go on as before.

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::Server;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const IDLE: usize = 2000;
const DRIPPING: usize = 500;
/// Connections of each address.
const PER_ADDRESS: usize = 10;
/// How long one measurement takes, and how many there are with and without the others.
const MEASURED: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;

/// Lets this process have as many connections as it may.
fn open_many_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls read and write the given structure alone.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
    assert!(
        limit.rlim_cur as usize > IDLE + DRIPPING + 500,
        "{} files may be open",
        limit.rlim_cur
    );
}

/// A connection from an address of this number.
async fn connect(to: SocketAddr, number: usize) -> std::io::Result<TcpStream> {
    let address = number / PER_ADDRESS;
    let from = Ipv4Addr::new(127, 1, (address / 250) as u8, (address % 250 + 1) as u8);
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    socket.connect(to).await
}

/// Connections that do nothing, or send a byte now and then. One that is closed comes again.
struct Crowd {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Crowd {
    fn gather(to: SocketAddr) -> Crowd {
        let (stop, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let member = |number: usize| {
            let (stop, opened) = (Arc::clone(&stop), Arc::clone(&opened));
            tokio::spawn(async move {
                // One after the other, so that none is lost before the server has taken it.
                tokio::time::sleep(Duration::from_millis(2 * number as u64)).await;
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(stream) = connect(to, number).await {
                        opened.fetch_add(1, Ordering::Relaxed);
                        // Closed by the server, sooner or later.
                        let _ = stay(stream, number, &stop).await;
                    }
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
            })
        };
        let tasks = (0..IDLE + DRIPPING).map(member).collect();
        Crowd { stop, opened, tasks }
    }

    async fn leave(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.iter().for_each(|task| task.abort());
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

/// Keeps a connection until it is closed: an idle one, or one that drips a head or a body.
async fn stay(mut stream: TcpStream, number: usize, stop: &AtomicBool) -> std::io::Result<()> {
    if number < IDLE {
        return stream.read_u8().await.map(drop);
    }
    let head: &[u8] = match number % 2 {
        0 => b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: ",
        _ => {
            b"POST /v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
              content-length: 5000\r\n\r\n"
        }
    };
    stream.write_all(head).await?;
    let (mut read, mut write) = stream.into_split();
    let mut closed = std::pin::pin!(read.read_u8());
    while !stop.load(Ordering::Relaxed) {
        tokio::select! {
            closed = &mut closed => return closed.map(drop),
            () = tokio::time::sleep(Duration::from_secs(1)) => write.write_all(b" ").await?,
        }
    }
    Ok(())
}

/// Whether the server says on a new connection that it is well.
async fn probe(to: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(to).await?;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}

#[derive(Debug, Default)]
struct Measured {
    appends: usize,
    probes: usize,
    slow_probes: usize,
}

/// Appends by two clients, one after the other each, and probes of health on new connections.
async fn measure(server: &Server, to: SocketAddr) -> Measured {
    let end = Instant::now() + MEASURED;
    let append = async || {
        let client = heliostat::internals::http::client();
        let mut appends = 0;
        while Instant::now() < end {
            let event = json!({"type": "Ping", "data": {"n": appends}});
            let request = client.post(server.url("/v1/events")).json(&event);
            let answer = request.send().await.expect("an append on a connection in use");
            assert_eq!(answer.status(), 200);
            answer.bytes().await.unwrap();
            appends += 1;
        }
        appends
    };
    let probes = async {
        let (mut probes, mut slow_probes) = (0, 0);
        while Instant::now() < end {
            let started = Instant::now();
            let answer = tokio::time::timeout(Duration::from_millis(100), probe(to)).await;
            probes += 1;
            slow_probes += usize::from(!matches!(answer, Ok(Ok(true))));
            tokio::time::sleep(Duration::from_millis(10).saturating_sub(started.elapsed())).await;
        }
        (probes, slow_probes)
    };
    let (first, second, (probes, slow_probes)) = tokio::join!(append(), append(), probes);
    Measured { appends: first + second, probes, slow_probes }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crowds_of_idle_and_dripping_connections_hold_nobody_up() {
    open_many_files();
    let server = Server::start(&[]);
    let to: SocketAddr = server.url("").strip_prefix("http://").unwrap().parse().unwrap();
    measure(&server, to).await;
    let (mut alone, mut crowded) = (Measured::default(), Measured::default());
    for _ in 0..ROUNDS {
        let quiet = measure(&server, to).await;
        let crowd = Crowd::gather(to);
        let gathered = || async { crowd.opened.load(Ordering::Relaxed) >= IDLE + DRIPPING };
        server.until(true, gathered).await;
        let loud = measure(&server, to).await;
        crowd.leave().await;
        for (sum, one) in [(&mut alone, quiet), (&mut crowded, loud)] {
            sum.appends += one.appends;
            sum.probes += one.probes;
            sum.slow_probes += one.slow_probes;
        }
    }
    let metrics = server.get_text("/metrics").await;
    let closed =
        metrics.lines().find(|line| line.starts_with("heliostat_connections_closed_total"));
    println!("alone {alone:?}, crowded {crowded:?}, {closed:?}");
    let closed: usize = closed.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(closed >= IDLE, "connections have made way: {closed}");
    assert!(crowded.probes > 100);
    let good = 1.0 - crowded.slow_probes as f64 / crowded.probes as f64;
    assert!(good >= 0.99, "{good} of the probes were answered in time");
    let rate = crowded.appends as f64 / alone.appends as f64;
    assert!(rate >= 0.9, "appends at {rate} of their rate");
}
