//! How long an upload waits for its client while others need its place, or its client has come back.
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

/// A client that has sent nothing for so long has stalled.
const STALLED: Duration = Duration::from_secs(2);

/// The waits of one upload for its client. Clones share them.
#[derive(Clone, Default)]
pub struct Patience(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Since when the upload waits, or would if it had waited for all that its client is behind.
    since: Mutex<Option<Instant>>,
    /// Since when it waits.
    began: Mutex<Option<Instant>>,
    ended: CancellationToken,
}

/// Ends a wait, also when it is dropped.
struct Waits<'a>(&'a Patience);

impl Patience {
    /// Waits for the client, which is behind by `behind`. `None`: others need the place, or the
    /// client goes on elsewhere.
    pub async fn wait<T>(&self, behind: Duration, next: impl Future<Output = T>) -> Option<T> {
        *self.since() = Instant::now().checked_sub(behind);
        *self.began() = Some(Instant::now());
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

    /// Has the upload end if its client has stalled. Returns whether it ends.
    pub(super) fn end_if_stalled(&self) -> bool {
        let began = *self.began();
        if began.is_some_and(|began| began.elapsed() > STALLED) {
            self.end();
        }
        self.0.ended.is_cancelled()
    }

    fn began(&self) -> MutexGuard<'_, Option<Instant>> {
        let began = self.0.began.lock();
        began.unwrap_or_else(PoisonError::into_inner)
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        let since = self.0.since.lock();
        since.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        *self.0.since() = None;
        *self.0.began() = None;
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
        assert!(!patience.end_if_stalled());
        let waits = patience.clone();
        let stalled = tokio::spawn(async move {
            let on_time = waits
                .wait(Duration::ZERO, tokio::time::sleep(STALLED))
                .await;
            let never = waits.wait(Duration::ZERO, pending::<()>()).await;
            (on_time, never)
        });
        for _ in 0..3 {
            tokio::time::sleep(STALLED / 2).await;
            assert!(!patience.end_if_stalled());
        }
        tokio::time::sleep(STALLED).await;
        assert!(patience.end_if_stalled());
        assert_eq!(stalled.await.ok(), Some((Some(()), None)));

        let patience = Patience::default();
        assert_eq!(patience.wait(BEHIND_MAX * 9, async { 1 }).await, Some(1));
        assert_eq!(patience.too_slow_since(), None);
    }
}
