//! Actors whose loop does not turn.

use std::time::Duration;

use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::kernel::{AskError, Heartbeat, SupervisorSpec, sleep_awake};
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
