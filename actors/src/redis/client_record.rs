//! What the connections of one client of a cluster record together.
//!
//! The driver opens the connections, and tells a connect nothing of the client that it is for. But it passes
//! on what resolves the names of hosts. So the record is that too, and a connect knows whose it is once the
//! record was asked to resolve the node's name.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_redis::redis::io::AsyncDNSResolver;
use deadpool_redis::redis::{ErrorKind, RedisError, RedisFuture};
use tokio::net::lookup_host;
use tokio::time::Instant;

/// How long ago the slots were learned if that was just now.
const JUST_NOW: Duration = Duration::from_millis(200);

/// A longer time in which nobody asked is no silence. As long as the default of `check_after_idle`: the pool
/// checks a client that was idle for longer.
const IDLE: Duration = Duration::from_secs(30);

/// The record of one client. Clones are the same record.
#[derive(Clone, Default)]
pub(super) struct ClientRecord(Arc<Recorded>);

#[derive(Default)]
struct Recorded {
    /// The number of requests sent so far, to all nodes.
    sent: AtomicU64,
    /// When the driver last learned the slots.
    learned_at: Mutex<Option<Instant>>,
    /// What was asked since the last answer of any node.
    unanswered: Mutex<Option<Unanswered>>,
}

struct Unanswered {
    first_at: Instant,
    last_at: Instant,
}

tokio::task_local! {
    /// The record that was asked during the connect that runs in this scope.
    static ASKED: RefCell<Option<ClientRecord>>;
}

impl ClientRecord {
    /// Runs a connect, and returns the record of its client too, if it was asked.
    pub(super) async fn of_connect<T>(connect: impl Future<Output = T>) -> (T, Option<Self>) {
        ASKED
            .scope(RefCell::default(), async {
                let connected = connect.await;
                (connected, ASKED.with(RefCell::take))
            })
            .await
    }

    /// A request is sent.
    pub(super) fn count_sent(&self) {
        self.0.sent.fetch_add(1, Ordering::Relaxed);
        self.ask();
    }

    /// There is no connection to send a request over. A client may miss its nodes since something that it was
    /// made with has changed, as the file of authorities. So this counts as asked and unanswered.
    pub(super) fn count_unsent(&self) {
        self.ask();
    }

    fn ask(&self) {
        let now = Instant::now();
        let mut unanswered = lock(&self.0.unanswered);
        let current = unanswered.as_ref();
        let current = current.filter(|it| now.duration_since(it.last_at) < IDLE);
        *unanswered = Some(Unanswered {
            first_at: current.map_or(now, |it| it.first_at),
            last_at: now,
        });
    }

    /// The number of requests that were sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// The driver has learned the slots.
    pub(super) fn set_slots_learned(&self) {
        *lock(&self.0.learned_at) = Some(Instant::now());
    }

    pub(super) fn has_just_learned_slots(&self) -> bool {
        lock(&self.0.learned_at).is_some_and(|at| at.elapsed() < JUST_NOW)
    }

    /// A node has answered.
    pub(super) fn set_answered(&self) {
        *lock(&self.0.unanswered) = None;
    }

    /// How long no node has answered although callers asked.
    pub(super) fn silence(&self) -> Duration {
        let unanswered = lock(&self.0.unanswered);
        unanswered
            .as_ref()
            .map_or(Duration::ZERO, |it| it.first_at.elapsed())
    }
}

fn lock<T>(recorded: &Mutex<T>) -> MutexGuard<'_, T> {
    recorded.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncDNSResolver for ClientRecord {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            // Outside of a scope, nobody wants to know.
            ASKED
                .try_with(|asked| asked.replace(Some(self.clone())))
                .ok();
            let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
            if addresses.is_empty() {
                let kind = ErrorKind::InvalidClientConfig;
                return Err(RedisError::from((kind, "the host has no address")));
            }
            let addresses: Box<dyn Iterator<Item = SocketAddr> + Send> =
                Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::kernel::testing::TestSystem;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_in_which_nobody_asks_is_no_silence() {
        TestSystem::paused(|_| async {
            let record = ClientRecord::default();
            record.count_sent();
            advance(3600 * SECOND).await;
            record.count_sent();
            advance(SECOND).await;
            assert_eq!(record.silence(), SECOND);
            for _ in 0..9 {
                record.count_unsent();
                advance(10 * SECOND).await;
            }
            assert_eq!(record.silence(), 91 * SECOND);
            record.set_answered();
            assert_eq!(record.silence(), Duration::ZERO);
        });
    }
}
