//! Runs the work of one job until it ends, or is ended.

use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::context::JobContext;
use super::record::Ending;
use super::status::JobState;

/// What a job's work returns: its result, or why it has failed.
pub type WorkResult = Result<Value, WorkError>;

/// Why a job's work has failed.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkError {
    /// Why, for operators.
    pub reason: String,
    /// What came of it nevertheless.
    pub result: Option<Value>,
}

impl From<String> for WorkError {
    fn from(reason: String) -> Self {
        let result = None;
        Self { reason, result }
    }
}

/// The work of a job. It runs on the actors' thread and must not block it.
pub type Work = Box<dyn FnOnce(JobContext) -> BoxFuture<'static, WorkResult> + Send>;

/// Runs `work`. After the job was cancelled or its deadline has passed, the work may take `wind_down`
/// to return what it has, and is then dropped. If all of it was done by then, neither changes how the job
/// ends.
pub(super) async fn run(work: Work, job: JobContext, wind_down: Duration) -> Ending {
    let cancelled = job.cancelled().clone();
    let deadline = job.deadline();
    let mut working = work(job.clone());
    let (state, reason) = tokio::select! {
        // Work that returns because it was cancelled is not done.
        biased;
        () = cancelled.cancelled() => (JobState::Cancelled, "it was cancelled".to_owned()),
        () = sleep(deadline) => {
            let deadline = humantime::format_duration(deadline);
            (JobState::TimedOut, format!("it took longer than {deadline}"))
        }
        result = &mut working => return Ending::of(result),
    };
    cancelled.cancel();
    let (result, error) = match timeout(wind_down, working).await {
        Ok(result) if job.is_done() => return Ending::of(result),
        Ok(Ok(result)) => (Some(result), reason),
        Ok(Err(error)) => (error.result, format!("{reason}: {}", error.reason)),
        Err(_) => {
            let wind_down = humantime::format_duration(wind_down);
            let error = format!("{reason}, did not end within {wind_down}, and was aborted");
            (None, error)
        }
    };
    Ending {
        state,
        result,
        error: Some(error),
    }
}
