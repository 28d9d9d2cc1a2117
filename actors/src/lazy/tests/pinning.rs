//! Pins that operators set.

use tokio::time::advance;

use super::super::{Acquire, Register, ResourceStatus, SetPinned, UnknownResource};
use super::fixed_budget::Fault;
use super::scripted::Scripted;
use super::test_loader::{TestLoader, eventually, paused};
use super::{MINUTE, SECOND};
use crate::kernel::{AskError, Resource};

async fn pin(
    loader: &TestLoader,
    name: &str,
    pinned: bool,
) -> Result<ResourceStatus, UnknownResource> {
    let name = name.to_owned();
    let pin = SetPinned { name, pinned };
    loader.handle.ask(pin, MINUTE).await.unwrap()
}

async fn register(loader: &TestLoader, resource: Resource) {
    let register = loader.handle.ask(Register { resource }, MINUTE);
    register.await.unwrap().unwrap();
}

#[test]
fn a_pinned_resource_outlives_its_ttl_and_evictions_until_it_is_unpinned() {
    paused(|system| async move {
        let thing = Scripted::new().ttl(SECOND).resource("thing", &[]);
        let loader = TestLoader::start(&system, 100, vec![thing]).await;
        loader.use_once("thing").await;
        let status = pin(&loader, "thing", true).await.unwrap();
        assert!(status.pinned);
        assert_eq!(status.ttl_left_seconds, None);
        advance(MINUTE).await;
        assert_eq!(loader.evict_idle(100).await, []);
        assert_eq!(loader.ready().await, ["thing"]);

        // Its TTL is over, so it goes at once.
        let status = pin(&loader, "thing", false).await.unwrap();
        assert_eq!((status.pinned, status.ttl_left_seconds), (false, Some(0.0)));
        eventually(async || loader.ready().await.is_empty()).await;
        loader.stop_and_check().await;
    });
}

#[test]
fn an_unpinned_resource_makes_room_for_a_load_that_waits() {
    paused(|system| async move {
        let resources = vec![
            Scripted::new().bytes(60).pinned().resource("pinned", &[]),
            Scripted::new().bytes(60).resource("other", &[]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("pinned").await;
        loader.acquire("other").await.unwrap_err();
        pin(&loader, "pinned", false).await.unwrap();
        loader.use_once("other").await;
        assert_eq!(loader.ready().await, ["other"]);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_pin_survives_a_crash_and_registrations_and_ends_when_the_settings_say_otherwise() {
    paused(|system| async move {
        let (plain, pinned) = (Scripted::new(), Scripted::new().pinned());
        let other = Scripted::new().resource("other", &[]);
        let loader =
            TestLoader::start(&system, 100, vec![plain.resource("thing", &[]), other]).await;
        pin(&loader, "thing", true).await.unwrap();
        register(&loader, plain.resource("thing", &[])).await;
        assert!(loader.status("thing").await.pinned);

        loader.budget.set_fault(Fault::Panic);
        let acquire = Acquire {
            name: "other".to_owned(),
        };
        let lost = loader.handle.ask(acquire, MINUTE);
        let (restarted, lost) = tokio::join!(loader.handle.restarted(MINUTE), lost);
        assert!(restarted);
        assert_eq!(lost.unwrap_err(), AskError::Lost);
        loader.budget.set_fault(Fault::None);
        assert!(loader.status("thing").await.pinned);

        // The settings say what the operator says, and then the opposite again.
        register(&loader, pinned.resource("thing", &[])).await;
        assert!(loader.status("thing").await.pinned);
        register(&loader, plain.resource("thing", &[])).await;
        assert!(!loader.status("thing").await.pinned);
        loader.stop_and_check().await;
    });
}

#[test]
fn only_known_resources_can_be_pinned() {
    paused(|system| async move {
        let loader = TestLoader::start(&system, 100, vec![]).await;
        let refused = pin(&loader, "nothing", true).await;
        assert_eq!(refused.unwrap_err(), UnknownResource("nothing".to_owned()));
        loader.stop_and_check().await;
    });
}
