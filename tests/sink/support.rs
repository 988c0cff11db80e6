//! A real ClickHouse, and a dataflow played by hand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::ArrayRef;
use heliostat::internals::model::Alarms;
use heliostat::internals::model::ReorderBuffer;
use heliostat::internals::model::SinkOptions;
use heliostat::internals::model::{Position, Tick};
use heliostat::internals::model::{Row, RowCodec};
use heliostat::internals::model::{SinkMessage, Update, ViewMessage, ViewRef, ViewSchema};
use heliostat::internals::model::{SqlField, SqlType};
use heliostat::internals::sink::{ClickHouseConfig, ClickHouseError, ClickHouseSink, Retention};
use heliostat::internals::sink::{Login, Logins, OwnClickHouse, ServerConfig, locate};
use heliostat::internals::sink::{Sink, SinkError, SinkReject, ViewSink, ViewSinkStatus};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Longer than anything takes on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// The user that logs in.
pub const USER: &str = "heliostat";
pub const PASSWORD: &str = "of the tests";

/// A ClickHouse of the test's own, gone with it.
pub struct Server {
    pub own: OwnClickHouse,
    pub dir: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let own = start_own(dir.path(), 0).await.unwrap();
        Server { own, dir }
    }

    pub async fn sink(&self) -> ClickHouseSink {
        connect(&self.own.url(), self.dir.path(), Retention::default()).await.unwrap()
    }

    pub async fn query(&self, sql: &str) -> String {
        query(&self.own.url(), sql).await.unwrap()
    }
}

pub async fn start_own(
    dir: &Path,
    http_port: u16,
) -> Result<OwnClickHouse, heliostat::internals::sink::ServerError> {
    let program = locate(&PathBuf::from(env!("CARGO_BIN_EXE_heliostat")))?;
    let (dir, alarms) = (dir.join("clickhouse"), Alarms::default());
    let login = |user: &str| Login { user: user.into(), password: PASSWORD.into() };
    let logins = Logins { own: login(USER), readers: vec![login("reader")] };
    let database = "heliostat".to_string();
    let config = ServerConfig { program, dir, http_port, logins, database, alarms };
    OwnClickHouse::start(config).await
}

pub async fn connect(
    url: &str,
    data_dir: &Path,
    retention: Retention,
) -> Result<ClickHouseSink, ClickHouseError> {
    let rejects = Arc::new(|reject: SinkReject| panic!("{reject:?}"));
    connect_with(url, data_dir, retention, rejects).await
}

pub async fn connect_with(
    url: &str,
    data_dir: &Path,
    retention: Retention,
    rejects: heliostat::internals::sink::RejectHandler,
) -> Result<ClickHouseSink, ClickHouseError> {
    let config = ClickHouseConfig {
        url: url.into(),
        user: USER.into(),
        password: PASSWORD.into(),
        database: "heliostat".into(),
    };
    ClickHouseSink::connect(&config, data_dir, retention, rejects).await
}

/// Rejects as they come.
pub type Rejects = Arc<Mutex<Vec<(String, String, i64)>>>;

pub fn collect_rejects() -> (Rejects, heliostat::internals::sink::RejectHandler) {
    let rejects = Rejects::default();
    let handler = {
        let rejects = Arc::clone(&rejects);
        Arc::new(move |r: SinkReject| rejects.lock().unwrap().push((r.row, r.reason, r.diff)))
    };
    (rejects, handler)
}

/// The answer as ClickHouse writes it, without the last line's end; or what it complains about.
pub async fn query(url: &str, sql: &str) -> Result<String, String> {
    let request = heliostat::internals::http::client().post(url).basic_auth(USER, Some(PASSWORD));
    let sent = request.body(sql.to_string()).send().await;
    let answer = sent.map_err(|e| e.to_string())?;
    let is_ok = answer.status().is_success();
    let text = answer.text().await.map_err(|e| e.to_string())?;
    if is_ok { Ok(text.trim_end_matches('\n').to_string()) } else { Err(text) }
}

pub fn field(name: &str, sql_type: SqlType, nullable: bool) -> SqlField {
    SqlField::new(name, sql_type, nullable)
}

/// A schema without options.
pub fn schema(
    name: &str,
    generation: &str,
    columns: Vec<SqlField>,
    key: Option<Vec<usize>>,
) -> ViewSchema {
    ViewSchema {
        name: name.into(),
        generation: generation.into(),
        columns,
        key,
        sinks: [("clickhouse".into(), SinkOptions::new())].into(),
        history: false,
        comment: None,
    }
}

/// A view's options for ClickHouse.
pub fn options(given: &[(&str, &str)]) -> BTreeMap<String, SinkOptions> {
    let options = given.iter().map(|(name, text)| (name.to_string(), text.to_string()));
    [("clickhouse".to_string(), options.collect())].into()
}

/// A view that a hand feeds instead of a dataflow.
pub struct Feed {
    schema: ViewRef,
    pub status: Arc<ViewSinkStatus>,
    messages: mpsc::UnboundedSender<SinkMessage>,
    reorder: Mutex<ReorderBuffer>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), SinkError>>,
}

impl Feed {
    /// Opens the view for one worker and runs it.
    pub async fn open(sink: &ClickHouseSink, schema: &ViewSchema) -> Feed {
        let schema = Arc::new(schema.clone());
        let view = sink.open_view(Arc::clone(&schema)).await.unwrap();
        Feed::run(view, schema)
    }

    pub fn run(view: Box<dyn ViewSink>, schema: ViewRef) -> Feed {
        let (messages, receiver) = mpsc::unbounded_channel();
        let shutdown = CancellationToken::new();
        let status = Arc::new(ViewSinkStatus::default());
        let task = tokio::spawn(view.run(receiver, Arc::clone(&status), shutdown.clone()));
        let reorder = Mutex::new(ReorderBuffer::new(1));
        Feed { schema, status, messages, reorder, shutdown, task }
    }

    /// Sends a message of a worker or of the feeder.
    pub async fn send(&self, message: ViewMessage) {
        let mut reorder = self.reorder.lock().unwrap();
        match message {
            ViewMessage::Live { tick } => self.tell(SinkMessage::Live { tick }),
            message => reorder.take(message),
        }
        while let Some((complete, _)) = reorder.complete() {
            self.tell(SinkMessage::Complete(complete));
        }
    }

    pub fn tell(&self, message: SinkMessage) {
        self.messages.send(message).unwrap();
    }

    /// Rows that come (or go) at a tick.
    pub async fn rows(&self, tick: Tick, columns: &[ArrayRef], diffs: &[i64]) {
        let updates = updates(&self.schema, columns, diffs);
        self.send(ViewMessage::Changes { worker: 0, tick, updates }).await;
    }

    /// The tick is complete, and a flush may end there.
    pub async fn close(&self, tick: Tick, position: Position) {
        self.send(ViewMessage::Mark { tick, position }).await;
        self.send(ViewMessage::Frontier { worker: 0, frontier: tick + 1 }).await;
    }

    pub async fn live(&self, tick: Tick) {
        self.send(ViewMessage::Live { tick }).await;
    }

    /// Waits until ClickHouse has everything up to the tick, under the view's name.
    pub async fn shown(&self, tick: Tick) {
        let mut published = self.status.watch_published();
        let mut written = self.status.watch_written();
        let wait = async {
            published.wait_for(|p| *p).await.unwrap();
            written.wait_for(|head| head.tick >= tick).await.unwrap();
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "not shown: {:?}", self.status.state());
    }

    /// The error that ends the sink.
    pub async fn failed(self) -> String {
        self.task.await.unwrap().unwrap_err().to_string()
    }

    pub async fn end(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Rows as the dataflow sends them.
pub fn updates(schema: &ViewSchema, columns: &[ArrayRef], diffs: &[i64]) -> Vec<Update> {
    let encode = |indexes: Vec<usize>| {
        let types: Vec<_> =
            indexes.iter().map(|i| schema.columns[*i].sql_type.to_arrow()).collect();
        let columns: Vec<_> = indexes.iter().map(|i| Arc::clone(&columns[*i])).collect();
        RowCodec::new(&types).unwrap().encode(&columns, diffs.len()).unwrap()
    };
    let (keys, values) = (encode(schema.key_columns()), encode(schema.value_columns()));
    let row = |i: usize, diff: &i64| Update {
        key: Row::from_slice(keys.bytes(i)),
        value: Row::from_slice(values.bytes(i)),
        diff: *diff,
    };
    diffs.iter().enumerate().map(|(i, diff)| row(i, diff)).collect()
}

/// Repeats a question until it answers as expected.
pub async fn eventually(url: &str, sql: &str, expected: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = query(url, sql).await;
        if answer.as_deref() == Ok(expected) {
            return;
        }
        assert!(Instant::now() < deadline, "{sql}: {answer:?}, expected {expected:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
