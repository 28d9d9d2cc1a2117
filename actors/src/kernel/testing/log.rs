//! What is logged on the thread of a test.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Metadata, Subscriber};

/// Keeps all that is logged on the thread of a test, also at the lowest level. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct TestLog(Arc<Mutex<Vec<String>>>);

impl TestLog {
    /// Keeps what this thread logs until the guard is dropped.
    #[must_use = "it ends when the guard is dropped"]
    pub fn listen(&self) -> DefaultGuard {
        tracing::subscriber::set_default(self.clone())
    }

    /// The lines so far. Each begins with its level. The fields of spans are lines of their own.
    pub fn lines(&self) -> Vec<String> {
        self.lock().clone()
    }

    fn add(&self, line: Line) {
        self.lock().push(line.0);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for TestLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = Line::of(span.metadata());
        span.record(&mut line);
        self.add(line);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut line = Line::default();
        values.record(&mut line);
        self.add(line);
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::of(event.metadata());
        event.record(&mut line);
        self.add(line);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// One line.
#[derive(Default)]
struct Line(String);

impl Line {
    fn of(metadata: &Metadata<'_>) -> Self {
        Self(metadata.level().to_string())
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // A string takes whatever is written.
        write!(self.0, " {field}={value:?}").ok();
    }
}
