//! Ends: in order, by force, and by a crash.

use tokio::time::{Instant, sleep};

use super::super::{AcquireError, Lease, Preload, Register};
use super::double::{
    Fault, Log, MINUTE, SECOND, Scripted, Step, TestLoader, acquire, eventually, paused,
};
use crate::kernel::AskError;

#[test]
fn a_stop_unloads_dependents_before_dependencies() {
    paused(|system| async move {
        let log = Log::default();
        let part = || Scripted::new().log(&log);
        let resources = vec![
            part().resource("a-top", &["b-middle"]),
            part().resource("b-middle", &["c-base"]),
            part().resource("c-base", &[]),
            part().pinned().resource("z-pinned", &[]),
        ];
        let test = TestLoader::open(&system, 100, resources).await;
        test.touch("a-top").await;
        test.touch("z-pinned").await;
        log.lock().unwrap().clear();
        test.close().await;
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

async fn stopped_with(lease: Lease, test: TestLoader, held_for: std::time::Duration) -> f64 {
    let user = async {
        sleep(held_for).await;
        drop(lease);
    };
    let started = Instant::now();
    let stop = async {
        test.close().await;
        started.elapsed().as_secs_f64()
    };
    tokio::join!(stop, user).0
}

#[test]
fn a_stop_waits_for_leases_but_not_for_ever() {
    paused(|system| async move {
        let thing = Scripted::new();
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        let lease = test.acquire("thing").await.unwrap();
        let took = stopped_with(lease, test, 2 * SECOND).await;
        assert!((2.0..2.1).contains(&took), "{took}");
    });
    paused(|system| async move {
        let log = Log::default();
        let part = || Scripted::new().log(&log);
        let resources = vec![
            part().resource("base", &[]),
            part().resource("top", &["base"]),
        ];
        let test = TestLoader::open(&system, 100, resources).await;
        let lease = test.acquire("top").await.unwrap();
        log.lock().unwrap().clear();
        let took = stopped_with(lease, test, 100 * SECOND).await;
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
        let test = TestLoader::open(&system, 100, resources).await;
        // Its caller goes away, its load stays.
        let preload = Preload {
            name: "above".to_owned(),
        };
        let gave_up = test.loader.ask(preload, SECOND).await;
        assert_eq!(gave_up.unwrap_err(), AskError::TimedOut);
        let started = Instant::now();
        test.close().await;
        assert!(started.elapsed() < SECOND);
        assert!(!hanging.is_occupied() && !base.is_occupied());
        assert_eq!(above.loads(), 0);
    });
}

#[test]
fn a_kill_still_unloads_everything_in_order() {
    paused(|system| async move {
        let log = Log::default();
        let base = Scripted::new().log(&log).unload_takes(20 * SECOND);
        let top = Scripted::new().log(&log).unload_takes(20 * SECOND);
        let resources = vec![base.resource("base", &[]), top.resource("top", &["base"])];
        let mut test = TestLoader::open(&system, 100, resources).await;
        test.touch("top").await;
        // Unloads that outlast the shutdown deadline: the supervisor kills the loader.
        test.stop().await;
        eventually(async || test.ledger.used() == 0).await;
        test.check_nothing_left();
        assert_eq!(log.lock().unwrap().last().unwrap(), "unloaded base");
    });
}

#[test]
fn after_a_stop_there_are_no_leases_to_be_had() {
    paused(|system| async move {
        let thing = Scripted::new();
        let mut test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        let lease = test.acquire("thing").await.unwrap();
        let loader = test.loader.clone();
        let late = async {
            sleep(SECOND).await;
            let acquire = super::super::Acquire {
                name: "thing".to_owned(),
            };
            let refused = loader.ask(acquire, SECOND).await;
            drop(lease);
            refused
        };
        let (refused, ()) = tokio::join!(late, test.stop());
        let error = match refused {
            Ok(Err(AcquireError::Stopping)) => return test.check_nothing_left(),
            Ok(other) => panic!("{other:?}"),
            Err(error) => error,
        };
        assert!(error.is_unseen(), "{error}");
        test.check_nothing_left();
    });
}

#[test]
fn a_lease_may_outlive_its_loader() {
    paused(|system| async move {
        let thing = Scripted::new();
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        let lease = acquire(&test.loader, "thing").await.unwrap();
        test.close().await;
        assert_eq!(lease.name(), "thing");
        drop(lease);
    });
}

#[test]
fn after_a_crash_the_next_incarnation_begins_when_all_is_unloaded() {
    paused(|system| async move {
        let log = Log::default();
        let base = Scripted::new().log(&log).unload_takes(5 * SECOND);
        let top = Scripted::new().log(&log).unload_takes(5 * SECOND);
        let hanging = Scripted::new().script([Step::Hang]);
        let resources = vec![
            base.resource("base", &[]),
            top.resource("top", &["base"]),
            hanging.resource("hanging", &[]),
        ];
        let test = TestLoader::open(&system, 100, resources).await;
        let lease = test.acquire("top").await.unwrap();
        let preload = Preload {
            name: "hanging".to_owned(),
        };
        test.loader.ask(preload, SECOND).await.unwrap_err();
        let victim = Scripted::new();
        let register = Register {
            resource: victim.resource("victim", &[]),
        };
        test.loader.ask(register, SECOND).await.unwrap().unwrap();
        log.lock().unwrap().clear();
        *test.ledger.mood.lock().unwrap() = Fault::Panics;
        let acquire = super::super::Acquire {
            name: "victim".to_owned(),
        };
        let lost = test.loader.ask(acquire, MINUTE).await;
        assert_eq!(lost.unwrap_err(), AskError::Lost);
        *test.ledger.mood.lock().unwrap() = Fault::Answers;

        assert!(test.loader.restarted(MINUTE).await);
        assert_eq!(test.ledger.used(), 0, "nothing is loaded when it begins");
        assert!(!hanging.is_occupied());
        let order = ["unload top", "unloaded top", "unload base", "unloaded base"];
        assert_eq!(*log.lock().unwrap(), order);
        drop(lease);
        test.touch("top").await;
        // What was registered later is still known.
        test.touch("victim").await;
        test.close().await;
    });
}
