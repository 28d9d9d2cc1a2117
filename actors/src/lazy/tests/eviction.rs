//! Room: made for one at a time, no more than needed, never at the cost of what is in use.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::{AcquireError, Config, Evict, PolicyKind, Shortage, Unload};
use super::double::{MINUTE, Mood, SECOND, Scripted, Yard, acquire, config, eventually, paused};
use crate::kernel::Loadable;
use crate::kernel::phase::Phase;
use crate::kernel::pressure::Level;

fn things(sizes: &[(&str, u64)]) -> Vec<Loadable> {
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
        paused(|universe| async move {
            let config = Config { policy, ..config() };
            let resources = things(&[("a", 40), ("b", 40), ("c", 40)]);
            let yard = Yard::open_with(&universe, config, 100, resources).await;
            for turn in 0..300 {
                let name = ["a", "b", "c"][turn % 3];
                let lease = yard.acquire(name).await.unwrap();
                assert!(yard.ledger.used() <= 100, "the budget was passed");
                sleep(Duration::from_millis(3)).await;
                drop(lease);
            }
            let mut evictions = 0;
            for name in ["a", "b", "c"] {
                evictions += yard.status(name).await.evictions["room"];
            }
            assert!(evictions >= 100, "{policy}: {evictions} evictions");
            yard.close().await;
        });
    }
}

#[test]
fn three_take_turns_from_many_callers_at_once_and_nobody_fails() {
    paused(|universe| async move {
        let yard = Yard::open(&universe, 100, things(&[("a", 40), ("b", 40), ("c", 40)])).await;
        let callers = (0..20).map(|caller| {
            let yard = &yard;
            async move {
                for turn in 0..15 {
                    let name = ["a", "b", "c"][(caller + turn) % 3];
                    let lease = yard.acquire(name).await.unwrap();
                    assert!(yard.ledger.used() <= 100, "the budget was passed");
                    sleep(Duration::from_millis(20)).await;
                    drop(lease);
                }
            }
        });
        join_all(callers).await;
        yard.close().await;
    });
}

#[test]
fn only_what_is_needed_goes() {
    paused(|universe| async move {
        let resources = things(&[("tiny", 5), ("small", 15), ("large", 60), ("next", 30)]);
        let yard = Yard::open_with(&universe, lru(), 100, resources).await;
        for name in ["tiny", "small", "large"] {
            yard.touch(name).await;
            sleep(SECOND).await;
        }
        // 20 are free, 10 are missing: the least recently used alone are not enough, and once the
        // second is taken the first can stay.
        yard.touch("next").await;
        assert_eq!(yard.ready().await, ["large", "next", "tiny"]);
        yard.close().await;
    });
}

#[test]
fn what_is_in_use_pinned_or_needed_is_never_evicted() {
    paused(|universe| async move {
        let resources = vec![
            Scripted::new().bytes(20).resource("leased", &[]),
            Scripted::new().bytes(20).pinned().resource("pinned", &[]),
            Scripted::new().bytes(20).resource("needed", &[]),
            Scripted::new().bytes(20).resource("dependent", &["needed"]),
            Scripted::new().bytes(20).resource("idle", &[]),
            Scripted::new().bytes(20).resource("next", &[]),
        ];
        let yard = Yard::open(&universe, 100, resources).await;
        let _dependent = yard.acquire("dependent").await.unwrap();
        let _lease = yard.acquire("leased").await.unwrap();
        yard.touch("pinned").await;
        yard.touch("idle").await;
        yard.touch("next").await;
        assert_eq!(
            yard.ready().await,
            ["dependent", "leased", "needed", "next", "pinned"]
        );
        let evicted = yard
            .loader
            .ask(Evict { bytes: u64::MAX }, MINUTE)
            .await
            .unwrap();
        assert_eq!(
            (evicted.names, evicted.bytes),
            (vec!["next".to_owned()], 20)
        );
        drop((_dependent, _lease));
        yard.close().await;
    });
}

#[test]
fn a_dependent_and_its_dependency_go_together_when_only_both_are_enough() {
    paused(|universe| async move {
        let resources = vec![
            Scripted::new().bytes(50).resource("base", &[]),
            Scripted::new().bytes(30).resource("top", &["base"]),
            Scripted::new().bytes(90).resource("next", &[]),
        ];
        let yard = Yard::open(&universe, 100, resources).await;
        yard.touch("top").await;
        yard.touch("next").await;
        assert_eq!(yard.ready().await, ["next"]);
        yard.close().await;
    });
}

#[test]
fn what_cannot_fit_is_refused_with_the_figures_and_evicts_nothing() {
    paused(|universe| async move {
        let resources = vec![
            Scripted::new().bytes(30).pinned().resource("pinned", &[]),
            Scripted::new().bytes(20).resource("idle", &[]),
            Scripted::new().bytes(80).resource("next", &[]),
        ];
        let yard = Yard::open(&universe, 100, resources).await;
        yard.touch("pinned").await;
        yard.touch("idle").await;
        let before = Instant::now();
        let shortage = short(yard.acquire("next").await.unwrap_err());
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
        assert_eq!(yard.ready().await, ["idle", "pinned"]);
        assert_eq!(yard.status("next").await.phase, Phase::Cold);
        yard.close().await;
    });
}

#[test]
fn a_load_waits_for_room_in_use_and_takes_it_when_it_is_left() {
    paused(|universe| async move {
        let yard = Yard::open(&universe, 100, things(&[("a", 80), ("b", 80)])).await;
        let lease = yard.acquire("a").await.unwrap();
        let user = async {
            sleep(SECOND).await;
            drop(lease);
        };
        let started = Instant::now();
        let (next, ()) = tokio::join!(yard.acquire("b"), user);
        drop(next.unwrap());
        // A second until the lease ends, the unload and the load.
        assert!(
            started.elapsed() < Duration::from_millis(1150),
            "{:?}",
            started.elapsed()
        );
        yard.close().await;
    });
}

#[test]
fn a_load_that_waited_long_enough_is_refused_and_the_next_has_its_turn() {
    paused(|universe| async move {
        let resources = things(&[("a", 80), ("b", 80), ("fits", 20)]);
        let yard = Yard::open(&universe, 100, resources).await;
        let lease = yard.acquire("a").await.unwrap();
        let started = Instant::now();
        let (refused, fits) = tokio::join!(yard.acquire("b"), async {
            sleep(SECOND).await;
            yard.acquire("fits").await
        });
        let shortage = short(refused.unwrap_err());
        assert_eq!(
            (shortage.need, shortage.free, shortage.evictable),
            (80, 20, 0)
        );
        assert_eq!(started.elapsed().as_secs(), 2);
        drop(fits.unwrap());
        assert_eq!(yard.ready().await, ["a", "fits"]);
        drop(lease);
        yard.close().await;
    });
}

#[test]
fn a_slow_unload_is_waited_for_however_short_the_patience() {
    paused(|universe| async move {
        let slow = Scripted::new().bytes(80).unload_takes(5 * SECOND);
        let mut resources = things(&[("next", 80)]);
        resources.push(slow.resource("slow", &[]));
        let yard = Yard::open(&universe, 100, resources).await;
        yard.touch("slow").await;
        yard.touch("next").await;
        assert_eq!(yard.ready().await, ["next"]);
        yard.close().await;
    });
}

#[test]
fn loads_run_in_parallel_once_they_have_room() {
    paused(|universe| async move {
        let slow = |name: &str| Scripted::new().takes(SECOND).resource(name, &[]);
        let yard = Yard::open(&universe, 100, vec![slow("a"), slow("b"), slow("c")]).await;
        let started = Instant::now();
        let leases = join_all(["a", "b", "c"].map(|name| yard.acquire(name))).await;
        assert!(leases.iter().all(Result::is_ok));
        assert!(started.elapsed() < Duration::from_millis(1010));
        drop(leases);
        yard.close().await;
    });
}

#[test]
fn what_grew_in_use_makes_do_with_what_its_load_took_when_there_is_no_room_for_more() {
    paused(|universe| async move {
        let resources = vec![
            Scripted::new()
                .bytes(30)
                .measured(30)
                .resource("grows", &[]),
            Scripted::new().bytes(60).pinned().resource("pinned", &[]),
        ];
        let yard = Yard::open(&universe, 100, resources).await;
        yard.touch("grows").await;
        yard.ledger.grow_all_to(90);
        let unload = Unload {
            name: "grows".to_owned(),
        };
        yard.loader.ask(unload, MINUTE).await.unwrap().unwrap();
        yard.touch("pinned").await;
        // 90 bytes will never be free again; 30 are.
        yard.touch("grows").await;
        assert_eq!(yard.ledger.used(), 90);
        yard.close().await;
    });
}

#[test]
fn what_was_measured_is_the_next_estimate() {
    paused(|universe| async move {
        let thing = Scripted::new().bytes(90).measured(30);
        let yard = Yard::open(&universe, 100, vec![thing.resource("thing", &[])]).await;
        assert_eq!(yard.status("thing").await.estimated_bytes, 90);
        yard.touch("thing").await;
        let status = yard.status("thing").await;
        assert_eq!((status.estimated_bytes, status.reserved_bytes), (30, 30));
        assert_eq!(yard.ledger.used(), 30);
        yard.close().await;
    });
}

#[test]
fn a_budget_that_does_not_answer_is_no_failure_of_the_resource() {
    paused(|universe| async move {
        let yard = Yard::open(&universe, 100, things(&[("a", 10)])).await;
        *yard.ledger.mood.lock().unwrap() = Mood::Silent;
        let error = yard.acquire("a").await.unwrap_err();
        assert!(matches!(error, AcquireError::BudgetUnavailable));
        *yard.ledger.mood.lock().unwrap() = Mood::Answers;
        yard.touch("a").await;
        yard.close().await;
    });
}

#[test]
fn callers_of_what_is_being_evicted_wait_and_load_it_again() {
    paused(|universe| async move {
        let a = Scripted::new().bytes(80).unload_takes(SECOND);
        let mut resources = things(&[("b", 80)]);
        resources.push(a.resource("a", &[]));
        let yard = Yard::open(&universe, 100, resources).await;
        yard.touch("a").await;
        let loader = yard.loader.clone();
        let other = actix_rt::spawn(async move { drop(acquire(&loader, "b").await.unwrap()) });
        eventually(async || yard.status("a").await.phase == Phase::Draining).await;
        yard.touch("a").await;
        other.await.unwrap();
        assert_eq!(a.loads(), 2);
        yard.close().await;
    });
}

async fn unload(yard: &Yard, name: &str) {
    let name = name.to_owned();
    let unloaded = yard.loader.ask(Unload { name }, MINUTE).await;
    unloaded.unwrap().unwrap();
}

#[test]
fn while_a_victim_goes_nobody_else_has_to_and_nobody_loses_patience() {
    paused(|universe| async move {
        let slow = Scripted::new().bytes(40).unload_takes(5 * SECOND);
        let mut resources = things(&[("other", 40), ("tiny", 5), ("next", 40)]);
        resources.push(slow.resource("slow", &[]));
        let yard = Yard::open_with(&universe, lru(), 100, resources).await;
        for name in ["slow", "other", "tiny"] {
            yard.touch(name).await;
            sleep(SECOND).await;
        }
        let (next, ()) = tokio::join!(yard.acquire("next"), async {
            eventually(async || yard.status("slow").await.phase == Phase::Draining).await;
            // Leases end and things go while it waits: neither makes it choose again.
            yard.touch("other").await;
            sleep(SECOND).await;
            unload(&yard, "tiny").await;
        });
        drop(next.unwrap());
        assert_eq!(yard.ready().await, ["next", "other"]);
        yard.close().await;
    });
}

#[test]
fn an_answer_of_the_budget_that_is_out_of_date_evicts_nobody() {
    paused(|universe| async move {
        let resources = things(&[("a", 40), ("b", 40), ("next", 40)]);
        let yard = Yard::open(&universe, 100, resources).await;
        yard.touch("a").await;
        yard.touch("b").await;
        *yard.ledger.mood.lock().unwrap() = Mood::Slow;
        let (next, ()) = tokio::join!(yard.acquire("next"), async {
            sleep(SECOND / 2).await;
            unload(&yard, "a").await;
        });
        drop(next.unwrap());
        assert_eq!(yard.ready().await, ["b", "next"]);
        yard.close().await;
    });
}

#[test]
fn what_was_once_popular_ages_by_what_goes_in_its_stead() {
    paused(|universe| async move {
        let resources = things(&[("popular", 40), ("x", 40), ("y", 40)]);
        let yard = Yard::open(&universe, 100, resources).await;
        for _ in 0..20 {
            yard.touch("popular").await;
        }
        let mut kept = 0;
        while yard.ready().await.contains(&"popular".to_owned()) {
            yard.touch(["x", "y"][kept % 2]).await;
            kept += 1;
            assert!(kept < 100, "it never aged");
        }
        assert!(kept > 10, "its popularity counted for {kept} rounds only");
        yard.close().await;
    });
}

#[test]
fn popularity_outlives_an_unload() {
    paused(|universe| async move {
        let resources = things(&[("popular", 40), ("other", 40), ("next", 40)]);
        let yard = Yard::open(&universe, 100, resources).await;
        for _ in 0..5 {
            yard.touch("popular").await;
        }
        unload(&yard, "popular").await;
        yard.touch("popular").await;
        sleep(SECOND).await;
        for _ in 0..3 {
            yard.touch("other").await;
        }
        yard.touch("next").await;
        assert_eq!(yard.ready().await, ["next", "popular"]);
        yard.close().await;
    });
}
