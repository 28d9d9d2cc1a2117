//! What a job's work gets: the report of its progress, its cancellation, and its deadline.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::record::{Record, step_name};
use super::status::{Step, StepResult};

/// What a job's work knows of its job. Clones belong to the same job. Reports after its end have no
/// effect.
#[derive(Debug, Clone)]
pub struct JobContext {
    record: Arc<Record>,
    began: Instant,
    deadline: Duration,
}

impl JobContext {
    pub(super) fn new(record: Arc<Record>, deadline: Duration) -> Self {
        Self {
            record,
            began: Instant::now(),
            deadline,
        }
    }

    /// Cancelled when the work should end, because the job was cancelled, its deadline has passed, or
    /// the server stops. The work then returns what it has, soon.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.record.cancelled
    }

    /// Whether the work should end.
    pub fn is_cancelled(&self) -> bool {
        self.record.cancelled.is_cancelled()
    }

    /// Whether all units of the work are done. Then the end of the job is its own, whoever cancels it.
    pub(super) fn is_done(&self) -> bool {
        self.record.status().progress.is_complete()
    }

    /// Whether the work was asked to end before all of it was done.
    pub fn is_cut_short(&self) -> bool {
        self.is_cancelled() && !self.is_done()
    }

    /// How long the job may run, from its start.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// What is left until the job's deadline.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.began.elapsed())
    }

    /// Reports how many units of work there are.
    pub fn set_total(&self, total: u64) {
        self.record
            .set_progress(|progress| progress.total = Some(total));
    }

    /// Reports that `units` more of the work are done. What a cancel has cut short is not done.
    pub fn advance(&self, units: u64) {
        self.record
            .set_progress(|progress| progress.done = progress.done.saturating_add(units));
    }

    /// Reports that a step begins. Several steps may be under way at once.
    pub fn begin_step(&self, name: impl Into<String>) -> StepInProgress {
        let name = step_name(name);
        self.record.begin_step(&name);
        StepInProgress {
            record: Arc::clone(&self.record),
            name,
            began: Instant::now(),
        }
    }
}

/// A step that has begun. It is listed when it has ended; a dropped one is not.
#[derive(Debug)]
#[must_use = "the end of a step must be reported"]
pub struct StepInProgress {
    record: Arc<Record>,
    name: String,
    began: Instant,
}

impl StepInProgress {
    /// Reports that the step did what it should.
    pub fn succeed(self, detail: impl Into<String>) {
        self.end(StepResult::Succeeded, detail.into());
    }

    /// Reports that the step failed.
    pub fn fail(self, detail: impl Into<String>) {
        self.end(StepResult::Failed, detail.into());
    }

    fn end(self, result: StepResult, detail: String) {
        self.record.end_step(Step {
            name: self.name,
            result,
            detail,
            took_seconds: self.began.elapsed().as_secs_f64(),
        });
    }
}
