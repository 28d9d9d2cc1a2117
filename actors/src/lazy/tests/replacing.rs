//! Reloads of resources that have changed.

use super::super::{AcquireError, Deregister, Phase, Register, Reload, SetPinned, Unload};
use super::scripted::{Scripted, Step, unavailable};
use super::test_loader::{TestLoader, acquire, config, eventually, paused};
use super::{MINUTE, SECOND, without_eviction};
use crate::kernel::Resource;

async fn register(loader: &TestLoader, resource: Resource) {
    let registered = loader.handle.ask(Register { resource }, SECOND).await;
    registered.unwrap().unwrap();
}

async fn reload(loader: &TestLoader, name: &str) -> Result<(), AcquireError> {
    let name = name.to_owned();
    loader.handle.ask(Reload { name }, MINUTE).await.unwrap()
}

/// Begins a reload of `thing`, and waits until its load runs.
async fn begin_reload(
    loader: &TestLoader,
    new: &Scripted,
) -> actix_rt::task::JoinHandle<Result<(), AcquireError>> {
    let before = new.loads();
    let handle = loader.handle.clone();
    let reloading = actix_rt::spawn(async move {
        let name = "thing".to_owned();
        handle.ask(Reload { name }, MINUTE).await.unwrap()
    });
    eventually(async || new.loads() > before).await;
    reloading
}

/// A loader that has loaded `old` as `thing`, for which `new` is registered.
async fn with_loaded(
    system: &crate::kernel::testing::TestSystem,
    old: &Scripted,
    new: &Scripted,
) -> TestLoader {
    let loader = TestLoader::start(system, 100, vec![old.resource("thing", &[])]).await;
    loader.use_once("thing").await;
    register(&loader, new.resource("thing", &[])).await;
    loader
}

#[test]
fn the_old_one_serves_until_the_new_one_is_loaded_and_its_users_are_not_disturbed() {
    paused(|system| async move {
        let (old, new) = (Scripted::new().bytes(10), Scripted::new().bytes(20));
        let loader = with_loaded(&system, &old, &new).await;
        let earlier = loader.acquire("thing").await.unwrap();
        let reloading = begin_reload(&loader, &new).await;
        let meanwhile = loader.acquire("thing").await.unwrap();
        assert!(std::sync::Arc::ptr_eq(
            &meanwhile.resource(),
            &earlier.resource()
        ));
        assert_eq!(loader.budget.used(), 30);
        reloading.await.unwrap().unwrap();
        let later = loader.acquire("thing").await.unwrap();
        assert!(!std::sync::Arc::ptr_eq(
            &later.resource(),
            &earlier.resource()
        ));
        assert!(old.may_be_loaded(), "it has users");
        assert_eq!(loader.status("thing (old)").await.phase, Phase::Draining);
        drop(earlier);
        assert!(old.may_be_loaded(), "it has a user");
        drop(meanwhile);
        eventually(async || !old.may_be_loaded()).await;
        drop(later);
        let status = loader.status("thing").await;
        assert_eq!((status.phase, status.reserved_bytes), (Phase::Ready, 20));
        assert_eq!((status.counts.loads, status.counts.hits), (2, 3));
        eventually(async || loader.read(None).await.resources.len() == 1).await;
        assert_eq!((old.loads(), new.loads()), (1, 1));
        loader.stop_and_check().await;
    });
}

#[test]
fn the_old_one_stays_if_the_new_one_cannot_be_loaded() {
    paused(|system| async move {
        let old = Scripted::new();
        let new = Scripted::new().script([Step::Fail(unavailable("broken")), Step::Panic]);
        let loader = with_loaded(&system, &old, &new).await;
        for reason in ["broken", "panicked"] {
            let error = reload(&loader, "thing").await.unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            loader.use_once("thing").await;
            let status = loader.status("thing").await;
            assert_eq!(status.phase, Phase::Ready);
            assert!(status.last_error.unwrap().contains(reason));
            assert_eq!(loader.read(None).await.resources.len(), 1);
            assert_eq!(loader.budget.used(), 10);
        }
        let counts = loader.status("thing").await.counts;
        assert_eq!((counts.loads, counts.failures, counts.misses), (3, 2, 1));
        // A repaired one is loaded.
        reload(&loader, "thing").await.unwrap();
        assert_eq!((old.loads(), new.loads()), (1, 3));
        eventually(async || !old.may_be_loaded()).await;
        loader.stop_and_check().await;
    });
}

#[test]
fn the_old_one_is_not_evicted_for_the_new_one() {
    paused(|system| async move {
        let (old, new) = (Scripted::new().bytes(60), Scripted::new().bytes(60));
        let other = Scripted::new().bytes(40);
        let resources = vec![old.resource("thing", &[]), other.resource("other", &[])];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("other").await;
        loader.use_once("thing").await;
        register(&loader, new.resource("thing", &[])).await;
        let refused = reload(&loader, "thing").await.unwrap_err();
        assert!(
            matches!(refused, AcquireError::NeverFits(_) | AcquireError::Short(_)),
            "{refused}"
        );
        assert_eq!(loader.ready().await, ["other", "thing"]);
        let smaller = Scripted::new().bytes(40);
        register(&loader, smaller.resource("thing", &[])).await;
        reload(&loader, "thing").await.unwrap();
        assert_eq!((new.loads(), smaller.loads()), (0, 1));
        assert!(!other.may_be_loaded(), "it is evicted for the new one");
        loader.stop_and_check().await;
    });
}

#[test]
fn the_old_one_does_not_expire_during_the_load_of_the_new_one() {
    paused(|system| async move {
        let old = Scripted::new().ttl(SECOND);
        let new = Scripted::new().load_time(5 * SECOND);
        let loader = with_loaded(&system, &old, &new).await;
        let reloading = begin_reload(&loader, &new).await;
        tokio::time::sleep(3 * SECOND).await;
        assert_eq!(loader.ready().await, ["thing"]);
        reloading.await.unwrap().unwrap();
        assert_eq!((old.loads(), new.loads()), (1, 1));
        loader.stop_and_check().await;
    });
}

#[test]
fn reloads_at_the_same_time_share_one_load() {
    paused(|system| async move {
        let (old, new) = (Scripted::new(), Scripted::new());
        let loader = with_loaded(&system, &old, &new).await;
        let first = begin_reload(&loader, &new).await;
        reload(&loader, "thing").await.unwrap();
        first.await.unwrap().unwrap();
        reload(&loader, "thing").await.unwrap();
        assert_eq!(new.loads(), 1, "what is registered is loaded");
        loader.stop_and_check().await;
    });
}

#[test]
fn what_is_registered_during_a_reload_is_loaded_next() {
    paused(|system| async move {
        let (old, new, newest) = (Scripted::new(), Scripted::new(), Scripted::new());
        let loader = with_loaded(&system, &old, &new).await;
        let reloading = begin_reload(&loader, &new).await;
        register(&loader, newest.resource("thing", &[])).await;
        reloading.await.unwrap().unwrap();
        assert_eq!((new.loads(), newest.loads()), (1, 1));
        eventually(async || !old.may_be_loaded() && !new.may_be_loaded()).await;
        assert!(newest.may_be_loaded());
        loader.stop_and_check().await;
    });
}

#[test]
fn users_get_the_new_one_when_the_old_one_dies_during_the_reload() {
    paused(|system| async move {
        let old = Scripted::new().unload_time(10 * SECOND);
        for old in [Scripted::new(), old] {
            let new = Scripted::new().load_time(3 * SECOND);
            let loader = with_loaded(&system, &old, &new).await;
            let reloading = begin_reload(&loader, &new).await;
            old.die("crashed");
            tokio::time::sleep(2 * SECOND).await;
            let handle = loader.handle.clone();
            let user = actix_rt::spawn(async move { acquire(&handle, "thing").await });
            reloading.await.unwrap().unwrap();
            drop(user.await.unwrap().unwrap());
            assert!(new.may_be_loaded());
            eventually(async || !old.may_be_loaded()).await;
            assert_eq!(loader.ready().await, ["thing"]);
            loader.stop_and_check().await;
        }
    });
}

#[test]
fn an_unload_during_a_reload_unloads_both() {
    paused(|system| async move {
        let (old, new) = (Scripted::new(), Scripted::new());
        let loader = with_loaded(&system, &old, &new).await;
        let reloading = begin_reload(&loader, &new).await;
        let name = "thing".to_owned();
        loader.handle.ask(Unload { name }, MINUTE).await.unwrap();
        reloading.await.unwrap().unwrap();
        eventually(async || !new.may_be_loaded()).await;
        assert!(!old.may_be_loaded());
        assert_eq!(loader.budget.used(), 0);
        loader.use_once("thing").await;
        assert_eq!((old.loads(), new.loads()), (1, 2));
        loader.stop_and_check().await;
    });
}

#[test]
fn a_resource_that_is_deregistered_during_its_reload_is_gone() {
    paused(|system| async move {
        let (old, new) = (Scripted::new(), Scripted::new());
        let loader = with_loaded(&system, &old, &new).await;
        let _reloading = begin_reload(&loader, &new).await;
        let name = "thing".to_owned();
        let gone = loader.handle.ask(Deregister { name }, MINUTE).await;
        gone.unwrap().unwrap();
        eventually(async || loader.read(None).await.resources.is_empty()).await;
        assert!(!old.may_be_loaded() && !new.may_be_loaded());
        loader.stop_and_check().await;
    });
}

#[test]
fn a_stop_during_a_reload_unloads_both() {
    paused(|system| async move {
        let old = Scripted::new();
        let new = Scripted::new().load_time(5 * SECOND);
        let loader = with_loaded(&system, &old, &new).await;
        let reloading = begin_reload(&loader, &new).await;
        loader.stop_and_check().await;
        reloading.abort();
        assert!(!old.may_be_loaded() && !new.may_be_loaded());
    });
}

#[test]
fn a_reload_of_what_is_not_loaded_loads_it_and_forgets_its_failure() {
    paused(|system| async move {
        let thing = Scripted::new().script([Step::Fail(unavailable("not yet"))]);
        let config = config();
        let resources = vec![thing.resource("thing", &[])];
        let loader = TestLoader::start_with(&system, config, 100, resources).await;
        loader.acquire("thing").await.unwrap_err();
        loader.acquire("thing").await.unwrap_err();
        reload(&loader, "thing").await.unwrap();
        reload(&loader, "thing").await.unwrap();
        assert_eq!(thing.loads(), 2);
        let unknown = reload(&loader, "nothing").await.unwrap_err();
        assert!(matches!(unknown, AcquireError::NotFound(_)));
        loader.stop_and_check().await;
    });
}

#[test]
fn what_is_registered_after_the_old_one_died_during_a_reload_is_loaded_next() {
    paused(|system| async move {
        let (old, newest) = (Scripted::new(), Scripted::new());
        let new = Scripted::new().load_time(3 * SECOND);
        let loader = with_loaded(&system, &old, &new).await;
        let reloading = begin_reload(&loader, &new).await;
        old.die("crashed");
        eventually(async || !old.may_be_loaded()).await;
        register(&loader, newest.resource("thing", &[])).await;
        reloading.await.unwrap().unwrap();
        assert!(newest.may_be_loaded());
        loader.stop_and_check().await;
    });
}

#[test]
fn a_pin_during_a_reload_is_kept() {
    paused(|system| async move {
        let (old, new) = (Scripted::new(), Scripted::new().ttl(SECOND));
        let loader = with_loaded(&system, &old, &new).await;
        let reloading = begin_reload(&loader, &new).await;
        let pin = SetPinned {
            name: "thing".to_owned(),
            pinned: true,
        };
        loader.handle.ask(pin, SECOND).await.unwrap().unwrap();
        reloading.await.unwrap().unwrap();
        assert!(loader.status("thing").await.pinned);
        tokio::time::sleep(3 * SECOND).await;
        assert!(new.may_be_loaded());
        loader.stop_and_check().await;
    });
}

#[test]
fn after_a_failed_reload_callers_get_what_was_registered_meanwhile() {
    paused(|system| async move {
        for old_dies in [false, true] {
            let (old, newest) = (Scripted::new(), Scripted::new());
            let new = Scripted::new().load_time(3 * SECOND);
            let new = new.script([Step::Fail(unavailable("broken"))]);
            let loader = with_loaded(&system, &old, &new).await;
            let first = begin_reload(&loader, &new).await;
            if old_dies {
                old.die("crashed");
                eventually(async || !old.may_be_loaded()).await;
            }
            register(&loader, newest.resource("thing", &[])).await;
            reload(&loader, "thing").await.unwrap();
            first.await.unwrap().unwrap();
            assert_eq!((old.loads(), new.loads(), newest.loads()), (1, 1, 1));
            assert!(newest.may_be_loaded());
            assert_eq!(loader.status("thing").await.counts.failures, 1);
            eventually(async || loader.read(None).await.resources.len() == 1).await;
            assert_eq!(loader.budget.used(), 10);
            loader.stop_and_check().await;
        }
    });
}

#[test]
fn a_reload_may_evict_also_after_the_old_one_that_was_preloaded_without_eviction_has_died() {
    paused(|system| async move {
        for preloads_again in [false, true] {
            let (old, other) = (Scripted::new(), Scripted::new().bytes(60));
            let new = Scripted::new().load_time(3 * SECOND);
            let new = new.script([Step::Fail(unavailable("broken"))]);
            let newest = Scripted::new().bytes(60);
            let resources = vec![old.resource("thing", &[]), other.resource("other", &[])];
            let loader = TestLoader::start(&system, 100, resources).await;
            without_eviction::preload(&loader, "thing").await.unwrap();
            loader.use_once("other").await;
            register(&loader, new.resource("thing", &[])).await;
            let reloading = begin_reload(&loader, &new).await;
            old.die("crashed");
            eventually(async || !old.may_be_loaded()).await;
            register(&loader, newest.resource("thing", &[])).await;
            let (reloaded, preloaded) = tokio::join!(reloading, async {
                match preloads_again {
                    true => without_eviction::preload(&loader, "thing").await,
                    false => Ok(()),
                }
            });
            reloaded.unwrap().unwrap();
            preloaded.unwrap();
            assert_eq!(loader.ready().await, ["thing"]);
            assert!(newest.may_be_loaded() && !other.may_be_loaded());
            loader.stop_and_check().await;
        }
    });
}

#[test]
fn callers_of_a_reload_get_the_failure_of_what_was_registered_last() {
    paused(|system| async move {
        let old = Scripted::new();
        let new = Scripted::new().script([Step::Fail(unavailable("broken"))]);
        let newest = Scripted::new().script([Step::Fail(unavailable("broken again"))]);
        let loader = with_loaded(&system, &old, &new).await;
        let reloading = begin_reload(&loader, &new).await;
        register(&loader, newest.resource("thing", &[])).await;
        let error = reloading.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("broken again"), "{error}");
        assert_eq!((new.loads(), newest.loads()), (1, 1));
        assert_eq!(loader.ready().await, ["thing"], "the old one serves on");
        assert_eq!(old.loads(), 1);
        loader.stop_and_check().await;
    });
}

#[test]
fn callers_of_a_first_load_that_fails_get_what_was_registered_meanwhile() {
    paused(|system| async move {
        let thing = Scripted::new().script([Step::Fail(unavailable("broken"))]);
        let newer = Scripted::new();
        let resources = vec![thing.resource("thing", &[])];
        let loader = TestLoader::start(&system, 100, resources).await;
        let handle = loader.handle.clone();
        let user = actix_rt::spawn(async move { acquire(&handle, "thing").await });
        eventually(async || thing.loads() == 1).await;
        register(&loader, newer.resource("thing", &[])).await;
        drop(user.await.unwrap().unwrap());
        assert_eq!((thing.loads(), newer.loads()), (1, 1));
        assert!(newer.may_be_loaded());
        loader.stop_and_check().await;
    });
}

#[test]
fn after_an_unload_a_failed_reload_loads_nothing_else() {
    paused(|system| async move {
        let (old, newest) = (Scripted::new(), Scripted::new());
        let new = Scripted::new().script([Step::Fail(unavailable("broken"))]);
        let loader = with_loaded(&system, &old, &new).await;
        let reloading = begin_reload(&loader, &new).await;
        register(&loader, newest.resource("thing", &[])).await;
        let name = "thing".to_owned();
        loader.handle.ask(Unload { name }, MINUTE).await.unwrap();
        let error = reloading.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
        assert_eq!((newest.loads(), loader.budget.used()), (0, 0));
        loader.use_once("thing").await;
        assert!(newest.may_be_loaded());
        loader.stop_and_check().await;
    });
}

#[test]
fn the_new_one_takes_over_during_the_unload_of_an_old_one_that_has_died() {
    paused(|system| async move {
        let old = Scripted::new().unload_time(10 * SECOND);
        let new = Scripted::new().bytes(20);
        let loader = with_loaded(&system, &old, &new).await;
        let reloading = begin_reload(&loader, &new).await;
        old.die("crashed");
        reloading.await.unwrap().unwrap();
        assert_eq!(loader.ready().await, ["thing"]);
        loader.use_once("thing").await;
        assert!(old.may_be_loaded(), "its unload is under way");
        assert_eq!(loader.status("thing (old)").await.phase, Phase::Failed);
        assert_eq!(loader.budget.used(), 30);
        eventually(async || loader.read(None).await.resources.len() == 1).await;
        assert!(!old.may_be_loaded());
        loader.use_once("thing").await;
        assert_eq!((new.loads(), loader.budget.used()), (1, 20));
        loader.stop_and_check().await;
    });
}

#[test]
fn an_unload_after_the_death_of_the_old_one_unloads_the_new_one() {
    paused(|system| async move {
        let old = Scripted::new().unload_time(10 * SECOND);
        let new = Scripted::new().load_time(3 * SECOND);
        let loader = with_loaded(&system, &old, &new).await;
        let reloading = begin_reload(&loader, &new).await;
        old.die("crashed");
        eventually(async || loader.status("thing").await.phase == Phase::Failed).await;
        let name = "thing".to_owned();
        loader.handle.ask(Unload { name }, MINUTE).await.unwrap();
        reloading.await.unwrap().unwrap();
        assert!(!old.may_be_loaded() && !new.may_be_loaded());
        assert_eq!((new.loads(), loader.budget.used()), (1, 0));
        loader.stop_and_check().await;
    });
}

#[test]
fn an_unload_waits_for_what_was_to_replace_an_old_one_that_is_gone() {
    paused(|system| async move {
        let old = Scripted::new();
        let new = Scripted::new().load_time(3 * SECOND);
        let loader = with_loaded(&system, &old, &new).await;
        let reloading = begin_reload(&loader, &new).await;
        old.die("crashed");
        eventually(async || !old.may_be_loaded()).await;
        let name = "thing".to_owned();
        loader.handle.ask(Unload { name }, MINUTE).await.unwrap();
        assert!(!new.may_be_loaded());
        reloading.await.unwrap().unwrap();
        loader.stop_and_check().await;
    });
}

#[test]
fn a_reload_that_was_asked_for_after_an_unload_is_done_after_it() {
    paused(|system| async move {
        for fails in [false, true] {
            let first = if fails {
                vec![Step::Fail(unavailable("broken"))]
            } else {
                vec![]
            };
            let old = Scripted::new().load_time(3 * SECOND).script(first);
            let new = Scripted::new();
            let loader = TestLoader::start(&system, 100, vec![old.resource("thing", &[])]).await;
            let (first, name) = (loader.handle.clone(), "thing".to_owned());
            let first = actix_rt::spawn(async move { first.ask(Reload { name }, MINUTE).await });
            eventually(async || old.loads() == 1).await;
            let (unload, name) = (loader.handle.clone(), "thing".to_owned());
            let unload = actix_rt::spawn(async move { unload.ask(Unload { name }, MINUTE).await });
            register(&loader, new.resource("thing", &[])).await;
            reload(&loader, "thing").await.unwrap();
            assert_eq!(loader.status("thing").await.phase, Phase::Ready);
            assert_eq!((old.loads(), new.loads()), (1, 1));
            unload.await.unwrap().unwrap();
            first.await.unwrap().unwrap().ok();
            loader.stop_and_check().await;
        }
    });
}
