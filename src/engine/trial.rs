//! A set of query files is planned on trial, in a process of its own, before anything else plans
//! it, and the dataflows of its views are built: what costs too much time or memory, overflows the stack
//! or crashes the planner ends that process and becomes an error with file and line.
//!
//! The process is this program's `plan-child`. It reads a [`TrialRequest`] from its standard input and
//! answers with one JSON [`TrialLine`] for each step that it begins and one for the outcome.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::dataflow;
use crate::model::limits::Limits;
use crate::plan::diagnostic::{Diagnostic, SourceFile, Unplannable};
use crate::plan::step::{Excluded, STACK_BYTES, Step, Steps, on_large_stack};
use crate::plan::{BuildOnTrial, QuerySet, ViewPlan, plan_steps, read_files};
use crate::sink;

/// The hidden command that plans on trial.
pub const COMMAND: &str = "plan-child";
/// The code of a child that ends itself because a step takes too long.
const TIME_EXIT: i32 = 124;
/// How often a set is tried again, each time without the step that has ended the process before.
const ENDS_MAX: usize = 12;
/// The child's processor time is limited. It is also ended when so many times that passes by the
/// clock without another step: the machine may be busy.
const CLOCK_FACTOR: u32 = 6;
/// How long the child may take to start and to end.
const CHILD_GRACE: Duration = Duration::from_secs(10);
/// How often the child looks at its processor time.
const TIME_INTERVAL: Duration = Duration::from_millis(20);
/// Bytes of the child's standard error that are kept.
const STDERR_BYTES_MAX: u64 = 64 << 10;
/// The child gives way to the processes that serve.
const NICENESS: libc::c_int = 5;

/// Why there was no trial.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("the process that plans on trial cannot be started: {0}")]
    Start(io::Error),
    #[error("the process that plans on trial ended before it planned anything: {0}")]
    Child(String),
    #[error("the thread that plans cannot be started: {0}")]
    Thread(io::Error),
}

/// The result of a trial.
#[derive(Debug, Default)]
pub struct Trial {
    /// The errors of the files; without any, the files can be used.
    pub diagnostics: Vec<Diagnostic>,
    /// The number of event tables without an error; `views`: of materialized views.
    pub tables: usize,
    pub views: usize,
    /// The steps that ended the process.
    excluded: Vec<Excluded>,
    /// Whether the rest was planned without these.
    complete: bool,
}

impl Trial {
    /// The trial of a set that has passed one before.
    pub fn passed() -> Self {
        Trial { complete: true, ..Trial::default() }
    }
}

/// The child's input.
#[derive(Serialize, Deserialize)]
struct TrialRequest {
    files: Vec<Arc<SourceFile>>,
    excluded: Vec<Excluded>,
    time_ms_max: u64,
    memory_bytes_max: u64,
}

/// A line of the child's output.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TrialLine {
    Step(Step),
    TrialOutcome(TrialOutcome),
}

#[derive(Serialize, Deserialize)]
struct TrialOutcome {
    diagnostics: Vec<TrialDiagnostic>,
    tables: usize,
    views: usize,
}

/// A diagnostic without its file's text.
#[derive(Serialize, Deserialize)]
struct TrialDiagnostic {
    path: PathBuf,
    line: u64,
    column: u64,
    message: String,
    hint: Option<String>,
}

/// Plans these files on trial. The set that an error-free trial was about is safe to plan here.
pub fn try_files(files: &[Arc<SourceFile>], limits: &Limits) -> Result<Trial, TrialError> {
    let mut trial = Trial::default();
    loop {
        let end = match run_child(files, &trial.excluded, limits)? {
            Ok(outcome) => {
                (trial.tables, trial.views) = (outcome.tables, outcome.views);
                let told = outcome.diagnostics.into_iter();
                trial.diagnostics = told.map(|told| diagnostic(files, told)).collect();
                trial.complete = true;
                return Ok(trial);
            }
            Err(end) => end,
        };
        let Excluded { step, message, hint } = end.clone();
        let Step { path, line, column, .. } = step;
        trial
            .diagnostics
            .push(diagnostic(files, TrialDiagnostic { path, line, column, message, hint }));
        trial.excluded.push(end);
        if trial.excluded.len() > ENDS_MAX {
            return Ok(trial);
        }
    }
}

/// Plans files that were tried, without the steps that ended the process.
pub fn plan_tried(
    files: &[Arc<SourceFile>],
    trial: &Trial,
    log_id: &str,
) -> Result<QuerySet, TrialError> {
    if !trial.complete {
        let diagnostics = trial.diagnostics.clone();
        return Ok(QuerySet { diagnostics, ..QuerySet::default() });
    }
    // Where the trial found errors, it may have been of views that cannot be built.
    let has_errors = !trial.diagnostics.is_empty();
    let build = has_errors.then_some(build_on_trial as BuildOnTrial);
    let planned = on_large_stack(|| {
        let steps = Steps::new(&trial.excluded, &|_| {});
        plan_steps(files, log_id, sink::KINDS, &steps, build)
    });
    planned.map_err(TrialError::Thread)
}

/// Tries the files below `directory` and plans here those that pass, for commands that need plans.
pub fn try_and_plan(directory: &Path) -> io::Result<QuerySet> {
    let files = read_files(directory)?;
    let trial = try_files(&files, &Limits::default()).map_err(io::Error::other)?;
    plan_tried(&files, &trial, "").map_err(io::Error::other)
}

/// The program and limits that a verdict depends on beside the files.
pub fn judge(limits: &Limits) -> String {
    let file = std::fs::metadata(program()).map_or_else(
        |error| error.to_string(),
        |file| {
            use std::os::unix::fs::MetadataExt;
            format!("{} bytes of {}.{:09}", file.len(), file.mtime(), file.mtime_nsec())
        },
    );
    let Limits { plan_time_ms_max, plan_memory_bytes_max, .. } = limits;
    format!("{} {file} {plan_time_ms_max} {plan_memory_bytes_max}", env!("CARGO_PKG_VERSION"))
}

/// This program, also when its file has been replaced meanwhile.
fn program() -> PathBuf {
    let running = Path::new("/proc/self/exe");
    match running.exists() {
        true => running.to_path_buf(),
        false => std::env::current_exe().unwrap_or_else(|_| "heliostat".into()),
    }
}

fn diagnostic(files: &[Arc<SourceFile>], told: TrialDiagnostic) -> Diagnostic {
    let TrialDiagnostic { path, line, column, message, hint } = told;
    let file = files
        .iter()
        .find(|file| file.path == path)
        .map_or_else(|| Arc::new(SourceFile { path, text: String::new() }), Arc::clone);
    Diagnostic { file, line, column, message, hint }
}

/// One attempt: the outcome, or the step at which the process ended and why.
fn run_child(
    files: &[Arc<SourceFile>],
    excluded: &[Excluded],
    limits: &Limits,
) -> Result<Result<TrialOutcome, Excluded>, TrialError> {
    let request = TrialRequest {
        files: files.to_vec(),
        excluded: excluded.to_vec(),
        time_ms_max: limits.plan_time_ms_max,
        memory_bytes_max: limits.plan_memory_bytes_max,
    };
    let request = serde_json::to_vec(&request).map_err(|e| TrialError::Start(e.into()))?;
    let mut child = Command::new(program())
        .arg0("heliostat")
        .arg(COMMAND)
        // Memory that the allocator reserves counts as used, so it reserves little.
        .env("MIMALLOC_ARENA_RESERVE", "32MiB")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(TrialError::Start)?;
    let attempt = Attempt::begin(&mut child, request).map_err(TrialError::Start);
    let attempt = match attempt {
        Ok(attempt) => attempt,
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
    };
    attempt.watch(child, limits)
}

/// A running child and the threads that talk to it.
struct Attempt {
    lines: Receiver<TrialLine>,
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
    stderr: JoinHandle<String>,
}

impl Attempt {
    fn begin(child: &mut Child, request: Vec<u8>) -> io::Result<Attempt> {
        let missing = || io::Error::other("a pipe is missing");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        let (sender, lines) = channel();
        let thread = |name: &str| std::thread::Builder::new().name(name.to_string());
        let writer = thread("plan-stdin").spawn(move || give(stdin, &request))?;
        let reader = thread("plan-stdout").spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Some(line) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else {
                    return;
                };
                if sender.send(line).is_err() {
                    return;
                }
            }
        })?;
        let stderr = thread("plan-stderr").spawn(move || {
            let mut text = Vec::new();
            // A pipe that fails is one that has ended. The child must not wait for its reader.
            let mut stderr = stderr;
            let _ = stderr.by_ref().take(STDERR_BYTES_MAX).read_to_end(&mut text);
            let _ = io::copy(&mut stderr, &mut io::sink());
            String::from_utf8_lossy(&text).into_owned()
        })?;
        Ok(Attempt { lines, writer, reader, stderr })
    }

    fn watch(
        self,
        mut child: Child,
        limits: &Limits,
    ) -> Result<Result<TrialOutcome, Excluded>, TrialError> {
        let step_max = Duration::from_millis(limits.plan_time_ms_max) * CLOCK_FACTOR + CHILD_GRACE;
        let mut at: Option<Step> = None;
        let mut outcome = None;
        let mut stuck = false;
        loop {
            match self.lines.recv_timeout(step_max) {
                Ok(TrialLine::Step(step)) => at = Some(step),
                Ok(TrialLine::TrialOutcome(found)) => {
                    outcome = Some(found);
                    break;
                }
                Err(RecvTimeoutError::Timeout) => {
                    stuck = true;
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if stuck || outcome.is_some() {
            // Nothing more is needed of it: what it frees need not be waited for.
            let _ = child.kill();
        }
        let status = child.wait().map_err(TrialError::Start)?;
        let _ = self.writer.join();
        let _ = self.reader.join();
        let stderr = self.stderr.join().unwrap_or_default();
        if let Some(outcome) = outcome {
            return Ok(Ok(outcome));
        }
        let Some(step) = at else {
            return Err(TrialError::Child(format!("{status}: {}", stderr.trim())));
        };
        let (message, hint) = reason(status, stuck, &stderr, limits);
        Ok(Err(Excluded { step, message, hint: hint.map(str::to_string) }))
    }
}

fn give(mut stdin: ChildStdin, request: &[u8]) {
    // A child that has ended is noticed by its exit.
    let _ = stdin.write_all(request);
}

/// Why the child ended, for the author of the SQL, and what to do.
fn reason(
    status: ExitStatus,
    stuck: bool,
    stderr: &str,
    limits: &Limits,
) -> (String, Option<&'static str>) {
    if stuck || status.code() == Some(TIME_EXIT) {
        let seconds = limits.plan_time_ms_max as f64 / 1000.0;
        let hint = "divide it, or raise plan_time_ms_max in [limits]";
        return (format!("planning this takes longer than {seconds} s"), Some(hint));
    }
    if stderr.contains("memory allocation of") || stderr.contains("out of memory") {
        let mib = limits.plan_memory_bytes_max >> 20;
        let hint = "divide it, or raise plan_memory_bytes_max in [limits]";
        return (format!("planning this needs more than {mib} MiB of memory"), Some(hint));
    }
    if stderr.contains("overflowed its stack") || status.signal() == Some(libc::SIGSEGV) {
        return ("planning this overflows the stack: it nests too deeply".to_string(), None);
    }
    if status.signal() == Some(libc::SIGKILL) {
        let message = "the process was killed that planned this: the machine may lack memory";
        return (message.to_string(), None);
    }
    let said = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason");
    (format!("planning this ended the planner, which is a bug: {status}: {said}"), None)
}

/// The command `plan-child`: plans the request on standard input, and answers on standard output.
pub fn child() -> io::Result<()> {
    let _failpoints = fail::FailScenario::setup();
    yield_to_others();
    let request: TrialRequest = serde_json::from_reader(io::stdin().lock())?;
    let TrialRequest { files, excluded, time_ms_max, memory_bytes_max } = request;
    let clock = Arc::new(StepClock::default());
    let timed = Arc::clone(&clock);
    let time_max = Duration::from_millis(time_ms_max);
    std::thread::Builder::new()
        .name("plan-time".to_string())
        .spawn(move || timed.end_when_over(time_max))?;
    on_large_stack(|| {
        limit_memory(memory_bytes_max);
        let watch = |step: &Step| {
            clock.restart();
            say(&TrialLine::Step(step.clone()));
        };
        let steps = Steps::new(&excluded, &watch);
        let set = plan_steps(&files, "", sink::KINDS, &steps, Some(build_on_trial));
        let told = |diagnostic: Diagnostic| {
            let Diagnostic { file, line, column, message, hint } = diagnostic;
            TrialDiagnostic { path: file.path.clone(), line, column, message, hint }
        };
        say(&TrialLine::TrialOutcome(TrialOutcome {
            tables: set.tables.len(),
            views: set.views.len(),
            diagnostics: set.diagnostics.into_iter().map(told).collect(),
        }));
    })
}

/// Builds a view's dataflow and drops it again.
fn build_on_trial(view: &ViewPlan) -> Result<(), Unplannable> {
    dataflow::build_on_trial(view)
        .map_err(|error| Unplannable(format!("its dataflow cannot be built: {error}")))
}

fn say(line: &TrialLine) {
    let mut out = io::stdout().lock();
    let written = serde_json::to_writer(&mut out, line).map_err(io::Error::from);
    // Without a parent there is nobody to plan for.
    if written.and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// The processor time that the process had used when its step began, in nanoseconds.
#[derive(Default)]
struct StepClock(std::sync::atomic::AtomicU64);

impl StepClock {
    fn restart(&self) {
        self.0.store(cpu_ns(), std::sync::atomic::Ordering::Relaxed);
    }

    fn end_when_over(&self, max: Duration) {
        let begun = Instant::now();
        loop {
            std::thread::sleep(TIME_INTERVAL);
            let used = cpu_ns().saturating_sub(self.0.load(std::sync::atomic::Ordering::Relaxed));
            // No more can have been used than has passed.
            if begun.elapsed() > max && Duration::from_nanos(used) > max {
                // SAFETY: ends the process without running anything else, whatever state it is in.
                unsafe { libc::_exit(TIME_EXIT) };
            }
        }
    }
}

/// The processor time that this process has used.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists everywhere; the time is written to a place that is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Lets the process end with its parent, be the first to go when memory is short, and give way.
fn yield_to_others() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the calls take numbers only. Where one is not allowed the child does without.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
            libc::nice(NICENESS);
        }
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is read from a place that is ours. A crash here leaves no core file.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
}

/// Limits what the process may allocate beyond the stack that it has already.
fn limit_memory(bytes: u64) {
    let max = bytes.saturating_add(STACK_BYTES as u64);
    let limit = libc::rlimit { rlim_cur: max, rlim_max: max };
    // SAFETY: the limit is read from a place that is ours. Without it the clock is the limit.
    unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) };
}
