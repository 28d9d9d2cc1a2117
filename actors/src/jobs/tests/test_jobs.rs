//! The jobs actor in a tree of its own.

use std::sync::Arc;
use std::time::Duration;

use actix::{Context, Handler};
use serde_json::json;

use super::super::{
    Cancel, Config, Follow, FollowError, Follower, Get, JobContext, JobKind, JobStatus, JobWatch,
    Jobs, List, NoSuchJob, Start, StartError, WorkResult,
};
use super::MINUTE;
use crate::kernel::testing::TestSystem;
use crate::kernel::{Call, Changes, Handle, Message, Root, SupervisorSpec};

pub(super) const KIND: JobKind = JobKind::concurrent("test");

pub(super) struct TestJobs {
    pub(super) handle: Handle<Jobs>,
    root: Root,
}

impl TestJobs {
    pub(super) async fn start(system: &TestSystem, config: Config) -> Self {
        let handle = Jobs::handle(&config);
        let spec =
            SupervisorSpec::new("root").child(Jobs::child(&handle, config, Changes::default()));
        let root = system.start(spec).await;
        Self { handle, root }
    }

    /// Starts a job with a deadline of a minute.
    pub(super) async fn run<F>(
        &self,
        work: impl FnOnce(JobContext) -> F + Send + 'static,
    ) -> Result<JobWatch, StartError>
    where
        F: Future<Output = WorkResult> + Send + 'static,
    {
        self.start_job(start(work)).await
    }

    pub(super) async fn start_job(&self, start: Start) -> Result<JobWatch, StartError> {
        self.handle.ask(start, MINUTE).await.unwrap()
    }

    /// Starts a job that ends when it is cancelled.
    pub(super) async fn run_until_cancelled(&self) -> JobWatch {
        self.run(until_cancelled).await.unwrap()
    }

    pub(super) async fn get(&self, id: &str) -> Result<Arc<JobStatus>, NoSuchJob> {
        self.handle
            .ask(Get { id: id.into() }, MINUTE)
            .await
            .unwrap()
    }

    pub(super) async fn cancel(&self, id: &str) -> Result<Arc<JobStatus>, NoSuchJob> {
        let cancel = Cancel { id: id.into() };
        self.handle.ask(cancel, MINUTE).await.unwrap()
    }

    pub(super) async fn follow(&self, id: &str) -> Result<Follower, FollowError> {
        let follow = Follow { id: id.into() };
        self.handle.ask(follow, MINUTE).await.unwrap()
    }

    pub(super) async fn list(&self) -> Vec<Arc<JobStatus>> {
        self.handle.ask(List, MINUTE).await.unwrap()
    }

    /// Makes the actor panic, and waits for its next incarnation.
    pub(super) async fn crash(&self) {
        let restarted = self.handle.restarted(MINUTE);
        let (crashed, restarted) = tokio::join!(self.handle.ask(Crash, MINUTE), restarted);
        assert!(crashed.is_err() && restarted);
    }

    pub(super) async fn stop(self) {
        self.root.stop().await;
    }
}

/// A job with a deadline of a minute.
pub(in super::super) fn start<F>(work: impl FnOnce(JobContext) -> F + Send + 'static) -> Start
where
    F: Future<Output = WorkResult> + Send + 'static,
{
    Start::new(KIND, "a test", MINUTE, work)
}

pub(in super::super) async fn until_cancelled(job: JobContext) -> WorkResult {
    job.cancelled().cancelled().await;
    Ok(json!("cleaned up"))
}

/// Work that takes `time` and succeeds.
pub(super) fn lasting(
    time: Duration,
) -> impl FnOnce(JobContext) -> futures_util::future::BoxFuture<'static, WorkResult> {
    move |_| {
        Box::pin(async move {
            tokio::time::sleep(time).await;
            Ok(json!("done"))
        })
    }
}

struct Crash;

impl Message for Crash {
    type Reply = ();
}

impl Handler<Call<Crash>> for Jobs {
    type Result = ();

    fn handle(&mut self, _call: Call<Crash>, _context: &mut Context<Self>) {
        std::panic::resume_unwind(Box::new("a bug"));
    }
}
