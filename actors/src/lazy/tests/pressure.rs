//! The loader's part in a clean-up.

use tokio::time::{Instant, sleep};

use super::super::{AcquireError, Shortage};
use super::double::{Log, MINUTE, SECOND, Scripted, TestLoader, acquire, eventually, paused};
use crate::kernel::pressure::{Action, Level, Stage};
use crate::lazy::phase::Phase;

async fn test(system: &crate::kernel::testing::TestSystem) -> TestLoader {
    let resources = vec![
        Scripted::new().bytes(10).resource("a", &[]),
        Scripted::new().bytes(10).resource("b", &[]),
        Scripted::new().bytes(10).resource("c", &[]),
        Scripted::new().bytes(10).pinned().resource("pinned", &[]),
    ];
    TestLoader::open(system, 100, resources).await
}

async fn freed(test: &TestLoader, level: Level, wanted: u64) -> u64 {
    let max_stage = match level {
        Level::Normal => None,
        Level::Elevated => Some(Stage::Connections),
        Level::High | Level::Critical | Level::Exhausted => Some(Stage::Idle),
    };
    asked(test, level, max_stage, wanted).await
}

async fn asked(test: &TestLoader, level: Level, max_stage: Option<Stage>, wanted: u64) -> u64 {
    let epoch = test.pressure.publish(level, max_stage, wanted);
    let result = test.pressure.acknowledgements(epoch, MINUTE).await.unwrap();
    assert!(result.silent.is_empty(), "the loader did not answer");
    let actions = result.received.iter().flat_map(|answer| &answer.actions);
    actions.map(Action::gained_bytes).sum()
}

#[test]
fn idle_resources_go_until_what_is_wanted_is_free_and_the_writer_hears_how_much() {
    paused(|system| async move {
        let test = test(&system).await;
        for name in ["a", "b", "c", "pinned"] {
            test.touch(name).await;
        }
        assert_eq!(freed(&test, Level::Elevated, 40).await, 0);
        assert_eq!(freed(&test, Level::High, 11).await, 20);
        assert_eq!(test.ready().await.len(), 2);
        assert_eq!(
            test.ledger.used(),
            20,
            "acknowledged is what is really back"
        );
        let lease = test.acquire("b").await.unwrap();
        // All that is idle is not enough; what there is goes.
        assert_eq!(freed(&test, Level::Critical, 100).await, 10);
        assert_eq!(test.ready().await, ["b", "pinned"]);
        assert_eq!(freed(&test, Level::Exhausted, 100).await, 0);
        assert_eq!(freed(&test, Level::Normal, 0).await, 0);
        drop(lease);
        let status = test.status("a").await;
        assert_eq!(status.evictions["pressure"], 1);
        test.close().await;
    });
}

#[test]
fn what_is_in_use_is_drained_in_an_emergency_and_comes_back_when_it_is_asked_for_again() {
    paused(|system| async move {
        let test = test(&system).await;
        test.touch("a").await;
        let lease = test.acquire("b").await.unwrap();
        // What is idle and what is in use: both go, but nobody loses what they hold.
        let max_stage = Some(Stage::InUse);
        assert_eq!(asked(&test, Level::Critical, max_stage, 15).await, 10);
        assert_eq!(test.status("b").await.phase, Phase::Draining);
        assert_eq!(test.ledger.used(), 10);
        sleep(MINUTE).await;
        assert_eq!(test.status("b").await.phase, Phase::Draining);
        // It counts as coming: nothing else is sent away for it.
        let other = test.acquire("c").await.unwrap();
        assert_eq!(asked(&test, Level::Critical, max_stage, 10).await, 0);
        assert_eq!(test.status("c").await.phase, Phase::Ready);
        drop((lease, other));
        eventually(async || test.status("b").await.phase == Phase::Cold).await;
        test.touch("b").await;
        test.close().await;
    });
}

#[test]
fn only_when_memory_is_exhausted_is_the_largest_in_use_ended_under_its_users() {
    paused(|system| async move {
        let resources = vec![
            Scripted::new().bytes(10).resource("small", &[]),
            Scripted::new().bytes(30).resource("large", &[]),
            Scripted::new().bytes(50).pinned().resource("pinned", &[]),
        ];
        let test = TestLoader::open(&system, 100, resources).await;
        let mut leases = Vec::new();
        for name in ["small", "large", "pinned"] {
            leases.push(test.acquire(name).await.unwrap());
        }
        let max_stage = Some(Stage::InUse);
        asked(&test, Level::Exhausted, max_stage, 40).await;
        assert_eq!(test.ledger.used(), 90, "it is given a moment to finish");
        eventually(async || test.ledger.used() == 60).await;
        // The level is kept for a while, but usage has fallen: nobody else is ended.
        test.pressure.set_reached(Level::Elevated);
        sleep(MINUTE).await;
        assert_eq!(test.status("large").await.phase, Phase::Cold);
        assert_eq!(test.status("small").await.phase, Phase::Draining);
        assert_eq!(test.status("pinned").await.phase, Phase::Ready);
        // Memory came back meanwhile: nobody is ended.
        asked(&test, Level::Exhausted, max_stage, 10).await;
        asked(&test, Level::High, None, 0).await;
        sleep(MINUTE).await;
        assert_eq!(test.status("small").await.phase, Phase::Draining);
        drop(leases);
        test.close().await;
    });
}

#[test]
fn what_others_depend_on_is_not_ended_and_one_after_the_other_is_while_memory_stays_exhausted() {
    paused(|system| async move {
        let log = Log::default();
        let thing = |bytes| Scripted::new().bytes(bytes).log(&log);
        let resources = vec![
            thing(60).resource("base", &[]),
            thing(20).resource("larger", &["base"]),
            thing(10).resource("smaller", &["base"]),
        ];
        let test = TestLoader::open(&system, 100, resources).await;
        let leases = (
            test.acquire("larger").await.unwrap(),
            test.acquire("smaller").await.unwrap(),
        );
        log.lock().unwrap().clear();
        asked(&test, Level::Exhausted, Some(Stage::InUse), 90).await;
        eventually(async || test.ledger.used() == 0).await;
        let log = std::mem::take(&mut *log.lock().unwrap());
        let unloads = log.iter().filter_map(|line| line.strip_prefix("unload "));
        assert_eq!(unloads.collect::<Vec<_>>(), ["larger", "smaller", "base"]);
        drop(leases);
        test.close().await;
    });
}

#[test]
fn what_a_load_under_way_depends_on_does_not_count_as_leaving() {
    paused(|system| async move {
        let resources = vec![
            Scripted::new().bytes(60).resource("base", &[]),
            Scripted::new()
                .takes(MINUTE / 10)
                .resource("coming", &["base"]),
            Scripted::new().bytes(20).resource("used", &[]),
        ];
        let test = TestLoader::open(&system, 100, resources).await;
        let lease = test.acquire("used").await.unwrap();
        let loader = test.loader.clone();
        let coming = actix_rt::spawn(async move { acquire(&loader, "coming").await });
        eventually(async || test.status("coming").await.reserved_bytes > 0).await;
        asked(&test, Level::Exhausted, Some(Stage::InUse), 20).await;
        eventually(async || test.status("used").await.phase == Phase::Cold).await;
        assert_eq!(test.status("base").await.phase, Phase::Ready);
        drop((lease, coming.await.unwrap().unwrap()));
        test.close().await;
    });
}

#[test]
fn a_rising_level_is_heard_while_an_unload_is_under_way() {
    paused(|system| async move {
        let slow = Scripted::new().unload_takes(MINUTE).resource("slow", &[]);
        let resources = vec![slow, Scripted::new().resource("used", &[])];
        let test = TestLoader::open(&system, 100, resources).await;
        test.touch("slow").await;
        let lease = test.acquire("used").await.unwrap();
        test.pressure.publish(Level::High, Some(Stage::Idle), 10);
        eventually(async || test.ready().await == ["used"]).await;
        let begun = Instant::now();
        let max_stage = Some(Stage::InUse);
        let epoch = test.pressure.publish(Level::Critical, max_stage, 20);
        eventually(async || test.ready().await.is_empty()).await;
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        // It is acknowledged when all that leaves for it has gone.
        let within = 2 * MINUTE;
        let result = test.pressure.acknowledgements(epoch, within).await.unwrap();
        assert_eq!(result.silent, [""; 0]);
        assert_eq!(result.received[0].actions.len(), 1);
        assert!(begun.elapsed() > MINUTE - SECOND);
        drop(lease);
        test.close().await;
    });
}

#[test]
fn nothing_new_is_loaded_when_memory_is_exhausted() {
    paused(|system| async move {
        let test = test(&system).await;
        test.touch("a").await;
        freed(&test, Level::Exhausted, 0).await;
        let lease = test.acquire("a").await.unwrap();
        let Err(AcquireError::Short(shortage)) = test.acquire("b").await else {
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
        assert_eq!(test.ledger.used(), 10, "the refused one reserved nothing");
        freed(&test, Level::High, 0).await;
        test.touch("b").await;
        drop(lease);
        test.close().await;
    });
}

#[test]
fn a_clean_up_counts_what_is_already_on_its_way_out() {
    paused(|system| async move {
        let slow = |name| Scripted::new().unload_takes(SECOND).resource(name, &[]);
        let test = TestLoader::open(&system, 100, vec![slow("a"), slow("b")]).await;
        test.touch("a").await;
        test.touch("b").await;
        let first = test.loader.clone();
        let unload = super::super::Unload {
            name: "a".to_owned(),
        };
        let unloading = actix_rt::spawn(async move { first.ask(unload, MINUTE).await });
        eventually(async || test.ready().await == ["b"]).await;
        assert_eq!(freed(&test, Level::High, 10).await, 10);
        assert_eq!(test.ready().await, ["b"]);
        unloading.await.unwrap().unwrap().unwrap();
        test.close().await;
    });
}
