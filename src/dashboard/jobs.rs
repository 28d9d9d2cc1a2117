//! The jobs in the status.

use std::sync::Arc;

use headroom_actors::jobs::{JobStatus, JobSummary};
use serde::Serialize;
use utoipa::ToSchema;

use super::{keep_first, short};

/// The jobs that run, and those that ended of late.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = StatusJobs)]
pub struct Jobs {
    /// How many run.
    pub running: usize,
    /// The running jobs, then the finished ones, the newest of each first; at most 20.
    pub jobs: Vec<JobSummary>,
    /// Further ones, which are not listed. `GET /api/jobs` has all.
    pub not_listed: usize,
}

/// Jobs that are listed.
const LISTED_MAX: usize = 20;

impl Jobs {
    pub(super) fn new(jobs: Vec<Arc<JobStatus>>) -> Self {
        Self {
            running: jobs.iter().filter(|job| !job.state.is_final()).count(),
            not_listed: jobs.len().saturating_sub(LISTED_MAX),
            jobs: jobs.iter().take(LISTED_MAX).map(listed).collect(),
        }
    }

    /// With at most the first `count` jobs.
    pub(super) fn first(mut self, count: usize) -> Self {
        self.not_listed += keep_first(&mut self.jobs, count);
        self
    }
}

fn listed(status: &Arc<JobStatus>) -> JobSummary {
    let mut job = JobSummary::from(&**status);
    job.error = job.error.map(short);
    job
}
