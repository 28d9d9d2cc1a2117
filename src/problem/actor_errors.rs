//! Converts errors of actors into problems: the kind, what the caller can do, and `Retry-After`.

use std::time::Duration;

use headroom_actors::kernel::pool::{CheckoutError, ConnectError, TimeoutCause};
use headroom_actors::kernel::{AskError, BudgetError, LoadError, LoadErrorKind};
use headroom_actors::lazy::{AcquireError, Excess, Shortage};
use headroom_actors::model::InferError;
use headroom_actors::{postgres, redis};

use super::{Problem, ProblemKind};

/// The default `Retry-After`. Restarts and loads take about this long.
const SOON: Duration = Duration::from_secs(1);

/// `Retry-After` when memory is short. Evictions and work in flight end within about this time.
const MEMORY_SOON: Duration = Duration::from_secs(5);

/// `Retry-After` when an operator must fix something first.
const OPERATOR_SOON: Duration = Duration::from_secs(30);

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Busy => Self::new(
                ProblemKind::Overloaded,
                "too many requests wait for this already; send fewer at once, or retry later",
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
                "no reply within server.request_deadline; the work may still complete",
            ),
            AskError::Lost => Self::new(
                ProblemKind::Unavailable,
                "the actor that worked on this request failed; the work may or may not have been \
                 done",
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
                format!("there is no resource named {name}"),
            ),
            AcquireError::Failed { error, retry_in } => load_failed(error, *retry_in),
            AcquireError::Short(shortage) => short(shortage),
            AcquireError::NeverFits(excess) => never_fits(excess),
            AcquireError::BudgetUnavailable => Self::new(
                ProblemKind::Unavailable,
                "the memory supervisor does not reply",
            )
            .retry_after(SOON),
            AcquireError::Stopping => {
                Self::new(ProblemKind::NotReady, "the server is stopping").retry_after(SOON)
            }
            // `root` never returns this variant.
            AcquireError::DependencyFailed { dependency, .. } => Self::new(
                ProblemKind::Unavailable,
                format!("{dependency} is not available"),
            ),
        };
        problem.caused_by(&error)
    }
}

fn load_failed(error: &LoadError, retry_in: Duration) -> Problem {
    match error.kind {
        LoadErrorKind::Invalid => Problem::new(
            ProblemKind::Unusable,
            format!("it cannot be loaded: {error}; fix its files, then load it again"),
        )
        .with("next_try_in_seconds", retry_in.as_secs_f64()),
        LoadErrorKind::Unavailable | LoadErrorKind::Deadline => {
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

/// The resource is larger than the budget ever allows. Without `Retry-After`, since only a change of the
/// budget or of the file helps.
pub(crate) fn never_fits(excess: &Excess) -> Problem {
    let Excess { need, most } = excess;
    let detail = format!(
        "it needs {need} bytes, and the memory budget leaves {most} for all models together; enlarge \
         the budget, or use a smaller model"
    );
    Problem::new(ProblemKind::NeverFits, detail)
        .with("need_bytes", *need)
        .with("most_bytes", *most)
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
            InferError::NoMemory(error) => no_memory("the model's outputs", error),
            InferError::OutOfMemory(_) => Self::new(ProblemKind::MemoryExceeded, detail),
            InferError::KilledForMemory => {
                Self::new(ProblemKind::InsufficientMemory, detail).retry_after(MEMORY_SOON)
            }
            InferError::HostLost => Self::new(ProblemKind::Unavailable, detail).retry_after(SOON),
            InferError::Deadline(_) => Self::new(ProblemKind::DeadlineExceeded, detail),
        }
    }
}

/// Memory for `what` was refused: for now, or for ever if it needs more than its whole budget.
pub(crate) fn no_memory(what: &str, error: BudgetError) -> Problem {
    let problem = match error {
        BudgetError::Short { need, budget, .. } if need > budget => Problem::new(
            ProblemKind::MemoryExceeded,
            format!("{what} need {need} bytes; the settings allow at most {budget}"),
        ),
        BudgetError::Short { .. } | BudgetError::Unavailable => Problem::new(
            ProblemKind::InsufficientMemory,
            format!("there is no memory for {what} now: {error}"),
        )
        .retry_after(SOON),
    };
    let problem = problem.caused_by(&error);
    match error {
        BudgetError::Short { need, free, budget } => problem
            .with("need_bytes", need)
            .with("free_bytes", free)
            .with("budget_bytes", budget),
        BudgetError::Unavailable => problem,
    }
}

impl From<LoadError> for Problem {
    fn from(error: LoadError) -> Self {
        load_failed(&error, SOON)
    }
}

impl From<CheckoutError> for Problem {
    fn from(error: CheckoutError) -> Self {
        let detail = error.to_string();
        match &error {
            CheckoutError::Full { .. } => {
                Self::new(ProblemKind::Overloaded, detail).retry_after(SOON)
            }
            CheckoutError::TimedOut {
                cause: TimeoutCause::Unreachable(last),
            } => unreachable(last, SOON),
            // The holders are places in our code, which mean nothing to a caller.
            CheckoutError::TimedOut {
                cause: TimeoutCause::Busy { .. },
            } => Self::new(
                ProblemKind::Overloaded,
                "all connections are in use; send fewer requests at once, or retry later",
            )
            .retry_after(SOON),
            CheckoutError::TimedOut { .. } => {
                Self::new(ProblemKind::Unavailable, detail).retry_after(SOON)
            }
            CheckoutError::CircuitOpen { retry_in, last } => unreachable(last, *retry_in),
            CheckoutError::Connect(last) => unreachable(last, OPERATOR_SOON),
            CheckoutError::Draining => {
                Self::new(ProblemKind::NotReady, "the server is stopping").retry_after(SOON)
            }
            CheckoutError::Owner(error) => Self::from(*error),
        }
        .caused_by(&error)
    }
}

/// A server that the request needs cannot be reached. The message of a connect error has no secret, and
/// names a remedy if there is one.
fn unreachable(error: &ConnectError, retry_in: Duration) -> Problem {
    Problem::new(ProblemKind::Unavailable, error.to_string())
        .with("cause", error.kind.label())
        .retry_after(retry_in.max(SOON))
}

impl From<postgres::Error> for Problem {
    fn from(error: postgres::Error) -> Self {
        use postgres::Error as E;
        match &error {
            E::Checkout(checkout) => return Self::from(checkout.clone()),
            E::Deadline { .. } => Self::new(
                ProblemKind::DeadlineExceeded,
                "the database did not answer within the deadline",
            ),
            E::Lost { .. } => Self::new(
                ProblemKind::Unavailable,
                "the connection to the database was lost; the work may or may not have been done",
            )
            .retry_after(SOON),
            E::Aborted => Self::new(
                ProblemKind::Unavailable,
                "it conflicts with other transactions, and nothing was done",
            )
            .retry_after(SOON),
            E::Server(server) if error.is_serialization_failure() => {
                Self::new(ProblemKind::Unavailable, server.message.clone()).retry_after(SOON)
            }
            E::Server(_) | E::Protocol(_) | E::Schema(_) => Self::new(
                ProblemKind::Unavailable,
                "the database failed; see the log for the cause",
            )
            .retry_after(OPERATOR_SOON),
            E::Rows { .. } | E::Invalid(_) => return Self::internal(&error),
        }
        .caused_by(&error)
    }
}

impl From<redis::Error> for Problem {
    fn from(error: redis::Error) -> Self {
        use redis::Error as E;
        match &error {
            E::Checkout(checkout) => return Self::from(checkout.clone()),
            E::Deadline => Self::new(
                ProblemKind::DeadlineExceeded,
                "redis did not answer within the deadline; the work may or may not have been done",
            ),
            E::Lost => Self::new(
                ProblemKind::Unavailable,
                "the connection to redis was lost; the work may or may not have been done",
            )
            .retry_after(SOON),
            E::NoNode => Self::new(
                ProblemKind::Unavailable,
                "the redis node that has the key is down; the work may or may not have been done",
            )
            .retry_after(SOON),
            E::Server { .. } => Self::new(
                ProblemKind::Unavailable,
                "redis failed; see the log for the cause",
            )
            .retry_after(OPERATOR_SOON),
            E::Type => return Self::internal(&error),
        }
        .caused_by(&error)
    }
}
