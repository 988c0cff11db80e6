//! A server on a free port, gone with the value that stands for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use heliostat::internals::http::{AppState, Gate, serve};
use heliostat::internals::log::{Files, Log, LogOptions};
use heliostat::internals::model::Alarms;
use heliostat::internals::model::Limits;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::backend::TestBackend;

pub const JSON: &str = "application/json";
pub const NDJSON: &str = "application/x-ndjson";

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(response: reqwest::Response) -> Answer {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn lines(&self) -> Vec<Value> {
        self.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Checks that this is a problem document, and returns each error's code and pointer.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Vec<(String, String)> {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let document = self.json();
        assert_eq!(document["status"], status);
        assert!(!document["title"].as_str().unwrap().is_empty());
        assert!(!document["detail"].as_str().unwrap().is_empty());
        let errors = document["errors"].as_array().unwrap();
        assert!(!errors.is_empty());
        for error in errors {
            assert!(!error["message"].as_str().unwrap().is_empty());
            assert!(error.as_object().unwrap().contains_key("index"));
        }
        let text = |value: &Value| value.as_str().unwrap().to_string();
        errors.iter().map(|error| (text(&error["code"]), text(&error["pointer"]))).collect()
    }

    /// The code of a problem with one error.
    #[track_caller]
    pub fn problem_code(&self, status: u16) -> String {
        let errors = self.problem(status);
        assert_eq!(errors.len(), 1, "{}", self.text);
        errors[0].0.clone()
    }
}

pub struct Server {
    pub address: SocketAddr,
    pub log: Log,
    pub backend: Arc<TestBackend>,
    pub client: reqwest::Client,
    pub stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<std::io::Result<()>>,
    _directory: Option<TempDir>,
}

impl Server {
    pub async fn start() -> Server {
        Server::with_limits(Limits::default()).await
    }

    pub async fn with_limits(limits: Limits) -> Server {
        let directory = TempDir::new().unwrap();
        let log = Log::open(directory.path(), LogOptions::default()).unwrap();
        Server::over(log, limits, Some(directory)).await
    }

    pub async fn with_files(files: Arc<dyn Files>, options: LogOptions) -> Server {
        let log = Log::open_with(files, options).unwrap();
        Server::over(log, Limits::default(), None).await
    }

    /// On an address that is bound already, and at which nobody listens yet.
    pub async fn at(socket: TcpSocket) -> Server {
        let directory = TempDir::new().unwrap();
        let log = Log::open(directory.path(), LogOptions::default()).unwrap();
        let listener = socket.listen(64).unwrap();
        Server::on(listener, log, Limits::default(), Some(directory)).await
    }

    async fn over(log: Log, limits: Limits, directory: Option<TempDir>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Server::on(listener, log, limits, directory).await
    }

    async fn on(
        listener: TcpListener,
        log: Log,
        limits: Limits,
        directory: Option<TempDir>,
    ) -> Server {
        let backend = Arc::new(TestBackend::new());
        let (catalog, alarms) = (backend.catalog(), Alarms::default());
        let state =
            AppState::new(log.clone(), backend.clone(), catalog, limits, alarms, Gate::open());
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { _ = stopped.await };
        let task = tokio::spawn(serve(listener, None, state, shutdown));
        let client = heliostat::internals::http::client();
        Server { address, log, backend, client, stop: Some(stop), task, _directory: directory }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.client.get(self.url(path)).send().await.unwrap()).await
    }

    pub async fn post(&self, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.post_to("/v1/events", &[("content-type", content_type)], body).await
    }

    pub async fn post_to(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let mut request = self.client.post(self.url(path)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    /// Sends bytes as they are and returns what comes back until the server closes.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        _ = tokio::time::timeout(Duration::from_secs(10), reading).await.expect("an answer");
        String::from_utf8(answer).unwrap()
    }

    /// Checks that the server still takes an event.
    #[track_caller]
    pub fn still_serves(&self) -> impl Future<Output = ()> {
        let before = self.log.head().position;
        async move {
            let answer = self.post(JSON, r#"{"type":"Ping","data":{}}"#).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert_eq!(answer.json()["last_position"], before + 1);
        }
    }
}
