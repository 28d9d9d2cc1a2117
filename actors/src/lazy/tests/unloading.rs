//! Unloads by TTL and on request, and what delays them.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::{advance, sleep};

use super::super::{Phase, Unload};
use super::scripted::{Log, Scripted, unavailable};
use super::test_loader::{TestLoader, acquire, eventually, paused};
use super::{MINUTE, SECOND};
use crate::kernel::{
    ChildSpec, Load, LoadContext, LoadError, Loaded, Resource, Restart, SupervisorHandle,
    SupervisorSpec,
};

fn unload(name: &str) -> Unload {
    Unload {
        name: name.to_owned(),
    }
}

#[test]
fn a_resource_that_is_idle_for_its_ttl_is_unloaded_and_a_use_delays_that() {
    paused(|system| async move {
        let thing = Scripted::new().ttl(10 * SECOND);
        let stays = Scripted::new();
        let resources = vec![thing.resource("thing", &[]), stays.resource("stays", &[])];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("stays").await;
        loader.use_once("thing").await;
        for _ in 0..3 {
            sleep(9 * SECOND).await;
            loader.use_once("thing").await;
        }
        assert_eq!(thing.loads(), 1);
        sleep(9 * SECOND).await;
        assert_eq!(loader.ready().await, ["stays", "thing"]);
        sleep(2 * SECOND).await;
        assert_eq!(loader.ready().await, ["stays"]);
        assert_eq!(loader.status("thing").await.counts.evictions["ttl"], 1);
        assert_eq!(loader.budget.used(), 10);
        loader.stop_and_check().await;
    });
}

#[test]
fn the_ttl_counts_from_the_end_of_the_last_use() {
    paused(|system| async move {
        let thing = Scripted::new().ttl(10 * SECOND);
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let lease = loader.acquire("thing").await.unwrap();
        sleep(MINUTE).await;
        assert_eq!(
            loader.ready().await,
            ["thing"],
            "it does not expire while in use"
        );
        drop(lease);
        sleep(9 * SECOND).await;
        assert_eq!(loader.ready().await, ["thing"]);
        sleep(2 * SECOND).await;
        assert!(loader.ready().await.is_empty());
        loader.stop_and_check().await;
    });
}

#[test]
fn dependencies_outlive_their_dependents_by_their_own_ttl() {
    paused(|system| async move {
        let base = Scripted::new().ttl(10 * SECOND);
        let top = Scripted::new().ttl(MINUTE);
        let resources = vec![base.resource("base", &[]), top.resource("top", &["base"])];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("top").await;
        sleep(59 * SECOND).await;
        assert_eq!(loader.ready().await, ["base", "top"]);
        sleep(2 * SECOND).await;
        assert_eq!(loader.ready().await, ["base"]);
        sleep(10 * SECOND).await;
        assert!(loader.ready().await.is_empty());
        loader.stop_and_check().await;
    });
}

#[test]
fn pinned_resources_have_no_ttl_but_can_be_unloaded_on_request() {
    paused(|system| async move {
        let thing = Scripted::new().ttl(SECOND).pinned();
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        loader.use_once("thing").await;
        sleep(MINUTE).await;
        assert!(loader.evict_idle(u64::MAX).await.is_empty());
        assert_eq!(loader.ready().await, ["thing"]);
        loader.handle.ask(unload("thing"), MINUTE).await.unwrap();
        assert_eq!(loader.budget.used(), 0);
        loader.stop_and_check().await;
    });
}

#[test]
fn an_unload_waits_for_leases_and_new_callers_wait_for_the_unload() {
    paused(|system| async move {
        let log = Log::default();
        let thing = Scripted::new().log(&log);
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let lease = loader.acquire("thing").await.unwrap();
        let handle = loader.handle.clone();
        let unloading =
            actix_rt::spawn(async move { handle.ask(unload("thing"), MINUTE).await.unwrap() });
        eventually(async || loader.status("thing").await.phase == Phase::Draining).await;
        let handle = loader.handle.clone();
        let late = actix_rt::spawn(async move { acquire(&handle, "thing").await.unwrap() });
        eventually(async || loader.status("thing").await.waiters == 1).await;
        sleep(5 * SECOND).await;
        assert_eq!(*log.lock().unwrap(), ["load thing", "loaded thing"]);
        drop(lease);
        unloading.await.unwrap();
        let lease = late.await.unwrap();
        assert_eq!(thing.loads(), 2);
        drop(lease);
        loader.stop_and_check().await;
    });
}

#[test]
fn an_unload_unloads_the_dependents_first() {
    paused(|system| async move {
        let log = Log::default();
        let base = Scripted::new().log(&log);
        let top = Scripted::new().log(&log);
        let resources = vec![base.resource("base", &[]), top.resource("top", &["base"])];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("top").await;
        log.lock().unwrap().clear();
        loader.handle.ask(unload("base"), MINUTE).await.unwrap();
        let order = ["unload top", "unloaded top", "unload base", "unloaded base"];
        assert_eq!(*log.lock().unwrap(), order);
        loader.stop_and_check().await;
    });
}

#[test]
fn an_unload_during_a_load_comes_after_its_waiters_have_leases() {
    paused(|system| async move {
        let thing = Scripted::new().load_time(SECOND);
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let waiting = async {
            drop(loader.acquire("thing").await.unwrap());
        };
        let unloading = async {
            advance(SECOND / 2).await;
            loader.handle.ask(unload("thing"), MINUTE).await.unwrap();
        };
        tokio::join!(waiting, unloading);
        assert_eq!(loader.budget.used(), 0);
        assert_eq!(loader.status("thing").await.phase, Phase::Cold);
        loader.stop_and_check().await;
    });
}

#[test]
fn an_unload_of_a_cold_or_an_unknown_resource_ends_at_once() {
    paused(|system| async move {
        let thing = Scripted::new();
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        for name in ["thing", "nothing"] {
            loader.handle.ask(unload(name), SECOND).await.unwrap();
        }
        loader.stop_and_check().await;
    });
}

#[test]
fn an_eviction_of_a_hundred_ends_after_all_are_unloaded() {
    const RESOURCES: usize = 100;
    paused(|system| async move {
        let branch = SupervisorSpec::new("things");
        let supervisor = branch.handle();
        let root = system.start(branch).await;
        let resources = (0..RESOURCES).map(|index| Supervised::resource(index, &supervisor));
        let loader = TestLoader::start(&system, 1000, resources.collect()).await;
        for index in 0..RESOURCES {
            loader.use_once(&Supervised::name(index)).await;
        }
        assert_eq!(loader.evict_idle(u64::MAX).await.len(), RESOURCES);
        let tree = system.tree().snapshot().await;
        let things = tree.iter().find(|node| node.path == "things").unwrap();
        assert!(things.children.is_empty());
        loader.stop_and_check().await;
        root.stop().await;
    });
}

/// A resource that is a child of a supervisor, as models are.
struct Supervised {
    name: String,
    supervisor: SupervisorHandle,
}

impl Supervised {
    fn name(index: usize) -> String {
        format!("thing-{index}")
    }

    fn resource(index: usize, supervisor: &SupervisorHandle) -> Resource {
        let name = Self::name(index);
        let supervisor = supervisor.clone();
        Resource {
            name: name.clone(),
            kind: "supervised",
            depends_on: Vec::new(),
            ttl: None,
            pinned: false,
            estimated_bytes: 10,
            load: Arc::new(Self { name, supervisor }),
        }
    }
}

impl Load for Supervised {
    fn load(&self, _: LoadContext) -> BoxFuture<'static, Result<Loaded, LoadError>> {
        let child = ChildSpec::supervisor(SupervisorSpec::new(&self.name));
        let supervisor = self.supervisor.clone();
        async move {
            let started = supervisor
                .start_child(child.restart(Restart::Temporary))
                .await;
            let ended = started
                .map_err(|error| unavailable(&error.to_string()))?
                .ended();
            Ok(Loaded {
                bytes: 10,
                died: ended.map(|_| unavailable("it ended")).boxed(),
            })
        }
        .boxed()
    }

    fn unload(&self) -> BoxFuture<'static, ()> {
        let (supervisor, name) = (self.supervisor.clone(), self.name.clone());
        async move { drop(supervisor.terminate_child(&name).await) }.boxed()
    }
}

#[test]
fn a_load_without_a_measurement_ends_in_the_ledger() {
    paused(|system| async move {
        let thing = Scripted::new().measured(0).resource("thing", &[]);
        let loader = TestLoader::start(&system, 100, vec![thing]).await;
        loader.use_once("thing").await;
        assert_eq!((loader.budget.used(), loader.budget.loading()), (10, 0));
        loader.stop_and_check().await;
    });
}
