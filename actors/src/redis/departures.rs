//! Leaving a server that has become a replica, or reads its data from the disk again.
//!
//! One connection learns of it by an error. The other connections of the pool lead to the same server:
//! reads over them would return old values. So all of them leave together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use deadpool_redis::redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::time::Instant;

/// The shortest time between two departures. A server that stays a replica, since no other one is
/// configured, would otherwise be connected to again at each write.
const DISTANCE_MIN: Duration = Duration::from_secs(1);

/// The departures of one pool. A connection whose connect began before the last one is not used any more.
#[derive(Debug, Default)]
pub(super) struct Departures {
    count: AtomicU64,
    last: Mutex<Option<Instant>>,
}

impl Departures {
    /// The number of departures so far.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Leaves the server of a connection that has seen `seen` departures, unless that has happened, or
    /// another departure has happened just now.
    pub(super) fn leave(&self, seen: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = last.is_some_and(|at| at.elapsed() < DISTANCE_MIN);
        if seen == self.count() && !is_recent {
            *last = Some(Instant::now());
            self.count.store(seen + 1, Ordering::Release);
        }
    }
}

/// Whether the server is not, or not any more, the one to send commands to. The cause of an aborted
/// transaction counts too.
pub(super) fn is_of_wrong_server(error: &RedisError) -> bool {
    use ServerErrorKind as Kind;
    let is_wrong = |kind| matches!(kind, Kind::ReadOnly | Kind::MasterDown | Kind::BusyLoading);
    if matches!(error.kind(), ErrorKind::Server(kind) if is_wrong(kind)) {
        return true;
    }
    let errors = error.clone().into_server_errors();
    let mut kinds = errors.iter().flat_map(|errors| errors.iter());
    kinds.any(|(_, error)| error.kind().is_some_and(is_wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_is_left_once_and_the_next_one_not_at_once() {
        let departures = Departures::default();
        departures.leave(0);
        departures.leave(0);
        assert_eq!(departures.count(), 1);
        departures.leave(1);
        assert_eq!(departures.count(), 1, "the last one was just now");
        tokio::time::advance(DISTANCE_MIN).await;
        departures.leave(0);
        assert_eq!(departures.count(), 1, "that server was left before");
        departures.leave(1);
        assert_eq!(departures.count(), 2);
    }
}
