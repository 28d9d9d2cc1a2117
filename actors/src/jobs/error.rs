//! Why the jobs actor refused a request.

use super::status::JobId;

/// Why a job was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// As many jobs run as may run at once.
    #[error("{running} jobs are running, which is the most at once")]
    Full {
        /// The number of running jobs.
        running: usize,
    },
    /// The kind is exclusive, and a job of this kind is running.
    #[error("job {running} of the kind {kind} is running, and there can be only one")]
    Exclusive {
        /// The kind.
        kind: &'static str,
        /// The job that is running.
        running: JobId,
    },
    /// The server is stopping.
    #[error("no job is started during a stop")]
    Stopping,
}

/// There is no job with this id. It may have ended long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no job with this id; finished jobs are kept for a limited time")]
pub struct NoSuchJob;

/// Why a job cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// There is no such job.
    #[error(transparent)]
    NoSuchJob(#[from] NoSuchJob),
    /// There are as many followers as there may be.
    #[error("{followers} followers of jobs are connected, which is the most at once")]
    Full {
        /// The number of followers.
        followers: usize,
    },
}
