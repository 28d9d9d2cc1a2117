//! One load for all callers, after the loads of its dependencies.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::super::Phase;
use super::super::{Acquire, AcquireError, Preload};
use super::SECOND;
use super::scripted::{Log, Scripted};
use super::test_loader::{TestLoader, eventually, paused};
use crate::kernel::AskError;

#[test]
fn a_thousand_first_callers_cause_one_load_and_all_get_it() {
    paused(|system| async move {
        let thing = Scripted::new();
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let leases = join_all((0..1000).map(|_| loader.acquire("thing"))).await;
        assert!(
            leases
                .iter()
                .all(|lease| lease.as_ref().is_ok_and(|it| it.name() == "thing"))
        );
        assert_eq!(thing.loads(), 1);
        let status = loader.status("thing").await;
        let counts = status.counts;
        assert_eq!((counts.hits, counts.misses, counts.waits), (0, 1000, 1000));
        assert_eq!((status.leases, counts.loads), (1000, 1));
        assert_eq!(status.load_times.unwrap().last_seconds, 0.1);
        drop(leases);
        loader.use_once("thing").await;
        let status = loader.status("thing").await;
        assert_eq!(
            (status.counts.hits, status.leases, status.waiters),
            (1, 0, 0)
        );
        loader.stop_and_check().await;
    });
}

#[test]
fn independent_dependencies_load_in_parallel_and_before_their_dependent() {
    paused(|system| async move {
        let log = Log::default();
        let part = || Scripted::new().load_time(SECOND).log(&log);
        let (base, left, right, top) = (part(), part(), part(), part());
        let resources = vec![
            base.resource("base", &[]),
            left.resource("left", &["base"]),
            right.resource("right", &["base"]),
            top.resource("top", &["left", "right"]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        let started = Instant::now();
        let lease = loader.acquire("top").await.unwrap();
        // base, then left and right together, then top; timers are exact to the millisecond.
        assert!(
            started.elapsed() < Duration::from_millis(3010),
            "{:?}",
            started.elapsed()
        );
        assert_eq!(base.loads(), 1, "a diamond's base is loaded once");
        let order = log.lock().unwrap().clone();
        assert_eq!(order[..2], ["load base", "loaded base"]);
        let at = |event: &str| order.iter().position(|it| it == event).unwrap();
        assert!(at("load right").max(at("load left")) < at("loaded left").min(at("loaded right")));
        assert!(at("loaded left").max(at("loaded right")) < at("load top"));
        assert_eq!(loader.status("base").await.leases, 2);
        drop(lease);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_caller_that_gives_up_does_not_end_the_load() {
    paused(|system| async move {
        let thing = Scripted::new().load_time(5 * SECOND);
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let acquire = Acquire {
            name: "thing".to_owned(),
        };
        let gave_up = loader.handle.ask(acquire, SECOND).await;
        assert_eq!(gave_up.unwrap_err(), AskError::TimedOut);
        eventually(async || loader.handle.in_flight() == 0).await;
        let status = loader.status("thing").await;
        assert_eq!((status.phase, status.waiters), (Phase::Loading, 0));
        loader.use_once("thing").await;
        assert_eq!(thing.loads(), 1);
        assert_eq!(
            loader.status("thing").await.leases,
            0,
            "the channel dropped the lease"
        );
        loader.stop_and_check().await;
    });
}

#[test]
fn a_preload_ends_when_it_is_loaded_and_does_not_count_as_a_use() {
    paused(|system| async move {
        let thing = Scripted::new();
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let preload = Preload {
            name: "thing".to_owned(),
        };
        let preloaded = loader.handle.ask(preload.clone(), SECOND).await;
        preloaded.unwrap().unwrap();
        loader.handle.ask(preload, SECOND).await.unwrap().unwrap();
        let status = loader.status("thing").await;
        let counts = status.counts;
        assert_eq!((status.phase, counts.loads), (Phase::Ready, 1));
        assert_eq!((counts.hits, counts.misses, status.leases), (0, 0, 0));
        loader.stop_and_check().await;
    });
}

#[test]
fn an_unknown_name_is_not_found() {
    paused(|system| async move {
        let loader = TestLoader::start(&system, 100, vec![]).await;
        let error = loader.acquire("nothing").await.unwrap_err();
        assert!(matches!(error, AcquireError::NotFound(name) if name == "nothing"));
        loader.stop_and_check().await;
    });
}
