//! The loader's part in a clean-up: evictions, drains, kills, and acknowledgements.

use tokio::time::{Instant, sleep};

use super::super::{AcquireError, Phase, Shortage, Summarise};
use super::scripted::{Log, Scripted};
use super::test_loader::{TestLoader, acquire, eventually, paused};
use super::{MINUTE, SECOND};
use crate::kernel::pressure::{Action, Level, Stage};

async fn start_four(system: &crate::kernel::testing::TestSystem) -> TestLoader {
    let resources = vec![
        Scripted::new().bytes(10).resource("a", &[]),
        Scripted::new().bytes(10).resource("b", &[]),
        Scripted::new().bytes(10).resource("c", &[]),
        Scripted::new().bytes(10).pinned().resource("pinned", &[]),
    ];
    TestLoader::start(system, 100, resources).await
}

async fn freed(loader: &TestLoader, level: Level, wanted: u64) -> u64 {
    let max_stage = match level {
        Level::Normal => None,
        Level::Elevated => Some(Stage::Connections),
        Level::High | Level::Critical | Level::Exhausted => Some(Stage::Idle),
    };
    asked(loader, level, max_stage, wanted).await
}

async fn asked(loader: &TestLoader, level: Level, max_stage: Option<Stage>, wanted: u64) -> u64 {
    let actions = loader.relieve(level, max_stage, wanted).await;
    actions.iter().map(Action::gained_bytes).sum()
}

#[test]
fn idle_resources_are_evicted_until_the_wanted_bytes_are_free_and_acknowledged() {
    paused(|system| async move {
        let loader = start_four(&system).await;
        for name in ["a", "b", "c", "pinned"] {
            loader.use_once(name).await;
        }
        assert_eq!(freed(&loader, Level::Elevated, 40).await, 0);
        assert_eq!(freed(&loader, Level::High, 11).await, 20);
        assert_eq!(loader.ready().await.len(), 2);
        assert_eq!(
            loader.budget.used(),
            20,
            "only freed bytes are acknowledged"
        );
        let lease = loader.acquire("b").await.unwrap();
        // All idle resources are not enough, and are evicted all the same.
        assert_eq!(freed(&loader, Level::Critical, 100).await, 10);
        assert_eq!(loader.ready().await, ["b", "pinned"]);
        assert_eq!(freed(&loader, Level::Exhausted, 100).await, 0);
        assert_eq!(freed(&loader, Level::Normal, 0).await, 0);
        drop(lease);
        let status = loader.status("a").await;
        assert_eq!(status.counts.evictions["pressure"], 1);
        loader.stop_and_check().await;
    });
}

#[test]
fn resources_in_use_are_drained_in_an_emergency_and_loaded_again_on_request() {
    paused(|system| async move {
        let loader = start_four(&system).await;
        loader.use_once("a").await;
        let lease = loader.acquire("b").await.unwrap();
        // The idle resource is unloaded. The one in use is drained, and its lease stays valid.
        let max_stage = Some(Stage::InUse);
        assert_eq!(asked(&loader, Level::Critical, max_stage, 15).await, 10);
        assert_eq!(loader.status("b").await.phase, Phase::Draining);
        assert_eq!(loader.budget.used(), 10);
        sleep(MINUTE).await;
        assert_eq!(loader.status("b").await.phase, Phase::Draining);
        // Its bytes count as coming, so nothing else is drained.
        let other = loader.acquire("c").await.unwrap();
        assert_eq!(asked(&loader, Level::Critical, max_stage, 10).await, 0);
        assert_eq!(loader.status("c").await.phase, Phase::Ready);
        drop((lease, other));
        eventually(async || loader.status("b").await.phase == Phase::Cold).await;
        loader.use_once("b").await;
        loader.stop_and_check().await;
    });
}

#[test]
fn only_when_memory_is_exhausted_is_the_largest_resource_in_use_killed() {
    paused(|system| async move {
        let resources = vec![
            Scripted::new().bytes(10).resource("small", &[]),
            Scripted::new().bytes(30).resource("large", &[]),
            Scripted::new().bytes(50).pinned().resource("pinned", &[]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        let mut leases = Vec::new();
        for name in ["small", "large", "pinned"] {
            leases.push(loader.acquire(name).await.unwrap());
        }
        let max_stage = Some(Stage::InUse);
        asked(&loader, Level::Exhausted, max_stage, 40).await;
        assert_eq!(loader.budget.used(), 90, "the kill comes after a delay");
        eventually(async || loader.budget.used() == 60).await;
        // The published level stays for a while, but usage has fallen: nothing else is killed.
        loader.pressure.set_reached(Level::Elevated);
        sleep(MINUTE).await;
        assert_eq!(loader.status("large").await.phase, Phase::Cold);
        assert_eq!(loader.status("small").await.phase, Phase::Draining);
        assert_eq!(loader.status("pinned").await.phase, Phase::Ready);
        // Memory is free again before the kill: nothing is killed.
        asked(&loader, Level::Exhausted, max_stage, 10).await;
        asked(&loader, Level::High, None, 0).await;
        sleep(MINUTE).await;
        assert_eq!(loader.status("small").await.phase, Phase::Draining);
        let summary = loader.handle.ask(Summarise, MINUTE).await.unwrap();
        assert_eq!(summary.kills_total, 1);
        drop(leases);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_load_is_refused_while_memory_is_exhausted_and_not_for_the_rest_of_the_dwell() {
    paused(|system| async move {
        let loader = start_four(&system).await;
        loader.pressure.publish(Level::Exhausted, None, 0);
        loader.pressure.set_reached(Level::Exhausted);
        let refusal = loader.acquire("a").await;
        assert!(matches!(refusal, Err(AcquireError::Short(_))));
        // Memory was freed. The published level stays for its dwell.
        loader.pressure.set_reached(Level::Normal);
        loader.use_once("a").await;
        loader.stop_and_check().await;
    });
}

#[test]
fn dependents_are_killed_one_by_one_before_their_dependency_while_memory_is_exhausted() {
    paused(|system| async move {
        let log = Log::default();
        let thing = |bytes| Scripted::new().bytes(bytes).log(&log);
        let resources = vec![
            thing(60).resource("base", &[]),
            thing(20).resource("larger", &["base"]),
            thing(10).resource("smaller", &["base"]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        let leases = (
            loader.acquire("larger").await.unwrap(),
            loader.acquire("smaller").await.unwrap(),
        );
        log.lock().unwrap().clear();
        asked(&loader, Level::Exhausted, Some(Stage::InUse), 90).await;
        eventually(async || loader.budget.used() == 0).await;
        let log = std::mem::take(&mut *log.lock().unwrap());
        let unloads = log.iter().filter_map(|line| line.strip_prefix("unload "));
        assert_eq!(unloads.collect::<Vec<_>>(), ["larger", "smaller", "base"]);
        drop(leases);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_dependency_of_a_load_under_way_does_not_count_as_draining() {
    paused(|system| async move {
        let resources = vec![
            Scripted::new().bytes(60).resource("base", &[]),
            Scripted::new()
                .load_time(MINUTE / 10)
                .resource("coming", &["base"]),
            Scripted::new().bytes(20).resource("used", &[]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        let lease = loader.acquire("used").await.unwrap();
        let handle = loader.handle.clone();
        let coming = actix_rt::spawn(async move { acquire(&handle, "coming").await });
        eventually(async || loader.status("coming").await.reserved_bytes > 0).await;
        asked(&loader, Level::Exhausted, Some(Stage::InUse), 20).await;
        eventually(async || loader.status("used").await.phase == Phase::Cold).await;
        assert_eq!(loader.status("base").await.phase, Phase::Ready);
        drop((lease, coming.await.unwrap().unwrap()));
        loader.stop_and_check().await;
    });
}

#[test]
fn the_loader_reacts_to_a_rising_level_while_an_unload_is_under_way() {
    paused(|system| async move {
        let slow = Scripted::new().unload_time(MINUTE).resource("slow", &[]);
        let resources = vec![slow, Scripted::new().resource("used", &[])];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("slow").await;
        let lease = loader.acquire("used").await.unwrap();
        loader.pressure.publish(Level::High, Some(Stage::Idle), 10);
        eventually(async || loader.ready().await == ["used"]).await;
        let begun = Instant::now();
        let max_stage = Some(Stage::InUse);
        let epoch = loader.pressure.publish(Level::Critical, max_stage, 20);
        eventually(async || loader.ready().await.is_empty()).await;
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        // It is acknowledged when all of its unloads have ended.
        let within = 2 * MINUTE;
        let result = loader
            .pressure
            .acknowledgements(epoch, within)
            .await
            .unwrap();
        assert_eq!(result.silent, [""; 0]);
        assert_eq!(result.received[0].actions.len(), 1);
        assert!(begun.elapsed() > MINUTE - SECOND);
        drop(lease);
        loader.stop_and_check().await;
    });
}

#[test]
fn nothing_new_is_loaded_when_memory_is_exhausted() {
    paused(|system| async move {
        let loader = start_four(&system).await;
        loader.use_once("a").await;
        freed(&loader, Level::Exhausted, 0).await;
        let lease = loader.acquire("a").await.unwrap();
        let Err(AcquireError::Short(shortage)) = loader.acquire("b").await else {
            panic!("it must be refused");
        };
        let expected = Shortage {
            need: 10,
            free: 0,
            evictable: 0,
            budget: None,
            level: Level::Exhausted,
        };
        assert_eq!(shortage, expected);
        assert_eq!(loader.budget.used(), 10, "the refused one reserved nothing");
        freed(&loader, Level::High, 0).await;
        loader.use_once("b").await;
        drop(lease);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_clean_up_counts_unloads_under_way() {
    paused(|system| async move {
        let slow = |name| Scripted::new().unload_time(SECOND).resource(name, &[]);
        let loader = TestLoader::start(&system, 100, vec![slow("a"), slow("b")]).await;
        loader.use_once("a").await;
        loader.use_once("b").await;
        let first = loader.handle.clone();
        let unload = super::super::Unload {
            name: "a".to_owned(),
        };
        let unloading = actix_rt::spawn(async move { first.ask(unload, MINUTE).await });
        eventually(async || loader.ready().await == ["b"]).await;
        assert_eq!(freed(&loader, Level::High, 10).await, 10);
        assert_eq!(loader.ready().await, ["b"]);
        unloading.await.unwrap().unwrap();
        loader.stop_and_check().await;
    });
}
