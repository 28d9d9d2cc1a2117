//! Failures: they are reported with their cause, remembered for the backoff, and affect no other
//! resource.

use futures_util::future::join_all;
use tokio::time::{Instant, advance, sleep};

use super::super::Phase;
use super::super::{AcquireError, Unload};
use super::scripted::{Log, Scripted, Step, unavailable};
use super::test_loader::{TestLoader, eventually, paused};
use super::{MINUTE, SECOND};
use crate::kernel::{LoadError, LoadErrorKind};

fn failed(error: AcquireError) -> (String, f64) {
    match error {
        AcquireError::Failed { error, retry_in } => (error.to_string(), retry_in.as_secs_f64()),
        other => panic!("not a failed load: {other}"),
    }
}

#[test]
fn a_failed_load_is_remembered_and_tried_again_after_its_backoff() {
    paused(|system| async move {
        let broken = LoadError::new(LoadErrorKind::Invalid, "no such layer");
        let thing = Scripted::new().script([Step::Fail(broken), Step::Fail(unavailable("again"))]);
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let first = join_all((0..10).map(|_| loader.acquire("thing"))).await;
        for lease in first {
            assert_eq!(
                failed(lease.unwrap_err()),
                ("no such layer".to_owned(), 1.0)
            );
        }
        assert_eq!(loader.budget.used(), 0, "a failed load keeps no memory");
        advance(SECOND / 4).await;
        let at_once = Instant::now();
        let remembered = failed(loader.acquire("thing").await.unwrap_err());
        assert_eq!(remembered, ("no such layer".to_owned(), 0.75));
        assert_eq!(at_once.elapsed().as_nanos(), 0);
        assert_eq!(thing.loads(), 1, "within the backoff nothing is tried");
        let status = loader.status("thing").await;
        assert_eq!((status.phase, status.counts.failures), (Phase::Failed, 1));
        assert_eq!(status.last_fault, Some(LoadErrorKind::Invalid));
        assert_eq!(status.next_try_in_seconds, Some(0.75));

        advance(SECOND).await;
        let second = failed(loader.acquire("thing").await.unwrap_err());
        assert_eq!(second, ("again".to_owned(), 2.0), "the backoff doubles");
        advance(3 * SECOND).await;
        loader.use_once("thing").await;
        assert_eq!(thing.loads(), 3);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_load_past_its_deadline_fails_and_is_cleaned_up() {
    paused(|system| async move {
        let log = Log::default();
        let thing = Scripted::new().script([Step::Hang]).log(&log);
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let started = Instant::now();
        let AcquireError::Failed { error, .. } = loader.acquire("thing").await.unwrap_err() else {
            panic!("a load past its deadline is a failed one");
        };
        assert_eq!(error.kind, LoadErrorKind::Deadline);
        assert_eq!(error.to_string(), "the load took longer than 10s");
        assert_eq!(started.elapsed().as_secs(), 10);
        assert_eq!(
            *log.lock().unwrap(),
            ["load thing", "unload thing", "unloaded thing"]
        );
        advance(SECOND).await;
        loader.use_once("thing").await;
        loader.stop_and_check().await;
    });
}

#[test]
fn a_panic_in_a_load_is_a_failed_load_and_affects_nothing_else() {
    paused(|system| async move {
        let thing = Scripted::new().script([Step::Panic]);
        let other = Scripted::new();
        let resources = vec![thing.resource("thing", &[]), other.resource("other", &[])];
        let loader = TestLoader::start(&system, 100, resources).await;
        let lease = loader.acquire("other").await.unwrap();
        let (message, _) = failed(loader.acquire("thing").await.unwrap_err());
        assert_eq!(message, "the load panicked");
        assert_eq!(loader.ready().await, ["other"]);
        advance(SECOND).await;
        loader.use_once("thing").await;
        drop(lease);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_failed_dependency_is_named_with_its_cause() {
    paused(|system| async move {
        let base = Scripted::new().script([Step::Fail(unavailable("out of order"))]);
        let spare = Scripted::new();
        let top = Scripted::new();
        let resources = vec![
            base.resource("base", &[]),
            spare.resource("spare", &[]),
            top.resource("top", &["spare", "base"]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        let error = loader.acquire("top").await.unwrap_err();
        assert_eq!(error.to_string(), "base, which it depends on: out of order");
        assert!(matches!(
            error.root(),
            AcquireError::Failed {
                retry_in: SECOND,
                ..
            }
        ));
        assert_eq!(top.loads(), 0);
        assert_eq!(
            loader.status("top").await.phase,
            Phase::Cold,
            "only its dependency failed"
        );
        eventually(async || loader.status("spare").await.leases == 0).await;
        advance(SECOND).await;
        loader.use_once("top").await;
        loader.stop_and_check().await;
    });
}

#[test]
fn a_resource_that_died_is_cleaned_up_and_loaded_again_after_its_backoff() {
    paused(|system| async move {
        let thing = Scripted::new();
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let lease = loader.acquire("thing").await.unwrap();
        thing.die("crashed too often");
        eventually(async || loader.status("thing").await.phase == Phase::Failed).await;
        let (message, _) = failed(loader.acquire("thing").await.unwrap_err());
        assert_eq!(message, "crashed too often");
        eventually(async || loader.budget.used() == 0).await;
        advance(SECOND).await;
        loader.use_once("thing").await;
        assert_eq!(thing.loads(), 2);
        let status = loader.status("thing").await;
        assert_eq!((status.counts.deaths, status.counts.failures), (1, 0));
        assert_eq!(
            status.leases, 0,
            "a lease on a dead load is no lease on the next one"
        );
        drop(lease);
        assert_eq!(loader.status("thing").await.leases, 0);
        loader.stop_and_check().await;
    });
}

#[test]
fn callers_wait_for_a_cleanup_that_outlasts_the_backoff() {
    paused(|system| async move {
        let thing = Scripted::new().unload_time(5 * SECOND);
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        loader.use_once("thing").await;
        thing.die("crashed");
        eventually(async || loader.status("thing").await.phase == Phase::Failed).await;
        advance(2 * SECOND).await;
        loader.use_once("thing").await;
        assert_eq!(thing.loads(), 2);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_death_drains_the_dependents() {
    paused(|system| async move {
        let base = Scripted::new();
        let top = Scripted::new();
        let resources = vec![base.resource("base", &[]), top.resource("top", &["base"])];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("top").await;
        base.die("gone");
        eventually(async || loader.status("top").await.phase == Phase::Cold).await;
        assert_eq!(loader.status("top").await.counts.evictions["dependency"], 1);
        assert_eq!(loader.status("base").await.phase, Phase::Failed);
        advance(MINUTE).await;
        loader.use_once("top").await;
        assert_eq!((base.loads(), top.loads()), (2, 2));
        loader.stop_and_check().await;
    });
}

#[test]
fn an_unload_forgets_a_failure() {
    paused(|system| async move {
        let thing = Scripted::new().script([Step::Fail(unavailable("once"))]);
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        loader.acquire("thing").await.unwrap_err();
        let unload = Unload {
            name: "thing".to_owned(),
        };
        loader.handle.ask(unload, SECOND).await.unwrap();
        loader.use_once("thing").await;
        loader.stop_and_check().await;
    });
}

#[test]
fn the_backoff_grows_with_each_death_and_restarts_after_a_stable_run_or_an_unload() {
    paused(|system| async move {
        let thing = Scripted::new();
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let die_after = async |uptime| {
            loader.use_once("thing").await;
            sleep(uptime).await;
            thing.die("crashed");
            eventually(async || loader.status("thing").await.phase == Phase::Failed).await;
            let next = loader.status("thing").await.next_try_in_seconds.unwrap();
            advance(MINUTE).await;
            next.round()
        };
        assert_eq!(die_after(SECOND).await, 1.0);
        assert_eq!(die_after(SECOND).await, 2.0);
        assert_eq!(die_after(11 * MINUTE).await, 1.0);
        assert_eq!(die_after(SECOND).await, 2.0);
        loader.use_once("thing").await;
        assert_eq!(loader.evict_idle(1).await.len(), 1);
        assert_eq!(die_after(SECOND).await, 1.0);
        loader.stop_and_check().await;
    });
}
