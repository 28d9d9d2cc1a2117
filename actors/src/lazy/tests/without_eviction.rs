//! Preloads that evict nothing.

use tokio::time::{Instant, sleep};

use super::super::{AcquireError, Phase, PreloadWithoutEviction};
use super::scripted::Scripted;
use super::test_loader::{TestLoader, paused};
use super::{MINUTE, SECOND};
use crate::kernel::Resource;

fn thing(name: &str, bytes: u64, depends_on: &[&str]) -> Resource {
    Scripted::new().bytes(bytes).resource(name, depends_on)
}

pub(super) async fn preload(loader: &TestLoader, name: &str) -> Result<(), AcquireError> {
    let name = name.to_owned();
    let preload = PreloadWithoutEviction { name };
    loader.handle.ask(preload, MINUTE).await.unwrap()
}

#[test]
fn it_loads_what_fits_and_refuses_the_rest_at_once() {
    paused(|system| async move {
        let resources = vec![
            thing("a", 60, &[]),
            thing("b", 60, &[]),
            thing("c", 40, &[]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        preload(&loader, "a").await.unwrap();
        let started = Instant::now();
        let refused = preload(&loader, "b").await.unwrap_err();
        assert!(started.elapsed() < SECOND / 10, "{:?}", started.elapsed());
        let AcquireError::Short(shortage) = refused else {
            panic!("{refused}");
        };
        assert_eq!((shortage.need, shortage.free), (60, 40));
        preload(&loader, "c").await.unwrap();
        // Again, for what is loaded.
        preload(&loader, "a").await.unwrap();
        assert_eq!(loader.ready().await, ["a", "c"]);
        let counts = loader.status("a").await.counts;
        assert_eq!((counts.hits, counts.misses, counts.loads), (0, 0, 1));
        loader.stop_and_check().await;
    });
}

#[test]
fn nothing_is_evicted_for_its_dependencies_either() {
    paused(|system| async move {
        let resources = vec![
            thing("a", 60, &[]),
            thing("base", 60, &[]),
            thing("top", 10, &["base"]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        preload(&loader, "a").await.unwrap();
        let refused = preload(&loader, "top").await.unwrap_err();
        assert!(
            matches!(refused.root(), AcquireError::Short(_)),
            "{refused}"
        );
        assert_eq!(loader.ready().await, ["a"]);
        // An ordinary caller after that is not affected.
        loader.use_once("top").await;
        assert_eq!(loader.ready().await, ["base", "top"]);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_load_that_others_wait_for_too_may_evict() {
    paused(|system| async move {
        let slow_base = Scripted::new().load_time(SECOND).bytes(10);
        let resources = vec![
            thing("a", 60, &[]),
            slow_base.resource("base", &[]),
            thing("top", 60, &["base"]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("a").await;
        // The caller joins while the dependency loads, before the memory for the load is asked for.
        let (preloaded, lease) = tokio::join!(preload(&loader, "top"), async {
            sleep(SECOND / 2).await;
            assert_eq!(loader.status("top").await.phase, Phase::Loading);
            loader.acquire("top").await
        });
        preloaded.unwrap();
        drop(lease.unwrap());
        assert_eq!(loader.ready().await, ["base", "top"]);
        loader.stop_and_check().await;
    });
}
