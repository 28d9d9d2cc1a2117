//! Ways out: TTL, unload on request; and what holds a resource back.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::{advance, sleep};

use super::super::{Evict, Unload, UnloadError, Unloaded};
use super::double::{
    Log, MINUTE, SECOND, Scripted, TestLoader, acquire, eventually, paused, unavailable,
};
use crate::kernel::{
    ChildSpec, Load, LoadContext, LoadError, Loaded, Resource, Restart, SupervisorHandle,
    SupervisorSpec,
};
use crate::lazy::phase::Phase;

fn unload(name: &str) -> Unload {
    Unload {
        name: name.to_owned(),
    }
}

#[test]
fn what_is_idle_for_its_ttl_leaves_and_use_puts_it_off() {
    paused(|system| async move {
        let thing = Scripted::new().ttl(10 * SECOND);
        let stays = Scripted::new();
        let resources = vec![thing.resource("thing", &[]), stays.resource("stays", &[])];
        let test = TestLoader::open(&system, 100, resources).await;
        test.touch("stays").await;
        test.touch("thing").await;
        for _ in 0..3 {
            sleep(9 * SECOND).await;
            test.touch("thing").await;
        }
        assert_eq!(thing.loads(), 1);
        sleep(9 * SECOND).await;
        assert_eq!(test.ready().await, ["stays", "thing"]);
        sleep(2 * SECOND).await;
        assert_eq!(test.ready().await, ["stays"]);
        assert_eq!(test.status("thing").await.evictions["ttl"], 1);
        assert_eq!(test.ledger.used(), 10);
        test.close().await;
    });
}

#[test]
fn the_ttl_counts_from_the_end_of_the_last_use() {
    paused(|system| async move {
        let thing = Scripted::new().ttl(10 * SECOND);
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        let lease = test.acquire("thing").await.unwrap();
        sleep(MINUTE).await;
        assert_eq!(test.ready().await, ["thing"], "in use it has no end");
        drop(lease);
        sleep(9 * SECOND).await;
        assert_eq!(test.ready().await, ["thing"]);
        sleep(2 * SECOND).await;
        assert!(test.ready().await.is_empty());
        test.close().await;
    });
}

#[test]
fn dependencies_outlive_what_needs_them_by_their_own_ttl() {
    paused(|system| async move {
        let base = Scripted::new().ttl(10 * SECOND);
        let top = Scripted::new().ttl(MINUTE);
        let resources = vec![base.resource("base", &[]), top.resource("top", &["base"])];
        let test = TestLoader::open(&system, 100, resources).await;
        test.touch("top").await;
        sleep(59 * SECOND).await;
        assert_eq!(test.ready().await, ["base", "top"]);
        sleep(2 * SECOND).await;
        assert_eq!(test.ready().await, ["base"]);
        sleep(10 * SECOND).await;
        assert!(test.ready().await.is_empty());
        test.close().await;
    });
}

#[test]
fn pinned_resources_have_no_ttl_but_can_be_unloaded_on_request() {
    paused(|system| async move {
        let thing = Scripted::new().ttl(SECOND).pinned();
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        test.touch("thing").await;
        sleep(MINUTE).await;
        let evicted = test
            .loader
            .ask(Evict { bytes: u64::MAX }, MINUTE)
            .await
            .unwrap();
        assert!(evicted.names.is_empty());
        assert_eq!(test.ready().await, ["thing"]);
        let unloaded = test.loader.ask(unload("thing"), MINUTE).await.unwrap();
        assert_eq!(unloaded, Ok(Unloaded { bytes: 10 }));
        test.close().await;
    });
}

#[test]
fn an_unload_waits_for_leases_and_new_callers_wait_for_the_unload() {
    paused(|system| async move {
        let log = Log::default();
        let thing = Scripted::new().log(&log);
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        let lease = test.acquire("thing").await.unwrap();
        let loader = test.loader.clone();
        let unloading =
            actix_rt::spawn(async move { loader.ask(unload("thing"), MINUTE).await.unwrap() });
        eventually(async || test.status("thing").await.phase == Phase::Draining).await;
        let loader = test.loader.clone();
        let late = actix_rt::spawn(async move { acquire(&loader, "thing").await.unwrap() });
        eventually(async || test.status("thing").await.waiters == 1).await;
        sleep(5 * SECOND).await;
        assert_eq!(*log.lock().unwrap(), ["load thing", "loaded thing"]);
        drop(lease);
        assert_eq!(unloading.await.unwrap(), Ok(Unloaded { bytes: 10 }));
        let lease = late.await.unwrap();
        assert_eq!(thing.loads(), 2);
        drop(lease);
        test.close().await;
    });
}

#[test]
fn an_unload_takes_along_what_depends_on_it_and_that_first() {
    paused(|system| async move {
        let log = Log::default();
        let base = Scripted::new().log(&log);
        let top = Scripted::new().log(&log);
        let resources = vec![base.resource("base", &[]), top.resource("top", &["base"])];
        let test = TestLoader::open(&system, 100, resources).await;
        test.touch("top").await;
        log.lock().unwrap().clear();
        test.loader
            .ask(unload("base"), MINUTE)
            .await
            .unwrap()
            .unwrap();
        let order = ["unload top", "unloaded top", "unload base", "unloaded base"];
        assert_eq!(*log.lock().unwrap(), order);
        test.close().await;
    });
}

#[test]
fn an_unload_during_the_load_serves_the_waiting_and_then_unloads() {
    paused(|system| async move {
        let thing = Scripted::new().takes(SECOND);
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        let waiting = async {
            drop(test.acquire("thing").await.unwrap());
        };
        let unloading = async {
            advance(SECOND / 2).await;
            test.loader.ask(unload("thing"), MINUTE).await.unwrap()
        };
        let ((), unloaded) = tokio::join!(waiting, unloading);
        assert_eq!(unloaded, Ok(Unloaded { bytes: 10 }));
        assert_eq!(test.status("thing").await.phase, Phase::Cold);
        test.close().await;
    });
}

#[test]
fn what_is_not_loaded_is_unloaded_at_once_and_what_is_unknown_is_not_found() {
    paused(|system| async move {
        let thing = Scripted::new();
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        let cold = test.loader.ask(unload("thing"), SECOND).await.unwrap();
        assert_eq!(cold, Ok(Unloaded { bytes: 0 }));
        let unknown = test.loader.ask(unload("nothing"), SECOND).await.unwrap();
        assert_eq!(unknown, Err(UnloadError::NotFound("nothing".to_owned())));
        test.close().await;
    });
}

#[test]
fn a_hundred_that_go_at_once_are_all_unloaded_before_anybody_is_told_so() {
    const RESOURCES: usize = 100;
    paused(|system| async move {
        let branch = SupervisorSpec::new("things");
        let supervisor = branch.handle();
        let root = system.start(branch).await;
        let offers = (0..RESOURCES).map(|index| Supervised::offer(index, &supervisor));
        let test = TestLoader::open(&system, 1000, offers.collect()).await;
        for index in 0..RESOURCES {
            test.touch(&Supervised::name(index)).await;
        }
        let evict = Evict { bytes: u64::MAX };
        let evicted = test.loader.ask(evict, MINUTE).await.unwrap();
        assert_eq!(evicted.names.len(), RESOURCES);
        let roots = system.tree().snapshot().await;
        let things = roots.iter().find(|root| root.path == "things");
        assert_eq!(things.unwrap().children.len(), 0);
        test.close().await;
        root.stop().await;
    });
}

/// A thing that is a child of a supervisor, as models are.
struct Supervised {
    name: String,
    supervisor: SupervisorHandle,
}

impl Supervised {
    fn name(index: usize) -> String {
        format!("thing-{index}")
    }

    fn offer(index: usize, supervisor: &SupervisorHandle) -> Resource {
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
fn a_load_that_measures_nothing_is_over_all_the_same() {
    paused(|system| async move {
        let thing = Scripted::new().measured(0).resource("thing", &[]);
        let test = TestLoader::open(&system, 100, vec![thing]).await;
        test.touch("thing").await;
        assert_eq!((test.ledger.used(), test.ledger.loading()), (10, 0));
        test.close().await;
    });
}
