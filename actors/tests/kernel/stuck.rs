//! Actors that no longer turn their loop, and threads that never come back.

use std::time::Duration;

use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::kernel::{
    AskError, ChildSpec, Heartbeat, Restart, SupervisorSpec, sleep_awake,
};
use tokio::time::{Instant, advance, sleep};

use crate::cast::*;

#[test]
fn a_pause_of_the_process_is_not_counted_however_long_it_is() {
    TestSystem::paused(|system| async move {
        let begun = Instant::now();
        sleep_awake(8 * SECOND).await;
        assert_eq!(begun.elapsed(), 8 * SECOND);

        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let root = system.start(over([&role])).await;
        journal.take();
        let waiting = tokio::spawn(sleep_awake(8 * SECOND));
        sleep(7 * SECOND + SECOND / 2).await;
        advance(1000 * SECOND).await;
        let resumed = Instant::now();
        waiting.await.unwrap();
        assert_eq!(resumed.elapsed(), SECOND);
        sleep(Heartbeat::DEFAULT.timeout * 2).await;
        assert_eq!(journal.take(), [""; 0], "nobody was stuck");
        root.stop().await;
    });
}

#[test]
fn an_actor_whose_loop_stands_still_is_killed_as_stuck_and_restarted() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let root = system.start(over([&role])).await;
        journal.take();
        let begun = Instant::now();
        assert_eq!(role.ask(Do::Hang).await, Err(AskError::Lost));
        let silent = begun.elapsed();
        let timeout = Heartbeat::DEFAULT.timeout;
        assert!(
            silent > timeout - Heartbeat::DEFAULT.interval && silent <= timeout + SECOND,
            "{silent:?}"
        );
        assert_eq!(role.incarnation().await, 2);
        assert_eq!(journal.story(), "~a +a");
        let last = last_exit(system.tree(), "root/a").await;
        assert!(last.starts_with("stuck: no heartbeat for"), "{last}");
        root.stop().await;
    });
}

#[test]
fn an_actor_that_only_waits_for_work_is_not_stuck() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let root = system.start(over([&role])).await;
        tokio::time::sleep(100 * LONG).await;
        assert_eq!(role.incarnation().await, 1);
        root.stop().await;
    });
}

#[test]
fn a_heartbeat_that_never_times_out_is_allowed() {
    TestSystem::paused(|system| async move {
        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let never = Heartbeat {
            interval: Duration::ZERO,
            timeout: Duration::MAX,
        };
        let spec = SupervisorSpec::new("root").child(role.spec().heartbeat(never));
        let root = system.start(spec).await;
        tokio::time::sleep(SECOND).await;
        assert_eq!(role.incarnation().await, 1);
        root.stop().await;
    });
}

fn impatient() -> Heartbeat {
    Heartbeat {
        interval: Duration::from_millis(10),
        timeout: Duration::from_millis(200),
    }
}

#[test]
fn a_thread_that_blocks_for_ever_is_abandoned_counted_and_replaced() {
    TestSystem::real_time(|system| async move {
        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let spec = SupervisorSpec::new("root").child(role.dedicated().heartbeat(impatient()));
        let root = system.start(spec).await;
        let (release, block) = std::sync::mpsc::sync_channel(0);
        let caller = role.clone();
        let blocked = actix_rt::spawn(async move { caller.ask(Do::Block(block)).await });
        assert!(eventually_incarnation(&role, 2).await);
        assert_eq!(system.tree().abandoned_threads(), 1);
        assert!(
            role.handle.stats().snapshot().lost > 0,
            "those that waited were told"
        );
        assert_eq!(role.ask(Do::Echo(5)).await, Ok(5));
        assert_eq!(role.handle.in_flight(), 1, "its work has not ended");
        journal.take();
        // The thread comes back after all: it finishes its call, and goes, without being let in.
        drop(release);
        assert_eq!(blocked.await.unwrap(), Ok(0));
        eventually("it is gone", || journal.contains("~a")).await;
        assert_eq!(role.ask(Do::Incarnation).await, Ok(2));
        assert_eq!(role.handle.in_flight(), 0);
        root.stop().await;
    });
}

#[test]
fn a_stop_does_not_wait_for_the_calls_of_an_abandoned_thread() {
    TestSystem::real_time(|system| async move {
        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let spec = SupervisorSpec::new("root").child(
            role.dedicated()
                .heartbeat(impatient())
                .shutdown_deadline(LONG),
        );
        let root = system.start(spec).await;
        let (release, block) = std::sync::mpsc::sync_channel(0);
        let caller = role.clone();
        let blocked = actix_rt::spawn(async move { caller.ask(Do::Block(block)).await });
        assert!(eventually_incarnation(&role, 2).await);
        journal.take();
        let begun = Instant::now();
        root.stop().await;
        assert!(begun.elapsed() < LONG);
        assert_eq!(journal.story(), "-a ~a", "the new one stopped in order");
        drop(release);
        assert_eq!(blocked.await.unwrap(), Ok(0));
    });
}

#[test]
fn a_killed_supervisor_waits_until_the_thread_of_its_child_is_given_up() {
    TestSystem::real_time(|system| async move {
        let journal = Journal::default();
        let role = Role::new("a", &journal);
        let branch = SupervisorSpec::new("branch").child(role.dedicated());
        let branch = ChildSpec::supervisor(branch).shutdown_deadline(SECOND / 10);
        let root = system
            .start(SupervisorSpec::new("root").child(branch))
            .await;
        let (release, block) = std::sync::mpsc::sync_channel(0);
        let caller = role.clone();
        let blocked = actix_rt::spawn(async move { caller.ask(Do::Block(block)).await });
        eventually("it blocks", || {
            let stats = role.handle.stats().snapshot();
            role.handle.in_flight() == 1 && stats.mailbox_depth == 0
        })
        .await;
        root.stop().await;
        assert_eq!(system.tree().abandoned_threads(), 1);
        drop(release);
        assert_eq!(blocked.await.unwrap(), Ok(0));
    });
}

#[test]
fn a_blocked_thread_holds_up_no_sibling() {
    TestSystem::real_time(|system| async move {
        let journal = Journal::default();
        let [blocked, other, _] = three(&journal);
        let spec = SupervisorSpec::new("root")
            .child(blocked.dedicated())
            .child(other.spec());
        let root = system.start(spec).await;
        let (release, block) = std::sync::mpsc::sync_channel(0);
        let caller = blocked.clone();
        let call = actix_rt::spawn(async move { caller.ask(Do::Block(block)).await });
        assert_eq!(other.handle.ask(Do::Echo(1), SECOND).await, Ok(1));
        drop(release);
        assert_eq!(call.await.unwrap(), Ok(0));
        root.stop().await;
    });
}

#[test]
fn an_actor_of_its_own_thread_takes_the_thread_along() {
    TestSystem::real_time(|system| async move {
        let journal = Journal::default();
        let spec = SupervisorSpec::new("root");
        let supervisor = spec.handle();
        let root = system.start(spec).await;
        let before = threads();
        for _ in 0..20 {
            let role = Role::new("a", &journal);
            let spec = role.dedicated().restart(Restart::Temporary);
            let child = supervisor.start_child(spec).await.unwrap();
            assert_eq!(role.ask(Do::Echo(1)).await, Ok(1));
            assert_eq!(role.ask(Do::Panic).await, Err(AskError::Lost));
            child.ended().await;
        }
        eventually("the threads end", || threads() <= before).await;
        root.stop().await;
    });
}

/// Actors' threads of this process; other tests of the same process have none of this name.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("actix-rt")).count()
}

/// Waits, in real time, until the incarnation `wanted` answers.
async fn eventually_incarnation(role: &Role, wanted: u64) -> bool {
    let deadline = Instant::now() + LONG;
    while Instant::now() < deadline {
        if role.handle.ask(Do::Incarnation, SECOND / 10).await == Ok(wanted) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}
