//! Actors whose loop does not turn.

use std::time::Duration;

use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::kernel::{AskError, sleep_awake};
use tokio::time::{Instant, advance, sleep};

use crate::scripted::*;

/// After this silence an actor is stuck.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn a_pause_of_the_process_is_not_counted_however_long_it_is() {
    TestSystem::paused(|system| async move {
        let started_at = Instant::now();
        sleep_awake(8 * SECOND).await;
        assert_eq!(started_at.elapsed(), 8 * SECOND);

        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        log.take();
        let waiting = tokio::spawn(sleep_awake(8 * SECOND));
        sleep(7 * SECOND + SECOND / 2).await;
        advance(1000 * SECOND).await;
        let resumed = Instant::now();
        waiting.await.unwrap();
        assert_eq!(resumed.elapsed(), SECOND);
        sleep(HEARTBEAT_TIMEOUT * 2).await;
        assert_eq!(log.take(), [""; 0], "no actor was stuck");
        root.stop().await;
    });
}

#[test]
fn an_actor_whose_loop_stands_still_is_killed_as_stuck_and_restarted() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        log.take();
        let started_at = Instant::now();
        assert_eq!(actor.ask(Request::Hang).await, Err(AskError::Lost));
        let silent = started_at.elapsed();
        let bounds = HEARTBEAT_TIMEOUT - SECOND..=HEARTBEAT_TIMEOUT + SECOND;
        assert!(bounds.contains(&silent), "{silent:?}");
        assert_eq!(actor.incarnation().await, 2);
        assert_eq!(log.take_joined(), "~a +a");
        let last = last_exit(system.tree(), "root/a").await;
        assert!(last.starts_with("stuck: no heartbeat for"), "{last}");
        root.stop().await;
    });
}

#[test]
fn an_actor_that_only_waits_for_work_is_not_stuck() {
    TestSystem::paused(|system| async move {
        let log = EventLog::default();
        let actor = TestActor::new("a", &log);
        let root = system.start(root_over([&actor])).await;
        tokio::time::sleep(100 * LONG).await;
        assert_eq!(actor.incarnation().await, 1);
        root.stop().await;
    });
}
