//! The bounds of jobs.

use std::collections::HashSet;

use serde_json::json;
use tokio::time::sleep;

use super::super::{Config, JobKind, JobState, Start, StartError};
use super::test_jobs::{TestJobs, lasting, until_cancelled};
use super::{MINUTE, SECOND};
use crate::kernel::testing::TestSystem;

#[test]
fn one_job_more_than_may_run_is_refused() {
    TestSystem::paused(|system| async move {
        let config = Config {
            running_max: 2,
            ..Config::default()
        };
        let jobs = TestJobs::start(&system, config).await;
        let mut first = jobs.run(lasting(SECOND)).await.unwrap();
        jobs.run_until_cancelled().await;
        let refused = jobs.run(lasting(SECOND)).await.unwrap_err();
        assert_eq!(refused, StartError::Full { running: 2 });
        first.ended().await;
        jobs.run(lasting(SECOND)).await.unwrap();
        jobs.stop().await;
    });
}

#[test]
fn only_one_job_of_an_exclusive_kind_runs_and_the_refusal_names_it() {
    TestSystem::paused(|system| async move {
        const ALONE: JobKind = JobKind::exclusive("alone");
        let jobs = TestJobs::start(&system, Config::default()).await;
        let start = || Start::new(ALONE, "alone", MINUTE, until_cancelled);
        let mut first = jobs.start_job(start()).await.unwrap();
        let id = first.current().id.clone();
        let refused = jobs.start_job(start()).await.unwrap_err();
        let expected = StartError::Exclusive {
            kind: "alone",
            running: id.clone(),
        };
        assert_eq!(refused, expected);
        // Jobs of another kind are not affected.
        jobs.run_until_cancelled().await;
        jobs.cancel(id.as_str()).await.unwrap();
        first.ended().await;
        jobs.start_job(start()).await.unwrap();
        jobs.stop().await;
    });
}

#[test]
fn finished_jobs_are_kept_by_count_and_age() {
    TestSystem::paused(|system| async move {
        let config = Config {
            finished_max: 3,
            finished_age: MINUTE,
            ..Config::default()
        };
        let jobs = TestJobs::start(&system, config).await;
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(
                jobs.run(lasting(SECOND))
                    .await
                    .unwrap()
                    .ended()
                    .await
                    .id
                    .clone(),
            );
        }
        let kept: Vec<_> = jobs.list().await.iter().map(|job| job.id.clone()).collect();
        let newest: Vec<_> = ids.iter().rev().take(3).cloned().collect();
        assert_eq!(kept, newest);
        assert!(jobs.get(ids[0].as_str()).await.is_err());
        sleep(MINUTE - 3 * SECOND / 2).await;
        assert_eq!(jobs.list().await.len(), 2);
        sleep(3 * SECOND).await;
        assert!(jobs.list().await.is_empty());
        jobs.stop().await;
    });
}

#[test]
fn finished_jobs_are_kept_by_bytes() {
    TestSystem::paused(|system| async move {
        let config = Config {
            finished_bytes_max: 25_000,
            ..Config::default()
        };
        let jobs = TestJobs::start(&system, config).await;
        for _ in 0..5 {
            let work = |_| async { Ok(json!("x".repeat(10_000))) };
            jobs.run(work).await.unwrap().ended().await;
        }
        assert_eq!(jobs.list().await.len(), 2);
        jobs.stop().await;
    });
}

#[test]
fn a_result_and_the_texts_of_a_job_are_bounded() {
    TestSystem::paused(|system| async move {
        let config = Config {
            result_bytes_max: 1000,
            steps_max: 10,
            ..Config::default()
        };
        let jobs = TestJobs::start(&system, config).await;
        let work = |_| async { Ok(json!("x".repeat(999))) };
        let status = jobs.run(work).await.unwrap().ended().await;
        assert_eq!((status.state, &status.result), (JobState::Failed, &None));
        let error = status.error.as_deref().unwrap();
        assert!(error.contains("1001 bytes"), "{error}");

        let work = |job: super::super::JobContext| async move {
            for number in 0..25 {
                let name = format!("{number} {}", "ü".repeat(100_000));
                job.begin_step(name).succeed("ü".repeat(100_000));
            }
            Err("ü".repeat(100_000).into())
        };
        let start = Start::new(super::test_jobs::KIND, "ü".repeat(100_000), MINUTE, work);
        let status = jobs.start_job(start).await.unwrap().ended().await;
        assert_eq!((status.steps.len(), status.steps_dropped), (10, 15));
        assert!(status.steps[9].name.starts_with("24 "));
        let bytes = serde_json::to_string(&*status).unwrap().len();
        assert!(bytes < 16_000, "{bytes}");
        jobs.stop().await;
    });
}

#[test]
fn ids_fit_into_a_url_and_do_not_repeat() {
    TestSystem::paused(|system| async move {
        let jobs = TestJobs::start(&system, Config::default()).await;
        let mut ids = HashSet::new();
        for _ in 0..100 {
            let status = jobs.run(lasting(SECOND)).await.unwrap().ended().await;
            let id = status.id.as_str().to_owned();
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
            assert!(ids.insert(id));
        }
        jobs.stop().await;
    });
}
