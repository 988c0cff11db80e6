//! The real server as a process of its own, with data, queries and ClickHouse of its own.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod rng;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use heliostat::internals::sink::{Login, Logins, read_login};
use serde_json::{Value, json};

/// How long anything may take that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where `make clients` installs to.
pub fn clients() -> PathBuf {
    let directory =
        PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/heliostat/clients");
    assert!(directory.join("installed").exists(), "run `make clients` first");
    directory
}

/// Runs a command of the program, without a server, in this environment.
pub fn heliostat(arguments: &[&str], environment: &[(String, String)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heliostat"));
    command.args(arguments).envs(environment.iter().cloned()).output().unwrap()
}

/// All that a command said.
pub fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

/// The process that this one runs with this command, one of the words on its command line.
pub fn child_of(parent: u32, command: &str) -> Option<libc::pid_t> {
    let parent = parent.to_string();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        // Behind the name in parentheses come the state and the parent.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let lives = fields.next().is_some_and(|state| state != "Z");
        let is_child = fields.next() == Some(&parent);
        let named = arguments.split(|byte| *byte == 0).any(|word| word == command.as_bytes());
        if lives && is_child && named {
            return entry.file_name().to_str().unwrap().parse().ok();
        }
    }
    None
}

/// Where a server listens.
#[derive(Clone)]
pub struct Addresses {
    pub http: String,
    pub clickhouse: Option<String>,
}

/// Waits until the process serves over this data directory, where it says on which ports it listens.
#[track_caller]
pub fn addresses(child: &mut Child, data: &Path) -> Addresses {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(data.join("serving.json")).unwrap_or_default();
        let told: Value = serde_json::from_str(&text).unwrap_or_default();
        if told["pid"] == child.id() {
            let address = |name: &str| told[name].as_str().map(str::to_string);
            return Addresses { http: address("http").unwrap(), clickhouse: address("clickhouse") };
        }
        assert_eq!(child.try_wait().unwrap(), None, "the server has ended");
        if Instant::now() > end {
            let _ = child.kill();
            panic!("the server does not listen");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A directory with queries and data, and the server that runs over it.
pub struct Server {
    pub directory: tempfile::TempDir,
    child: Mutex<Option<Child>>,
    with_clickhouse: bool,
    addresses: Mutex<Option<Addresses>>,
    arguments: Vec<String>,
    environment: Mutex<Vec<(String, String)>>,
    /// The program to run, and its first arguments.
    program: Mutex<Vec<String>>,
    /// The address that it is told to listen on.
    listen: Mutex<String>,
    /// Its log, if it is kept.
    log: Mutex<Option<Arc<Mutex<String>>>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// Runs over these query files, without ClickHouse.
    pub fn start(files: &[(&str, &str)]) -> Server {
        Server::over(files, false, "")
    }

    /// Runs over these query files, with a ClickHouse of its own.
    pub fn with_clickhouse(files: &[(&str, &str)]) -> Server {
        Server::over(files, true, "")
    }

    /// Runs over these query files and this configuration, without ClickHouse.
    pub fn configured(files: &[(&str, &str)], toml: &str) -> Server {
        Server::over(files, false, toml)
    }

    /// Runs over these query files and this configuration, with a ClickHouse of its own.
    pub fn configured_with_clickhouse(files: &[(&str, &str)], toml: &str) -> Server {
        Server::over(files, true, toml)
    }

    /// Writes the configuration, for the next start.
    pub fn configure(&self, toml: &str) {
        std::fs::write(self.directory.path().join("heliostat.toml"), toml).unwrap();
    }

    /// Runs over these query files, with these arguments about ClickHouse, in this environment.
    pub fn with_arguments(
        files: &[(&str, &str)],
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Server {
        Server::with(files, "", arguments, environment)
    }

    /// Runs over these query files and this configuration, with these arguments, in this environment.
    pub fn with(
        files: &[(&str, &str)],
        toml: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Server {
        let server = Server::laid_out_with(files, toml, arguments, environment);
        server.run();
        server
    }

    /// The same, and starts nothing.
    pub fn laid_out_with(
        files: &[(&str, &str)],
        toml: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Server {
        let mut server = Server::laid_out(files, toml);
        server.arguments = arguments.iter().map(|argument| argument.to_string()).collect();
        let environment = environment.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        server.environment = Mutex::new(environment.collect());
        server
    }

    fn over(files: &[(&str, &str)], with_clickhouse: bool, toml: &str) -> Server {
        let server = Server::prepared(files, with_clickhouse, toml);
        server.run();
        server
    }

    /// Writes the files of a server without ClickHouse, and starts nothing.
    pub fn laid_out(files: &[(&str, &str)], toml: &str) -> Server {
        Server::prepared(files, false, toml)
    }

    /// Writes the files of a server with a ClickHouse of its own, and starts nothing.
    pub fn laid_out_with_clickhouse(files: &[(&str, &str)], toml: &str) -> Server {
        Server::prepared(files, true, toml)
    }

    /// Writes the files, and starts nothing.
    fn prepared(files: &[(&str, &str)], with_clickhouse: bool, toml: &str) -> Server {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("heliostat.toml"), toml).unwrap();
        std::fs::create_dir(directory.path().join("queries")).unwrap();
        let server = Server {
            directory,
            child: Mutex::default(),
            with_clickhouse,
            addresses: Mutex::default(),
            arguments: Vec::new(),
            environment: Mutex::default(),
            program: Mutex::new(vec![env!("CARGO_BIN_EXE_heliostat").to_string()]),
            listen: Mutex::new("127.0.0.1:0".to_string()),
            log: Mutex::default(),
        };
        files.iter().for_each(|(name, text)| server.write(name, text));
        server
    }

    /// From the next start on the environment is the usual one.
    pub fn without_environment(&self) {
        self.environment.lock().unwrap().clear();
    }

    /// From the next start on the environment has this, too.
    pub fn set_environment(&self, name: &str, value: &str) {
        self.environment.lock().unwrap().push((name.to_string(), value.to_string()));
    }

    /// From the next start on another program is run, which runs this one.
    pub fn set_program(&self, program: &str, arguments: &[&str]) {
        let arguments = [&[program], arguments].concat();
        *self.program.lock().unwrap() = arguments.iter().map(|part| part.to_string()).collect();
    }

    /// From the next start on the log is kept, with all that is worth knowing.
    pub fn keep_log(&self) {
        *self.log.lock().unwrap() = Some(Arc::default());
    }

    /// The log that the server has written so far.
    pub fn log(&self) -> String {
        let log = self.log.lock().unwrap();
        let log = log.as_ref().expect("the log is kept").lock().unwrap();
        log.clone()
    }

    /// Starts the process. Its log, if it is kept, goes through a pipe: limits on files do not concern it.
    fn spawn(&self) -> Child {
        let mut command = self.serve_command();
        let log = self.log.lock().unwrap().clone();
        let Some(log) = log else { return command.spawn().unwrap() };
        let mut child =
            command.env("HELIOSTAT_LOG", "info").stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                log.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        child
    }

    /// Starts the process, which must end by itself.
    pub fn ends(&self) -> ExitStatus {
        let mut child = self.spawn();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > end {
                let _ = child.kill();
                panic!("the server does not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the process to end.
    pub fn terminate(&self) -> Child {
        let child = self.child.lock().unwrap().take().unwrap();
        // SAFETY: a signal to a child that has not been waited for.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
        child
    }

    /// Ends the process in order.
    pub fn end(&self) {
        let status = self.terminate().wait().unwrap();
        assert!(status.success(), "{status}");
    }

    /// Ends the process in order, and starts it again.
    pub fn end_and_run(&self) {
        self.end();
        self.run();
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().as_ref().expect("the server runs").id()
    }

    /// The process that the server runs with this command: `read-side`, say.
    pub fn pid_of(&self, command: &str) -> Option<libc::pid_t> {
        child_of(self.pid(), command)
    }

    /// Lets its ClickHouse stand still; the process.
    pub fn stop_clickhouse(&self) -> libc::pid_t {
        // The library runs in a child of ours, the program by itself.
        let pid = self.pid_of("clickhouse-child").or_else(|| self.pid_of("--config-file"));
        let pid = pid.expect("ClickHouse runs");
        // SAFETY: a signal to a child of the server that the test has started.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
        pid
    }

    /// Asserts that `serve` refuses these settings, and what it says of them.
    #[track_caller]
    pub fn assert_refused(files: &[(&str, &str)], toml: &str, expected: &str) {
        let server = Server::laid_out(files, toml);
        assert_eq!(server.ends().code(), Some(1), "{toml}");
        let config = server.directory.path().join("heliostat.toml");
        let output = heliostat(&["serve", "--config", config.to_str().unwrap()], &[]);
        assert!(text(&output).contains(expected), "{toml}: {}", text(&output));
    }

    pub fn queries(&self) -> PathBuf {
        self.directory.path().join("queries")
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Writes a query file.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.queries().join(name), text).unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.queries().join(name)).unwrap();
    }

    /// Starts the process and waits until it listens.
    pub fn run(&self) {
        let mut child = self.child.lock().unwrap();
        let child = child.insert(self.spawn());
        *self.addresses.lock().unwrap() = Some(addresses(child, &self.data()));
    }

    /// Starts the process on a free port, and does not wait until it serves.
    pub fn begin(&self) {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        *self.listen.lock().unwrap() = free.to_string();
        *self.child.lock().unwrap() = Some(self.spawn());
        let addresses = Addresses { http: format!("http://{free}"), clickhouse: None };
        *self.addresses.lock().unwrap() = Some(addresses);
    }

    fn serve_command(&self) -> Command {
        let program = self.program.lock().unwrap();
        let mut command = Command::new(&program[0]);
        command
            .args(&program[1..])
            .args(["serve", "--listen", &self.listen.lock().unwrap()])
            .args([Path::new("--data-dir"), &self.data(), Path::new("--queries"), &self.queries()])
            .arg("--config")
            .arg(self.directory.path().join("heliostat.toml"))
            .args(&self.arguments)
            .env("HELIOSTAT_LOG", "error")
            .envs(self.environment.lock().unwrap().iter().cloned())
            .stdin(Stdio::null());
        match self.with_clickhouse {
            true => command.args(["--clickhouse-http-port", "0"]),
            false if self.arguments.is_empty() => command.arg("--no-clickhouse"),
            false => &mut command,
        };
        command
    }

    /// Where it listens since it was last started.
    fn addresses(&self) -> Addresses {
        self.addresses.lock().unwrap().clone().expect("the server was started")
    }

    /// Ends the process at once.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Kills the process and starts it again.
    pub fn restart(&self) {
        self.kill();
        self.run();
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.addresses().http)
    }

    /// Where its ClickHouse answers.
    pub fn clickhouse_url(&self) -> String {
        self.addresses().clickhouse.unwrap()
    }

    /// Runs a command of the program.
    pub fn command(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_heliostat"))
            .args(arguments)
            .env("HELIOSTAT_URL", self.url(""))
            .output()
            .unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        heliostat::internals::http::client()
            .get(self.url(path))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }

    /// The status and the answer, which may be a problem.
    pub async fn try_get(&self, path: &str) -> (u16, Value) {
        let request = heliostat::internals::http::client().get(self.url(path));
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }

    /// An answer that is not one JSON value.
    pub async fn get_text(&self, path: &str) -> String {
        let request = heliostat::internals::http::client().get(self.url(path));
        request.send().await.unwrap().text().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = heliostat::internals::http::client().post(self.url(path)).json(body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Posts events, which must be accepted; the answer.
    pub async fn append(&self, events: &Value) -> Value {
        let (status, answer) = self.post("/v1/events", events).await;
        assert!(status < 300, "{status}: {answer}");
        answer
    }

    /// ClickHouse's answer, or its error.
    pub async fn clickhouse(&self, sql: &str) -> String {
        let file = Logins::own_file(&self.data());
        self.clickhouse_as(&read_login(&file).unwrap(), sql).await
    }

    /// ClickHouse's answer to this user, or its error. Users are told of one file with a login only, that of
    /// `reader`.
    pub async fn clickhouse_as(&self, login: &Login, sql: &str) -> String {
        let url = format!("{}/?database=heliostat", self.clickhouse_url());
        let client = heliostat::internals::http::client();
        let request = client.post(url).basic_auth(&login.user, Some(&login.password));
        let request = request.body(sql.to_string());
        match request.send().await {
            Ok(response) => response.text().await.unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    }

    /// Waits until these views are live.
    pub async fn live(&self, views: &[&str]) {
        for view in views {
            let status =
                || async { self.get(&format!("/v1/views/{view}")).await["status"].clone() };
            self.until(json!("live"), status).await;
        }
    }

    /// Waits until these views are in a snapshot as of this position or later.
    pub async fn saved(&self, views: &[&str], position: u64) {
        for view in views {
            let is_saved = || async {
                let snapshot = &self.get(&format!("/v1/views/{view}")).await["snapshot"];
                snapshot["position"].as_u64().unwrap_or(0) >= position
            };
            self.until(true, is_saved).await;
        }
    }

    /// How these views began.
    pub async fn starts(&self, views: &[&str]) -> Vec<Value> {
        let mut starts = Vec::new();
        for view in views {
            starts.push(self.get(&format!("/v1/views/{view}")).await["start"]["how"].clone());
        }
        starts
    }

    /// A view's rows over HTTP as of this position or later, in order, one a line.
    pub async fn row_lines(&self, view: &str, position: u64) -> String {
        let path = format!("/v1/views/{view}/rows?limit=10000&min_position={position}&timeout=30s");
        let answer = self.get(&path).await;
        let rows = answer["rows"].as_array().unwrap_or_else(|| panic!("{view}: {answer}"));
        let mut rows: Vec<String> = rows.iter().map(Value::to_string).collect();
        rows.sort();
        rows.join("\n")
    }

    /// Asks until the answer is the expected one.
    #[track_caller]
    pub fn until<A, F>(&self, expected: A, ask: impl Fn() -> F) -> impl Future<Output = ()>
    where
        A: PartialEq + std::fmt::Debug,
        F: Future<Output = A>,
    {
        self.until_within(PATIENCE, expected, ask)
    }

    /// Asks until the answer is the expected one, for at most `patience`.
    #[track_caller]
    pub fn until_within<A, F>(
        &self,
        patience: Duration,
        expected: A,
        ask: impl Fn() -> F,
    ) -> impl Future<Output = ()>
    where
        A: PartialEq + std::fmt::Debug,
        F: Future<Output = A>,
    {
        let caller = std::panic::Location::caller();
        async move {
            let end = Instant::now() + patience;
            loop {
                let answer = ask().await;
                if answer == expected {
                    return;
                }
                assert!(Instant::now() < end, "{caller}: {answer:?}, not {expected:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
