//! A catalogue that changes while everything runs.

use super::super::{AcquireError, CatalogueError, Deregister, DeregisterError, Register, Unloaded};
use super::double::{
    MINUTE, SECOND, Scripted, Step, Yard, acquire, eventually, paused, unavailable,
};
use crate::kernel::phase::Phase;
use crate::kernel::{LoadFault, Loadable, Registrar};

async fn register(yard: &Yard, resource: Loadable) -> Result<(), CatalogueError> {
    yard.loader
        .ask(Register { resource }, SECOND)
        .await
        .unwrap()
}

async fn deregister(yard: &Yard, name: &str) -> Result<Unloaded, DeregisterError> {
    let name = name.to_owned();
    yard.loader.ask(Deregister { name }, MINUTE).await.unwrap()
}

#[test]
fn what_is_registered_later_can_be_had_and_the_checks_are_the_same() {
    paused(|universe| async move {
        let yard = Yard::open(&universe, 100, vec![]).await;
        let (base, top) = (Scripted::new(), Scripted::new());
        let unknown = register(&yard, top.resource("top", &["base"])).await;
        assert!(matches!(
            unknown,
            Err(CatalogueError::UnknownDependency { .. })
        ));
        register(&yard, base.resource("base", &[])).await.unwrap();
        register(&yard, top.resource("top", &["base"]))
            .await
            .unwrap();
        let circle = register(&yard, base.resource("base", &["top"])).await;
        assert!(matches!(circle, Err(CatalogueError::Cycle(_))));
        yard.touch("top").await;
        yard.close().await;
    });
}

#[test]
fn a_failed_one_is_replaced_at_once_and_its_failure_forgotten() {
    paused(|universe| async move {
        let broken = Scripted::new().script([Step::Fail(unavailable("broken file"))]);
        let yard = Yard::open(&universe, 100, vec![broken.resource("thing", &[])]).await;
        yard.acquire("thing").await.unwrap_err();
        let mended = Scripted::new();
        register(&yard, mended.resource("thing", &[]))
            .await
            .unwrap();
        yard.touch("thing").await;
        assert_eq!((broken.loads(), mended.loads()), (1, 1));
        yard.close().await;
    });
}

#[test]
fn a_loaded_one_is_replaced_from_its_next_load_on() {
    paused(|universe| async move {
        let (old, new) = (Scripted::new(), Scripted::new());
        let yard = Yard::open(&universe, 100, vec![old.resource("thing", &[])]).await;
        let lease = yard.acquire("thing").await.unwrap();
        register(&yard, new.resource("thing", &[])).await.unwrap();
        yard.touch("thing").await;
        assert_eq!(new.loads(), 0);
        drop(lease);
        let unload = super::super::Unload {
            name: "thing".to_owned(),
        };
        yard.loader.ask(unload, MINUTE).await.unwrap().unwrap();
        assert!(!old.is_occupied(), "the old one is unloaded as the old one");
        yard.touch("thing").await;
        assert_eq!((old.loads(), new.loads()), (1, 1));
        yard.close().await;
    });
}

#[test]
fn a_deregistered_one_drains_and_is_not_found_from_then_on() {
    paused(|universe| async move {
        let thing = Scripted::new();
        let yard = Yard::open(&universe, 100, vec![thing.resource("thing", &[])]).await;
        let lease = yard.acquire("thing").await.unwrap();
        let loader = yard.loader.clone();
        let leaving = actix_rt::spawn(async move {
            let name = "thing".to_owned();
            loader.ask(Deregister { name }, MINUTE).await.unwrap()
        });
        eventually(async || yard.status("thing").await.phase == Phase::Draining).await;
        let refused = yard.acquire("thing").await;
        assert!(matches!(refused, Err(AcquireError::NotFound(_))));
        drop(lease);
        assert_eq!(leaving.await.unwrap(), Ok(Unloaded { bytes: 10 }));
        let again = deregister(&yard, "thing").await;
        assert_eq!(again, Err(DeregisterError::NotFound("thing".to_owned())));
        yard.close().await;
    });
}

#[test]
fn whoever_waits_for_one_that_is_deregistered_hears_of_it_at_once() {
    paused(|universe| async move {
        let thing = Scripted::new().takes(SECOND);
        let yard = Yard::open(&universe, 100, vec![thing.resource("thing", &[])]).await;
        let loader = yard.loader.clone();
        let waiting = actix_rt::spawn(async move { acquire(&loader, "thing").await });
        eventually(async || yard.status("thing").await.waiters == 1).await;
        deregister(&yard, "thing").await.unwrap();
        assert!(matches!(
            waiting.await.unwrap(),
            Err(AcquireError::NotFound(_))
        ));
        assert!(!thing.is_occupied());
        yard.close().await;
    });
}

#[test]
fn one_that_others_need_cannot_be_deregistered() {
    paused(|universe| async move {
        let (base, top) = (Scripted::new(), Scripted::new());
        let resources = vec![base.resource("base", &[]), top.resource("top", &["base"])];
        let yard = Yard::open(&universe, 100, resources).await;
        let refused = deregister(&yard, "base").await.unwrap_err();
        assert_eq!(refused.to_string(), "base is needed by top");
        assert_eq!(deregister(&yard, "top").await, Ok(Unloaded { bytes: 0 }));
        deregister(&yard, "base").await.unwrap();
        yard.close().await;
    });
}

#[test]
fn other_rooms_register_through_the_kernels_trait() {
    paused(|universe| async move {
        let yard = Yard::open(&universe, 100, vec![]).await;
        let registrar: std::sync::Arc<dyn Registrar> = std::sync::Arc::new(yard.loader.clone());
        let thing = Scripted::new();
        registrar
            .register(thing.resource("thing", &[]))
            .await
            .unwrap();
        yard.touch("thing").await;
        let orphan = registrar
            .register(thing.resource("orphan", &["nobody"]))
            .await;
        assert_eq!(orphan.unwrap_err().fault, LoadFault::Invalid);
        yard.close().await;
    });
}
