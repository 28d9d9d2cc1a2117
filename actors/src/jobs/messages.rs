//! The messages of the jobs actor and their replies.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt;

use super::context::JobContext;
use super::error::{FollowError, NoSuchJob, StartError};
use super::record::{Follower, JobWatch};
use super::run::{Work, WorkResult};
use super::status::{JobKind, JobStatus};
use crate::kernel::Message;

/// Starts a job. The reply comes at once and watches it.
pub struct Start {
    /// What the job does.
    pub kind: JobKind,
    /// What this job does, in a sentence for operators.
    pub description: String,
    /// How long the job may run.
    pub deadline: Duration,
    /// Its work.
    pub work: Work,
}

impl Start {
    /// Starts a job of `kind` whose work is the future that `work` returns.
    pub fn new<F>(
        kind: JobKind,
        description: impl Into<String>,
        deadline: Duration,
        work: impl FnOnce(JobContext) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = WorkResult> + Send + 'static,
    {
        Self {
            kind,
            description: description.into(),
            deadline,
            work: Box::new(move |job| work(job).boxed()),
        }
    }
}

impl Message for Start {
    type Reply = Result<JobWatch, StartError>;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Gives all jobs: the running ones, then the finished ones, the newest of each first.
#[derive(Debug, Clone, Copy)]
pub struct List;

impl Message for List {
    type Reply = Vec<Arc<JobStatus>>;
    const CANCELLABLE: bool = true;
}

/// Gives the state of one job.
#[derive(Debug, Clone)]
pub struct Get {
    /// The job's id, as the caller wrote it.
    pub id: String,
}

impl Message for Get {
    type Reply = Result<Arc<JobStatus>, NoSuchJob>;
    const CANCELLABLE: bool = true;
}

/// Asks a job to end early, and gives its state. It may run for a while after that. A job that has
/// ended stays as it is.
#[derive(Debug, Clone)]
pub struct Cancel {
    /// The job's id, as the caller wrote it.
    pub id: String,
}

impl Message for Cancel {
    type Reply = Result<Arc<JobStatus>, NoSuchJob>;
}

/// Follows a job. The number of followers is bounded.
#[derive(Debug, Clone)]
pub struct Follow {
    /// The job's id, as the caller wrote it.
    pub id: String,
}

impl Message for Follow {
    type Reply = Result<Follower, FollowError>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        matches!(reply, Err(FollowError::Full { .. }))
    }
}

/// Cancels all jobs and starts no more, because the server is about to stop. Replies at once.
#[derive(Debug, Clone, Copy)]
pub struct Drain;

impl Message for Drain {
    type Reply = ();
}
