//! What the rooms' errors are to a caller: which problem, what to do about it, and when to come
//! back. The one place that knows both.

use std::time::Duration;

use headroom_actors::kernel::{AskError, LoadError, LoadFault};
use headroom_actors::lazy::{AcquireError, Shortage, UnloadError};
use headroom_actors::model::InferError;

use super::{Problem, ProblemKind};

/// When to come back where nothing better is known: restarts and loads take about this long.
const SOON: Duration = Duration::from_secs(1);

/// When to come back for memory: idle things leave, and work in flight ends, within this order of
/// time.
const MEMORY_SOON: Duration = Duration::from_secs(5);

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Busy => Self::new(
                ProblemKind::Overloaded,
                "too many requests wait for this already; send fewer at once, or come back",
            )
            .retry_after(SOON),
            AskError::Restarting { retry_in } => Self::new(
                ProblemKind::Unavailable,
                "what this request needs is being restarted",
            )
            .retry_after(retry_in.max(SOON)),
            AskError::Stopped => Self::new(
                ProblemKind::Unavailable,
                "what this request needs is being stopped",
            )
            .retry_after(SOON),
            AskError::TimedOut => Self::new(
                ProblemKind::DeadlineExceeded,
                "there was no answer within server.request_deadline; what was begun may still be \
                 finished",
            ),
            AskError::Lost => Self::new(
                ProblemKind::Unavailable,
                "what worked on this request ended before it answered; it may or may not have \
                 been done",
            )
            .retry_after(SOON),
        }
        .caused_by(&error)
    }
}

impl From<AcquireError> for Problem {
    fn from(error: AcquireError) -> Self {
        let problem = match error.root() {
            AcquireError::NotFound(name) => Self::new(
                ProblemKind::NotFound,
                format!("there is nothing named {name}"),
            ),
            AcquireError::Failed { error, retry_in } => load_failed(error, *retry_in),
            AcquireError::Short(shortage) => short(shortage),
            AcquireError::BudgetUnavailable => Self::new(
                ProblemKind::Unavailable,
                "the memory budget cannot be asked now",
            )
            .retry_after(SOON),
            AcquireError::Stopping => {
                Self::new(ProblemKind::NotReady, "the server is stopping").retry_after(SOON)
            }
            // `root` never is one.
            AcquireError::DependencyFailed { dependency, .. } => Self::new(
                ProblemKind::Unavailable,
                format!("{dependency} is not available"),
            ),
        };
        problem.caused_by(&error)
    }
}

fn load_failed(error: &LoadError, retry_in: Duration) -> Problem {
    match error.fault {
        LoadFault::Invalid => Problem::new(
            ProblemKind::Unusable,
            format!("it cannot be loaded: {error}; mend its files, then load it again"),
        )
        .with("next_try_in_seconds", retry_in.as_secs_f64()),
        LoadFault::Unavailable | LoadFault::Deadline => {
            Problem::new(ProblemKind::Unavailable, format!("loading failed: {error}"))
                .retry_after(retry_in.max(SOON))
        }
    }
}

fn short(shortage: &Shortage) -> Problem {
    let Shortage {
        need,
        free,
        evictable,
        budget,
        level,
    } = shortage;
    let problem = Problem::new(
        ProblemKind::InsufficientMemory,
        format!("it needs {need} bytes; {free} are free and {evictable} more could be evicted"),
    )
    .with("need_bytes", *need)
    .with("free_bytes", *free)
    .with("evictable_bytes", *evictable)
    .with("level", level.label())
    .retry_after(MEMORY_SOON);
    match budget {
        Some(budget) => problem.with("budget_bytes", *budget),
        None => problem,
    }
}

impl From<UnloadError> for Problem {
    fn from(error: UnloadError) -> Self {
        match error {
            UnloadError::NotFound(name) => Self::new(
                ProblemKind::NotFound,
                format!("there is nothing named {name}"),
            ),
        }
    }
}

impl From<InferError> for Problem {
    fn from(error: InferError) -> Self {
        let detail = error.to_string();
        match error {
            InferError::InvalidInput(_) => Self::new(ProblemKind::InvalidInput, detail),
            InferError::UnknownSequence(_) => Self::new(ProblemKind::InvalidInput, detail),
            InferError::Model(_) | InferError::Poison => {
                Self::new(ProblemKind::Unprocessable, detail)
            }
            InferError::HostLost => Self::new(ProblemKind::Unavailable, detail).retry_after(SOON),
            InferError::Deadline(_) => Self::new(ProblemKind::DeadlineExceeded, detail),
        }
    }
}

impl From<LoadError> for Problem {
    fn from(error: LoadError) -> Self {
        load_failed(&error, SOON)
    }
}
