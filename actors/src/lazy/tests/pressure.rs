//! The loader's part in a clean-up.

use super::super::{AcquireError, Shortage};
use super::double::{MINUTE, SECOND, Scripted, Yard, paused};
use crate::kernel::pressure::{Acknowledgement, Level};

async fn yard(universe: &crate::kernel::testing::Universe) -> Yard {
    let resources = vec![
        Scripted::new().bytes(10).resource("a", &[]),
        Scripted::new().bytes(10).resource("b", &[]),
        Scripted::new().bytes(10).resource("c", &[]),
        Scripted::new().bytes(10).pinned().resource("pinned", &[]),
    ];
    Yard::open(universe, 100, resources).await
}

async fn freed(yard: &Yard, level: Level, wanted: u64) -> u64 {
    let epoch = yard.pressure.publish(level, wanted);
    let (came, silent) = yard.pressure.acknowledgements(epoch, MINUTE).await;
    assert!(silent.is_empty(), "the loader did not answer");
    let [Acknowledgement { name, bytes }] = &came[..] else {
        panic!("one subscriber, one answer");
    };
    assert_eq!(name, "lazy-loader");
    *bytes
}

#[test]
fn idle_resources_go_until_what_is_wanted_is_free_and_the_writer_hears_how_much() {
    paused(|universe| async move {
        let yard = yard(&universe).await;
        for name in ["a", "b", "c", "pinned"] {
            yard.touch(name).await;
        }
        assert_eq!(freed(&yard, Level::Elevated, 40).await, 0);
        assert_eq!(freed(&yard, Level::High, 11).await, 20);
        assert_eq!(yard.ready().await.len(), 2);
        assert_eq!(
            yard.ledger.used(),
            20,
            "acknowledged is what is really back"
        );
        let lease = yard.acquire("b").await.unwrap();
        // All that is idle is not enough; what there is goes.
        assert_eq!(freed(&yard, Level::Critical, 100).await, 10);
        assert_eq!(yard.ready().await, ["b", "pinned"]);
        assert_eq!(freed(&yard, Level::Exhausted, 100).await, 0);
        assert_eq!(freed(&yard, Level::Normal, 0).await, 0);
        drop(lease);
        let status = yard.status("a").await;
        assert_eq!(status.evictions["pressure"], 1);
        yard.close().await;
    });
}

#[test]
fn nothing_new_is_loaded_when_memory_is_exhausted() {
    paused(|universe| async move {
        let yard = yard(&universe).await;
        yard.touch("a").await;
        freed(&yard, Level::Exhausted, 0).await;
        let lease = yard.acquire("a").await.unwrap();
        let Err(AcquireError::Short(shortage)) = yard.acquire("b").await else {
            panic!("it must be refused");
        };
        let expected = Shortage {
            need: 10,
            free: 0,
            evictable: 0,
            budget: None,
            level: Level::Exhausted,
        };
        assert_eq!(shortage, expected);
        assert_eq!(yard.ledger.used(), 10, "the refused one reserved nothing");
        freed(&yard, Level::High, 0).await;
        yard.touch("b").await;
        drop(lease);
        yard.close().await;
    });
}

#[test]
fn a_clean_up_counts_what_is_already_on_its_way_out() {
    paused(|universe| async move {
        let slow = |name| Scripted::new().unload_takes(SECOND).resource(name, &[]);
        let yard = Yard::open(&universe, 100, vec![slow("a"), slow("b")]).await;
        yard.touch("a").await;
        yard.touch("b").await;
        let first = yard.loader.clone();
        let unload = super::super::Unload {
            name: "a".to_owned(),
        };
        let unloading = actix_rt::spawn(async move { first.ask(unload, MINUTE).await });
        super::double::eventually(async || yard.ready().await == ["b"]).await;
        assert_eq!(freed(&yard, Level::High, 10).await, 10);
        assert_eq!(yard.ready().await, ["b"]);
        unloading.await.unwrap().unwrap().unwrap();
        yard.close().await;
    });
}
