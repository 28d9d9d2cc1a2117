//! The job of a preload: it looks for models, finds what is selected, loads a few at a time, and
//! reports what became of each.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use headroom_actors::jobs::{JobContext, WorkError, WorkResult};
use headroom_actors::kernel::AskError;
use headroom_actors::lazy::{AcquireError, Preload, PreloadWithoutEviction, Status};
use headroom_actors::model::Rescan;

use super::report::{Outcome, Report, is_ready};
use super::targets::{Selection, Target, Targets};
use crate::handles::Handles;
use crate::problem::Problem;

/// Loads that are under way at once. More would mostly wait for each other's memory and disk.
const AT_ONCE: usize = 4;

/// How long a cancelled job waits for the loads under way. With [`STATUS_WITHIN`] it is shorter than
/// the time in which a job must wind down.
const WAIT_WHEN_CANCELLED: Duration = Duration::from_secs(2);

/// How long the loader may take to give its status at the end.
const STATUS_WITHIN: Duration = Duration::from_secs(1);

/// Loads what is selected. The job has failed if nothing of what was named was loaded. When the job is
/// cancelled, no further load begins, and what is loaded stays.
pub(super) async fn preload(handles: Handles, selection: Selection, job: JobContext) -> WorkResult {
    look_for_models(&handles, &job).await;
    let before = handles.loader.ask(Status, job.left()).await;
    let before = before.map_err(|error| format!("the loader: {error}"))?;
    let found = Targets::find(&selection, &before, &handles).await?;
    job.set_total(found.targets.len() as u64);

    let loads = Loads {
        may_evict: selection.may_evict(),
        handles,
        job,
    };
    let outcomes = found.targets.into_iter().map(|target| {
        let name = target.resource.as_ref().ok();
        let was_ready = name.is_some_and(|name| is_ready(&before, name));
        loads.load(target, was_ready)
    });
    let outcomes: Vec<_> = outcomes.collect();
    let outcomes: Vec<_> = stream::iter(outcomes).buffered(AT_ONCE).collect().await;

    let after = loads.handles.loader.ask(Status, STATUS_WITHIN).await;
    let report = Report::new(
        outcomes,
        found.left_out,
        &before,
        &after.unwrap_or_default(),
    );
    // Of what is selected otherwise, nothing may fit.
    let failure = match selection {
        Selection::Names(_) => report.failure(),
        Selection::Kinds(_) | Selection::AllThatFit => None,
    };
    let result = serde_json::to_value(report).map_err(|error| error.to_string())?;
    match failure {
        None => Ok(result),
        Some(reason) => Err(WorkError {
            reason,
            result: Some(result),
        }),
    }
}

/// Finds models that were added since the last look. Without them the job goes on with those that are
/// known.
async fn look_for_models(handles: &Handles, job: &JobContext) {
    let step = job.begin_step("look for models");
    let rescan = handles.repository.ask(Rescan, handles.request_deadline);
    match rescan.await {
        Ok(Ok(listing)) => step.succeed(match listing.versions.len() {
            1 => "1 version is known".to_owned(),
            count => format!("{count} versions are known"),
        }),
        Ok(Err(error)) => step.fail(error.to_string()),
        Err(error) => step.fail(error.to_string()),
    }
}

/// What all loads of a job share.
struct Loads {
    handles: Handles,
    job: JobContext,
    may_evict: bool,
}

impl Loads {
    async fn load(&self, target: Target, was_ready: bool) -> (Target, Outcome) {
        let outcome = match &target.resource {
            _ if self.job.is_cancelled() => Outcome::NotTried,
            Ok(name) => self.load_one(name, was_ready).await,
            Err(problem) => Outcome::Refused(problem.clone()),
        };
        if !matches!(outcome, Outcome::NotTried | Outcome::UnderWay) {
            self.job.advance(1);
        }
        (target, outcome)
    }

    async fn load_one(&self, name: &str, was_ready: bool) -> Outcome {
        let step = self.job.begin_step(format!("load {name}"));
        let reply = tokio::select! {
            biased;
            reply = self.ask(name) => reply,
            () = self.given_up() => {
                step.fail("the job ended before the load");
                return Outcome::UnderWay;
            }
        };
        let problem = match reply {
            Ok(Ok(())) if was_ready => {
                step.succeed("it was loaded");
                return Outcome::Already;
            }
            Ok(Ok(())) => {
                step.succeed("loaded");
                return Outcome::Loaded;
            }
            Ok(Err(error)) => Problem::from(error),
            Err(error) => Problem::from(error),
        };
        step.fail(problem.detail.clone());
        Outcome::Refused(problem)
    }

    async fn ask(&self, name: &str) -> Result<Result<(), AcquireError>, AskError> {
        let name = name.to_owned();
        let (loader, left) = (&self.handles.loader, self.job.left());
        match self.may_evict {
            true => loader.ask(Preload { name }, left).await,
            false => loader.ask(PreloadWithoutEviction { name }, left).await,
        }
    }

    /// Resolves when the job no longer waits for loads under way. The loader completes them.
    async fn given_up(&self) {
        self.job.cancelled().cancelled().await;
        tokio::time::sleep(WAIT_WHEN_CANCELLED).await;
    }
}
