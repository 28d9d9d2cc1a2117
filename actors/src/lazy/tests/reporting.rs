//! What operators see of the loader and of each resource.

use serde_json::json;
use tokio::time::sleep;

use super::super::{
    Config, EvictionReason, HitRates, LoaderStatus, Preload, ReadLoader, UnknownResource,
};
use super::scripted::{Scripted, Step, unavailable};
use super::test_loader::{TestLoader, config, paused};
use super::{MINUTE, SECOND};
use crate::kernel::Resource;
use crate::lazy::PolicyKind;

fn with_policy(policy: PolicyKind) -> Config {
    Config { policy, ..config() }
}

fn next_evictions(status: &LoaderStatus) -> Vec<(&str, EvictionReason, u64)> {
    let next = status.next_evictions.iter();
    next.map(|next| (&*next.name, next.reason, next.bytes))
        .collect()
}

#[test]
fn a_resource_shows_what_it_needs_and_what_needs_it() {
    paused(|system| async move {
        let thing = || Scripted::new();
        let resources = vec![
            thing().resource("base", &[]),
            thing().resource("left", &["base"]),
            thing().resource("right", &["base"]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        let base = loader.status("base").await;
        assert_eq!((base.depends_on.len(), base.leases), (0, 0));
        assert_eq!(base.dependents, ["left", "right"]);
        let left = loader.status("left").await;
        assert_eq!(
            (&*left.depends_on, left.dependents.len()),
            (&["base".to_owned()][..], 0)
        );
        loader.stop_and_check().await;
    });
}

#[test]
fn until_memory_is_read_the_measured_bytes_are_those_of_the_load() {
    paused(|system| async move {
        let thing = Scripted::new().bytes(40).measured(30);
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        loader.budget.set_unread(true);
        let measured = async || loader.status("thing").await.measured_bytes;
        assert_eq!(measured().await, 0);
        loader.use_once("thing").await;
        assert_eq!(measured().await, 30);
        loader.budget.set_unread(false);
        assert_eq!(measured().await, 30);
        loader.evict_idle(30).await;
        assert_eq!(measured().await, 0);
        loader.stop_and_check().await;
    });
}

#[test]
fn the_ttl_that_is_left_falls_while_a_resource_is_idle() {
    paused(|system| async move {
        let thing = Scripted::new().ttl(10 * SECOND).resource("thing", &[]);
        let pinned = Scripted::new().ttl(10 * SECOND).pinned();
        let resources = vec![thing, pinned.resource("pinned", &[])];
        let loader = TestLoader::start(&system, 100, resources).await;
        let ttl = async |name: &str| {
            let status = loader.status(name).await;
            (status.ttl_seconds, status.ttl_left_seconds)
        };
        assert_eq!(ttl("thing").await, (Some(10.0), None));
        let lease = loader.acquire("thing").await.unwrap();
        assert_eq!(ttl("thing").await, (Some(10.0), None));
        drop(lease);
        assert_eq!(ttl("thing").await, (Some(10.0), Some(10.0)));
        sleep(4 * SECOND).await;
        let (_, left) = ttl("thing").await;
        assert!(left.is_some_and(|left| (5.99..=6.0).contains(&left)));
        loader.use_once("pinned").await;
        assert_eq!(ttl("pinned").await, (Some(10.0), None));
        loader.stop_and_check().await;
    });
}

#[test]
fn a_failure_shows_its_cause_and_the_next_try() {
    paused(|system| async move {
        let broken = Scripted::new().script([Step::Fail(unavailable("broken"))]);
        let resources = vec![broken.resource("thing", &[])];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.acquire("thing").await.unwrap_err();
        let status = serde_json::to_value(loader.status("thing").await).unwrap();
        assert_eq!(status["phase"], "failed");
        assert_eq!(status["failures_total"], 1);
        assert_eq!(status["last_error"], "broken");
        assert_eq!(status["next_try_in_seconds"], 1.0);
        assert_eq!(status["load_times"], json!(null), "no load was completed");
        assert_eq!(status["last_use_at"], json!(null));
        loader.stop_and_check().await;
    });
}

#[test]
fn points_in_time_belong_to_one_moment() {
    paused(|system| async move {
        let thing = Scripted::new().resource("thing", &[]);
        let loader = TestLoader::start(&system, 100, vec![thing]).await;
        loader.use_once("thing").await;
        sleep(MINUTE).await;
        let status = serde_json::to_value(loader.read(None).await).unwrap();
        let at =
            |value: &serde_json::Value| humantime::parse_rfc3339(value.as_str().unwrap()).unwrap();
        let (now, thing) = (at(&status["at"]), &status["resources"][0]);
        let ago = |value| now.duration_since(at(value)).unwrap().as_millis();
        assert!((60_000..60_010).contains(&ago(&thing["phase_since_at"])));
        assert!((60_000..60_010).contains(&ago(&thing["last_use_at"])));
        // The load took 100 ms.
        assert!((60_100..60_120).contains(&ago(&status["started_at"])));
        loader.stop_and_check().await;
    });
}

#[test]
fn the_hit_rate_counts_users_and_not_the_loads_of_dependents_or_preloads() {
    paused(|system| async move {
        let resources = vec![
            Scripted::new().resource("base", &[]),
            Scripted::new().resource("top", &["base"]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        assert_eq!(loader.read(None).await.hit_rate, HitRates::default());
        let name = "base".to_owned();
        loader
            .handle
            .ask(Preload { name }, MINUTE)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(loader.read(None).await.hit_rate, HitRates::default());
        // A miss. Its load finds the dependency ready.
        loader.use_once("top").await;
        let rate = loader.read(None).await.hit_rate;
        assert_eq!(
            (rate.since_start, rate.last_1_minute),
            (Some(0.0), Some(0.0))
        );
        assert_eq!(loader.status("base").await.counts.hits, 1);
        loader.use_once("top").await;
        assert_eq!(loader.read(None).await.hit_rate.last_1_minute, Some(0.5));
        sleep(2 * MINUTE).await;
        let rate = loader.read(None).await.hit_rate;
        assert_eq!((rate.last_1_minute, rate.last_5_minutes), (None, Some(0.5)));
        loader.stop_and_check().await;
    });
}

#[test]
fn the_next_evictions_are_what_an_eviction_then_takes() {
    for (policy, reason) in [
        (PolicyKind::Lru, EvictionReason::LeastRecentlyUsed),
        (PolicyKind::Gdsf, EvictionReason::LeastReloadTimePerByte),
    ] {
        paused(|system| async move {
            let thing = |bytes| Scripted::new().bytes(bytes);
            let resources = vec![
                thing(10).resource("base", &[]),
                thing(20).resource("top", &["base"]),
                thing(30).resource("other", &[]),
                thing(5).resource("used", &[]),
                thing(5).pinned().resource("pinned", &[]),
            ];
            let config = with_policy(policy);
            let loader = TestLoader::start_with(&system, config, 100, resources).await;
            for name in ["other", "top", "pinned"] {
                loader.use_once(name).await;
                sleep(SECOND).await;
            }
            let lease = loader.acquire("used").await.unwrap();
            let status = loader.read(None).await;
            let expected = [
                ("other", reason, 30),
                ("top", reason, 20),
                ("base", EvictionReason::AfterItsDependents, 10),
            ];
            assert_eq!(next_evictions(&status), expected, "{policy:?}");
            for name in ["used", "pinned"] {
                assert_eq!(loader.status(name).await.eviction_rank, None, "{name}");
            }
            for (name, ..) in expected {
                let [evicted] = &loader.evict_idle(1).await[..] else {
                    panic!("not exactly one eviction");
                };
                assert_eq!(evicted.what, name, "{policy:?}");
            }
            drop(lease);
            loader.stop_and_check().await;
        });
    }
}

#[test]
fn at_most_twenty_evictions_are_listed_and_all_have_a_rank() {
    paused(|system| async move {
        let thing = |n: u32| Scripted::new().resource(&format!("thing-{n}"), &[]);
        let resources: Vec<Resource> = (0..30).map(thing).collect();
        let loader = TestLoader::start(&system, 1000, resources).await;
        for n in 0..30 {
            loader.use_once(&format!("thing-{n}")).await;
        }
        let status = loader.read(None).await;
        assert_eq!(
            (status.resources.len(), status.next_evictions.len()),
            (30, 20)
        );
        let mut ranks: Vec<_> = status.resources.iter().map(|it| it.eviction_rank).collect();
        let rank = |name: &str| {
            status
                .resources
                .iter()
                .find(|it| it.name == name)?
                .eviction_rank
        };
        for (next, place) in status.next_evictions.iter().zip(1..) {
            assert_eq!(rank(&next.name), Some(place), "{}", next.name);
        }
        ranks.sort_unstable();
        assert_eq!(ranks, (1..=30).map(Some).collect::<Vec<_>>());
        loader.stop_and_check().await;
    });
}

#[test]
fn an_unknown_name_is_refused() {
    paused(|system| async move {
        let loader = TestLoader::start(&system, 100, Vec::new()).await;
        let if_loaded = Some("nothing".to_owned());
        let refused = loader
            .handle
            .ask(ReadLoader { if_loaded }, MINUTE)
            .await
            .unwrap();
        assert_eq!(refused.unwrap_err(), UnknownResource("nothing".to_owned()));
        loader.stop_and_check().await;
    });
}
