//! A catalogue that changes while everything runs.

use super::super::{AcquireError, CatalogueError, Deregister, DeregisterError, Register, Unloaded};
use super::double::{
    MINUTE, SECOND, Scripted, Step, TestLoader, acquire, eventually, paused, unavailable,
};
use crate::kernel::{LoadErrorKind, Registrar, Resource};
use crate::lazy::phase::Phase;

async fn register(test: &TestLoader, resource: Resource) -> Result<(), CatalogueError> {
    test.loader
        .ask(Register { resource }, SECOND)
        .await
        .unwrap()
}

async fn deregister(test: &TestLoader, name: &str) -> Result<Unloaded, DeregisterError> {
    let name = name.to_owned();
    test.loader.ask(Deregister { name }, MINUTE).await.unwrap()
}

#[test]
fn what_is_registered_later_can_be_had_and_the_checks_are_the_same() {
    paused(|system| async move {
        let test = TestLoader::open(&system, 100, vec![]).await;
        let (base, top) = (Scripted::new(), Scripted::new());
        let unknown = register(&test, top.resource("top", &["base"])).await;
        assert!(matches!(
            unknown,
            Err(CatalogueError::UnknownDependency { .. })
        ));
        register(&test, base.resource("base", &[])).await.unwrap();
        register(&test, top.resource("top", &["base"]))
            .await
            .unwrap();
        let circle = register(&test, base.resource("base", &["top"])).await;
        assert!(matches!(circle, Err(CatalogueError::Cycle(_))));
        test.touch("top").await;
        test.close().await;
    });
}

#[test]
fn a_failed_one_is_replaced_at_once_and_its_failure_forgotten() {
    paused(|system| async move {
        let broken = Scripted::new().script([Step::Fail(unavailable("broken file"))]);
        let test = TestLoader::open(&system, 100, vec![broken.resource("thing", &[])]).await;
        test.acquire("thing").await.unwrap_err();
        let mended = Scripted::new();
        register(&test, mended.resource("thing", &[]))
            .await
            .unwrap();
        test.touch("thing").await;
        assert_eq!((broken.loads(), mended.loads()), (1, 1));
        test.close().await;
    });
}

#[test]
fn a_loaded_one_is_replaced_from_its_next_load_on() {
    paused(|system| async move {
        let (old, new) = (Scripted::new(), Scripted::new());
        let test = TestLoader::open(&system, 100, vec![old.resource("thing", &[])]).await;
        let lease = test.acquire("thing").await.unwrap();
        register(&test, new.resource("thing", &[])).await.unwrap();
        test.touch("thing").await;
        assert_eq!(new.loads(), 0);
        drop(lease);
        let unload = super::super::Unload {
            name: "thing".to_owned(),
        };
        test.loader.ask(unload, MINUTE).await.unwrap().unwrap();
        assert!(!old.is_occupied(), "the old one is unloaded as the old one");
        test.touch("thing").await;
        assert_eq!((old.loads(), new.loads()), (1, 1));
        test.close().await;
    });
}

#[test]
fn a_deregistered_one_drains_and_is_not_found_from_then_on() {
    paused(|system| async move {
        let thing = Scripted::new();
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        let lease = test.acquire("thing").await.unwrap();
        let loader = test.loader.clone();
        let leaving = actix_rt::spawn(async move {
            let name = "thing".to_owned();
            loader.ask(Deregister { name }, MINUTE).await.unwrap()
        });
        eventually(async || test.status("thing").await.phase == Phase::Draining).await;
        let refused = test.acquire("thing").await;
        assert!(matches!(refused, Err(AcquireError::NotFound(_))));
        drop(lease);
        assert_eq!(leaving.await.unwrap(), Ok(Unloaded { bytes: 10 }));
        let again = deregister(&test, "thing").await;
        assert_eq!(again, Err(DeregisterError::NotFound("thing".to_owned())));
        test.close().await;
    });
}

#[test]
fn whoever_waits_for_one_that_is_deregistered_hears_of_it_at_once() {
    paused(|system| async move {
        let thing = Scripted::new().takes(SECOND);
        let test = TestLoader::open(&system, 100, vec![thing.resource("thing", &[])]).await;
        let loader = test.loader.clone();
        let waiting = actix_rt::spawn(async move { acquire(&loader, "thing").await });
        eventually(async || test.status("thing").await.waiters == 1).await;
        deregister(&test, "thing").await.unwrap();
        assert!(matches!(
            waiting.await.unwrap(),
            Err(AcquireError::NotFound(_))
        ));
        assert!(!thing.is_occupied());
        test.close().await;
    });
}

#[test]
fn one_that_others_need_cannot_be_deregistered() {
    paused(|system| async move {
        let (base, top) = (Scripted::new(), Scripted::new());
        let resources = vec![base.resource("base", &[]), top.resource("top", &["base"])];
        let test = TestLoader::open(&system, 100, resources).await;
        let refused = deregister(&test, "base").await.unwrap_err();
        assert_eq!(refused.to_string(), "base is needed by top");
        assert_eq!(deregister(&test, "top").await, Ok(Unloaded { bytes: 0 }));
        deregister(&test, "base").await.unwrap();
        test.close().await;
    });
}

#[test]
fn other_rooms_register_through_the_kernels_trait() {
    paused(|system| async move {
        let test = TestLoader::open(&system, 100, vec![]).await;
        let registrar: std::sync::Arc<dyn Registrar> = std::sync::Arc::new(test.loader.clone());
        let thing = Scripted::new();
        registrar
            .register(thing.resource("thing", &[]))
            .await
            .unwrap();
        test.touch("thing").await;
        let orphan = registrar
            .register(thing.resource("orphan", &["nobody"]))
            .await;
        assert_eq!(orphan.unwrap_err().kind, LoadErrorKind::Invalid);
        test.close().await;
    });
}
