//! The loader's part in a clean-up.

use tokio::time::{Instant, sleep};

use super::super::{AcquireError, Shortage};
use super::double::{Log, MINUTE, SECOND, Scripted, Yard, acquire, eventually, paused};
use crate::kernel::phase::Phase;
use crate::kernel::pressure::{Action, Level, Stage};

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
    let through = match level {
        Level::Normal => None,
        Level::Elevated => Some(Stage::Connections),
        Level::High | Level::Critical | Level::Exhausted => Some(Stage::Idle),
    };
    asked(yard, level, through, wanted).await
}

async fn asked(yard: &Yard, level: Level, through: Option<Stage>, wanted: u64) -> u64 {
    let epoch = yard.pressure.publish(level, through, wanted);
    let (came, silent) = yard.pressure.acknowledgements(epoch, MINUTE).await.unwrap();
    assert!(silent.is_empty(), "the loader did not answer");
    let answers = came.iter().flat_map(|answer| &answer.actions);
    answers.map(Action::gained_bytes).sum()
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
fn what_is_in_use_is_drained_in_an_emergency_and_comes_back_when_it_is_asked_for_again() {
    paused(|universe| async move {
        let yard = yard(&universe).await;
        yard.touch("a").await;
        let lease = yard.acquire("b").await.unwrap();
        // What is idle and what is in use: both go, but nobody loses what they hold.
        let through = Some(Stage::InUse);
        assert_eq!(asked(&yard, Level::Critical, through, 15).await, 10);
        assert_eq!(yard.status("b").await.phase, Phase::Draining);
        assert_eq!(yard.ledger.used(), 10);
        sleep(MINUTE).await;
        assert_eq!(yard.status("b").await.phase, Phase::Draining);
        // It counts as coming: nothing else is sent away for it.
        let other = yard.acquire("c").await.unwrap();
        assert_eq!(asked(&yard, Level::Critical, through, 10).await, 0);
        assert_eq!(yard.status("c").await.phase, Phase::Ready);
        drop((lease, other));
        eventually(async || yard.status("b").await.phase == Phase::Cold).await;
        yard.touch("b").await;
        yard.close().await;
    });
}

#[test]
fn only_when_memory_is_exhausted_is_the_largest_in_use_ended_under_its_users() {
    paused(|universe| async move {
        let resources = vec![
            Scripted::new().bytes(10).resource("small", &[]),
            Scripted::new().bytes(30).resource("large", &[]),
            Scripted::new().bytes(50).pinned().resource("pinned", &[]),
        ];
        let yard = Yard::open(&universe, 100, resources).await;
        let mut leases = Vec::new();
        for name in ["small", "large", "pinned"] {
            leases.push(yard.acquire(name).await.unwrap());
        }
        let through = Some(Stage::InUse);
        asked(&yard, Level::Exhausted, through, 40).await;
        assert_eq!(yard.ledger.used(), 90, "it is given a moment to finish");
        eventually(async || yard.ledger.used() == 60).await;
        // The level is kept for a while, but usage has fallen: nobody else is ended.
        yard.pressure.observe(Level::Elevated);
        sleep(MINUTE).await;
        assert_eq!(yard.status("large").await.phase, Phase::Cold);
        assert_eq!(yard.status("small").await.phase, Phase::Draining);
        assert_eq!(yard.status("pinned").await.phase, Phase::Ready);
        // Memory came back meanwhile: nobody is ended.
        asked(&yard, Level::Exhausted, through, 10).await;
        asked(&yard, Level::High, None, 0).await;
        sleep(MINUTE).await;
        assert_eq!(yard.status("small").await.phase, Phase::Draining);
        drop(leases);
        yard.close().await;
    });
}

#[test]
fn what_others_depend_on_is_not_ended_and_one_after_the_other_is_while_memory_stays_exhausted() {
    paused(|universe| async move {
        let log = Log::default();
        let thing = |bytes| Scripted::new().bytes(bytes).log(&log);
        let resources = vec![
            thing(60).resource("base", &[]),
            thing(20).resource("larger", &["base"]),
            thing(10).resource("smaller", &["base"]),
        ];
        let yard = Yard::open(&universe, 100, resources).await;
        let leases = (
            yard.acquire("larger").await.unwrap(),
            yard.acquire("smaller").await.unwrap(),
        );
        log.lock().unwrap().clear();
        asked(&yard, Level::Exhausted, Some(Stage::InUse), 90).await;
        eventually(async || yard.ledger.used() == 0).await;
        let log = std::mem::take(&mut *log.lock().unwrap());
        let unloads = log.iter().filter_map(|line| line.strip_prefix("unload "));
        assert_eq!(unloads.collect::<Vec<_>>(), ["larger", "smaller", "base"]);
        drop(leases);
        yard.close().await;
    });
}

#[test]
fn what_a_load_under_way_depends_on_does_not_count_as_leaving() {
    paused(|universe| async move {
        let resources = vec![
            Scripted::new().bytes(60).resource("base", &[]),
            Scripted::new()
                .takes(MINUTE / 10)
                .resource("coming", &["base"]),
            Scripted::new().bytes(20).resource("used", &[]),
        ];
        let yard = Yard::open(&universe, 100, resources).await;
        let lease = yard.acquire("used").await.unwrap();
        let loader = yard.loader.clone();
        let coming = actix_rt::spawn(async move { acquire(&loader, "coming").await });
        eventually(async || yard.status("coming").await.reserved_bytes > 0).await;
        asked(&yard, Level::Exhausted, Some(Stage::InUse), 20).await;
        eventually(async || yard.status("used").await.phase == Phase::Cold).await;
        assert_eq!(yard.status("base").await.phase, Phase::Ready);
        drop((lease, coming.await.unwrap().unwrap()));
        yard.close().await;
    });
}

#[test]
fn a_rising_level_is_heard_while_an_unload_is_under_way() {
    paused(|universe| async move {
        let slow = Scripted::new().unload_takes(MINUTE).resource("slow", &[]);
        let resources = vec![slow, Scripted::new().resource("used", &[])];
        let yard = Yard::open(&universe, 100, resources).await;
        yard.touch("slow").await;
        let lease = yard.acquire("used").await.unwrap();
        yard.pressure.publish(Level::High, Some(Stage::Idle), 10);
        eventually(async || yard.ready().await == ["used"]).await;
        let begun = Instant::now();
        let through = Some(Stage::InUse);
        let epoch = yard.pressure.publish(Level::Critical, through, 20);
        eventually(async || yard.ready().await.is_empty()).await;
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        // It is acknowledged when all that leaves for it has gone.
        let within = 2 * MINUTE;
        let answers = yard.pressure.acknowledgements(epoch, within).await;
        let (came, silent) = answers.unwrap();
        assert_eq!((came[0].actions.len(), silent), (1, Vec::new()));
        assert!(begun.elapsed() > MINUTE - SECOND);
        drop(lease);
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
        eventually(async || yard.ready().await == ["b"]).await;
        assert_eq!(freed(&yard, Level::High, 10).await, 10);
        assert_eq!(yard.ready().await, ["b"]);
        unloading.await.unwrap().unwrap().unwrap();
        yard.close().await;
    });
}
