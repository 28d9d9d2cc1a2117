//! The job of a full clean-up: its steps, one after another, each within its bound.

use std::time::Duration;

use headroom_actors::jobs::{JobContext, WorkResult};
use headroom_actors::kernel::AskError;
use headroom_actors::kernel::pressure::Stage;
use headroom_actors::lazy::Clear;
use headroom_actors::memory::{Collect, MemoryStatus, ReadMemory};
use headroom_actors::model::ReadLeaks;
use tokio::time::Instant;

use super::report::{Outcome, Report, Step, StepName};
use crate::handles::Handles;

/// How long allocators may take. Hosts trim between two requests.
const ALLOCATORS_WITHIN: Duration = Duration::from_secs(5);

/// How long caches and connections may take each.
const COLLECTION_WITHIN: Duration = Duration::from_secs(2);

/// How long the unloads may take. They go on afterwards.
const UNLOADS_WITHIN: Duration = Duration::from_secs(5);

/// How long a reading and the leak detection may take each. The answer to the unloads may come this much
/// after them.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Runs all steps. When the job is cancelled, the step under way ends, and the report tells which steps
/// were not tried.
pub(super) async fn optimize(handles: Handles, idle_for: Duration, job: JobContext) -> WorkResult {
    let began = Instant::now();
    let mut report = Report::new(idle_for);
    job.set_total(StepName::ALL.len() as u64);
    let cycle = Cycle { handles, idle_for };
    for name in StepName::ALL {
        if job.is_cancelled() {
            report.add(Step::not_tried(name));
            continue;
        }
        let step_began = Instant::now();
        let progress = job.begin_step(name.describe());
        let mut step = tokio::select! {
            biased;
            step = cycle.run(name) => step,
            () = job.cancelled().cancelled() => {
                Step::without_result(name, Outcome::Cancelled, "the job ended meanwhile")
            }
        };
        step.took_ms = milliseconds(step_began);
        match step.summary() {
            Ok(text) => progress.succeed(text),
            Err(text) => progress.fail(text),
        }
        if step.outcome != Outcome::Cancelled {
            job.advance(1);
        }
        report.add(step);
    }
    report.took_ms = milliseconds(began);
    Ok(serde_json::to_value(report).map_err(|error| error.to_string())?)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

struct Cycle {
    handles: Handles,
    idle_for: Duration,
}

impl Cycle {
    async fn run(&self, name: StepName) -> Step {
        let step = match name {
            StepName::Allocators => self.collect(name, Stage::Slack, ALLOCATORS_WITHIN).await,
            StepName::Caches => self.collect(name, Stage::Caches, COLLECTION_WITHIN).await,
            StepName::Connections => {
                self.collect(name, Stage::Connections, COLLECTION_WITHIN)
                    .await
            }
            StepName::IdleModels => self.unload(name).await,
            StepName::Leaks => self.look_for_leaks(name).await,
            StepName::Reading => self.read(name).await,
        };
        step.unwrap_or_else(|error| {
            Step::without_result(name, Outcome::NoAnswer, error.to_string())
        })
    }

    async fn collect(
        &self,
        name: StepName,
        stage: Stage,
        within: Duration,
    ) -> Result<Step, AskError> {
        // The last reading may be older than the last load. The gain is to show against one of now.
        self.used_bytes().await;
        let round = self
            .handles
            .memory
            .ask_again(Collect { stage }, within)
            .await?;
        Ok(Step::collected(name, round, stage))
    }

    /// Unloads what the policy could evict, and was not used for long enough.
    async fn unload(&self, name: StepName) -> Result<Step, AskError> {
        let before = self.used_bytes().await;
        let clear = Clear {
            idle_for: Some(self.idle_for),
            wait: UNLOADS_WITHIN,
            ..Clear::default()
        };
        let cleared = self
            .handles
            .loader
            .ask_again(clear, UNLOADS_WITHIN + ANSWER_WITHIN)
            .await?;
        let step = match cleared {
            Ok(report) => Step::unloaded(name, report),
            Err(error) => Step::without_result(name, Outcome::Failed, error.to_string()),
        };
        Ok(step.measured(before, self.used_bytes().await))
    }

    async fn look_for_leaks(&self, name: StepName) -> Result<Step, AskError> {
        let report = self
            .handles
            .repository
            .ask_again(ReadLeaks, ANSWER_WITHIN)
            .await?;
        Ok(Step::leaks(name, report))
    }

    async fn read(&self, name: StepName) -> Result<Step, AskError> {
        Ok(match self.status().await? {
            Some(status) => Step::read(name, &status),
            None => Step::without_result(name, Outcome::Failed, "memory could not be read"),
        })
    }

    async fn used_bytes(&self) -> Option<u64> {
        let status = self.status().await.ok().flatten();
        status.map(|status| status.used_bytes)
    }

    async fn status(&self) -> Result<Option<MemoryStatus>, AskError> {
        let read = ReadMemory { events: 0 };
        self.handles.memory.ask_again(read, ANSWER_WITHIN).await
    }
}
