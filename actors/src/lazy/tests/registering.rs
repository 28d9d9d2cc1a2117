//! Changes of the catalogue while the loader runs.

use super::super::{AcquireError, CatalogueError, Deregister, Phase, Register};
use super::scripted::{Scripted, Step, unavailable};
use super::test_loader::{TestLoader, acquire, eventually, paused};
use super::{MINUTE, SECOND};
use crate::kernel::{LoadErrorKind, Registrar, Resource};

async fn register(loader: &TestLoader, resource: Resource) -> Result<(), CatalogueError> {
    loader
        .handle
        .ask(Register { resource }, SECOND)
        .await
        .unwrap()
}

async fn deregister(loader: &TestLoader, name: &str) -> Result<(), CatalogueError> {
    let name = name.to_owned();
    loader
        .handle
        .ask(Deregister { name }, MINUTE)
        .await
        .unwrap()
}

#[test]
fn resources_can_be_registered_later_with_the_same_checks() {
    paused(|system| async move {
        let loader = TestLoader::start(&system, 100, vec![]).await;
        let (base, top) = (Scripted::new(), Scripted::new());
        let unknown = register(&loader, top.resource("top", &["base"])).await;
        assert!(matches!(
            unknown,
            Err(CatalogueError::UnknownDependency { .. })
        ));
        register(&loader, base.resource("base", &[])).await.unwrap();
        register(&loader, top.resource("top", &["base"]))
            .await
            .unwrap();
        let circle = register(&loader, base.resource("base", &["top"])).await;
        assert!(matches!(circle, Err(CatalogueError::Cycle(_))));
        loader.use_once("top").await;
        loader.stop_and_check().await;
    });
}

#[test]
fn a_failed_resource_is_replaced_at_once_and_its_failure_forgotten() {
    paused(|system| async move {
        let broken = Scripted::new().script([Step::Fail(unavailable("broken file"))]);
        let loader = TestLoader::start(&system, 100, vec![broken.resource("thing", &[])]).await;
        loader.acquire("thing").await.unwrap_err();
        let repaired = Scripted::new();
        register(&loader, repaired.resource("thing", &[]))
            .await
            .unwrap();
        loader.use_once("thing").await;
        assert_eq!((broken.loads(), repaired.loads()), (1, 1));
        loader.stop_and_check().await;
    });
}

#[test]
fn a_loaded_resource_is_replaced_at_its_next_load() {
    paused(|system| async move {
        let (old, new) = (Scripted::new(), Scripted::new());
        let loader = TestLoader::start(&system, 100, vec![old.resource("thing", &[])]).await;
        let lease = loader.acquire("thing").await.unwrap();
        register(&loader, new.resource("thing", &[])).await.unwrap();
        loader.use_once("thing").await;
        assert_eq!(new.loads(), 0);
        drop(lease);
        let unload = super::super::Unload {
            name: "thing".to_owned(),
        };
        loader.handle.ask(unload, MINUTE).await.unwrap();
        assert!(
            !old.may_be_loaded(),
            "the old one is unloaded as the old one"
        );
        loader.use_once("thing").await;
        assert_eq!((old.loads(), new.loads()), (1, 1));
        loader.stop_and_check().await;
    });
}

#[test]
fn a_deregistered_resource_drains_and_is_not_found_from_then_on() {
    paused(|system| async move {
        let thing = Scripted::new();
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let lease = loader.acquire("thing").await.unwrap();
        let handle = loader.handle.clone();
        let leaving = actix_rt::spawn(async move {
            let name = "thing".to_owned();
            handle.ask(Deregister { name }, MINUTE).await.unwrap()
        });
        eventually(async || loader.status("thing").await.phase == Phase::Draining).await;
        let refused = loader.acquire("thing").await;
        assert!(matches!(refused, Err(AcquireError::NotFound(_))));
        drop(lease);
        leaving.await.unwrap().unwrap();
        assert_eq!(loader.budget.used(), 0);
        deregister(&loader, "thing").await.unwrap();
        loader.stop_and_check().await;
    });
}

#[test]
fn waiters_for_a_deregistered_resource_are_refused_at_once() {
    paused(|system| async move {
        let thing = Scripted::new().load_time(SECOND);
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let handle = loader.handle.clone();
        let waiting = actix_rt::spawn(async move { acquire(&handle, "thing").await });
        eventually(async || loader.status("thing").await.waiters == 1).await;
        deregister(&loader, "thing").await.unwrap();
        assert!(matches!(
            waiting.await.unwrap(),
            Err(AcquireError::NotFound(_))
        ));
        assert!(!thing.may_be_loaded());
        loader.stop_and_check().await;
    });
}

#[test]
fn a_resource_with_dependents_cannot_be_deregistered() {
    paused(|system| async move {
        let (base, top) = (Scripted::new(), Scripted::new());
        let resources = vec![base.resource("base", &[]), top.resource("top", &["base"])];
        let loader = TestLoader::start(&system, 100, resources).await;
        let refused = deregister(&loader, "base").await.unwrap_err();
        assert_eq!(refused.to_string(), "base is needed by top");
        deregister(&loader, "top").await.unwrap();
        deregister(&loader, "base").await.unwrap();
        loader.stop_and_check().await;
    });
}

#[test]
fn other_modules_register_through_the_kernels_trait() {
    paused(|system| async move {
        let loader = TestLoader::start(&system, 100, vec![]).await;
        let registrar: std::sync::Arc<dyn Registrar> = std::sync::Arc::new(loader.handle.clone());
        let thing = Scripted::new();
        registrar
            .register(thing.resource("thing", &[]))
            .await
            .unwrap();
        loader.use_once("thing").await;
        let orphan = registrar
            .register(thing.resource("orphan", &["nobody"]))
            .await;
        assert_eq!(orphan.unwrap_err().kind, LoadErrorKind::Invalid);
        loader.stop_and_check().await;
    });
}
