//! Waiting that does not count the time in which this process did not run.
//!
//! When a server continues after it was stopped (SIGSTOP), frozen with its container, migrated or
//! starved of CPU time, every deadline has passed and the answers that it waited for are unread.
//! Code that kills others for their silence must not count that time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The number of steps of a wait.
const STEPS: u32 = 8;

/// Waits until this process has run for `time`, give or take an eighth of it. A step of the wait
/// that took more than twice its time does not count: what arrived meanwhile is handled during the
/// next step.
pub async fn sleep_awake(time: Duration) {
    let step = time / STEPS;
    let mut steps = 0;
    while steps < STEPS {
        let started = Instant::now();
        sleep(step).await;
        // The timer itself is exact to a millisecond.
        if started.elapsed() <= step * 2 + Duration::from_millis(1) {
            steps += 1;
        }
    }
}
