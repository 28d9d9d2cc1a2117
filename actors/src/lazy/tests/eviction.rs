//! Room: made for one at a time, no more than needed, never at the cost of what is in use.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::{AcquireError, Config, Evict, PolicyKind, Shortage, Unload};
use super::double::{
    Fault, MINUTE, SECOND, Scripted, TestLoader, acquire, config, eventually, paused,
};
use crate::kernel::Resource;
use crate::kernel::pressure::Level;
use crate::lazy::phase::Phase;

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
fn three_take_turns_in_a_budget_for_two_and_nobody_fails() {
    for policy in [PolicyKind::Lru, PolicyKind::Gdsf] {
        paused(|system| async move {
            let config = Config { policy, ..config() };
            let resources = things(&[("a", 40), ("b", 40), ("c", 40)]);
            let test = TestLoader::open_with(&system, config, 100, resources).await;
            for turn in 0..300 {
                let name = ["a", "b", "c"][turn % 3];
                let lease = test.acquire(name).await.unwrap();
                assert!(test.ledger.used() <= 100, "the budget was passed");
                sleep(Duration::from_millis(3)).await;
                drop(lease);
            }
            let mut evictions = 0;
            for name in ["a", "b", "c"] {
                evictions += test.status(name).await.evictions["room"];
            }
            assert!(evictions >= 100, "{policy}: {evictions} evictions");
            test.close().await;
        });
    }
}

#[test]
fn three_take_turns_from_many_callers_at_once_and_nobody_fails() {
    paused(|system| async move {
        let test = TestLoader::open(&system, 100, things(&[("a", 40), ("b", 40), ("c", 40)])).await;
        let callers = (0..20).map(|caller| {
            let test = &test;
            async move {
                for turn in 0..15 {
                    let name = ["a", "b", "c"][(caller + turn) % 3];
                    let lease = test.acquire(name).await.unwrap();
                    assert!(test.ledger.used() <= 100, "the budget was passed");
                    sleep(Duration::from_millis(20)).await;
                    drop(lease);
                }
            }
        });
        join_all(callers).await;
        test.close().await;
    });
}

#[test]
fn only_what_is_needed_goes() {
    paused(|system| async move {
        let resources = things(&[("tiny", 5), ("small", 15), ("large", 60), ("next", 30)]);
        let test = TestLoader::open_with(&system, lru(), 100, resources).await;
        for name in ["tiny", "small", "large"] {
            test.touch(name).await;
            sleep(SECOND).await;
        }
        // 20 are free, 10 are missing: the least recently used alone are not enough, and once the
        // second is taken the first can stay.
        test.touch("next").await;
        assert_eq!(test.ready().await, ["large", "next", "tiny"]);
        test.close().await;
    });
}

#[test]
fn what_is_in_use_pinned_or_needed_is_never_evicted() {
    paused(|system| async move {
        let resources = vec![
            Scripted::new().bytes(20).resource("leased", &[]),
            Scripted::new().bytes(20).pinned().resource("pinned", &[]),
            Scripted::new().bytes(20).resource("needed", &[]),
            Scripted::new().bytes(20).resource("dependent", &["needed"]),
            Scripted::new().bytes(20).resource("idle", &[]),
            Scripted::new().bytes(20).resource("next", &[]),
        ];
        let test = TestLoader::open(&system, 100, resources).await;
        let _dependent = test.acquire("dependent").await.unwrap();
        let _lease = test.acquire("leased").await.unwrap();
        test.touch("pinned").await;
        test.touch("idle").await;
        test.touch("next").await;
        assert_eq!(
            test.ready().await,
            ["dependent", "leased", "needed", "next", "pinned"]
        );
        let evicted = test
            .loader
            .ask(Evict { bytes: u64::MAX }, MINUTE)
            .await
            .unwrap();
        assert_eq!(
            (evicted.names, evicted.bytes),
            (vec!["next".to_owned()], 20)
        );
        drop((_dependent, _lease));
        test.close().await;
    });
}

#[test]
fn a_dependent_and_its_dependency_go_together_when_only_both_are_enough() {
    paused(|system| async move {
        let resources = vec![
            Scripted::new().bytes(50).resource("base", &[]),
            Scripted::new().bytes(30).resource("top", &["base"]),
            Scripted::new().bytes(90).resource("next", &[]),
        ];
        let test = TestLoader::open(&system, 100, resources).await;
        test.touch("top").await;
        test.touch("next").await;
        assert_eq!(test.ready().await, ["next"]);
        test.close().await;
    });
}

#[test]
fn what_cannot_fit_is_refused_with_the_figures_and_evicts_nothing() {
    paused(|system| async move {
        let resources = vec![
            Scripted::new().bytes(30).pinned().resource("pinned", &[]),
            Scripted::new().bytes(20).resource("idle", &[]),
            Scripted::new().bytes(80).resource("next", &[]),
        ];
        let test = TestLoader::open(&system, 100, resources).await;
        test.touch("pinned").await;
        test.touch("idle").await;
        let before = Instant::now();
        let shortage = short(test.acquire("next").await.unwrap_err());
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
        assert_eq!(
            before.elapsed(),
            Duration::ZERO,
            "there was nothing to hope for"
        );
        assert_eq!(test.ready().await, ["idle", "pinned"]);
        assert_eq!(test.status("next").await.phase, Phase::Cold);
        test.close().await;
    });
}

#[test]
fn a_load_waits_for_room_in_use_and_takes_it_when_it_is_left() {
    paused(|system| async move {
        let test = TestLoader::open(&system, 100, things(&[("a", 80), ("b", 80)])).await;
        let lease = test.acquire("a").await.unwrap();
        let user = async {
            sleep(SECOND).await;
            drop(lease);
        };
        let started = Instant::now();
        let (next, ()) = tokio::join!(test.acquire("b"), user);
        drop(next.unwrap());
        // A second until the lease ends, the unload and the load.
        assert!(
            started.elapsed() < Duration::from_millis(1150),
            "{:?}",
            started.elapsed()
        );
        test.close().await;
    });
}

#[test]
fn a_load_that_waited_long_enough_is_refused_and_the_next_has_its_turn() {
    paused(|system| async move {
        let resources = things(&[("a", 80), ("b", 80), ("fits", 20)]);
        let test = TestLoader::open(&system, 100, resources).await;
        let lease = test.acquire("a").await.unwrap();
        let started = Instant::now();
        let (refused, fits) = tokio::join!(test.acquire("b"), async {
            sleep(SECOND).await;
            test.acquire("fits").await
        });
        let shortage = short(refused.unwrap_err());
        assert_eq!(
            (shortage.need, shortage.free, shortage.evictable),
            (80, 20, 0)
        );
        assert_eq!(started.elapsed().as_secs(), 2);
        drop(fits.unwrap());
        assert_eq!(test.ready().await, ["a", "fits"]);
        drop(lease);
        test.close().await;
    });
}

#[test]
fn a_slow_unload_is_waited_for_however_short_the_patience() {
    paused(|system| async move {
        let slow = Scripted::new().bytes(80).unload_takes(5 * SECOND);
        let mut resources = things(&[("next", 80)]);
        resources.push(slow.resource("slow", &[]));
        let test = TestLoader::open(&system, 100, resources).await;
        test.touch("slow").await;
        test.touch("next").await;
        assert_eq!(test.ready().await, ["next"]);
        test.close().await;
    });
}

#[test]
fn loads_run_in_parallel_once_they_have_room() {
    paused(|system| async move {
        let slow = |name: &str| Scripted::new().takes(SECOND).resource(name, &[]);
        let test = TestLoader::open(&system, 100, vec![slow("a"), slow("b"), slow("c")]).await;
        let started = Instant::now();
        let leases = join_all(["a", "b", "c"].map(|name| test.acquire(name))).await;
        assert!(leases.iter().all(Result::is_ok));
        assert!(started.elapsed() < Duration::from_millis(1010));
        drop(leases);
        test.close().await;
    });
}

#[test]
fn what_grew_in_use_makes_do_with_what_its_load_took_when_there_is_no_room_for_more() {
    paused(|system| async move {
        let resources = vec![
            Scripted::new()
                .bytes(30)
                .measured(30)
                .resource("grows", &[]),
            Scripted::new().bytes(60).pinned().resource("pinned", &[]),
        ];
        let test = TestLoader::open(&system, 100, resources).await;
        test.touch("grows").await;
        test.ledger.grow_all_to(90);
        let unload = Unload {
            name: "grows".to_owned(),
        };
        test.loader.ask(unload, MINUTE).await.unwrap().unwrap();
        test.touch("pinned").await;
        // 90 bytes will never be free again; 30 are.
        test.touch("grows").await;
        assert_eq!(test.ledger.used(), 90);
        test.close().await;
    });
}

#[test]
fn what_was_measured_is_the_next_estimate() {
    paused(|system| async move {
        let thing = Scripted::new().bytes(90).measured(30);
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        assert_eq!(test.status("thing").await.estimated_bytes, 90);
        test.touch("thing").await;
        let status = test.status("thing").await;
        assert_eq!((status.estimated_bytes, status.reserved_bytes), (30, 30));
        assert_eq!(test.ledger.used(), 30);
        test.close().await;
    });
}

#[test]
fn a_budget_that_does_not_answer_is_no_failure_of_the_resource() {
    paused(|system| async move {
        let test = TestLoader::open(&system, 100, things(&[("a", 10)])).await;
        *test.ledger.mood.lock().unwrap() = Fault::Silent;
        let error = test.acquire("a").await.unwrap_err();
        assert!(matches!(error, AcquireError::BudgetUnavailable));
        *test.ledger.mood.lock().unwrap() = Fault::Answers;
        test.touch("a").await;
        test.close().await;
    });
}

#[test]
fn callers_of_what_is_being_evicted_wait_and_load_it_again() {
    paused(|system| async move {
        let a = Scripted::new().bytes(80).unload_takes(SECOND);
        let mut resources = things(&[("b", 80)]);
        resources.push(a.resource("a", &[]));
        let test = TestLoader::open(&system, 100, resources).await;
        test.touch("a").await;
        let loader = test.loader.clone();
        let other = actix_rt::spawn(async move { drop(acquire(&loader, "b").await.unwrap()) });
        eventually(async || test.status("a").await.phase == Phase::Draining).await;
        test.touch("a").await;
        other.await.unwrap();
        assert_eq!(a.loads(), 2);
        test.close().await;
    });
}

async fn unload(test: &TestLoader, name: &str) {
    let name = name.to_owned();
    let unloaded = test.loader.ask(Unload { name }, MINUTE).await;
    unloaded.unwrap().unwrap();
}

#[test]
fn while_a_victim_goes_nobody_else_has_to_and_nobody_loses_patience() {
    paused(|system| async move {
        let slow = Scripted::new().bytes(40).unload_takes(5 * SECOND);
        let mut resources = things(&[("other", 40), ("tiny", 5), ("next", 40)]);
        resources.push(slow.resource("slow", &[]));
        let test = TestLoader::open_with(&system, lru(), 100, resources).await;
        for name in ["slow", "other", "tiny"] {
            test.touch(name).await;
            sleep(SECOND).await;
        }
        let (next, ()) = tokio::join!(test.acquire("next"), async {
            eventually(async || test.status("slow").await.phase == Phase::Draining).await;
            // Leases end and things go while it waits: neither makes it choose again.
            test.touch("other").await;
            sleep(SECOND).await;
            unload(&test, "tiny").await;
        });
        drop(next.unwrap());
        assert_eq!(test.ready().await, ["next", "other"]);
        test.close().await;
    });
}

#[test]
fn an_answer_of_the_budget_that_is_out_of_date_evicts_nobody() {
    paused(|system| async move {
        let resources = things(&[("a", 40), ("b", 40), ("next", 40)]);
        let test = TestLoader::open(&system, 100, resources).await;
        test.touch("a").await;
        test.touch("b").await;
        *test.ledger.mood.lock().unwrap() = Fault::Slow;
        let (next, ()) = tokio::join!(test.acquire("next"), async {
            sleep(SECOND / 2).await;
            unload(&test, "a").await;
        });
        drop(next.unwrap());
        assert_eq!(test.ready().await, ["b", "next"]);
        test.close().await;
    });
}

#[test]
fn what_was_once_popular_ages_by_what_goes_in_its_stead() {
    paused(|system| async move {
        let resources = things(&[("popular", 40), ("x", 40), ("y", 40)]);
        let test = TestLoader::open(&system, 100, resources).await;
        for _ in 0..20 {
            test.touch("popular").await;
        }
        let mut kept = 0;
        while test.ready().await.contains(&"popular".to_owned()) {
            test.touch(["x", "y"][kept % 2]).await;
            kept += 1;
            assert!(kept < 100, "it never aged");
        }
        assert!(kept > 10, "its popularity counted for {kept} rounds only");
        test.close().await;
    });
}

#[test]
fn popularity_outlives_an_unload() {
    paused(|system| async move {
        let resources = things(&[("popular", 40), ("other", 40), ("next", 40)]);
        let test = TestLoader::open(&system, 100, resources).await;
        for _ in 0..5 {
            test.touch("popular").await;
        }
        unload(&test, "popular").await;
        test.touch("popular").await;
        sleep(SECOND).await;
        for _ in 0..3 {
            test.touch("other").await;
        }
        test.touch("next").await;
        assert_eq!(test.ready().await, ["next", "popular"]);
        test.close().await;
    });
}
