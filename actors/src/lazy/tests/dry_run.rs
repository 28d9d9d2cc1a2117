//! The dry run of a load says what the load then does, and changes nothing.

use tokio::time::sleep;

use super::super::{Config, IfLoaded, LoadOutcome, PolicyKind, ResourceStatus, Unload};
use super::SECOND;
use super::scripted::{Scripted, Step, unavailable};
use super::test_loader::{TestLoader, config, paused};
use crate::kernel::Resource;
use crate::kernel::pressure::Level;
use crate::kernel::testing::TestSystem;

fn thing(name: &str, bytes: u64, depends_on: &[&str]) -> Resource {
    Scripted::new().bytes(bytes).resource(name, depends_on)
}

/// Starts a loader that evicts the least recently used resource.
async fn start(system: &TestSystem, total: u64, resources: Vec<Resource>) -> TestLoader {
    let config = Config {
        policy: PolicyKind::Lru,
        ..config()
    };
    TestLoader::start_with(system, config, total, resources).await
}

type Named<'a> = Vec<(&'a str, u64)>;

/// The names and bytes of what would be reserved, and of what would be evicted.
fn plan(of: &IfLoaded) -> (Named<'_>, Named<'_>) {
    let [reserves, evicts] = [&of.reserves, &of.evicts].map(|list| {
        let list = list.iter();
        list.map(|it| (&*it.name, it.bytes)).collect()
    });
    (reserves, evicts)
}

#[test]
fn a_load_that_fits_reserves_it_and_its_missing_dependencies() {
    paused(|system| async move {
        let resources = vec![
            thing("base", 10, &[]),
            thing("ready", 20, &[]),
            thing("top", 30, &["base", "ready"]),
        ];
        let loader = start(&system, 100, resources).await;
        loader.use_once("ready").await;
        let before = loader.read(None).await.resources;
        let shown = loader.if_loaded("top").await;
        assert_eq!(shown.outcome, LoadOutcome::Fits);
        assert_eq!(plan(&shown), (vec![("base", 10), ("top", 30)], vec![]));
        assert_eq!((shown.reserve_bytes, shown.free_bytes), (40, Some(80)));
        // Nothing has changed.
        let after = loader.read(None).await.resources;
        let text = |status: &ResourceStatus| serde_json::to_value(status).unwrap();
        for (before, after) in before.iter().zip(&after) {
            let (mut before, mut after) = (text(before), text(after));
            // Milliseconds of the system's clock, which is not paused.
            for status in [&mut before, &mut after] {
                status["phase_since_at"].take();
                status["last_use_at"].take();
            }
            assert_eq!(before, after);
        }
        assert_eq!(loader.budget.used(), 20);
        loader.use_once("top").await;
        assert_eq!(loader.budget.used(), 60);
        assert_eq!(loader.if_loaded("top").await.outcome, LoadOutcome::Loaded);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_load_evicts_what_its_dry_run_has_named() {
    paused(|system| async move {
        let resources = vec![
            thing("base", 20, &[]),
            thing("old", 20, &[]),
            thing("new", 30, &[]),
            thing("big", 60, &["base"]),
        ];
        let loader = start(&system, 100, resources).await;
        for name in ["base", "old", "new"] {
            loader.use_once(name).await;
            sleep(SECOND).await;
        }
        let shown = loader.if_loaded("big").await;
        assert_eq!(shown.outcome, LoadOutcome::Evicts);
        // The dependency was idle for the longest time, and stays.
        let (reserves, evicts) = plan(&shown);
        assert_eq!(reserves, [("big", 60)]);
        assert_eq!(evicts, [("new", 30)]);
        assert_eq!(shown.evict_bytes, 30);
        assert_eq!(loader.ready().await, ["base", "new", "old"]);
        loader.use_once("big").await;
        assert_eq!(loader.ready().await, ["base", "big", "old"]);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_dependency_and_its_dependent_do_not_evict_for_the_same_bytes() {
    paused(|system| async move {
        let resources = vec![
            thing("a", 50, &[]),
            thing("b", 50, &[]),
            thing("base", 40, &[]),
            thing("top", 40, &["base"]),
        ];
        let loader = start(&system, 100, resources).await;
        loader.use_once("a").await;
        sleep(SECOND).await;
        loader.use_once("b").await;
        let shown = loader.if_loaded("top").await;
        assert_eq!(shown.outcome, LoadOutcome::Evicts);
        let (reserves, evicts) = plan(&shown);
        assert_eq!(reserves, [("base", 40), ("top", 40)]);
        assert_eq!(evicts, [("a", 50), ("b", 50)]);
        loader.use_once("top").await;
        assert_eq!(loader.ready().await, ["base", "top"]);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_load_that_needs_memory_in_use_waits() {
    paused(|system| async move {
        let resources = vec![thing("used", 80, &[]), thing("next", 80, &[])];
        let loader = start(&system, 100, resources).await;
        let lease = loader.acquire("used").await.unwrap();
        let shown = loader.if_loaded("next").await;
        assert_eq!((shown.outcome, shown.evicts.len()), (LoadOutcome::Waits, 0));
        drop(lease);
        assert_eq!(loader.if_loaded("next").await.outcome, LoadOutcome::Evicts);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_refusal_says_why() {
    paused(|system| async move {
        let broken = Scripted::new().script([Step::Fail(unavailable("broken"))]);
        let resources = vec![
            Scripted::new().bytes(60).pinned().resource("pinned", &[]),
            thing("next", 80, &[]),
            thing("huge", 500, &[]),
            broken.resource("broken", &[]),
            thing("top", 10, &["broken"]),
        ];
        let loader = start(&system, 100, resources).await;
        loader.budget.set_max_reservable(100);
        loader.use_once("pinned").await;
        loader.acquire("broken").await.unwrap_err();
        for (name, reason, detail, next_try) in [
            (
                "next",
                "short",
                "80 bytes are needed, 40 are free and 0 could be freed",
                None,
            ),
            (
                "huge",
                "never_fits",
                "500 bytes are needed, and there can never be more than 100",
                None,
            ),
            ("broken", "failed", "broken", Some(1.0)),
            (
                "top",
                "failed",
                "broken, which it depends on: broken",
                Some(1.0),
            ),
        ] {
            let shown = loader.if_loaded(name).await;
            assert_eq!(shown.outcome, LoadOutcome::Refused, "{name}");
            let refusal = shown.refusal.unwrap();
            assert_eq!((refusal.reason, &*refusal.detail), (reason, detail));
            assert_eq!(refusal.next_try_in_seconds, next_try, "{name}");
        }
        loader.pressure.publish(Level::Exhausted, None, 0);
        let shown = loader.if_loaded("pinned").await;
        assert_eq!(shown.outcome, LoadOutcome::Loaded);
        let refusal = loader.if_loaded("next").await.refusal.unwrap();
        assert_eq!(
            refusal.detail,
            "80 bytes are needed, 0 are free and 0 could be freed"
        );
        loader.stop_and_check().await;
    });
}

#[test]
fn a_resource_that_grew_is_planned_with_the_bytes_of_its_last_load() {
    paused(|system| async move {
        let resources = vec![
            thing("grows", 30, &[]),
            Scripted::new().bytes(60).pinned().resource("pinned", &[]),
        ];
        let loader = start(&system, 100, resources).await;
        loader.use_once("grows").await;
        loader.budget.set_peak_of_all(90);
        let name = "grows".to_owned();
        loader.handle.ask(Unload { name }, SECOND).await.unwrap();
        loader.use_once("pinned").await;
        let shown = loader.if_loaded("grows").await;
        assert_eq!(shown.outcome, LoadOutcome::Fits);
        assert_eq!(plan(&shown).0, [("grows", 30)]);
        loader.stop_and_check().await;
    });
}
