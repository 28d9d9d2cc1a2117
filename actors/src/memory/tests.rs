//! The whole module: its actor under a supervisor, with file trees or real processes.

use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use headroom_test_support::capability::skip;
use headroom_test_support::cgroup::{Group, Version};
use headroom_test_support::child;
use tokio::time::{Instant, sleep};

use super::allocator::Allocator;
use super::probe::System;
use super::probe::fixture::Fixture;
use super::sampler::Sampler;
use super::{
    ActionRecord, BudgetSource, Collect, CollectionReason, Event, EventKind, Interruption, Levels,
    METRICS, Memory, MemoryConfig, MemoryStatus, ReadMemory, Reconfigure,
};
use crate::kernel::pressure::{Action, Level, Stage};
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::counters::Counters;
use crate::kernel::{
    Budget, BudgetError, Buffers, FreeMemory, Reservation, ReservationRequest, SupervisorSpec,
};

/// A collection of slack alone.
const COLLECT: Collect = Collect {
    stage: Stage::Slack,
};

const WITHIN: Duration = Duration::from_secs(10);
const OWN: i32 = 100;
const KIB: u64 = 1 << 10;

fn config(limit_kib: u64) -> MemoryConfig {
    MemoryConfig {
        limit: Some(limit_kib * KIB),
        levels: Levels {
            dwell: Duration::from_millis(100),
            ..Levels::default()
        },
        sample_interval: Duration::from_millis(200),
        sample_interval_fast: Duration::from_millis(20),
        ..MemoryConfig::default()
    }
}

/// A server that uses 100 KiB.
fn server() -> Fixture {
    let fixture = Fixture::new().file("proc/meminfo", "MemTotal: 16777216 kB\n");
    fixture.process(OWN, 1, "headroom", 100);
    fixture
}

fn request(kib: u64) -> ReservationRequest {
    ReservationRequest {
        name: "model".into(),
        kind: "model",
        bytes: kib * KIB,
        use_headroom: true,
    }
}

async fn reserve(memory: &Memory, kib: u64) -> Result<Reservation, BudgetError> {
    memory.budget().reserve(request(kib)).await
}

/// A refusal. Free bytes end one byte below the critical level.
fn short(need: u64, free: u64, budget: u64) -> BudgetError {
    BudgetError::Short {
        need: need * KIB,
        free: (free * KIB).saturating_sub(1),
        budget: budget * KIB,
    }
}

async fn status(memory: &Memory) -> MemoryStatus {
    let answer = memory.handle().ask(ReadMemory { events: 9 }, WITHIN).await;
    answer.unwrap().unwrap()
}

/// Polls the status until `is_so`.
async fn until(memory: &Memory, what: &str, is_so: impl Fn(&MemoryStatus) -> bool) -> MemoryStatus {
    let deadline = Instant::now() + WITHIN;
    loop {
        let status = status(memory).await;
        if is_so(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "never {what}: {status:#?}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn spec(memory: &Memory) -> SupervisorSpec {
    SupervisorSpec::new("headroom").child(memory.child())
}

#[test]
fn memory_is_reserved_up_to_the_budget_and_given_back_by_dropping() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let root = system.start(spec(&memory)).await;
        let first = reserve(&memory, 500).await.unwrap();
        let second = reserve(&memory, 200).await.unwrap();
        assert_eq!(reserve(&memory, 50).await.unwrap_err(), short(50, 50, 1000));
        drop(first);
        let third = reserve(&memory, 450).await.unwrap();
        assert_eq!(
            reserve(&memory, 100).await.unwrap_err(),
            short(100, 100, 1000)
        );

        // The process of an entry uses the entry's reservation and nothing beside it.
        fixture.process(101, OWN, "hr:model", 300);
        third.entry().attach(101);
        third.entry().set_reserved(300 * KIB);
        let seen = until(&memory, "measured", |s| s.used_bytes == 400 * KIB).await;
        assert_eq!(seen.free_bytes, 400 * KIB);
        assert_eq!(third.entry().measured(), 300 * KIB);
        let kinds: Vec<_> = seen.kinds.iter().map(|kind| &*kind.kind).collect();
        assert_eq!(kinds, ["hr", "server"]);
        drop((second, third));
        // The entry is released, but its process still runs and its memory still counts.
        assert_eq!(
            reserve(&memory, 500).await.unwrap_err(),
            short(500, 450, 1000)
        );
        fixture.remove("proc/101");
        // The last reading still contains the process, and must not be the reason for a refusal.
        drop(reserve(&memory, 740).await.unwrap());
        root.stop().await;
        assert_eq!(
            reserve(&memory, 1).await.unwrap_err(),
            BudgetError::Unavailable
        );
    });
}

#[test]
fn reservations_outlive_the_actor_and_are_given_back_without_it() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let root = system.start(spec(&memory)).await;
        let kept = reserve(&memory, 500).await.unwrap();
        let given_back = reserve(&memory, 200).await.unwrap();
        root.stop().await;
        drop(given_back);
        let root = system.start(spec(&memory)).await;
        assert_eq!(
            reserve(&memory, 251).await.unwrap_err(),
            short(251, 250, 1000)
        );
        assert_eq!(kept.entry().reserved(), 500 * KIB);
        drop(kept);
        drop(reserve(&memory, 740).await.unwrap());
        root.stop().await;
    });
}

#[test]
fn many_requests_at_once_never_pass_the_budget() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let root = system.start(spec(&memory)).await;
        let requests = (0..64).map(|_| reserve(&memory, 100));
        let answers = futures_util::future::join_all(requests).await;
        let granted = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(granted, 7);
        let refused = answers.into_iter().filter_map(Result::err);
        assert!(
            refused
                .into_iter()
                .all(|refusal| refusal == short(100, 50, 1000))
        );
        assert_eq!(status(&memory).await.reserved_bytes, 0);
        root.stop().await;
    });
}

fn freed(kib: u64) -> Vec<Action> {
    vec![Action {
        what: "model".into(),
        promised_bytes: kib * KIB,
        before_bytes: kib * KIB,
        after_bytes: 0,
    }]
}

#[test]
fn an_emergency_asks_for_resources_in_use_when_idle_ones_are_not_enough() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let root = system.start(spec(&memory)).await;
        let mut received = memory.shared.history().subscribe();
        let mut loader = memory.pressure().subscribe("loader", Stage::Idle);
        assert_eq!(loader.changed().await.level, Level::Normal);

        fixture.process(101, OWN, "hr:model", 760);
        let pressure = loader.changed().await;
        assert_eq!(
            (pressure.level, pressure.max_stage, pressure.wanted_bytes),
            (Level::Critical, Some(Stage::Idle), 160 * KIB + 1)
        );
        // The wanted bytes changed, but the first round is not acknowledged.
        fixture.process(101, OWN, "hr:model", 790);
        until(&memory, "more used", |s| s.used_bytes == 890 * KIB).await;
        assert_eq!(memory.pressure().current(), pressure);
        loader.acknowledge(pressure.epoch, Vec::new());
        let again = loader.changed().await;
        assert_eq!(
            (again.level, again.max_stage, again.wanted_bytes),
            (Level::Critical, Some(Stage::InUse), 190 * KIB + 1)
        );
        fixture.process(101, OWN, "hr:model", 500);
        loader.acknowledge(again.epoch, freed(300));
        let relieved = loader.changed().await;
        assert_eq!(
            (relieved.level, relieved.max_stage, relieved.wanted_bytes),
            (Level::Normal, None, 0)
        );

        let counts = memory.overview().latest().unwrap().counts;
        assert_eq!(
            (counts.level_changes_total, counts.clean_up_rounds_total),
            (2, 2)
        );
        let events = status(&memory).await.events;
        let [risen, idle, in_use, fallen] = &events[..] else {
            panic!("{events:?}");
        };
        let usage = |event: &Event| (event.used_before_bytes / KIB, event.used_after_bytes / KIB);
        assert_eq!(
            [usage(risen), usage(idle), usage(in_use), usage(fallen)],
            [(100, 860), (860, 890), (890, 600), (600, 600)]
        );
        let level = |from, to, wanted_bytes| EventKind::Level {
            from,
            to,
            wanted_bytes,
        };
        let round = |max_stage, wanted_bytes, actions| EventKind::CleanUp {
            level: Level::Critical,
            max_stage,
            wanted_bytes,
            actions,
            silent: Vec::new(),
        };
        let expected = [
            level(Level::Normal, Level::Critical, 160 * KIB + 1),
            round(Stage::Idle, 160 * KIB + 1, Vec::new()),
            round(
                Stage::InUse,
                190 * KIB + 1,
                vec![ActionRecord {
                    by: "loader".into(),
                    stage: Stage::Idle,
                    action: freed(300).remove(0),
                    gained_bytes: 300 * KIB,
                }],
            ),
            level(Level::Critical, Level::Normal, 0),
        ];
        let mut happened: Vec<_> = events.iter().map(|event| event.kind.clone()).collect();
        for kind in &mut happened {
            if let EventKind::CleanUp { actions, .. } = kind {
                // Another test covers this process's allocator.
                actions.retain(|record| record.by != "memory");
            }
        }
        assert_eq!(happened, expected);
        // Subscribers received the same events.
        for event in &events {
            assert_eq!(*received.recv().await.unwrap(), *event);
        }
        root.stop().await;
    });
}

#[test]
fn a_high_level_asks_the_cheapest_stage_first_and_again_while_it_lasts() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        fixture.process(101, OWN, "hr:model", 720);
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        // It is asked in every round, so that each round waits for it.
        let mut host = memory.pressure().subscribe("host", Stage::Slack);
        let root = system.start(spec(&memory)).await;
        let mut asked = Vec::new();
        while asked.len() < 6 {
            let pressure = host.changed().await;
            if let Some(max_stage) = pressure.max_stage {
                assert_eq!(pressure.level, Level::High);
                asked.push(max_stage);
                host.acknowledge(pressure.epoch, Vec::new());
            }
        }
        let order = [Stage::Slack, Stage::Connections, Stage::Idle];
        assert_eq!(asked, [order, order].concat());
        // Repeated rounds that give nothing are not recorded.
        let events = status(&memory).await.events.into_iter();
        let rounds = events.filter(|event| matches!(event.kind, EventKind::CleanUp { .. }));
        assert_eq!(rounds.count(), 3);
        root.stop().await;
    });
}

/// A server of 100 KiB in a control group whose stalled time can be set.
struct InGroup(Fixture);

impl InGroup {
    fn new() -> Self {
        let fixture = server();
        let mount = "29 23 0:26 / /v2 rw - cgroup2 cgroup2 rw\n";
        fixture.write(&format!("proc/{OWN}/cgroup"), "0::/a\n");
        fixture.write(&format!("proc/{OWN}/mountinfo"), mount);
        fixture.write("v2/a/cgroup.events", "populated 1\n");
        let group = Self(fixture);
        group.set_stalled(0);
        group
    }

    fn set_stalled(&self, milliseconds: u64) {
        let text = format!("some avg10=0.00 total={}\n", milliseconds * 1000);
        self.0.write("v2/a/memory.pressure", text);
    }
}

#[test]
fn a_stall_during_a_clean_up_does_not_end_its_epoch() {
    TestSystem::real_time(|system| async move {
        let group = InGroup::new();
        group.0.process(101, OWN, "hr:model", 780);
        let config = MemoryConfig {
            emergency_deadline: Duration::from_secs(60),
            ..config(1000)
        };
        let memory = Memory::rooted(config, group.0.path("/")).unwrap();
        let mut loader = memory.pressure().subscribe("loader", Stage::Idle);
        let root = system.start(spec(&memory)).await;
        let first = loader.changed().await;
        assert_eq!(
            (first.level, first.max_stage),
            (Level::Critical, Some(Stage::Idle))
        );
        group.set_stalled(600);
        let stalling =
            |s: &MemoryStatus| s.report.stalls.as_ref().is_some_and(|it| it.is_stalling());
        until(&memory, "stalling", stalling).await;
        assert_eq!(memory.pressure().current(), first);
        loader.acknowledge(first.epoch, Vec::new());
        let second = loader.changed().await;
        assert_eq!(
            (second.level, second.max_stage, second.epoch),
            (Level::Critical, Some(Stage::InUse), first.epoch + 1)
        );
        loader.acknowledge(second.epoch, Vec::new());
        let ended = |s: &MemoryStatus| {
            let max_stage = s.events.iter().filter_map(|event| match &event.kind {
                EventKind::CleanUp { max_stage, .. } => Some(*max_stage),
                _ => None,
            });
            max_stage.eq([Stage::Idle, Stage::InUse])
        };
        until(&memory, "cleaned up to the end", ended).await;
        root.stop().await;
    });
}

#[test]
fn a_clean_up_that_ends_a_collection_answers_its_requests() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let root = system.start(spec(&memory)).await;
        let mut host = memory.pressure().subscribe("host", Stage::Slack);
        host.changed().await;
        let handle = memory.handle().clone();
        let asked = actix_rt::spawn(async move { handle.ask(COLLECT, WITHIN).await });
        assert!(host.changed().await.asks(Stage::Slack));
        // Before the host acknowledges, memory gets short.
        fixture.process(101, OWN, "hr:model", 780);
        let report = asked.await.unwrap().unwrap();
        assert!(report.used_after_bytes >= 880 * KIB, "{report:?}");
        assert!(!report.is_complete);
        assert_eq!(report.interruption, Some(Interruption::LevelRose));
        assert_eq!(host.changed().await.level, Level::Critical);
        root.stop().await;
    });
}

#[test]
fn a_level_that_falls_ends_a_collection_and_is_no_want_of_memory() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        fixture.process(101, OWN, "hr:model", 620);
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let root = system.start(spec(&memory)).await;
        let mut host = memory.pressure().subscribe("host", Stage::Slack);
        let handle = memory.handle().clone();
        let asked = actix_rt::spawn(async move { handle.ask(COLLECT, WITHIN).await });
        // The host answers the clean-up of the level elevated, and not the collection that follows.
        loop {
            let pressure = host.changed().await;
            if pressure.asks(Stage::Slack) && pressure.wanted_bytes == 0 {
                assert_eq!(pressure.level, Level::Elevated);
                break;
            }
            host.acknowledge(pressure.epoch, Vec::new());
        }
        fixture.process(101, OWN, "hr:model", 100);
        let report = asked.await.unwrap().unwrap();
        assert!(!report.is_complete);
        assert_eq!(report.interruption, Some(Interruption::LevelFell));
        assert_eq!(report.used_after_bytes, 200 * KIB);
        assert_eq!(host.changed().await.level, Level::Normal);
        root.stop().await;
    });
}

#[test]
fn readings_keep_their_pause_while_tasks_stall() {
    let counters = &Counters::of(METRICS);
    metrics::with_local_recorder(counters, || {
        TestSystem::real_time(|system| async move {
            let group = InGroup::new();
            let memory = Memory::rooted(config(1000), group.0.path("/")).unwrap();
            let root = system.start(spec(&memory)).await;
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(2) {
                let stalled = begun.elapsed().as_millis() / 2;
                group.set_stalled(u64::try_from(stalled).unwrap());
                sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(memory.pressure().current().level, Level::Elevated);
            // One every 20 ms, and some for clean-ups and collections.
            let read = counters.get("headroom_memory_readings_total");
            assert!((10..150).contains(&read), "{read} readings");
            root.stop().await;
        });
    });
    assert!(counters.get("headroom_memory_stalls_total") > 0);
}

#[test]
fn a_silent_subscriber_does_not_hold_up_an_emergency() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        fixture.process(101, OWN, "hr:model", 780);
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let _silent = memory.pressure().subscribe("silent", Stage::Slack);
        let root = system.start(spec(&memory)).await;
        let seen = until(&memory, "cleaned up", |s| s.events.len() >= 3).await;
        for event in &seen.events[1..3] {
            let EventKind::CleanUp { silent, .. } = &event.kind else {
                panic!("{event:?}");
            };
            assert_eq!(silent[..], ["silent"]);
        }
        let took = seen.events[2]
            .at
            .0
            .duration_since(seen.events[0].at.0)
            .unwrap();
        assert!(
            took >= Duration::from_millis(900),
            "it gave up too early: {took:?}"
        );
        root.stop().await;
    });
}

#[test]
fn collecting_garbage_asks_all_subscribers_of_the_first_stage() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        fixture.process(101, OWN, "hr:model", 300);
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let root = system.start(spec(&memory)).await;
        let mut host = memory.pressure().subscribe("model:1/host-0", Stage::Slack);
        let mut loader = memory.pressure().subscribe("loader", Stage::Idle);
        host.changed().await;
        let handle = memory.handle().clone();
        let asked = actix_rt::spawn(async move { handle.ask(COLLECT, WITHIN).await });
        let pressure = host.changed().await;
        assert!(pressure.asks(Stage::Slack));
        loader.changed().await;
        assert!(!memory.pressure().current().asks(Stage::Idle));
        fixture.process(101, OWN, "hr:model", 200);
        let trimmed = Action {
            what: "model:1/host-0".into(),
            promised_bytes: 0,
            before_bytes: 300 * KIB,
            after_bytes: 200 * KIB,
        };
        host.acknowledge(pressure.epoch, vec![trimmed.clone()]);
        let report = asked.await.unwrap().unwrap();
        assert_eq!(
            (report.used_before_bytes, report.used_after_bytes),
            (400 * KIB, 300 * KIB)
        );
        assert_eq!(report.silent, [""; 0]);
        assert!(report.is_complete && report.interruption.is_none());
        let record = report
            .actors
            .iter()
            .find(|record| record.by == "model:1/host-0");
        assert_eq!(record.unwrap().action, trimmed);
        let event = status(&memory).await.events.pop().unwrap();
        let EventKind::Gc {
            reason, actions, ..
        } = event.kind
        else {
            panic!("{event:?}");
        };
        assert_eq!(
            (reason, actions),
            (CollectionReason::Request, report.actors)
        );
        root.stop().await;
    });
}

#[test]
fn a_collection_asks_for_all_of_one_stage_and_never_for_resources() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let root = system.start(spec(&memory)).await;
        let mut pool = memory.pressure().subscribe("pool", Stage::Connections);
        let mut loader = memory.pressure().subscribe("loader", Stage::Idle);
        // A host that hangs does not hold up the collection of another stage.
        let mut host = memory.pressure().subscribe("host", Stage::Slack);
        pool.changed().await;
        loader.changed().await;
        host.changed().await;
        let handle = memory.handle().clone();
        let stage = Stage::InUse;
        let asked = actix_rt::spawn(async move { handle.ask(Collect { stage }, WITHIN).await });
        let pressure = pool.changed().await;
        assert_eq!(
            (pressure.max_stage, pressure.wanted_bytes),
            (Some(Stage::Connections), u64::MAX)
        );
        assert!(!loader.changed().await.asks(Stage::Idle));
        assert!(!host.changed().await.asks(Stage::Slack));
        let closed = Action {
            what: "connections of pool".into(),
            promised_bytes: 7,
            before_bytes: 7,
            after_bytes: 0,
        };
        pool.acknowledge(pressure.epoch, vec![closed.clone()]);
        let report = asked.await.unwrap().unwrap();
        assert!(report.is_complete && report.silent.is_empty(), "{report:?}");
        let of_pool = report.actors.iter().find(|record| record.by == "pool");
        let of_pool = of_pool.unwrap();
        assert_eq!(
            (of_pool.stage, &of_pool.action),
            (Stage::Connections, &closed)
        );
        root.stop().await;
    });
}

#[test]
fn a_load_stays_below_the_high_level_unless_it_may_use_the_headroom() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let root = system.start(spec(&memory)).await;
        let without_headroom = ReservationRequest {
            use_headroom: false,
            ..request(700)
        };
        let refusal = memory
            .budget()
            .reserve(without_headroom.clone())
            .await
            .unwrap_err();
        assert_eq!(refusal, short(700, 700, 1000));
        drop(reserve(&memory, 700).await.unwrap());
        let buffers = memory.buffers("bodies", u64::MAX);
        let held = buffers.reserve(700 * KIB).unwrap();
        assert_eq!(reserve(&memory, 50).await.unwrap_err(), short(50, 50, 1000));
        assert_eq!(
            buffers.reserve(150 * KIB).unwrap_err(),
            short(150, 150, 1000)
        );
        let new_work = buffers.clone().for_new_work();
        assert_eq!(new_work.reserve(50 * KIB).unwrap_err(), short(50, 50, 1000));
        assert_eq!(status(&memory).await.buffers[0].held_bytes, 700 * KIB);
        drop(held);
        drop(reserve(&memory, 700).await.unwrap());
        root.stop().await;
    });
}

#[test]
fn what_is_free_for_loads_is_known_without_a_reservation() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let budget = memory.budget();
        assert_eq!(budget.free(true), None, "there was no reading");
        let root = system.start(spec(&memory)).await;
        let free = |use_headroom| budget.free(use_headroom).unwrap();
        let expected = |free: u64| FreeMemory {
            free: free * KIB - 1,
            budget: 1000 * KIB,
        };
        assert_eq!((free(false), free(true)), (expected(700), expected(750)));
        let kept = reserve(&memory, 500).await.unwrap();
        assert_eq!((free(false), free(true)), (expected(200), expected(250)));
        drop(kept);
        assert_eq!(free(true), expected(750));
        root.stop().await;
    });
}

#[test]
fn max_reservable_follows_the_budget_and_not_the_current_usage() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let budget = memory.budget();
        assert_eq!(budget.max_reservable(), None);
        let root = system.start(spec(&memory)).await;
        assert_eq!(budget.max_reservable(), Some(750 * KIB - 1));
        let kept = reserve(&memory, 500).await.unwrap();
        fixture.process(OWN, 1, "headroom", 300);
        until(&memory, "grown", |s| s.used_bytes == 300 * KIB).await;
        assert_eq!(budget.max_reservable(), Some(750 * KIB - 1));
        let halved = Reconfigure {
            config: config(500),
        };
        memory.handle().ask(halved, WITHIN).await.unwrap().unwrap();
        until(&memory, "halved", |s| s.report.budget.bytes == 500 * KIB).await;
        assert_eq!(budget.max_reservable(), Some(325 * KIB - 1));
        drop(kept);
        root.stop().await;
    });
}

#[test]
fn nothing_new_is_loaded_when_memory_is_exhausted() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        fixture.process(101, OWN, "hr:model", 860);
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let root = system.start(spec(&memory)).await;
        assert_eq!(status(&memory).await.level, Level::Exhausted);
        assert_eq!(reserve(&memory, 1).await.unwrap_err(), short(1, 0, 1000));
        // The usage counts, not the level that its dwell still holds.
        fixture.process(101, OWN, "hr:model", 200);
        drop(reserve(&memory, 500).await.unwrap());
        root.stop().await;
    });
}

#[test]
fn a_request_is_refused_while_memory_cannot_be_read() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let root = system.start(spec(&memory)).await;
        fixture.remove(&format!("proc/{OWN}"));
        let refusal = loop {
            // The last reading is fresh for some more milliseconds.
            if let Err(refusal) = reserve(&memory, 1).await {
                break refusal;
            }
        };
        assert_eq!(refusal, BudgetError::Unavailable);
        fixture.process(OWN, 1, "headroom", 100);
        drop(reserve(&memory, 740).await.unwrap());
        root.stop().await;
    });
}

#[test]
fn figures_become_stale_without_readings_and_fresh_with_the_next_one() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        let config = MemoryConfig {
            stale_after: Duration::from_millis(700),
            ..config(1000)
        };
        let memory = Memory::rooted(config, fixture.path("/")).unwrap();
        let freshness = memory.freshness();
        assert_eq!((freshness.age(), freshness.stale()), (None, None));
        let root = system.start(spec(&memory)).await;
        assert!(freshness.age().is_some() && freshness.stale().is_none());
        fixture.remove(&format!("proc/{OWN}"));
        let deadline = Instant::now() + WITHIN;
        while freshness.stale().is_none() {
            assert!(Instant::now() < deadline, "{:?}", freshness.age());
            sleep(Duration::from_millis(5)).await;
        }
        assert!(freshness.age().unwrap() > Duration::from_millis(700));
        fixture.process(OWN, 1, "headroom", 100);
        while freshness.stale().is_some() {
            assert!(Instant::now() < deadline, "{:?}", freshness.age());
            sleep(Duration::from_millis(5)).await;
        }
        root.stop().await;
    });
}

#[test]
fn a_server_that_cannot_read_memory_does_not_start() {
    TestSystem::real_time(|system| async move {
        let memory = Memory::rooted(config(1000), Fixture::new().path("/")).unwrap();
        let exit = crate::kernel::Root::start(spec(&memory), system.tree()).await;
        let text = exit.err().unwrap().to_string();
        assert!(
            text.contains("the server's processes cannot be read"),
            "{text}"
        );
    });
}

#[test]
fn valid_settings_take_effect_and_invalid_ones_are_refused() {
    TestSystem::real_time(|system| async move {
        let fixture = server();
        let memory = Memory::rooted(config(1000), fixture.path("/")).unwrap();
        let root = system.start(spec(&memory)).await;
        let handle = memory.handle();
        let halved = Reconfigure {
            config: config(500),
        };
        handle.ask(halved, WITHIN).await.unwrap().unwrap();
        until(&memory, "halved", |s| s.report.budget.bytes == 500 * KIB).await;
        assert_eq!(
            reserve(&memory, 401).await.unwrap_err(),
            short(401, 325, 500)
        );
        let invalid = Reconfigure { config: config(0) };
        assert!(handle.ask(invalid, WITHIN).await.unwrap().is_err());
        assert_eq!(status(&memory).await.report.budget.bytes, 500 * KIB);
        root.stop().await;
    });
}

#[test]
fn the_real_process_tree_is_read_and_shown() {
    TestSystem::real_time(|system| async move {
        let memory = Memory::new(MemoryConfig::default()).unwrap();
        let root = system.start(spec(&memory)).await;
        let first = status(&memory).await;
        assert!(first.used_bytes > 0 && first.used_bytes < first.report.budget.bytes);
        assert!(first.kinds.iter().any(|kind| kind.kind == "server"));
        let nodes = system.tree().snapshot().await;
        let node = nodes[0].find("headroom/memory").unwrap();
        let shown = node.observed.as_ref().unwrap();
        assert_eq!(shown["budget"]["bytes"], first.report.budget.bytes);
        root.stop().await;
    });
}

#[test]
fn a_real_group_of_version_1_sets_the_budget() {
    const LIMIT: u64 = 64 << 20;
    let Some(group) = Group::new("reading", LIMIT) else {
        return;
    };
    if group.version() != Version::V1 {
        return skip("control groups are of version 2 here");
    }
    // `cat` waits for the end of its input.
    let mut cat = child::command("cat");
    let member = child::start(cat.stdin(Stdio::piped())).unwrap();
    let pid = member.id();
    fs::write(group.path("cgroup.procs"), pid.to_string()).unwrap();
    let mut system = System::rooted("/");
    system.process = pid.to_string();
    let mut sampler = Sampler::new(&system, Arc::new(Allocator::new()));
    let reading = sampler.read(&MemoryConfig::default()).unwrap();
    assert_eq!(reading.report.budget.source, BudgetSource::CgroupV1);
    assert_eq!(reading.report.budget.bytes, LIMIT);
    // The group has no other processes, so its usage counts.
    assert!(reading.group_usage.is_some());
    assert_eq!(reading.usage.processes.len(), 1);
    let tighter = MemoryConfig {
        limit: Some(LIMIT / 2),
        ..MemoryConfig::default()
    };
    let reading = sampler.read(&tighter).unwrap();
    assert_eq!(reading.report.budget.source, BudgetSource::Configured);
}
