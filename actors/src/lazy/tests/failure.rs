//! Failures: told with their cause, remembered, forgotten in time, and never anybody else's.

use futures_util::future::join_all;
use tokio::time::{Instant, advance, sleep};

use super::super::{AcquireError, Evict, Unload, Unloaded};
use super::double::{
    Log, MINUTE, SECOND, Scripted, Step, TestLoader, eventually, paused, unavailable,
};
use crate::kernel::{LoadError, LoadErrorKind};
use crate::lazy::phase::Phase;

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
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        let first = join_all((0..10).map(|_| test.acquire("thing"))).await;
        for answer in first {
            assert_eq!(
                failed(answer.unwrap_err()),
                ("no such layer".to_owned(), 1.0)
            );
        }
        assert_eq!(test.ledger.used(), 0, "a failed load keeps no memory");
        advance(SECOND / 4).await;
        let at_once = Instant::now();
        let remembered = failed(test.acquire("thing").await.unwrap_err());
        assert_eq!(remembered, ("no such layer".to_owned(), 0.75));
        assert_eq!(at_once.elapsed().as_nanos(), 0);
        assert_eq!(thing.loads(), 1, "within the backoff nothing is tried");
        let status = test.status("thing").await;
        assert_eq!((status.phase, status.failures), (Phase::Failed, 1));
        assert_eq!(status.last_fault, Some(LoadErrorKind::Invalid));
        assert_eq!(status.next_try_in_seconds, Some(0.75));

        advance(SECOND).await;
        let second = failed(test.acquire("thing").await.unwrap_err());
        assert_eq!(second, ("again".to_owned(), 2.0), "the backoff doubles");
        advance(3 * SECOND).await;
        test.touch("thing").await;
        assert_eq!(thing.loads(), 3);
        test.close().await;
    });
}

#[test]
fn a_load_past_its_deadline_fails_and_is_cleaned_up() {
    paused(|system| async move {
        let log = Log::default();
        let thing = Scripted::new().script([Step::Hang]).log(&log);
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        let started = Instant::now();
        let AcquireError::Failed { error, .. } = test.acquire("thing").await.unwrap_err() else {
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
        test.touch("thing").await;
        test.close().await;
    });
}

#[test]
fn a_panic_in_a_load_is_a_failed_load_and_harms_nobody_else() {
    paused(|system| async move {
        let thing = Scripted::new().script([Step::Panic]);
        let other = Scripted::new();
        let resources = vec![thing.resource("thing", &[]), other.resource("other", &[])];
        let test = TestLoader::open(&system, 100, resources).await;
        let lease = test.acquire("other").await.unwrap();
        let (message, _) = failed(test.acquire("thing").await.unwrap_err());
        assert_eq!(message, "the load panicked");
        assert_eq!(test.ready().await, ["other"]);
        advance(SECOND).await;
        test.touch("thing").await;
        drop(lease);
        test.close().await;
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
        let test = TestLoader::open(&system, 100, resources).await;
        let error = test.acquire("top").await.unwrap_err();
        assert_eq!(error.to_string(), "base, which it depends on: out of order");
        assert_eq!((error.label(), error.retry_in()), ("failed", Some(SECOND)));
        assert_eq!(top.loads(), 0);
        assert_eq!(
            test.status("top").await.phase,
            Phase::Cold,
            "it did not fail itself"
        );
        eventually(async || test.status("spare").await.leases == 0).await;
        advance(SECOND).await;
        test.touch("top").await;
        test.close().await;
    });
}

#[test]
fn what_died_is_cleaned_up_and_loaded_again_after_its_backoff() {
    paused(|system| async move {
        let thing = Scripted::new();
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        let lease = test.acquire("thing").await.unwrap();
        thing.die("crashed too often");
        eventually(async || test.status("thing").await.phase == Phase::Failed).await;
        let (message, _) = failed(test.acquire("thing").await.unwrap_err());
        assert_eq!(message, "crashed too often");
        eventually(async || test.ledger.used() == 0).await;
        advance(SECOND).await;
        test.touch("thing").await;
        assert_eq!(thing.loads(), 2);
        let status = test.status("thing").await;
        assert_eq!((status.deaths, status.failures), (1, 0));
        assert_eq!(
            status.leases, 0,
            "a lease on the dead one is none on its successor"
        );
        drop(lease);
        assert_eq!(test.status("thing").await.leases, 0);
        test.close().await;
    });
}

#[test]
fn callers_wait_for_the_cleanup_of_what_died_when_it_outlasts_the_backoff() {
    paused(|system| async move {
        let thing = Scripted::new().unload_takes(5 * SECOND);
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        test.touch("thing").await;
        thing.die("crashed");
        eventually(async || test.status("thing").await.phase == Phase::Failed).await;
        advance(2 * SECOND).await;
        test.touch("thing").await;
        assert_eq!(thing.loads(), 2);
        test.close().await;
    });
}

#[test]
fn a_death_takes_along_what_depends_on_it() {
    paused(|system| async move {
        let base = Scripted::new();
        let top = Scripted::new();
        let resources = vec![base.resource("base", &[]), top.resource("top", &["base"])];
        let test = TestLoader::open(&system, 100, resources).await;
        test.touch("top").await;
        base.die("gone");
        eventually(async || test.status("top").await.phase == Phase::Cold).await;
        assert_eq!(test.status("top").await.evictions["dependency"], 1);
        assert_eq!(test.status("base").await.phase, Phase::Failed);
        advance(MINUTE).await;
        test.touch("top").await;
        assert_eq!((base.loads(), top.loads()), (2, 2));
        test.close().await;
    });
}

#[test]
fn an_unload_forgets_a_failure() {
    paused(|system| async move {
        let thing = Scripted::new().script([Step::Fail(unavailable("once"))]);
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        test.acquire("thing").await.unwrap_err();
        let unload = Unload {
            name: "thing".to_owned(),
        };
        let unloaded = test.loader.ask(unload, SECOND).await.unwrap();
        assert_eq!(unloaded, Ok(Unloaded { bytes: 0 }));
        test.touch("thing").await;
        test.close().await;
    });
}

#[test]
fn the_backoff_grows_with_each_death_and_begins_anew_after_a_long_life_or_an_orderly_end() {
    paused(|system| async move {
        let thing = Scripted::new();
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        let die_after = async |life| {
            test.touch("thing").await;
            sleep(life).await;
            thing.die("crashed");
            eventually(async || test.status("thing").await.phase == Phase::Failed).await;
            let next = test.status("thing").await.next_try_in_seconds.unwrap();
            advance(MINUTE).await;
            next.round()
        };
        assert_eq!(die_after(SECOND).await, 1.0);
        assert_eq!(die_after(SECOND).await, 2.0);
        assert_eq!(die_after(11 * MINUTE).await, 1.0);
        assert_eq!(die_after(SECOND).await, 2.0);
        test.touch("thing").await;
        let evicted = test.loader.ask(Evict { bytes: 1 }, MINUTE).await.unwrap();
        assert_eq!(evicted.bytes, 10);
        assert_eq!(die_after(SECOND).await, 1.0);
        test.close().await;
    });
}
