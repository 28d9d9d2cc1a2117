//! Waiting for something to become true, never for time to pass.

#![expect(clippy::panic, reason = "how a test fails")]

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks until `look` gives a value, and returns it.
///
/// `look` returns `Err` with what it saw while that is not yet what the test waits for.
///
/// # Panics
/// When the deadline passes; with what was seen last.
#[track_caller]
pub fn wait_for<T, S: Debug>(deadline: Duration, mut look: impl FnMut() -> Result<T, S>) -> T {
    let end = Instant::now() + deadline;
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= end => {
                panic!("not so after {deadline:?}; last seen: {seen:?}")
            }
            Err(_) => pause(),
        }
    }
}

/// The same for tests with a runtime, where looking takes requests.
///
/// # Panics
/// When the deadline passes; with what was seen last.
pub async fn wait_for_async<T, S, F>(deadline: Duration, mut look: impl FnMut() -> F) -> T
where
    S: Debug,
    F: Future<Output = Result<T, S>>,
{
    let end = Instant::now() + deadline;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= end => {
                panic!("not so after {deadline:?}; last seen: {seen:?}")
            }
            Err(_) => tokio::time::sleep(INTERVAL).await,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that sleeps, so that no test has to"
)]
pub(crate) fn pause() {
    std::thread::sleep(INTERVAL);
}
