//! How long an upload waits for its client while others need its place.
//!
//! A client that sends a byte per second would keep its place until it is cut, and many such clients all places. So
//! each upload says while it waits, and how far its client is behind the least rate; when all places are taken, who is
//! farthest behind gives up its own. Honest clients are not behind, also on slow lines.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A client that is behind by more than this gives up its place.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// The waits of one upload for its client. Clones share them.
#[derive(Clone, Default)]
pub struct Patience(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Since when the upload waits, or would if it had waited for all that its client is behind.
    since: Mutex<Option<Instant>>,
    ended: CancellationToken,
}

/// Ends a wait, also when it is dropped.
struct Waits<'a>(&'a Patience);

impl Patience {
    /// Waits for the client, which is behind by `behind`. `None`: others need the place.
    pub async fn wait<T>(&self, behind: Duration, next: impl Future<Output = T>) -> Option<T> {
        *self.since() = Instant::now().checked_sub(behind);
        let _waits = Waits(self);
        tokio::select! {
            biased;
            next = next => Some(next),
            () = self.0.ended.cancelled() => None,
        }
    }

    /// Since when the client is too slow to keep its place, if it is.
    pub(super) fn too_slow_since(&self) -> Option<Instant> {
        let since = *self.since();
        since.filter(|since| since.elapsed() > BEHIND_MAX && !self.0.ended.is_cancelled())
    }

    /// Has the upload end.
    pub(super) fn end(&self) {
        self.0.ended.cancel();
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        let since = self.0.since.lock();
        since.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        *self.0.since() = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_who_waits_for_a_slow_client_gives_its_place_up() {
        let patience = Patience::default();
        assert_eq!(patience.too_slow_since(), None);
        let waits = patience.clone();
        let slow = tokio::spawn(async move { waits.wait(BEHIND_MAX / 2, pending::<()>()).await });
        tokio::time::advance(BEHIND_MAX / 3).await;
        tokio::task::yield_now().await;
        assert_eq!(patience.too_slow_since(), None);
        tokio::time::advance(BEHIND_MAX).await;
        assert!(patience.too_slow_since().is_some());
        patience.end();
        assert_eq!(slow.await.ok(), Some(None));
        assert_eq!(patience.too_slow_since(), None);

        let patience = Patience::default();
        assert_eq!(patience.wait(BEHIND_MAX * 9, async { 1 }).await, Some(1));
        assert_eq!(patience.too_slow_since(), None);
    }
}
