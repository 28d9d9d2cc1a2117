//! The jobs in the overview.

use std::sync::Arc;

use headroom_actors::jobs::{JobId, JobState, JobStatus, Progress};
use headroom_actors::kernel::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::short;

/// The jobs that run, and those that ended of late.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StatusJobs)]
pub struct Jobs {
    /// How many run.
    pub running: usize,
    /// The running jobs, then the finished ones, the newest of each first; at most 20.
    pub jobs: Vec<Job>,
    /// Further ones, which are not listed. `GET /api/jobs` has all.
    pub not_listed: usize,
}

/// One job, without its steps and its result.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StatusJob)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// The name of its kind.
    pub kind: &'static str,
    /// What it does, in a sentence.
    pub description: String,
    /// Where it stands.
    pub state: JobState,
    /// Whether it was asked to end early. It is running until it has ended.
    pub cancel_requested: bool,
    /// When it was started.
    pub created_at: Timestamp,
    /// When it ended. `null` while it is running.
    pub ended_at: Option<Timestamp>,
    /// How far it is.
    pub progress: Progress,
    /// Why it did not succeed.
    pub error: Option<String>,
}

/// Jobs that are listed.
const LISTED_MAX: usize = 20;

impl Jobs {
    pub(super) fn new(jobs: Vec<Arc<JobStatus>>) -> Self {
        Self {
            running: jobs.iter().filter(|job| !job.state.is_final()).count(),
            not_listed: jobs.len().saturating_sub(LISTED_MAX),
            jobs: jobs.iter().take(LISTED_MAX).map(Job::new).collect(),
        }
    }
}

impl Job {
    fn new(status: &Arc<JobStatus>) -> Self {
        Self {
            id: status.id.clone(),
            kind: status.kind,
            description: status.description.clone(),
            state: status.state,
            cancel_requested: status.cancel_requested,
            created_at: status.created_at,
            ended_at: status.ended_at,
            progress: status.progress.clone(),
            error: status.error.clone().map(short),
        }
    }
}
