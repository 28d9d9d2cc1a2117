//! Waiting in time during which this process ran.
//!
//! A server that is stopped (SIGSTOP), frozen with its container, migrated, or starved of the CPU
//! wakes up to find every deadline passed, and the answers that it waited for unread. Whoever ends
//! others for their silence must not count that time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Into how many steps a wait is divided.
const STEPS: u32 = 8;

/// Waits until this process has run for `time`, to within an eighth of it. A step of the wait that
/// took more than twice its time is not counted: whatever came meanwhile is looked at before the
/// next has passed.
pub async fn sleep_awake(time: Duration) {
    if time == Duration::MAX {
        std::future::pending::<()>().await;
    }
    let step = time / STEPS;
    let mut steps = 0;
    while steps < STEPS {
        let begun = Instant::now();
        sleep(step).await;
        // The timer itself is exact to a millisecond.
        if begun.elapsed() <= step * 2 + Duration::from_millis(1) {
            steps += 1;
        }
    }
}
