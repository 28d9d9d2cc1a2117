//! Jobs survive a restart of their actor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::sleep;

use super::super::{Config, JobState};
use super::test_jobs::{TestJobs, lasting};
use super::{MINUTE, SECOND};
use crate::kernel::testing::TestSystem;

/// Set when it is dropped.
struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_ran_has_failed_and_what_had_ended_is_still_there() {
    TestSystem::paused(|system| async move {
        let jobs = TestJobs::start(&system, Config::default()).await;
        let ended = jobs.run(lasting(MINUTE / 2)).await.unwrap().ended().await;
        let was_dropped = Arc::new(AtomicBool::new(false));
        let guard = OnDrop(Arc::clone(&was_dropped));
        let mut watch = jobs
            .run(|_| async move {
                let _guard = guard;
                std::future::pending().await
            })
            .await
            .unwrap();
        let revision = watch.current().revision;
        jobs.crash().await;

        let status = watch.ended().await;
        assert_eq!(status.state, JobState::Failed);
        assert!(status.error.as_ref().unwrap().contains("restarted"));
        assert!(status.revision > revision);
        assert_eq!(jobs.list().await, [status, ended]);
        tokio::task::yield_now().await;
        assert!(was_dropped.load(Ordering::Relaxed), "its work goes on");

        // The next incarnation forgets old jobs, and runs new ones.
        sleep(Config::default().finished_age + SECOND).await;
        assert!(jobs.list().await.is_empty());
        let next = jobs.run(lasting(SECOND)).await.unwrap().ended().await;
        assert_eq!(next.state, JobState::Succeeded);
        jobs.stop().await;
    });
}
