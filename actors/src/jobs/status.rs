//! The state of a job, as operators see it.

use std::collections::VecDeque;
use std::fmt;

use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::kernel::Timestamp;

/// The id of a job: 32 random hexadecimal digits, so that it cannot be guessed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(transparent)]
pub struct JobId(String);

impl JobId {
    pub(super) fn random() -> Self {
        Self(format!("{:032x}", rand::rng().random::<u128>()))
    }

    /// The id as text. It can stand in a URL as it is.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobKind {
    /// Its name, in one word, for callers and metrics.
    pub name: &'static str,
    /// Whether at most one job of this kind may run.
    pub exclusive: bool,
}

impl JobKind {
    /// A kind of which several jobs may run at once.
    pub const fn concurrent(name: &'static str) -> Self {
        let exclusive = false;
        Self { name, exclusive }
    }

    /// A kind of which only one job may run at once.
    pub const fn exclusive(name: &'static str) -> Self {
        let exclusive = true;
        Self { name, exclusive }
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Its work is under way.
    Running,
    /// Its work is done.
    Succeeded,
    /// Its work has failed, panicked, or was lost with a restart of the actor.
    Failed,
    /// It was cancelled before its work was done.
    Cancelled,
    /// Its deadline passed before its work was done.
    TimedOut,
}

impl JobState {
    /// A fixed word for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }

    /// Whether the job has ended, so that its state never changes again.
    pub fn is_final(self) -> bool {
        self != Self::Running
    }
}

/// The state of one job.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobStatus {
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
    /// How long it may run.
    pub deadline_seconds: f64,
    /// How far it is.
    pub progress: Progress,
    /// Its latest steps that have ended, oldest first.
    #[schema(value_type = Vec<Step>)]
    pub steps: VecDeque<Step>,
    /// Earlier steps that are no longer kept.
    pub steps_dropped: u64,
    /// What its work has returned. A job that was ended early may have one too.
    pub result: Option<Value>,
    /// Why it did not succeed.
    pub error: Option<String>,
    /// The number of changes of this state. Events have it as their id.
    pub revision: u64,
}

/// One job without its steps and its result.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct JobSummary {
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

impl From<&JobStatus> for JobSummary {
    fn from(status: &JobStatus) -> Self {
        Self {
            id: status.id.clone(),
            kind: status.kind,
            description: status.description.clone(),
            state: status.state,
            cancel_requested: status.cancel_requested,
            created_at: status.created_at,
            ended_at: status.ended_at,
            progress: status.progress.clone(),
            error: status.error.clone(),
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = JobProgress)]
pub struct Progress {
    /// Units of work that are done.
    pub done: u64,
    /// All units of work. `null` if unknown.
    pub total: Option<u64>,
    /// The step that began last and has not ended.
    pub current_step: Option<String>,
}

impl Progress {
    /// Whether all units of work are done.
    pub(super) fn is_complete(&self) -> bool {
        self.total.is_some_and(|total| self.done >= total)
    }
}

/// One step of a job that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = JobStep)]
pub struct Step {
    /// What it did.
    pub name: String,
    /// How it ended.
    pub result: StepResult,
    /// What came of it.
    pub detail: String,
    /// How long it took.
    pub took_seconds: f64,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = JobStepResult)]
#[serde(rename_all = "snake_case")]
pub enum StepResult {
    /// It did what it should.
    Succeeded,
    /// It did not. The job may go on.
    Failed,
}
