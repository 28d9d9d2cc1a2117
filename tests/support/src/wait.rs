//! Waiting for a condition with a deadline, instead of sleeping.

#![expect(clippy::panic, reason = "how a test fails")]

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Far longer than any condition takes. A test that reaches it has failed.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Time between two checks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Calls `check` until it returns `Ok`, and returns that value. `check` returns `Err` with what it observed while the
/// condition does not hold.
///
/// # Panics
/// When the deadline passes; the message shows the last observation.
#[track_caller]
pub fn wait_for<T, E: Debug>(deadline: Duration, mut check: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + deadline;
    loop {
        match check() {
            Ok(value) => return value,
            Err(observed) if Instant::now() >= end => fail(deadline, &observed),
            Err(_) => pause(),
        }
    }
}

/// Waits until `condition` holds; `description` says what it is.
///
/// # Panics
/// When the deadline passes.
#[track_caller]
pub fn wait_until(deadline: Duration, description: &str, condition: impl Fn() -> bool) {
    wait_for(deadline, || {
        condition()
            .then_some(())
            .ok_or_else(|| format!("not: {description}"))
    });
}

/// [`wait_for`] with an asynchronous check.
///
/// # Panics
/// When the deadline passes; the message shows the last observation.
pub async fn wait_for_async<T, E: Debug>(
    deadline: Duration,
    mut check: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        match check().await {
            Ok(value) => return value,
            Err(observed) if Instant::now() >= end => fail(deadline, &observed),
            Err(_) => tokio::time::sleep(INTERVAL).await,
        }
    }
}

#[track_caller]
fn fail(deadline: Duration, observed: &impl Debug) -> ! {
    panic!("the condition does not hold after {deadline:?}; last observed: {observed:?}")
}

#[expect(
    clippy::disallowed_methods,
    reason = "the only place that sleeps, so that no test has to"
)]
pub(crate) fn pause() {
    std::thread::sleep(INTERVAL);
}
