//! One job, as the actor, its work and its followers share it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::run::{WorkError, WorkResult};
use super::status::{JobId, JobKind, JobState, JobStatus, Progress, Step};
use crate::kernel::{Timestamp, shortened};

/// The longest text of a step and of a description, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// The longest error, in bytes.
const ERROR_BYTES_MAX: usize = 2048;

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ending {
    pub(super) state: JobState,
    pub(super) result: Option<Value>,
    pub(super) error: Option<String>,
}

impl Ending {
    /// The work has returned `result`.
    pub(super) fn of(result: WorkResult) -> Self {
        match result {
            Ok(result) => Self {
                state: JobState::Succeeded,
                result: Some(result),
                error: None,
            },
            Err(WorkError { reason, result }) => Self {
                result,
                ..Self::failed(reason)
            },
        }
    }

    /// The job has failed because of `error`.
    pub(super) fn failed(error: impl Into<String>) -> Self {
        Self {
            state: JobState::Failed,
            result: None,
            error: Some(error.into()),
        }
    }
}

/// One job. Nothing changes it after its end.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) id: JobId,
    pub(super) kind: JobKind,
    /// Cancelled to ask the work to end early.
    pub(super) cancelled: CancellationToken,
    steps_max: usize,
    status: watch::Sender<Arc<JobStatus>>,
}

impl Record {
    /// A job that begins now.
    pub(super) fn new(
        kind: JobKind,
        description: String,
        deadline: Duration,
        steps_max: usize,
    ) -> Self {
        let id = JobId::random();
        let status = JobStatus {
            id: id.clone(),
            kind: kind.name,
            description: shortened(description, TEXT_BYTES_MAX),
            state: JobState::Running,
            cancel_requested: false,
            created_at: Timestamp::now(),
            ended_at: None,
            deadline_seconds: deadline.as_secs_f64(),
            progress: Progress::default(),
            steps: VecDeque::new(),
            steps_dropped: 0,
            result: None,
            error: None,
            revision: 0,
        };
        Self {
            id,
            kind,
            cancelled: CancellationToken::new(),
            steps_max,
            status: watch::Sender::new(Arc::new(status)),
        }
    }

    /// The present state.
    pub(super) fn status(&self) -> Arc<JobStatus> {
        Arc::clone(&self.status.borrow())
    }

    pub(super) fn watch(&self) -> JobWatch {
        JobWatch {
            status: self.status.subscribe(),
            has_ended: false,
        }
    }

    /// Asks the work to end early.
    pub(super) fn cancel(&self) {
        if !self.cancelled.is_cancelled() {
            self.change(|status| status.cancel_requested = true);
            self.cancelled.cancel();
        }
    }

    pub(super) fn set_progress(&self, change: impl FnOnce(&mut Progress)) {
        self.change(|status| change(&mut status.progress));
    }

    pub(super) fn begin_step(&self, name: &str) {
        self.set_progress(|progress| progress.current_step = Some(name.to_owned()));
    }

    pub(super) fn end_step(&self, mut step: Step) {
        step.detail = shortened(step.detail, TEXT_BYTES_MAX);
        self.change(|status| {
            let current = &mut status.progress.current_step;
            if current.as_ref() == Some(&step.name) {
                *current = None;
            }
            status.steps.push_back(step);
            if status.steps.len() > self.steps_max {
                status.steps.pop_front();
                status.steps_dropped += 1;
            }
        });
    }

    pub(super) fn end(&self, ending: Ending) {
        self.change(|status| {
            status.state = ending.state;
            status.ended_at = Some(Timestamp::now());
            status.progress.current_step = None;
            status.result = ending.result;
            let error = ending.error;
            status.error = error.map(|error| shortened(error, ERROR_BYTES_MAX));
        });
    }

    /// Changes a job that has not ended.
    fn change(&self, change: impl FnOnce(&mut JobStatus)) {
        self.status.send_if_modified(|shared| {
            if shared.state.is_final() {
                return false;
            }
            // Copies the state only if somebody is reading it.
            let status = Arc::make_mut(shared);
            change(status);
            status.revision += 1;
            true
        });
    }
}

/// The name of a step, of bounded length.
pub(super) fn step_name(name: impl Into<String>) -> String {
    shortened(name.into(), TEXT_BYTES_MAX)
}

/// Watches one job. It keeps no queue: a slow reader misses states, but never the last one.
#[derive(Debug, Clone)]
pub struct JobWatch {
    status: watch::Receiver<Arc<JobStatus>>,
    /// Whether the last state was given to the caller.
    has_ended: bool,
}

impl JobWatch {
    /// The present state.
    pub fn current(&mut self) -> Arc<JobStatus> {
        let status = Arc::clone(&self.status.borrow_and_update());
        self.has_ended = status.state.is_final();
        status
    }

    /// Waits for a state that the caller has not seen. `None` after the last one. A caller that stops
    /// waiting misses nothing.
    pub async fn next(&mut self) -> Option<Arc<JobStatus>> {
        if self.has_ended {
            return None;
        }
        self.status.changed().await.ok()?;
        Some(self.current())
    }

    /// Waits for the end of the job.
    pub async fn ended(&mut self) -> Arc<JobStatus> {
        // An error means that the store has forgotten the job, which has ended long before.
        self.status
            .wait_for(|status| status.state.is_final())
            .await
            .ok();
        self.current()
    }
}

/// A watch that counts as one of the followers until it is dropped.
#[derive(Debug)]
pub struct Follower {
    /// The watch.
    pub watch: JobWatch,
    pub(super) _place: OwnedSemaphorePermit,
}
