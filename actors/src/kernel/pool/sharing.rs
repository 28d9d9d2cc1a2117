//! Which connections callers share.
//!
//! The server answers the requests on a connection in the order of their sending, so whoever joins
//! others waits for all of them. Sharing is for when connections run short. A caller for shared use
//! gets, in this order:
//!
//! 1. an idle connection. One is left for exclusive use, as long as any shared connection moves;
//! 2. the connection with the fewest users, of those that show a short wait. When it is half full, the pool
//!    opens another one, up to `shared_max`;
//! 3. a place in the queue. The pool opens another connection for it where that is quicker.
//!
//! What a connection shows: its *head* is the request that the server works on. The head's age is the
//! time since the last lease on the connection ended, or since the first one began. The *pace* is the
//! average time between such ends lately. The wait of a new user is the age, and the pace for each
//! user before it. It is short below the time of a connect ([`PoolState::short_wait`]); a connection
//! *moves* while the age alone is. So a slow request is left alone, and for some time those that come
//! after it on the same connection have it for themselves too.
//!
//! A connection with more than one user is a *pipeline*, and there are at most `shared_max` that move.
//! While that many show a short wait, waiters are patient: for that short time they leave idle
//! connections alone, since few pipelines cost a server much less than many connections with a request
//! each.

use std::time::Duration;

use tokio::time::Instant;

use super::connect::Connect;
use super::lease::Mode;
use super::queue::CheckoutReply;
use super::state::{ConnectionState, PoolState, PooledConnection};

/// A wait that callers do not notice, however fast connects are.
const SHORT_WAIT_MIN: Duration = Duration::from_millis(5);
/// A head that is older is slow, however slow connects are.
const SHORT_WAIT_MAX: Duration = Duration::from_millis(100);

/// The connections in shared use at one moment.
#[derive(Default)]
pub(super) struct Sharing {
    /// The number of all of them.
    shared: usize,
    /// Those that move.
    moving: usize,
    /// The pipelines that move.
    pipelines: usize,
    /// The pipelines that show a short wait.
    quick: usize,
    /// Whether the first user of a new connection has no answer yet, and has not waited long for it.
    pub(super) has_untested: bool,
    /// The one that the next user joins, and the number of its users.
    pub(super) joinable: Option<(u64, u32)>,
}

impl<C: Connect, R: CheckoutReply<Connection = C::Connection>> PoolState<C, R> {
    pub(super) fn sharing(&self, now: Instant) -> Sharing {
        let short = self.short_wait();
        let mut sharing = Sharing::default();
        // A connection with one user and the pipeline with the fewest, of those that another may join.
        let (mut single, mut pipeline): (_, Option<(u64, u32)>) = (None, None);
        for (id, pooled) in &self.connections {
            let ConnectionState::Shared {
                in_flight,
                progress_at,
                ..
            } = pooled.state
            else {
                continue;
            };
            sharing.shared += 1;
            let age = now.saturating_duration_since(progress_at);
            if age >= short || !self.takes_users(now, pooled) {
                continue;
            }
            sharing.moving += 1;
            sharing.pipelines += usize::from(in_flight > 1);
            let Some(pace) = pooled.pace.known() else {
                sharing.has_untested = true;
                continue;
            };
            if pace.saturating_mul(in_flight).saturating_add(age) >= short {
                continue;
            }
            sharing.quick += usize::from(in_flight > 1);
            if in_flight >= self.config.shared_depth {
                continue;
            }
            if in_flight <= 1 {
                single = single.or(Some((*id, in_flight)));
            } else if pipeline.is_none_or(|(_, fewest)| in_flight < fewest) {
                pipeline = Some((*id, in_flight));
            }
        }
        let single = single.filter(|_| sharing.pipelines < self.config.shared_max as usize);
        sharing.joinable = single.or(pipeline);
        sharing
    }

    /// Lets the first waiter join the shared connection `id`, which has `users`. If it is half full and
    /// may not be the last pipeline, the pool opens the next one: one connection uses one core of the
    /// server, however quick it is.
    pub(super) fn join(&mut self, now: Instant, (id, users): (u64, u32), sharing: &Sharing) {
        self.grant(now, Mode::Shared, id);
        let is_half_full = users.saturating_mul(2) >= self.config.shared_depth;
        let is_last = sharing.pipelines >= self.config.shared_max as usize;
        if is_half_full && !is_last && self.idle.is_empty() && self.opening.is_empty() {
            self.open(now, 1);
        }
    }

    /// The longest wait behind other users that is better than another connection.
    pub(super) fn short_wait(&self) -> Duration {
        let connect = self.figures.average_connect.get();
        connect.clamp(SHORT_WAIT_MIN, SHORT_WAIT_MAX)
    }

    /// The ages of the heads that are slow.
    pub(super) fn slow_heads(&self, now: Instant) -> impl Iterator<Item = Duration> {
        let short = self.short_wait();
        let states = self.connections.values().map(|pooled| pooled.state);
        let ages = states.filter_map(move |state| match state {
            ConnectionState::Shared { progress_at, .. } => {
                Some(now.saturating_duration_since(progress_at))
            }
            _ => None,
        });
        ages.filter(move |age| *age >= short)
    }

    /// Whether a shared connection may get new users at all.
    fn takes_users(&self, now: Instant, pooled: &PooledConnection<C::Connection>) -> bool {
        let is_broken = matches!(pooled.state, ConnectionState::Shared { broken: true, .. });
        !is_broken
            && pooled.expires_at > now
            && !self.connect.is_closed(&pooled.connection)
            && !self.connect.is_blocked(&pooled.connection)
    }

    /// Whether the first waiter for shared use may get an idle connection.
    pub(super) fn may_share_idle(&self, now: Instant, sharing: &Sharing) -> bool {
        let max = self.config.connections_max.saturating_sub(1).max(1) as usize;
        let leaves_one = sharing.shared < max || sharing.moving == 0;
        let waits_for_pipelines = sharing.quick >= self.config.shared_max as usize;
        let is_patient = waits_for_pipelines && self.patience_ends().is_some_and(|at| now < at);
        leaves_one && !is_patient
    }

    fn patience_ends(&self) -> Option<Instant> {
        let first = self.queue.oldest_of(Mode::Shared)?;
        Some(first + self.short_wait())
    }

    /// When the next waiter for shared use may be served although nothing else happens: a head has
    /// become slow and does not count any more, or the patience of the first waiter ends.
    pub(super) fn next_sharing(&self, now: Instant) -> Option<Instant> {
        let patience_ends = self.patience_ends()?;
        let short = self.short_wait();
        let slow = self
            .connections
            .values()
            .filter_map(|pooled| match pooled.state {
                ConnectionState::Shared { progress_at, .. } => Some(progress_at + short),
                _ => None,
            });
        slow.chain([patience_ends]).filter(|at| *at > now).min()
    }
}
