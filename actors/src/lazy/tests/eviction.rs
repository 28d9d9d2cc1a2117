//! Evictions and reservations: one load at a time, no more evictions than needed, and none of a resource
//! in use.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::Phase;
use super::super::{AcquireError, Config, PolicyKind, Shortage, Unload};
use super::fixed_budget::Fault;
use super::scripted::Scripted;
use super::test_loader::{TestLoader, acquire, config, eventually, paused};
use super::{MINUTE, SECOND};
use crate::kernel::Resource;
use crate::kernel::pressure::Level;

fn things(sizes: &[(&str, u64)]) -> Vec<Resource> {
    sizes
        .iter()
        .map(|(name, bytes)| Scripted::new().bytes(*bytes).resource(name, &[]))
        .collect()
}

fn lru() -> Config {
    Config {
        policy: PolicyKind::Lru,
        ..config()
    }
}

fn short(error: AcquireError) -> Shortage {
    match error {
        AcquireError::Short(shortage) => shortage,
        other => panic!("not a shortage: {other}"),
    }
}

#[test]
fn three_resources_in_a_budget_for_two_never_fail() {
    for policy in [PolicyKind::Lru, PolicyKind::Gdsf] {
        paused(|system| async move {
            let config = Config { policy, ..config() };
            let resources = things(&[("a", 40), ("b", 40), ("c", 40)]);
            let loader = TestLoader::start_with(&system, config, 100, resources).await;
            for turn in 0..300 {
                let name = ["a", "b", "c"][turn % 3];
                let lease = loader.acquire(name).await.unwrap();
                assert!(loader.budget.used() <= 100, "the budget was exceeded");
                sleep(Duration::from_millis(3)).await;
                drop(lease);
            }
            let mut evictions = 0;
            for name in ["a", "b", "c"] {
                evictions += loader.status(name).await.counts.evictions["room"];
            }
            assert!(evictions >= 100, "{policy:?}: {evictions} evictions");
            loader.stop_and_check().await;
        });
    }
}

#[test]
fn three_resources_in_a_budget_for_two_never_fail_with_many_callers() {
    paused(|system| async move {
        let loader =
            TestLoader::start(&system, 100, things(&[("a", 40), ("b", 40), ("c", 40)])).await;
        let callers = (0..20).map(|caller| {
            let loader = &loader;
            async move {
                for turn in 0..15 {
                    let name = ["a", "b", "c"][(caller + turn) % 3];
                    let lease = loader.acquire(name).await.unwrap();
                    assert!(loader.budget.used() <= 100, "the budget was exceeded");
                    sleep(Duration::from_millis(20)).await;
                    drop(lease);
                }
            }
        });
        join_all(callers).await;
        loader.stop_and_check().await;
    });
}

#[test]
fn only_needed_bytes_are_evicted() {
    paused(|system| async move {
        let resources = things(&[("tiny", 5), ("small", 15), ("large", 60), ("next", 30)]);
        let loader = TestLoader::start_with(&system, lru(), 100, resources).await;
        for name in ["tiny", "small", "large"] {
            loader.use_once(name).await;
            sleep(SECOND).await;
        }
        // 20 are free and 10 are missing. The least recently used alone is not enough, and with the
        // second one the first can stay.
        loader.use_once("next").await;
        assert_eq!(loader.ready().await, ["large", "next", "tiny"]);
        loader.stop_and_check().await;
    });
}

#[test]
fn resources_in_use_pinned_or_needed_are_never_evicted() {
    paused(|system| async move {
        let resources = vec![
            Scripted::new().bytes(20).resource("leased", &[]),
            Scripted::new().bytes(20).pinned().resource("pinned", &[]),
            Scripted::new().bytes(20).resource("needed", &[]),
            Scripted::new().bytes(20).resource("dependent", &["needed"]),
            Scripted::new().bytes(20).resource("idle", &[]),
            Scripted::new().bytes(20).resource("next", &[]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        let _dependent = loader.acquire("dependent").await.unwrap();
        let _lease = loader.acquire("leased").await.unwrap();
        loader.use_once("pinned").await;
        loader.use_once("idle").await;
        loader.use_once("next").await;
        assert_eq!(
            loader.ready().await,
            ["dependent", "leased", "needed", "next", "pinned"]
        );
        let [evicted] = &loader.evict_idle(u64::MAX).await[..] else {
            panic!("not exactly one eviction");
        };
        assert_eq!((&*evicted.what, evicted.promised_bytes), ("next", 20));
        drop((_dependent, _lease));
        loader.stop_and_check().await;
    });
}

#[test]
fn a_dependent_and_its_dependency_are_evicted_together_when_only_both_are_enough() {
    paused(|system| async move {
        let resources = vec![
            Scripted::new().bytes(50).resource("base", &[]),
            Scripted::new().bytes(30).resource("top", &["base"]),
            Scripted::new().bytes(90).resource("next", &[]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("top").await;
        loader.use_once("next").await;
        assert_eq!(loader.ready().await, ["next"]);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_load_that_cannot_fit_is_refused_with_the_figures_and_evicts_nothing() {
    paused(|system| async move {
        let resources = vec![
            Scripted::new().bytes(30).pinned().resource("pinned", &[]),
            Scripted::new().bytes(20).resource("idle", &[]),
            Scripted::new().bytes(80).resource("next", &[]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("pinned").await;
        loader.use_once("idle").await;
        let before = Instant::now();
        let shortage = short(loader.acquire("next").await.unwrap_err());
        assert_eq!(
            shortage,
            Shortage {
                need: 80,
                free: 50,
                evictable: 20,
                budget: Some(100),
                level: Level::Normal,
            }
        );
        assert_eq!(before.elapsed(), Duration::ZERO, "nothing could be freed");
        assert_eq!(loader.ready().await, ["idle", "pinned"]);
        assert_eq!(loader.status("next").await.phase, Phase::Cold);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_load_waits_for_memory_in_use_and_gets_it_when_the_lease_ends() {
    paused(|system| async move {
        let loader = TestLoader::start(&system, 100, things(&[("a", 80), ("b", 80)])).await;
        let lease = loader.acquire("a").await.unwrap();
        let user = async {
            sleep(SECOND).await;
            drop(lease);
        };
        let started = Instant::now();
        let (next, ()) = tokio::join!(loader.acquire("b"), user);
        drop(next.unwrap());
        // A second until the lease ends, then the unload and the load.
        assert!(
            started.elapsed() < Duration::from_millis(1150),
            "{:?}",
            started.elapsed()
        );
        loader.stop_and_check().await;
    });
}

#[test]
fn a_load_that_waited_long_enough_is_refused_and_the_next_one_runs() {
    paused(|system| async move {
        let resources = things(&[("a", 80), ("b", 80), ("fits", 20)]);
        let loader = TestLoader::start(&system, 100, resources).await;
        let lease = loader.acquire("a").await.unwrap();
        let started = Instant::now();
        let (refused, fits) = tokio::join!(loader.acquire("b"), async {
            sleep(SECOND).await;
            loader.acquire("fits").await
        });
        let shortage = short(refused.unwrap_err());
        assert_eq!(
            (shortage.need, shortage.free, shortage.evictable),
            (80, 20, 0)
        );
        assert_eq!(started.elapsed().as_secs(), 2);
        drop(fits.unwrap());
        assert_eq!(loader.ready().await, ["a", "fits"]);
        drop(lease);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_load_waits_for_a_slow_unload_longer_than_for_leases() {
    paused(|system| async move {
        let slow = Scripted::new().bytes(80).unload_time(5 * SECOND);
        let mut resources = things(&[("next", 80)]);
        resources.push(slow.resource("slow", &[]));
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("slow").await;
        loader.use_once("next").await;
        assert_eq!(loader.ready().await, ["next"]);
        loader.stop_and_check().await;
    });
}

#[test]
fn loads_run_in_parallel_once_they_have_reservations() {
    paused(|system| async move {
        let slow = |name: &str| Scripted::new().load_time(SECOND).resource(name, &[]);
        let loader = TestLoader::start(&system, 100, vec![slow("a"), slow("b"), slow("c")]).await;
        let started = Instant::now();
        let leases = join_all(["a", "b", "c"].map(|name| loader.acquire(name))).await;
        assert!(leases.iter().all(Result::is_ok));
        assert!(started.elapsed() < Duration::from_millis(1010));
        drop(leases);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_resource_that_grew_falls_back_to_the_bytes_of_its_last_load() {
    paused(|system| async move {
        let resources = vec![
            Scripted::new()
                .bytes(30)
                .measured(30)
                .resource("grows", &[]),
            Scripted::new().bytes(60).pinned().resource("pinned", &[]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("grows").await;
        loader.budget.set_peak_of_all(90);
        let unload = Unload {
            name: "grows".to_owned(),
        };
        loader.handle.ask(unload, MINUTE).await.unwrap();
        loader.use_once("pinned").await;
        // 90 bytes are never free again, but 30 are.
        loader.use_once("grows").await;
        assert_eq!(loader.budget.used(), 90);
        loader.stop_and_check().await;
    });
}

#[test]
fn the_measured_bytes_are_the_next_estimate() {
    paused(|system| async move {
        let thing = Scripted::new().bytes(90).measured(30);
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        assert_eq!(loader.status("thing").await.estimated_bytes, 90);
        loader.use_once("thing").await;
        let status = loader.status("thing").await;
        assert_eq!((status.estimated_bytes, status.reserved_bytes), (30, 30));
        assert_eq!(loader.budget.used(), 30);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_budget_without_a_reply_is_no_failure_of_the_resource() {
    paused(|system| async move {
        let loader = TestLoader::start(&system, 100, things(&[("a", 10)])).await;
        loader.budget.set_fault(Fault::Unavailable);
        let error = loader.acquire("a").await.unwrap_err();
        assert!(matches!(error, AcquireError::BudgetUnavailable));
        loader.budget.set_fault(Fault::None);
        loader.use_once("a").await;
        loader.stop_and_check().await;
    });
}

#[test]
fn callers_of_a_resource_that_is_being_evicted_wait_and_load_it_again() {
    paused(|system| async move {
        let a = Scripted::new().bytes(80).unload_time(SECOND);
        let mut resources = things(&[("b", 80)]);
        resources.push(a.resource("a", &[]));
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("a").await;
        let handle = loader.handle.clone();
        let other = actix_rt::spawn(async move { drop(acquire(&handle, "b").await.unwrap()) });
        eventually(async || loader.status("a").await.phase == Phase::Draining).await;
        loader.use_once("a").await;
        other.await.unwrap();
        assert_eq!(a.loads(), 2);
        loader.stop_and_check().await;
    });
}

async fn unload(loader: &TestLoader, name: &str) {
    let name = name.to_owned();
    loader.handle.ask(Unload { name }, MINUTE).await.unwrap();
}

#[test]
fn during_an_eviction_nothing_else_is_evicted_and_the_load_waits() {
    paused(|system| async move {
        let slow = Scripted::new().bytes(40).unload_time(5 * SECOND);
        let mut resources = things(&[("other", 40), ("tiny", 5), ("next", 40)]);
        resources.push(slow.resource("slow", &[]));
        let loader = TestLoader::start_with(&system, lru(), 100, resources).await;
        for name in ["slow", "other", "tiny"] {
            loader.use_once(name).await;
            sleep(SECOND).await;
        }
        let (next, ()) = tokio::join!(loader.acquire("next"), async {
            eventually(async || loader.status("slow").await.phase == Phase::Draining).await;
            // A lease ends and a resource is unloaded while it waits. Neither makes it choose again.
            loader.use_once("other").await;
            sleep(SECOND).await;
            unload(&loader, "tiny").await;
        });
        drop(next.unwrap());
        assert_eq!(loader.ready().await, ["next", "other"]);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_stale_reply_of_the_budget_evicts_nothing() {
    paused(|system| async move {
        let resources = things(&[("a", 40), ("b", 40), ("next", 40)]);
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("a").await;
        loader.use_once("b").await;
        loader.budget.set_fault(Fault::Stale);
        let (next, ()) = tokio::join!(loader.acquire("next"), async {
            sleep(SECOND / 2).await;
            unload(&loader, "a").await;
        });
        drop(next.unwrap());
        assert_eq!(loader.ready().await, ["b", "next"]);
        loader.stop_and_check().await;
    });
}

#[test]
fn popularity_fades_with_the_evictions_of_others() {
    paused(|system| async move {
        let resources = things(&[("popular", 40), ("x", 40), ("y", 40)]);
        let loader = TestLoader::start(&system, 100, resources).await;
        for _ in 0..20 {
            loader.use_once("popular").await;
        }
        let mut kept = 0;
        while loader.ready().await.contains(&"popular".to_owned()) {
            loader.use_once(["x", "y"][kept % 2]).await;
            kept += 1;
            assert!(kept < 100, "its popularity did not fade");
        }
        assert!(kept > 10, "its popularity lasted for only {kept} rounds");
        loader.stop_and_check().await;
    });
}

#[test]
fn popularity_outlives_an_unload() {
    paused(|system| async move {
        let resources = things(&[("popular", 40), ("other", 40), ("next", 40)]);
        let loader = TestLoader::start(&system, 100, resources).await;
        for _ in 0..5 {
            loader.use_once("popular").await;
        }
        unload(&loader, "popular").await;
        loader.use_once("popular").await;
        sleep(SECOND).await;
        for _ in 0..3 {
            loader.use_once("other").await;
        }
        loader.use_once("next").await;
        assert_eq!(loader.ready().await, ["next", "popular"]);
        loader.stop_and_check().await;
    });
}
