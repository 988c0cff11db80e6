//! The steps of planning, each at its place in a file: whatever ends a step is told with that place.
//!
//! A panic ends one step. A step that ends the whole process is for whoever watches the process: [`Steps`]
//! tells the step before it begins, and leaves out the steps that are known to have ended a process before.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use datafusion_sql::sqlparser::tokenizer::Location;
use serde::{Deserialize, Serialize};

use super::diagnostic::{Diagnostic, SourceFile};
use crate::model::thread::words_of;

/// The stack that planning has: it recurses over trees as deep as a query is long (a chain of 10,000
/// additions). Only what is used of it takes memory.
pub const STACK_BYTES: usize = 512 << 20;

thread_local! {
    static PLANNING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a step, so that a panic in it is caught.
pub fn is_planning() -> bool {
    PLANNING.get()
}

/// Runs `work` on a thread of its own that has the stack that planning needs. Fails only where no
/// such thread can be started.
pub fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("plan".to_string()).stack_size(STACK_BYTES);
        let thread = builder.spawn_scoped(scope, work)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// The work of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// A file is cut into tokens.
    Tokens,
    /// A statement is parsed and declared.
    Statement,
    /// A view, a table's `delete_when` or an upcast is planned.
    Plan,
    /// A view's dataflow is built.
    Build,
}

/// One step of planning.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Step {
    pub path: PathBuf,
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
    pub stage: Stage,
}

/// A step that is not done again, since it ended a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excluded {
    pub step: Step,
    /// The error that is reported in its place.
    pub message: String,
    /// Advice on what to do, if there is any.
    pub hint: Option<String>,
}

/// Runs steps, one inside the other where a view reads another.
pub struct Steps<'a> {
    excluded: HashMap<&'a Step, &'a Excluded>,
    watch: &'a dyn Fn(&Step),
    /// The steps that have begun, outermost first.
    begun: RefCell<Vec<Step>>,
}

impl<'a> Steps<'a> {
    /// `watch` is called with each step before it begins or goes on.
    pub fn new(excluded: &'a [Excluded], watch: &'a dyn Fn(&Step)) -> Self {
        let excluded = excluded.iter().map(|excluded| (&excluded.step, excluded)).collect();
        Steps { excluded, watch, begun: RefCell::default() }
    }

    /// Does a step. The error is why it has no result: it is excluded, or it panicked.
    pub fn run<T>(
        &self,
        file: &Arc<SourceFile>,
        at: Location,
        stage: Stage,
        work: impl FnOnce() -> T,
    ) -> Result<T, Diagnostic> {
        let (line, column) = (at.line.max(1), at.column.max(1));
        let step = Step { path: file.path.clone(), line, column, stage };
        if let Some(excluded) = self.excluded.get(&step) {
            let diagnostic = Diagnostic::new(file, at, excluded.message.clone());
            return Err(Diagnostic { hint: excluded.hint.clone(), ..diagnostic });
        }
        (self.watch)(&step);
        self.begun.borrow_mut().push(step);
        let around = PLANNING.replace(true);
        let result = catch_unwind(AssertUnwindSafe(work));
        PLANNING.set(around);
        let mut begun = self.begun.borrow_mut();
        begun.pop();
        if let Some(outer) = begun.last() {
            (self.watch)(outer);
        }
        result.map_err(|panic| {
            let text = words_of(&*panic);
            let what = match stage {
                Stage::Build => "building the dataflow of this panicked",
                Stage::Tokens | Stage::Statement | Stage::Plan => "the planner panicked on this",
            };
            let message = format!("{what}, which is a bug: {text}");
            Diagnostic::new(file, at, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_its_own_step_only() {
        let file = Arc::new(SourceFile { path: "a.sql".into(), text: String::new() });
        let seen = RefCell::new(Vec::new());
        let watch = |step: &Step| seen.borrow_mut().push(step.line);
        let steps = Steps::new(&[], &watch);
        let outer = steps.run(&file, Location::new(7, 1), Stage::Plan, || {
            let inner = steps.run(&file, Location::new(3, 2), Stage::Plan, || {
                assert!(is_planning());
                panic!("index {} is out of bounds", 2)
            });
            inner.unwrap_err()
        });
        let diagnostic = outer.unwrap();
        assert!(diagnostic.message.contains("index 2 is out of bounds"), "{diagnostic}");
        assert_eq!((diagnostic.line, diagnostic.column), (3, 2));
        assert_eq!(seen.take(), [7, 3, 7]);
        assert!(!is_planning());
    }

    #[test]
    fn an_excluded_step_is_reported_and_not_done() {
        let file = Arc::new(SourceFile { path: "a.sql".into(), text: String::new() });
        let step = Step { path: "a.sql".into(), line: 2, column: 5, stage: Stage::Plan };
        let excluded = [Excluded { step, message: "it crashed".to_string(), hint: None }];
        let steps = Steps::new(&excluded, &|_| {});
        let run = |stage| steps.run(&file, Location::new(2, 5), stage, || 1);
        assert_eq!(run(Stage::Plan).unwrap_err().message, "it crashed");
        assert!(matches!(run(Stage::Statement), Ok(1)));
    }
}
