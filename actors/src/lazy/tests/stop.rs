//! The loader's end: an orderly stop, a kill, and a crash.

use tokio::time::{Instant, sleep};

use super::super::{AcquireError, Lease, Preload, Register};
use super::fixed_budget::Fault;
use super::scripted::{Log, Scripted, Step};
use super::test_loader::{TestLoader, acquire, eventually, paused};
use super::{MINUTE, SECOND};
use crate::kernel::AskError;

#[test]
fn a_stop_unloads_dependents_before_dependencies() {
    paused(|system| async move {
        let log = Log::default();
        let part = || Scripted::new().log(&log);
        let resources = vec![
            part().resource("c-base", &[]),
            part().resource("b-middle", &["c-base"]),
            part().resource("a-top", &["b-middle"]),
            part().pinned().resource("z-pinned", &[]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("a-top").await;
        loader.use_once("z-pinned").await;
        log.lock().unwrap().clear();
        loader.stop_and_check().await;
        let order = log.lock().unwrap().clone();
        let chain: Vec<_> = order.iter().filter(|it| !it.contains("pinned")).collect();
        assert_eq!(
            chain,
            [
                "unload a-top",
                "unloaded a-top",
                "unload b-middle",
                "unloaded b-middle",
                "unload c-base",
                "unloaded c-base"
            ]
        );
        assert!(order.contains(&"unloaded z-pinned".to_owned()));
    });
}

async fn stopped_with(lease: Lease, loader: TestLoader, held_for: std::time::Duration) -> f64 {
    let user = async {
        sleep(held_for).await;
        drop(lease);
    };
    let started = Instant::now();
    let stop = async {
        loader.stop_and_check().await;
        started.elapsed().as_secs_f64()
    };
    tokio::join!(stop, user).0
}

#[test]
fn a_stop_waits_for_leases_but_not_for_ever() {
    paused(|system| async move {
        let thing = Scripted::new();
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let lease = loader.acquire("thing").await.unwrap();
        let took = stopped_with(lease, loader, 2 * SECOND).await;
        assert!((2.0..2.1).contains(&took), "{took}");
    });
    paused(|system| async move {
        let log = Log::default();
        let part = || Scripted::new().log(&log);
        let resources = vec![
            part().resource("base", &[]),
            part().resource("top", &["base"]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        let lease = loader.acquire("top").await.unwrap();
        log.lock().unwrap().clear();
        let took = stopped_with(lease, loader, 100 * SECOND).await;
        assert!((5.0..5.1).contains(&took), "{took}");
        let order = ["unload top", "unloaded top", "unload base", "unloaded base"];
        assert_eq!(*log.lock().unwrap(), order);
    });
}

#[test]
fn a_stop_abandons_loads_and_cleans_up_after_them() {
    paused(|system| async move {
        let base = Scripted::new();
        let hanging = Scripted::new().script([Step::Hang]);
        let above = Scripted::new();
        let resources = vec![
            base.resource("base", &[]),
            hanging.resource("hanging", &["base"]),
            above.resource("above", &["hanging"]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        // The caller gives up; the load goes on.
        let preload = Preload {
            name: "above".to_owned(),
        };
        let gave_up = loader.handle.ask(preload, SECOND).await;
        assert_eq!(gave_up.unwrap_err(), AskError::TimedOut);
        let started = Instant::now();
        loader.stop_and_check().await;
        assert!(started.elapsed() < SECOND);
        assert!(!hanging.may_be_loaded() && !base.may_be_loaded());
        assert_eq!(above.loads(), 0);
    });
}

#[test]
fn a_killed_loader_unloads_everything_in_order() {
    paused(|system| async move {
        let log = Log::default();
        let base = Scripted::new().log(&log).unload_time(20 * SECOND);
        let top = Scripted::new().log(&log).unload_time(20 * SECOND);
        let resources = vec![base.resource("base", &[]), top.resource("top", &["base"])];
        let mut loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("top").await;
        // The unloads outlast the shutdown deadline, so the supervisor kills the loader.
        loader.stop().await;
        eventually(async || loader.budget.used() == 0).await;
        loader.check_nothing_left();
        assert_eq!(log.lock().unwrap().last().unwrap(), "unloaded base");
    });
}

#[test]
fn a_stopping_loader_gives_no_leases() {
    paused(|system| async move {
        let thing = Scripted::new();
        let mut loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let lease = loader.acquire("thing").await.unwrap();
        let handle = loader.handle.clone();
        let late = async {
            sleep(SECOND).await;
            let acquire = super::super::Acquire {
                name: "thing".to_owned(),
            };
            let refused = handle.ask(acquire, SECOND).await;
            drop(lease);
            refused
        };
        let (refused, ()) = tokio::join!(late, loader.stop());
        let error = match refused {
            Ok(Err(AcquireError::Stopping)) => return loader.check_nothing_left(),
            Ok(other) => panic!("{other:?}"),
            Err(error) => error,
        };
        assert!(error.is_unseen(), "{error}");
        loader.check_nothing_left();
    });
}

#[test]
fn a_lease_may_outlive_its_loader() {
    paused(|system| async move {
        let thing = Scripted::new();
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let lease = acquire(&loader.handle, "thing").await.unwrap();
        loader.stop_and_check().await;
        assert_eq!(lease.name(), "thing");
        drop(lease);
    });
}

#[test]
fn after_a_crash_the_next_incarnation_starts_when_all_is_unloaded() {
    paused(|system| async move {
        let log = Log::default();
        let base = Scripted::new().log(&log).unload_time(5 * SECOND);
        let top = Scripted::new().log(&log).unload_time(5 * SECOND);
        let hanging = Scripted::new().script([Step::Hang]);
        let resources = vec![
            base.resource("base", &[]),
            top.resource("top", &["base"]),
            hanging.resource("hanging", &[]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        let lease = loader.acquire("top").await.unwrap();
        let preload = Preload {
            name: "hanging".to_owned(),
        };
        loader.handle.ask(preload, SECOND).await.unwrap_err();
        let victim = Scripted::new();
        let register = Register {
            resource: victim.resource("victim", &[]),
        };
        loader.handle.ask(register, SECOND).await.unwrap().unwrap();
        log.lock().unwrap().clear();
        loader.budget.set_fault(Fault::Panic);
        let acquire = super::super::Acquire {
            name: "victim".to_owned(),
        };
        let lost = loader.handle.ask(acquire, MINUTE).await;
        assert_eq!(lost.unwrap_err(), AskError::Lost);
        loader.budget.set_fault(Fault::None);

        assert!(loader.handle.restarted(MINUTE).await);
        assert_eq!(loader.budget.used(), 0, "something is loaded at its start");
        assert!(!hanging.may_be_loaded());
        let order = ["unload top", "unloaded top", "unload base", "unloaded base"];
        assert_eq!(*log.lock().unwrap(), order);
        drop(lease);
        loader.use_once("top").await;
        // Resources that were registered later are still in the catalogue.
        loader.use_once("victim").await;
        loader.stop_and_check().await;
    });
}
