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
//! time since the last use of the connection ended, or since the first one began. The *pace* is the
//! average time between such ends lately. The wait of a new user is the age, and the pace for each
//! user before it. It is short below the time of a connect ([`PoolState::short_wait`]); a connection
//! *moves* while the age alone is. So a slow request is left alone, and for some time those that come
//! after it on the same connection have it for themselves too.
//!
//! A connection with more than one user is a *pipeline*, and there are at most `shared_max` that move.
//! While that many show a short wait, waiters are patient: for that short time they leave idle
//! connections alone, since few pipelines cost a server much less than many connections with a request
//! each.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::board::Slot;
use super::config::PoolConfig;
use super::connect::Connect;
use super::lease::Mode;
use super::queue::CheckoutReply;
use super::state::{ConnectionState, PoolState};

/// A wait that callers do not notice, however fast connects are.
const SHORT_WAIT_MIN: Duration = Duration::from_millis(5);
/// A head that is older is slow, however slow connects are.
const SHORT_WAIT_MAX: Duration = Duration::from_millis(100);

/// The settings that the rules depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct SharingRules {
    connections_max: u32,
    shared_max: u32,
    pub(super) shared_depth: u32,
}

impl From<&PoolConfig> for SharingRules {
    fn from(config: &PoolConfig) -> Self {
        Self {
            connections_max: config.connections_max,
            shared_max: config.shared_max,
            shared_depth: config.shared_depth,
        }
    }
}

/// The connections in shared use at one moment.
pub(super) struct Sharing<'a, T> {
    rules: SharingRules,
    /// The number of all of them.
    shared: u32,
    /// Those that move.
    moving: u32,
    /// The pipelines that move.
    pipelines: u32,
    /// The pipelines that show a short wait.
    quick: u32,
    /// Whether the first user of a new connection has no answer yet, and has not waited long for it.
    pub(super) has_untested: bool,
    /// The one that the next user joins, and the number of its users.
    pub(super) joinable: Option<(&'a Arc<Slot<T>>, u32)>,
}

impl<'a, T> Sharing<'a, T> {
    /// Looks at all slots of a pool. Nobody joins a connection for which `takes_users` is false.
    pub(super) fn of(
        slots: impl Iterator<Item = &'a Arc<Slot<T>>>,
        rules: SharingRules,
        now: Instant,
        short_wait: Duration,
        takes_users: impl Fn(&T) -> bool,
    ) -> Self {
        let mut sharing = Self {
            rules,
            shared: 0,
            moving: 0,
            pipelines: 0,
            quick: 0,
            has_untested: false,
            joinable: None,
        };
        // A connection with one user and the pipeline with the fewest, of those that another may join.
        let (mut single, mut pipeline): (_, Option<(_, u32)>) = (None, None);
        for slot in slots {
            sharing.shared += 1;
            let users = slot.users();
            let age = now.saturating_duration_since(slot.progress_at());
            let is_open = users > 0 && !slot.is_broken() && slot.expires_at > now;
            if age >= short_wait || !is_open || !takes_users(&slot.connection) {
                continue;
            }
            sharing.moving += 1;
            sharing.pipelines += u32::from(users > 1);
            let Some(pace) = slot.pace() else {
                sharing.has_untested = true;
                continue;
            };
            if pace.saturating_mul(users).saturating_add(age) >= short_wait {
                continue;
            }
            sharing.quick += u32::from(users > 1);
            if users >= rules.shared_depth {
                continue;
            }
            if users == 1 {
                single = single.or(Some((slot, users)));
            } else if pipeline.is_none_or(|(_, fewest)| users < fewest) {
                pipeline = Some((slot, users));
            }
        }
        let single = single.filter(|_| sharing.pipelines < rules.shared_max);
        sharing.joinable = single.or(pipeline);
        sharing
    }

    /// Whether one more idle connection may be shared: one is left for exclusive use, as long as any
    /// shared connection moves.
    fn leaves_one(&self) -> bool {
        let max = self.rules.connections_max.saturating_sub(1).max(1);
        self.shared < max || self.moving == 0
    }

    /// Whether waiters are patient: as many pipelines as there may be show a short wait.
    fn is_quick(&self) -> bool {
        self.quick >= self.rules.shared_max
    }

    /// Whether another pipeline is due: one connection uses one core of the server, however quick it is.
    /// So a half full one is not the last, as long as there may be more.
    pub(super) fn needs_more(&self) -> bool {
        let half = self.rules.shared_depth.div_ceil(2);
        let is_half_full = self.joinable.is_some_and(|(_, users)| users >= half);
        is_half_full && self.pipelines < self.rules.shared_max
    }

    /// Whether a new caller gets an idle connection, if there is one, in place of joining others.
    pub(super) fn prefers_idle(&self) -> bool {
        self.leaves_one() && !self.is_quick()
    }
}

impl<C: Connect, R: CheckoutReply<Connection = C::Connection>> PoolState<C, R> {
    pub(super) fn sharing(&self, now: Instant) -> Sharing<'_, C::Connection> {
        let (rules, short_wait) = (self.board.rules, self.short_wait());
        let takes_users = |connection: &_| takes_users(&*self.connect, connection);
        Sharing::of(self.slots(), rules, now, short_wait, takes_users)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Arc<Slot<C::Connection>>> {
        let states = self.connections.values().map(|pooled| &pooled.state);
        states.filter_map(|state| match state {
            ConnectionState::Shared(slot) => Some(slot),
            _ => None,
        })
    }

    /// The longest wait behind other users that is better than another connection.
    pub(super) fn short_wait(&self) -> Duration {
        let connect = self.figures.average_connect.get();
        connect.clamp(SHORT_WAIT_MIN, SHORT_WAIT_MAX)
    }

    /// The ages of the heads that are slow.
    pub(super) fn slow_heads(&self, now: Instant) -> impl Iterator<Item = Duration> {
        let short = self.short_wait();
        let ages = self
            .slots()
            .map(move |slot| now.saturating_duration_since(slot.progress_at()));
        ages.filter(move |age| *age >= short)
    }

    /// Whether the first waiter for shared use may get an idle connection.
    pub(super) fn may_share_idle(
        &self,
        now: Instant,
        sharing: &Sharing<'_, C::Connection>,
    ) -> bool {
        let is_patient =
            sharing.is_quick() && self.patience_ends().is_some_and(|ends_at| now < ends_at);
        sharing.leaves_one() && !is_patient
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
        let slow = self.slots().map(|slot| slot.progress_at() + short);
        slow.chain([patience_ends]).filter(|at| *at > now).min()
    }
}

/// Whether a shared connection may get new users.
pub(super) fn takes_users<C: Connect>(connect: &C, connection: &C::Connection) -> bool {
    !connect.is_closed(connection) && !connect.is_blocked(connection)
}
