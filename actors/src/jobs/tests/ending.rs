//! How jobs end.

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::super::{Config, Drain, JobState, Start, StartError, StepResult, WorkError};
use super::test_jobs::{KIND, TestJobs, lasting};
use super::{MINUTE, SECOND};
use crate::kernel::testing::TestSystem;

#[test]
fn a_job_reports_its_steps_its_progress_and_its_result() {
    TestSystem::paused(|system| async move {
        let jobs = TestJobs::start(&system, Config::default()).await;
        let mut watch = jobs
            .run(|job| async move {
                job.set_total(2);
                let step = job.begin_step("first");
                sleep(SECOND).await;
                step.succeed("well");
                job.advance(1);
                let step = job.begin_step("second");
                sleep(SECOND).await;
                step.fail("badly");
                job.advance(1);
                Ok(json!({ "answer": 42 }))
            })
            .await
            .unwrap();
        let id = watch.current().id.clone();
        sleep(SECOND / 2).await;
        let status = jobs.get(id.as_str()).await.unwrap();
        assert_eq!(status.state, JobState::Running);
        assert_eq!(status.progress.total, Some(2));
        assert_eq!(status.progress.current_step.as_deref(), Some("first"));
        assert_eq!((status.ended_at, &status.result), (None, &None));

        let status = watch.ended().await;
        assert_eq!(status.state, JobState::Succeeded);
        assert_eq!(status.result, Some(json!({ "answer": 42 })));
        assert_eq!((status.progress.done, &status.error), (2, &None));
        assert_eq!(status.progress.current_step, None);
        assert!(status.ended_at.is_some());
        let steps: Vec<_> = status
            .steps
            .iter()
            .map(|step| (step.name.as_str(), step.result, step.detail.as_str()))
            .collect();
        let expected = [
            ("first", StepResult::Succeeded, "well"),
            ("second", StepResult::Failed, "badly"),
        ];
        assert_eq!(steps, expected);
        assert!((0.99..1.01).contains(&status.steps[0].took_seconds));
        assert_eq!(jobs.get(id.as_str()).await.unwrap(), status);
        jobs.stop().await;
    });
}

#[test]
fn a_panic_makes_its_job_failed_and_harms_nothing_else() {
    TestSystem::paused(|system| async move {
        let jobs = TestJobs::start(&system, Config::default()).await;
        let mut other = jobs.run(lasting(SECOND)).await.unwrap();
        let mut at_once = jobs
            .run(|_| -> futures_util::future::Ready<_> {
                std::panic::resume_unwind(Box::new("a bug"))
            })
            .await
            .unwrap();
        let mut later = jobs
            .run(|_| async {
                sleep(SECOND / 2).await;
                std::panic::resume_unwind(Box::new("a bug"))
            })
            .await
            .unwrap();
        for watch in [&mut at_once, &mut later] {
            let status = watch.ended().await;
            assert_eq!(status.state, JobState::Failed);
            assert!(status.error.as_ref().unwrap().contains("panicked"));
        }
        assert_eq!(other.ended().await.state, JobState::Succeeded);
        assert_eq!(jobs.list().await.len(), 3);
        jobs.stop().await;
    });
}

#[test]
fn an_error_of_the_work_makes_its_job_failed() {
    TestSystem::paused(|system| async move {
        let jobs = TestJobs::start(&system, Config::default()).await;
        let work = |_| async { Err("the disk is full".to_owned().into()) };
        let status = jobs.run(work).await.unwrap().ended().await;
        assert_eq!(status.state, JobState::Failed);
        assert_eq!(status.error.as_deref(), Some("the disk is full"));
        assert_eq!(status.result, None);
        jobs.stop().await;
    });
}

#[test]
fn a_cancelled_job_runs_until_it_has_ended_and_keeps_its_result() {
    TestSystem::paused(|system| async move {
        let jobs = TestJobs::start(&system, Config::default()).await;
        let mut watch = jobs
            .run(|job| async move {
                job.cancelled().cancelled().await;
                sleep(SECOND).await;
                Ok(json!("half of it"))
            })
            .await
            .unwrap();
        let id = watch.current().id.clone();
        let status = jobs.cancel(id.as_str()).await.unwrap();
        assert_eq!(
            (status.state, status.cancel_requested),
            (JobState::Running, true)
        );
        let status = watch.ended().await;
        assert_eq!(status.state, JobState::Cancelled);
        assert_eq!(status.result, Some(json!("half of it")));
        // It stays as it is.
        assert_eq!(jobs.cancel(id.as_str()).await.unwrap(), status);
        assert!(jobs.cancel("nothing").await.is_err());
        jobs.stop().await;
    });
}

#[test]
fn a_job_whose_work_was_done_before_it_was_cancelled_ends_by_itself() {
    TestSystem::paused(|system| async move {
        let jobs = TestJobs::start(&system, Config::default()).await;
        for (done, state, fails) in [
            (2, JobState::Succeeded, false),
            (2, JobState::Failed, true),
            (1, JobState::Cancelled, false),
            (1, JobState::Cancelled, true),
        ] {
            let mut watch = jobs
                .run(move |job| async move {
                    job.set_total(2);
                    job.advance(done);
                    job.cancelled().cancelled().await;
                    assert_eq!(job.is_cut_short(), done < 2);
                    let result = Some(json!("a report"));
                    match fails {
                        false => Ok(json!("a report")),
                        true => Err(WorkError {
                            reason: "nothing worked".to_owned(),
                            result,
                        }),
                    }
                })
                .await
                .unwrap();
            let id = watch.current().id.clone();
            sleep(SECOND).await;
            jobs.cancel(id.as_str()).await.unwrap();
            let status = watch.ended().await;
            assert_eq!(status.state, state);
            assert_eq!(status.result, Some(json!("a report")));
            assert!(status.cancel_requested);
            assert_eq!(status.error.is_none(), state == JobState::Succeeded);
        }
        jobs.stop().await;
    });
}

#[test]
fn a_job_that_passes_its_deadline_is_asked_to_end_and_then_aborted() {
    TestSystem::paused(|system| async move {
        let config = Config::default();
        let jobs = TestJobs::start(&system, config).await;
        let started = Instant::now();
        let obedient = |job: super::super::JobContext| async move {
            job.cancelled().cancelled().await;
            assert!(job.left().is_zero());
            Ok(json!("as far as it came"))
        };
        let start = Start::new(KIND, "obedient", 10 * SECOND, obedient);
        let status = jobs.start_job(start).await.unwrap().ended().await;
        assert_eq!(started.elapsed().as_secs(), 10);
        assert_eq!(status.state, JobState::TimedOut);
        assert_eq!(status.result, Some(json!("as far as it came")));
        assert_eq!(status.error.as_deref(), Some("it took longer than 10s"));

        let started = Instant::now();
        let start = Start::new(KIND, "stubborn", 10 * SECOND, |_| std::future::pending());
        let status = jobs.start_job(start).await.unwrap().ended().await;
        assert_eq!(started.elapsed().as_secs(), 10 + config.wind_down.as_secs());
        assert_eq!((status.state, &status.result), (JobState::TimedOut, &None));
        assert!(status.error.as_ref().unwrap().ends_with("was aborted"));
        jobs.stop().await;
    });
}

#[test]
fn a_stop_cancels_all_jobs_and_waits_for_their_end() {
    TestSystem::paused(|system| async move {
        let jobs = TestJobs::start(&system, Config::default()).await;
        let mut obedient = jobs.run_until_cancelled().await;
        let mut stubborn = jobs.run(|_| std::future::pending()).await.unwrap();
        let started = Instant::now();
        jobs.stop().await;
        assert_eq!(
            started.elapsed().as_secs(),
            Config::default().wind_down.as_secs()
        );
        for (watch, result) in [
            (&mut obedient, json!("cleaned up")),
            (&mut stubborn, Value::Null),
        ] {
            let status = watch.current();
            assert_eq!(status.state, JobState::Cancelled);
            assert_eq!(status.result.clone().unwrap_or_default(), result);
        }
    });
}

#[test]
fn a_drain_cancels_all_jobs_and_starts_no_more() {
    TestSystem::paused(|system| async move {
        let jobs = TestJobs::start(&system, Config::default()).await;
        let mut watch = jobs.run_until_cancelled().await;
        jobs.handle.ask(Drain, MINUTE).await.unwrap();
        assert_eq!(watch.ended().await.state, JobState::Cancelled);
        let refused = jobs.run(lasting(SECOND)).await.unwrap_err();
        assert_eq!(refused, StartError::Stopping);
        jobs.stop().await;
    });
}
