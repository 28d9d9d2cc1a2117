//! Followers of jobs.

use serde_json::json;
use tokio::time::{sleep, timeout};

use super::super::{Config, FollowError, JobContext, JobState, NoSuchJob};
use super::SECOND;
use super::test_jobs::{TestJobs, lasting};
use crate::kernel::testing::TestSystem;

#[test]
fn a_follower_sees_each_change_and_the_last_state() {
    TestSystem::paused(|system| async move {
        let jobs = TestJobs::start(&system, Config::default()).await;
        let work = |job: JobContext| async move {
            for _ in 0..3 {
                sleep(SECOND).await;
                job.advance(1);
            }
            sleep(SECOND).await;
            Ok(json!(null))
        };
        let id = jobs.run(work).await.unwrap().current().id.clone();
        let mut watch = jobs.follow(id.as_str()).await.unwrap().watch;
        let mut seen = vec![watch.current()];
        while let Some(status) = watch.next().await {
            seen.push(status);
        }
        let done: Vec<_> = seen.iter().map(|status| status.progress.done).collect();
        assert_eq!(done, [0, 1, 2, 3, 3]);
        let revisions: Vec<_> = seen.iter().map(|status| status.revision).collect();
        assert_eq!(revisions, [0, 1, 2, 3, 4]);
        assert_eq!(seen[4].state, JobState::Succeeded);
        jobs.stop().await;
    });
}

#[test]
fn a_slow_follower_gets_the_latest_state() {
    TestSystem::paused(|system| async move {
        let jobs = TestJobs::start(&system, Config::default()).await;
        let work = |job: JobContext| async move {
            for _ in 0..10_000 {
                job.advance(1);
                tokio::task::yield_now().await;
            }
            sleep(2 * SECOND).await;
            Ok(json!(null))
        };
        let id = jobs.run(work).await.unwrap().current().id.clone();
        let mut watch = jobs.follow(id.as_str()).await.unwrap().watch;
        sleep(SECOND).await;
        assert_eq!(watch.next().await.unwrap().progress.done, 10_000);
        assert_eq!(watch.next().await.unwrap().state, JobState::Succeeded);
        assert!(watch.next().await.is_none());
        jobs.stop().await;
    });
}

#[test]
fn a_wait_that_is_given_up_misses_nothing() {
    TestSystem::paused(|system| async move {
        let jobs = TestJobs::start(&system, Config::default()).await;
        let mut watch = jobs.run(lasting(SECOND)).await.unwrap();
        watch.current();
        assert!(timeout(SECOND / 2, watch.next()).await.is_err());
        assert_eq!(watch.next().await.unwrap().state, JobState::Succeeded);
        jobs.stop().await;
    });
}

#[test]
fn the_number_of_followers_is_bounded() {
    TestSystem::paused(|system| async move {
        let config = Config {
            followers_max: 2,
            ..Config::default()
        };
        let jobs = TestJobs::start(&system, config).await;
        let id = jobs.run_until_cancelled().await.current().id.clone();
        let first = jobs.follow(id.as_str()).await.unwrap();
        let _second = jobs.follow(id.as_str()).await.unwrap();
        let refused = jobs.follow(id.as_str()).await.unwrap_err();
        assert_eq!(refused, FollowError::Full { followers: 2 });
        drop(first);
        let _third = jobs.follow(id.as_str()).await.unwrap();
        let unknown = jobs.follow("nothing").await.unwrap_err();
        assert_eq!(unknown, FollowError::NoSuchJob(NoSuchJob));
        jobs.stop().await;
    });
}
