//! Resources that are too large for the whole budget.

use super::super::{AcquireError, Excess, Register};
use super::MINUTE;
use super::scripted::Scripted;
use super::test_loader::{TestLoader, paused};

async fn excess(loader: &TestLoader, name: &str) -> Excess {
    match loader.acquire(name).await {
        Err(AcquireError::NeverFits(excess)) => excess,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_is_refused_by_the_present_budget_before_its_dependencies_are_loaded() {
    paused(|system| async move {
        let base = Scripted::new();
        let huge = Scripted::new().bytes(200);
        let resources = vec![base.resource("base", &[]), huge.resource("huge", &["base"])];
        let loader = TestLoader::start(&system, 300, resources).await;
        loader.budget.set_max_reservable(100);
        let expected = Excess {
            need: 200,
            most: 100,
        };
        assert_eq!(excess(&loader, "huge").await, expected);
        assert_eq!(loader.status("huge").await.never_fits, Some(expected));
        assert_eq!((base.loads(), huge.loads()), (0, 0));
        assert_eq!(loader.status("huge").await.counts.failures, 0);
        // The budget grows.
        loader.budget.set_max_reservable(300);
        assert_eq!(loader.status("huge").await.never_fits, None);
        loader.use_once("huge").await;
        // A loaded resource stays available under a smaller budget.
        loader.budget.set_max_reservable(100);
        loader.use_once("huge").await;
        assert_eq!(loader.status("huge").await.never_fits, None);
        loader.stop_and_check().await;
    });
}

#[test]
fn its_dependencies_count_as_measured_and_nothing_is_evicted_for_it() {
    paused(|system| async move {
        // It measures far less than its estimate.
        let base = Scripted::new().bytes(90).measured(60);
        let resources = vec![
            base.resource("base", &[]),
            Scripted::new().bytes(50).resource("large", &["base"]),
            Scripted::new().bytes(40).resource("small", &["base"]),
            Scripted::new().resource("idle", &[]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.budget.set_max_reservable(100);
        loader.use_once("idle").await;
        let expected = Excess {
            need: 110,
            most: 100,
        };
        assert_eq!(excess(&loader, "large").await, expected);
        assert_eq!(loader.ready().await, ["base", "idle"]);
        loader.use_once("small").await;
        assert_eq!(loader.ready().await, ["base", "small"]);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_smaller_replacement_fits() {
    paused(|system| async move {
        let huge = Scripted::new().bytes(200).resource("huge", &[]);
        let loader = TestLoader::start(&system, 100, vec![huge]).await;
        loader.budget.set_max_reservable(100);
        assert_eq!(excess(&loader, "huge").await.need, 200);
        let resource = Scripted::new().bytes(100).resource("huge", &[]);
        let register = Register { resource };
        loader.handle.ask(register, MINUTE).await.unwrap().unwrap();
        loader.use_once("huge").await;
        loader.stop_and_check().await;
    });
}
