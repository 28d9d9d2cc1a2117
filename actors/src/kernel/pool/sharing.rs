//! Which connections callers share.
//!
//! The server answers the requests on a connection in the order of their sending, so whoever joins
//! others waits for all of them. Sharing is for when connections run short. A caller for shared use
//! gets, in this order:
//!
//! 1. an idle connection. One is left for exclusive use, as long as any shared connection moves;
//! 2. the connection with the fewest users, of those that show a short wait. The pool opens another one
//!    when this one has many users, up to `shared_max`, and when requests on other connections are slow;
//! 3. a place in the queue. The pool opens another connection for it where that is quicker.
//!
//! What a connection shows: its *head* is the request that the server works on. The head's age is the
//! time since the last use of the connection ended, or since the first one began. The *pace* is the
//! average time between such ends lately. The wait of a new user is the age, and the pace for each
//! user before it. It is short below the time of a connect ([`PoolState::short_wait`]); a connection
//! *moves* while the age alone is. So a slow request is left alone, and for some time those that come
//! after it on the same connection have it for themselves too. A connection is *fast* at a pace of
//! [`FAST_PACE`]. Then the age alone decides: no other connection is faster.
//!
//! A connection with more than one user is a *pipeline*. There should be `shared_max` that move. If there
//! are more, because some have been slow, callers join the oldest `shared_max`, until the others have no
//! users any more.
//!
//! Few pipelines cost a server much less than many connections with a request each, and its processes wait
//! less for a processor. So where callers are many, they take idle connections only until `shared_max` are
//! fast and not all of them full. They are many when there are more of them than connections, or half as
//! many while no request is slow. Waiters are patient then: for the time of a short wait they leave idle
//! connections alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::board::Slot;
use super::config::PoolConfig;
use super::connect::Connect;
use super::lease::Mode;
use super::queue::CheckoutReply;
use super::state::{ConnectionState, PoolState, count};

/// A wait that callers do not notice, however fast connects are.
const SHORT_WAIT_MIN: Duration = Duration::from_millis(10);
/// A head that is older is slow, however slow connects are.
const SHORT_WAIT_MAX: Duration = Duration::from_millis(100);

/// The pace at which requests take the server less time than the round trip and the change of processes that
/// each has on a connection of its own.
const FAST_PACE: Duration = Duration::from_micros(50);
/// Another pipeline is due when one has so many users, or half of those that it may have.
const MANY_USERS: u32 = 32;

/// The settings that the rules depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct SharingRules {
    shared_max: u32,
    pub(super) shared_depth: u32,
}

/// What the rules depend on that changes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SharingLimits {
    /// The most connections that the pool can have now ([`PoolState::connections_limit`]), without those that
    /// somebody keeps.
    pub(super) connections: u32,
    /// See [`PoolState::short_wait`].
    pub(super) short_wait: Duration,
}

impl From<&PoolConfig> for SharingRules {
    fn from(config: &PoolConfig) -> Self {
        Self {
            shared_max: config.shared_max,
            shared_depth: config.shared_depth,
        }
    }
}

/// The connections in shared use at one moment.
pub(super) struct Sharing<'a, T> {
    rules: SharingRules,
    limits: SharingLimits,
    /// The number of all of them.
    shared: u32,
    /// Those that move.
    moving: u32,
    /// Those with a slow request.
    slow: u32,
    /// All of their users, and the waiters for shared use.
    callers: u32,
    /// The pipelines that move.
    pipelines: u32,
    /// The fast ones, and those that show nothing yet.
    promising: u32,
    /// Whether the first user of a new connection has no answer yet, and has not waited long for it.
    pub(super) has_untested: bool,
    /// The one that the next user joins, and the number of its users.
    pub(super) joinable: Option<(&'a Arc<Slot<T>>, u32)>,
}

impl<'a, T> Sharing<'a, T> {
    /// Looks at all slots of a pool, in the order of their ids. Nobody joins a connection for which
    /// `takes_users` is false.
    pub(super) fn of(
        slots: impl Iterator<Item = &'a Arc<Slot<T>>>,
        rules: SharingRules,
        limits: SharingLimits,
        now: Instant,
        takes_users: impl Fn(&T) -> bool,
    ) -> Self {
        let short_wait = limits.short_wait;
        let mut sharing = Self {
            rules,
            limits,
            shared: 0,
            moving: 0,
            slow: 0,
            callers: 0,
            pipelines: 0,
            promising: 0,
            has_untested: false,
            joinable: None,
        };
        // A connection with one user, and the pipelines with the fewest, among the oldest and among the
        // others, of those that another may join.
        let mut single = None;
        let mut quick_pipelines = 0;
        let mut emptiest: [Option<(_, u32)>; 2] = [None, None];
        for slot in slots {
            sharing.shared += 1;
            let users = slot.users();
            let age = now.saturating_duration_since(slot.progress_at());
            let is_open = users > 0 && !slot.is_broken() && slot.expires_at > now;
            sharing.callers += users;
            sharing.slow += u32::from(users > 0 && age >= short_wait);
            if age >= short_wait || !is_open || !takes_users(&slot.connection) {
                continue;
            }
            sharing.moving += 1;
            sharing.pipelines += u32::from(users > 1);
            let Some(pace) = slot.pace() else {
                sharing.has_untested = true;
                sharing.promising += 1;
                continue;
            };
            let is_fast = pace <= FAST_PACE;
            if !is_fast && pace.saturating_mul(users).saturating_add(age) >= short_wait {
                continue;
            }
            sharing.promising += u32::from(is_fast);
            quick_pipelines += u32::from(users > 1);
            if users >= rules.shared_depth {
                continue;
            }
            if users == 1 {
                single = single.or(Some((slot, users)));
                continue;
            }
            let emptiest = &mut emptiest[usize::from(quick_pipelines > rules.shared_max)];
            if emptiest.is_none_or(|(_, fewest)| users < fewest) {
                *emptiest = Some((slot, users));
            }
        }
        let single = single.filter(|_| sharing.pipelines < rules.shared_max);
        let [among_oldest, among_others] = emptiest;
        sharing.joinable = single.or(among_oldest).or(among_others);
        sharing
    }

    /// Whether one more idle connection may be shared: one is left for exclusive use, as long as any
    /// shared connection moves.
    fn leaves_one(&self) -> bool {
        let max = self.limits.connections.saturating_sub(1).max(1);
        self.shared < max || self.moving == 0
    }

    /// Whether there are more callers than connections; or half as many, and none of their requests is slow.
    fn is_crowded(&self) -> bool {
        let max = self.limits.connections;
        // Those that are about to ask again do not count for a moment, so a half is many.
        self.callers >= max || self.slow == 0 && self.callers >= max.div_ceil(2)
    }

    /// Whether callers do not need idle connections: there are many callers, and enough fast connections for
    /// them to share, not all of them full.
    fn is_quick(&self) -> bool {
        let has_room = self.joinable.is_some() || self.has_untested;
        self.is_crowded() && has_room && self.promising >= self.rules.shared_max
    }

    /// Whether another connection is due, if none is idle. One connection uses one core of the server,
    /// however quick it is, so one that fills up is not the last. And where some requests are slow, others
    /// may be slow that do not show it yet.
    pub(super) fn needs_more(&self) -> bool {
        let many = self.rules.shared_depth.div_ceil(2).min(MANY_USERS);
        let fills_up = self.joinable.is_some_and(|(_, users)| users >= many);
        let is_due =
            fills_up && self.pipelines < self.rules.shared_max || self.slow > 0 && !self.is_quick();
        is_due && self.leaves_one()
    }

    /// Whether a new caller gets an idle connection, if there is one, in place of joining others.
    pub(super) fn prefers_idle(&self) -> bool {
        self.leaves_one() && !self.is_quick()
    }
}

impl<C: Connect, R: CheckoutReply<Connection = C::Connection>> PoolState<C, R> {
    pub(super) fn sharing(&self, now: Instant) -> Sharing<'_, C::Connection> {
        let (rules, limits) = (self.board.rules, self.sharing_limits());
        let takes_users = |connection: &_| takes_users(&*self.connect, connection);
        let mut sharing = Sharing::of(self.slots(), rules, limits, now, takes_users);
        sharing.callers += count(self.queue.len_of(Mode::Shared));
        sharing
    }

    pub(super) fn sharing_limits(&self) -> SharingLimits {
        SharingLimits {
            connections: count(self.connections_limit()).saturating_sub(self.kept),
            short_wait: self.short_wait(),
        }
    }

    /// As [`PoolState::sharing`], as if the next connect succeeded.
    pub(super) fn sharing_after_connect(&self, now: Instant) -> Sharing<'_, C::Connection> {
        let mut sharing = self.sharing(now);
        sharing.limits.connections = self.config.connections_max.saturating_sub(self.kept);
        sharing
    }

    /// The most connections that the pool can have now: while connects fail, those that it has. The server
    /// may allow fewer than the settings.
    pub(super) fn connections_limit(&self) -> usize {
        let max = self.config.connections_max as usize;
        if self.circuit.is_failing() {
            self.connections.len().min(max)
        } else {
            max
        }
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Arc<Slot<C::Connection>>> {
        let states = self.connections.values().map(|pooled| &pooled.state);
        states.filter_map(|state| match state {
            ConnectionState::Shared(slot) => Some(slot),
            _ => None,
        })
    }

    /// Whether a connection is opened when another shared one is due: one at a time.
    pub(super) fn may_open_for_sharing(&self) -> bool {
        let has_place = self.total() < self.config.connections_max as usize;
        let is_due = self.idle.is_empty() && self.opening.is_empty();
        has_place && is_due && !self.circuit.is_failing()
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
