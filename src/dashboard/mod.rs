//! The status of the whole server for people: what `GET /api/status` answers, and what the page at `/`
//! and `headroom status` show.
//!
//! Each part is asked at the same time and has [`ANSWER_WITHIN`] to answer, so the status comes in time
//! whatever hangs. [`Feed`] makes one status for all clients that follow it, when something has changed
//! and about once a second, and does nothing without a client. [`page`] is the page itself.
//!
//! A new part is a field of [`Status`], asked in [`Dashboard::status`], and an entry of `PARTS` in
//! `page/parts.js`.

mod alerts;
mod events;
mod feed;
mod frame;
mod jobs;
pub mod page;

mod pools;
mod resources;
mod status;
mod supervision;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use headroom_actors::jobs::{List, ReadSaveError};
use headroom_actors::kernel::{AskError, ChangeReader, Clock, Timestamp, shortened};
use headroom_actors::lazy::{ReadLoader, ReadRecent, ResourceEvent};
use headroom_actors::memory::{BudgetOverview, Freshness};
use headroom_actors::upload::ReadUploads;
use tokio::time::{Instant, timeout};

pub use alerts::{Alert, AlertCode, Severity, Verdict};
pub use events::{EventSource, TimelineEvent};
pub use feed::{Feed, FollowError, Follower};
pub use jobs::Jobs;
pub use pools::{PoolFigures, PoolState};
pub use resources::{Resource, Resources};
pub use status::{ServerInfo, Status, Timeline};
pub use supervision::{Child, Supervision};
pub use uploads::Uploads;

use crate::chains::reports;
use crate::figures::ModelFigures;
use crate::handles::Handles;
use crate::last_answers::LastAnswers;
use crate::last_known::{ANSWER_WITHIN, Answer, LastKnown};
use crate::readiness::Readiness;

/// Events of the memory budget that are listed.
const EVENTS_MAX: usize = 200;

/// The longest text that somebody else has written, in bytes.
const TEXT_MAX: usize = 300;

/// Makes the status.
pub struct Dashboard {
    handles: Handles,
    freshness: Freshness,
    readiness: Readiness,
    models: Arc<ModelFigures>,
    started: Instant,
    started_at: Timestamp,
    /// Of the loader and the pools.
    last: Arc<LastAnswers>,
    budget: LastKnown<BudgetOverview>,
    recent: LastKnown<Vec<Arc<ResourceEvent>>>,
    jobs: LastKnown<Jobs>,
    uploads: LastKnown<Uploads>,
}

impl Dashboard {
    /// The status of what `handles` lead to, and of the requests in `models`. The server counts as started
    /// now.
    pub fn new(
        handles: Handles,
        freshness: Freshness,
        readiness: Readiness,
        last: Arc<LastAnswers>,
        models: Arc<ModelFigures>,
    ) -> Self {
        Self {
            handles,
            freshness,
            readiness,
            models,
            started: Instant::now(),
            started_at: Timestamp::now(),
            last,
            budget: LastKnown::default(),
            recent: LastKnown::default(),
            jobs: LastKnown::default(),
            uploads: LastKnown::default(),
        }
    }

    /// The status now.
    pub async fn status(&self) -> Status {
        let at = Timestamp::now();
        let began = Instant::now();
        let (resources, recent, jobs, uploads, chains, pools, journal_error) = tokio::join!(
            self.ask_resources(),
            self.ask_recent(),
            self.ask_jobs(),
            self.ask_uploads(),
            reports(&self.handles.chains, ANSWER_WITHIN),
            self.ask_pools(),
            self.ask_journal(),
        );
        let mut status = Status {
            at,
            took_ms: 0.0,
            shortened: false,
            server: self.server(),
            verdict: Verdict::Ok,
            alerts: Vec::new(),
            alerts_total: 0,
            budget: self.budget(),
            timeline: self.timeline(recent.value()),
            supervision: Answer::of(Arc::new(Supervision::of(&self.handles.tree))),
            resources,
            pools,
            jobs,
            uploads,
            chains,
        };
        let unready = self.readiness.reasons();
        status.judge(self.freshness.stale(), journal_error, unready);
        status.took_ms = began.elapsed().as_secs_f64() * 1e3;
        status
    }

    /// Tells when something has changed that an operator wants to see at once.
    pub(crate) fn changes(&self) -> (ChangeReader, ChangeReader) {
        let tree = self.handles.tree.changes().subscribe();
        (tree, self.handles.memory_overview.changes().subscribe())
    }

    fn server(&self) -> ServerInfo {
        ServerInfo {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            started_at: self.started_at,
            uptime_seconds: self.started.elapsed().as_secs_f64(),
        }
    }

    fn timeline(&self, resources: Option<&Vec<Arc<ResourceEvent>>>) -> Timeline {
        let memory = &self.handles.memory_overview;
        let usage = memory.timeline();
        let window = Duration::from_secs(usage.window_seconds);
        let first = Instant::now().checked_sub(window);
        let first: Option<Timestamp> = first.map(|first| Clock::now().time_of(first));
        let of_memory = memory.events(EVENTS_MAX);
        let of_memory = of_memory.iter().map(|event| TimelineEvent::from(&**event));
        let of_resources = resources.into_iter().flatten();
        let of_resources = of_resources.map(|event| TimelineEvent::from(&**event));
        let events = of_memory.chain(of_resources);
        let mut events: Vec<_> = events.filter(|event| Some(event.at) >= first).collect();
        // This keeps the order of the events of one source.
        events.sort_by_key(|event| event.at);
        Timeline {
            complete: true,
            usage,
            events,
        }
    }

    fn budget(&self) -> Answer<BudgetOverview> {
        match self.handles.memory_overview.budget() {
            Some(budget) => self.budget.answered(budget),
            // Before the first reading, the memory supervisor starts.
            None => {
                let retry_in = Duration::ZERO;
                let reason = AskError::Restarting { retry_in };
                self.budget.silent(Instant::now(), &reason)
            }
        }
    }

    async fn ask_resources(&self) -> Answer<Resources> {
        let status = async {
            let read = ReadLoader { if_loaded: None };
            let status = self.handles.loader.ask(read, ANSWER_WITHIN).await?;
            // It names no resource, so none is unknown.
            status.map_err(|_| AskError::Lost)
        };
        let status = self.last.loader.or_answer(status, ANSWER_WITHIN).await;
        status.map(|status| Resources::new(status, &self.models))
    }

    async fn ask_recent(&self) -> Answer<Vec<Arc<ResourceEvent>>> {
        let recent = self.handles.loader.ask(ReadRecent, ANSWER_WITHIN);
        self.recent.or_answer(recent, ANSWER_WITHIN).await
    }

    async fn ask_jobs(&self) -> Answer<Jobs> {
        let jobs = async {
            Ok::<_, AskError>(Jobs::new(self.handles.jobs.ask(List, ANSWER_WITHIN).await?))
        };
        self.jobs.or_answer(jobs, ANSWER_WITHIN).await
    }

    async fn ask_uploads(&self) -> Answer<Uploads> {
        let uploads = async {
            let status = self.handles.uploads.ask(ReadUploads, ANSWER_WITHIN).await?;
            Ok::<_, AskError>(Uploads::new(status))
        };
        self.uploads.or_answer(uploads, ANSWER_WITHIN).await
    }

    /// Why the journal was not saved. One that does not answer is shown in the supervision tree.
    async fn ask_journal(&self) -> Option<String> {
        let error = self.handles.journal.ask(ReadSaveError, ANSWER_WITHIN);
        timeout(ANSWER_WITHIN, error).await.ok()?.ok()?
    }

    async fn ask_pools(&self) -> Vec<PoolState> {
        let pools = self.handles.pools.iter().zip(&self.last.pools);
        let states = pools.map(async |(pool, last)| {
            let report = pool.report(ANSWER_WITHIN);
            PoolState::new(pool, last.report.or_answer(report, ANSWER_WITHIN).await)
        });
        join_all(states).await
    }
}

/// A text of bounded length.
fn short(text: String) -> String {
    shortened(text, TEXT_MAX)
}

/// Takes all but the first `count` entries out of a list. Returns how many that are.
fn keep_first<T>(list: &mut Vec<T>, count: usize) -> usize {
    let more = list.len().saturating_sub(count);
    list.truncate(count);
    more
}

/// A size as people write it.
fn bytes(bytes: u64) -> impl std::fmt::Display {
    bytesize::ByteSize::b(bytes).display().iec()
}

#[cfg(test)]
mod tests {
    use headroom_actors::chain::Chains;
    use headroom_actors::jobs;
    use headroom_actors::kernel::{Handle, Tree};
    use headroom_actors::lazy::{self, Loader};
    use headroom_actors::memory::{Memory, MemoryConfig};
    use serde_json::json;

    use super::*;
    use crate::handles::ActorThread;

    /// Makes the status of a server whose actors do not run.
    pub(super) fn dashboard() -> Dashboard {
        let memory = Memory::new(MemoryConfig::default()).unwrap();
        let handles = Handles {
            thread: ActorThread::current(),
            tree: Tree::default(),
            memory: memory.handle().clone(),
            memory_overview: memory.overview(),
            loader: Loader::handle(&lazy::Config::default()),
            jobs: jobs::Jobs::handle(&jobs::Config::default()),
            journal: jobs::Journal::handle(),
            repository: Handle::new("repository", 1),
            uploads: Handle::new("uploads", 1),
            chains: Chains::default(),
            tensors: memory.buffers("tensors", 1),
            answer_text: memory.buffers("answer_text", 1),
            pools: Arc::from([]),
            request_deadline: Duration::from_secs(1),
        };
        let last = LastAnswers::new(&handles.pools);
        let readiness = Readiness::default();
        Dashboard::new(
            handles,
            memory.freshness(),
            readiness,
            Arc::new(last),
            Arc::default(),
        )
    }

    #[actix_web::test]
    async fn parts_that_do_not_answer_are_shown_as_such_and_are_alerts() {
        let began = Instant::now();
        let status = json!(dashboard().status().await);
        assert!(began.elapsed() < Duration::from_millis(50));
        for part in ["budget", "resources", "jobs", "uploads"] {
            assert_eq!(status[part]["state"], "no_answer", "{part}");
            assert_eq!(status[part]["reason"], "the actor is restarting");
            assert_eq!(status[part]["age_seconds"], json!(null));
        }
        assert_eq!(status["verdict"], "failing");
        let alerts = status["alerts"].as_array().unwrap().iter();
        let alerts = alerts.map(|alert| (&alert["code"], &alert["subject"], &alert["severity"]));
        let no_answer = json!("no_answer");
        let (critical, warning) = (json!("critical"), json!("warning"));
        assert_eq!(
            alerts.collect::<Vec<_>>(),
            [
                (&no_answer, &json!("memory"), &critical),
                (&no_answer, &json!("lazy-loader"), &critical),
                (&no_answer, &json!("jobs"), &warning),
                (&no_answer, &json!("uploads"), &warning),
            ]
        );
    }
}
