//! Converts errors of actors into problems: the kind, what the caller can do, and `Retry-After` where a
//! 503 needs another than the usual one.

use std::time::Duration;

use headroom_actors::jobs::{FollowError, JobId, NoSuchJob, StartError};
use headroom_actors::kernel::pool::{CheckoutError, ConnectError, TimeoutCause};
use headroom_actors::kernel::{AskError, BudgetError, LoadError, LoadErrorKind};
use headroom_actors::lazy::{AcquireError, ClearError, Excess, Shortage, UnknownResource};
use headroom_actors::model::{InferError, Unresolved};
use headroom_actors::upload::scanner::ScanError;
use headroom_actors::upload::{Kind, KindFault, PartialFault, UploadError, UploadId};
use headroom_actors::{postgres, redis};

use super::ProblemKind::{
    ChecksumMismatch, Conflict, DeadlineExceeded, Forbidden, Gone, InsufficientMemory,
    InsufficientStorage, InvalidInput, Locked, MalformedRequest, MemoryExceeded, NeverFits,
    NotFound, NotReady, Overloaded, PayloadTooLarge, TooManyRequests, Unavailable, Unprocessable,
    UnsupportedMediaType, Unusable,
};
use super::{Problem, SOON, malformed};

/// `Retry-After` when memory is short. Evictions and work in flight end within about this time.
const MEMORY_SOON: Duration = Duration::from_secs(5);

/// `Retry-After` when an operator must fix something first.
const OPERATOR_SOON: Duration = Duration::from_secs(30);

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Busy => Self::new(
                Overloaded,
                "too many requests wait for this already; send fewer at once, or retry later",
            ),
            AskError::Restarting { retry_in } => {
                Self::new(Unavailable, "what this request needs is being restarted")
                    .retry_after(retry_in.max(SOON))
            }
            AskError::Stopped => Self::new(Unavailable, "what this request needs is being stopped"),
            AskError::TimedOut => Self::new(
                DeadlineExceeded,
                "no reply within server.request_deadline; the work may still complete",
            ),
            AskError::Lost => Self::new(
                Unavailable,
                "the actor that worked on this request failed; the work may or may not have been \
                 done",
            ),
        }
        .caused_by(&error)
    }
}

impl From<AcquireError> for Problem {
    fn from(error: AcquireError) -> Self {
        let problem = match error.root() {
            AcquireError::NotFound(_) => Self::new(NotFound, error.root().to_string()),
            AcquireError::Failed { error, retry_in } => load_failed(error, *retry_in),
            AcquireError::Short(shortage) => short(shortage),
            AcquireError::NeverFits(excess) => never_fits(excess),
            AcquireError::BudgetUnavailable => {
                Self::new(Unavailable, "the memory supervisor does not reply")
            }
            AcquireError::Stopping => Self::new(NotReady, "the server is stopping"),
            // `root` never returns this variant.
            AcquireError::DependencyFailed { dependency, .. } => {
                Self::new(Unavailable, format!("{dependency} is not available"))
            }
        };
        problem.caused_by(&error)
    }
}

fn load_failed(error: &LoadError, retry_in: Duration) -> Problem {
    match error.kind {
        LoadErrorKind::Invalid => Problem::new(
            Unusable,
            format!("it cannot be loaded: {error}; fix its files, then load it again"),
        )
        .with("next_try_in_seconds", retry_in.as_secs_f64()),
        LoadErrorKind::Unavailable | LoadErrorKind::Deadline => {
            Problem::new(Unavailable, format!("loading failed: {error}"))
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
        InsufficientMemory,
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
    Problem::new(NeverFits, detail)
        .with("need_bytes", *need)
        .with("most_bytes", *most)
}

/// The path of a job, for problems and for `Location`.
pub(crate) fn job_path(id: &JobId) -> String {
    format!("/api/jobs/{id}")
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Self {
        let problem = match &error {
            StartError::Full { .. } => Self::new(
                Overloaded,
                format!("{error}; wait for one to end, or cancel one"),
            ),
            StartError::Exclusive { running, .. } => {
                let detail = format!("{error}; follow it, or cancel it first");
                Self::new(Conflict, detail)
                    .with("job_id", running.as_str())
                    .with("job", job_path(running))
            }
            StartError::Stopping => Self::new(NotReady, "the server is stopping"),
        };
        problem.caused_by(&error)
    }
}

impl From<NoSuchJob> for Problem {
    fn from(error: NoSuchJob) -> Self {
        Self::new(NotFound, error.to_string())
    }
}

impl From<FollowError> for Problem {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::NoSuchJob(error) => error.into(),
            FollowError::Full { .. } => Self::new(Overloaded, error.to_string()),
        }
    }
}

impl From<UnknownResource> for Problem {
    fn from(error: UnknownResource) -> Self {
        let status = "GET /api/performance/lazy-loader/status lists those that are known";
        Self::new(NotFound, format!("{error}; {status}"))
    }
}

impl From<ClearError> for Problem {
    fn from(error: ClearError) -> Self {
        match error {
            ClearError::UnknownResource(error) => error.into(),
            ClearError::UnknownKind(error) => {
                let problem = malformed(error.to_string());
                problem.with("kinds", error.kinds)
            }
        }
    }
}

impl From<InferError> for Problem {
    fn from(error: InferError) -> Self {
        let kind = match error {
            InferError::NoMemory(error) => return no_memory("the model's outputs", error),
            InferError::InvalidInput(_) | InferError::UnknownSequence(_) => InvalidInput,
            InferError::Model(_) | InferError::Poison => Unprocessable,
            InferError::OutOfMemory(_) => MemoryExceeded,
            InferError::KilledForMemory => InsufficientMemory,
            InferError::HostLost | InferError::Draining(_) => Unavailable,
            InferError::Deadline(_) => DeadlineExceeded,
        };
        let problem = Self::new(kind, error.to_string());
        match kind {
            InsufficientMemory => problem.retry_after(MEMORY_SOON),
            _ => problem,
        }
    }
}

/// Memory for `what` was refused: for now, or for ever if it needs more than its whole budget.
pub(crate) fn no_memory(what: &str, error: BudgetError) -> Problem {
    let detail = format!("there is no memory for {what} now: {error}");
    let for_now = Problem::new(InsufficientMemory, detail).caused_by(&error);
    let BudgetError::Short { need, free, budget } = error else {
        return for_now;
    };
    let problem = if need > budget {
        let detail = format!("{what} need {need} bytes; the settings allow at most {budget}");
        Problem::new(MemoryExceeded, detail).caused_by(&error)
    } else {
        for_now
    };
    problem
        .with("need_bytes", need)
        .with("free_bytes", free)
        .with("budget_bytes", budget)
}

impl From<LoadError> for Problem {
    fn from(error: LoadError) -> Self {
        load_failed(&error, SOON)
    }
}

impl From<Unresolved> for Problem {
    fn from(error: Unresolved) -> Self {
        let kind = match &error {
            Unresolved::Model(_) | Unresolved::Version(..) | Unresolved::Policy(..) => NotFound,
            Unresolved::Settings(_) => Unusable,
            Unresolved::Folder(_) => {
                return Self::new(Unavailable, error.to_string()).retry_after(OPERATOR_SOON);
            }
        };
        Self::new(kind, error.to_string())
    }
}

impl From<CheckoutError> for Problem {
    fn from(error: CheckoutError) -> Self {
        match &error {
            CheckoutError::Full { .. } => Self::new(Overloaded, error.to_string()),
            CheckoutError::TimedOut { cause } => match cause {
                TimeoutCause::Unreachable(last) => unreachable(last, SOON),
                // The holders are places in our code, which mean nothing to a caller.
                TimeoutCause::Busy { .. } => Self::new(
                    Overloaded,
                    "all connections are in use; send fewer requests at once, or retry later",
                ),
                _ => Self::new(Unavailable, error.to_string()),
            },
            CheckoutError::CircuitOpen { retry_in, last } => unreachable(last, *retry_in),
            CheckoutError::Connect(last) => unreachable(last, OPERATOR_SOON),
            CheckoutError::Draining => Self::new(NotReady, "the server is stopping"),
            CheckoutError::Owner(error) => Self::from(*error),
        }
        .caused_by(&error)
    }
}

/// A server that the request needs cannot be reached. The message of a connect error has no secret, and
/// names a remedy if there is one.
fn unreachable(error: &ConnectError, retry_in: Duration) -> Problem {
    Problem::new(Unavailable, error.to_string())
        .with("cause", error.kind.label())
        .retry_after(retry_in.max(SOON))
}

impl From<postgres::Error> for Problem {
    fn from(error: postgres::Error) -> Self {
        use postgres::Error as E;
        match &error {
            E::Checkout(checkout) => return Self::from(checkout.clone()),
            E::Deadline { .. } => Self::new(
                DeadlineExceeded,
                "the database did not answer within the deadline",
            ),
            E::Lost { .. } => Self::new(
                Unavailable,
                "the connection to the database was lost; the work may or may not have been done",
            ),
            E::Aborted => Self::new(
                Unavailable,
                "it conflicts with other transactions, and nothing was done",
            ),
            E::Server(server) if error.is_serialization_failure() => {
                Self::new(Unavailable, server.message.clone())
            }
            E::Server(_) | E::Protocol(_) | E::Schema(_) => failed("the database"),
            E::Rows { .. } | E::Invalid(_) | E::NotShared { .. } | E::NeedsSession { .. } => {
                return Self::internal(&error);
            }
        }
        .caused_by(&error)
    }
}

impl From<redis::Error> for Problem {
    fn from(error: redis::Error) -> Self {
        use redis::Error as E;
        match &error {
            E::Checkout(checkout) => return Self::from(checkout.clone()),
            E::Unsent(_) | E::Unsupported { .. } | E::Type => return Self::internal(&error),
            E::Deadline => Self::new(
                DeadlineExceeded,
                "redis did not answer within the deadline; the work may or may not have been done",
            ),
            E::Lost => Self::new(
                Unavailable,
                "the connection to redis was lost; the work may or may not have been done",
            ),
            E::NoNode { done } => {
                let done = done_words(*done);
                let detail = format!("the redis node that has the key is down; {done}");
                Self::new(Unavailable, detail)
            }
            E::Server { done, .. } => {
                let done = done_words(*done);
                let detail = format!("redis failed, and {done}; see the log for the cause");
                Self::new(Unavailable, detail).retry_after(OPERATOR_SOON)
            }
        }
        .caused_by(&error)
    }
}

fn done_words(done: redis::Done) -> &'static str {
    match done {
        redis::Done::Nothing => "nothing was done",
        redis::Done::Part => "a part of the work may have been done",
        redis::Done::All => "the work was done",
        redis::Done::Unknown => "the work may or may not have been done",
    }
}

impl From<UploadError> for Problem {
    fn from(error: UploadError) -> Self {
        use UploadError as E;
        let detail = error.to_string();
        match error {
            _ if error.is_disk_full() => {
                let detail =
                    "the disk of the server is nearly full; remove uploads, or tell its operator";
                Self::new(InsufficientStorage, detail).caused_by(&error)
            }
            E::Full { .. } => Self::new(Overloaded, format!("{detail}; send it again later")),
            E::CallerFull { .. } => {
                Self::new(TooManyRequests, format!("{detail}; wait for one to end"))
                    .retry_after(SOON)
            }
            E::Memory(error) => no_memory("an upload", error).retry_after(MEMORY_SOON),
            E::TooLarge { max, .. } => Self::new(PayloadTooLarge, detail).with("limit_bytes", max),
            E::Name(_) => Self::new(InvalidInput, format!("the file's name: {detail}")),
            E::Kind(KindFault::NoExtension | KindFault::UnknownExtension { .. }) => {
                let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.slug()).collect();
                Self::new(UnsupportedMediaType, detail).with("kinds", kinds)
            }
            E::Kind(_) | E::KindRefused(_) => Self::new(UnsupportedMediaType, detail),
            E::Content(ref fault) if fault.is_servers() => Self::internal(&error),
            E::Content(ref fault) => Self::new(Unprocessable, detail).with("fault", fault.slug()),
            E::Infected { ref signature } => {
                Self::new(Unprocessable, detail).with("signature", signature.as_str())
            }
            E::Scan(ScanError::SizeLimit) => Self::new(PayloadTooLarge, detail),
            E::Scan(_) => {
                let detail = format!("files must be scanned, and this one was not: {detail}");
                Self::new(Unavailable, detail)
                    .retry_after(OPERATOR_SOON)
                    .caused_by(&error)
            }
            E::Quota { quota, used, max } => Self::new(
                InsufficientStorage,
                format!("{detail}; remove uploads first"),
            )
            .with("quota", quota)
            .with("used", used)
            .with("max", max),
            E::NotFound(ref id) => Self::new(NotFound, no_upload(id)),
            E::KeyOfOthers => Self::new(
                InvalidInput,
                format!("{detail}; each new request needs a new Idempotency-Key"),
            ),
            E::KeyOfRemoved => {
                let detail = format!("{detail}; send a new Idempotency-Key to store them anew");
                Self::new(Gone, detail)
            }
            E::NoLink => Self::new(NotFound, detail),
            E::LinkOver => Self::new(
                Gone,
                format!("{detail}; ask who gave it to you for another"),
            ),
            E::Partial(fault) => Self::from(fault),
            E::Database(error) => Self::from(error),
            E::Damaged => Self::internal(&error),
            E::Storage(_) | E::Unsynced(_) | E::DiskFull { .. } => Self::new(
                Unavailable,
                "the upload folder cannot be used; see the log for the cause",
            )
            .retry_after(OPERATOR_SOON)
            .caused_by(&error),
            E::Bucket(_) => Self::new(
                Unavailable,
                "the bucket of uploads cannot be used; see the log for the cause",
            )
            .retry_after(OPERATOR_SOON)
            .caused_by(&error),
            E::Panicked => Self::internal(&error),
        }
    }
}

impl From<PartialFault> for Problem {
    fn from(fault: PartialFault) -> Self {
        use PartialFault as F;
        let detail = fault.to_string();
        match fault {
            F::NotFound(_) => Self::new(NotFound, detail),
            F::Gone(_) => Self::new(Gone, format!("{detail}; begin anew")),
            F::Locked => Self::new(Locked, format!("{detail}; wait for its end")).retry_after(SOON),
            F::Offset { offset } => Self::new(Conflict, detail).with("offset", offset),
            F::TooLong { max } => Self::new(PayloadTooLarge, detail).with("limit_bytes", max),
            F::Length(_) => Self::new(MalformedRequest, detail),
            F::Checksum => Self::new(ChecksumMismatch, detail),
            F::Final => Self::new(Forbidden, detail),
            F::NoName => Self::new(InvalidInput, detail),
            F::NoPart(_) => Self::new(Conflict, format!("{detail}; complete it first")),
        }
    }
}

fn no_upload(id: &UploadId) -> String {
    format!("there is no upload {id}; GET /api/uploads lists those that are stored")
}

/// The server `what` has failed.
fn failed(what: &str) -> Problem {
    Problem::new(
        Unavailable,
        format!("{what} failed; see the log for the cause"),
    )
    .retry_after(OPERATOR_SOON)
}
