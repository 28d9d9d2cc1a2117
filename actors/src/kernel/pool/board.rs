//! Shared connections that callers join without a message to the pool's actor.
//!
//! A message to the actor and back wakes two threads, which takes longer than many requests. So the actor
//! publishes each connection in shared use as a [`Slot`] on the pool's [`Board`]. A caller joins a slot in
//! one atomic step, and leaves it in another. Actor and callers choose slots by the same rules (`sharing`).
//!
//! The actor keeps what it owns: it alone publishes slots, removes them, and opens the board. Three rules
//! keep its state true:
//! - Only the actor turns an idle connection into a shared one: nobody joins a slot without users. The
//!   actor learns when the last user has left, and then owns the connection again.
//! - A user is counted before it uses the connection, in the number that tells the last one.
//! - While a caller waits in the queue, every caller asks the actor, so that nobody overtakes a waiter.
//!
//! The board counts what these users do; the actor adds it to the pool's figures
//! ([`Board::take_uses`]).

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::histogram::Uses;
use super::lease::{Condition, Ended, EndedLeases};
use super::sharing::{Sharing, SharingLimits, SharingRules};

/// The weight of the newest interval in a pace is one part of this many. A slow request in fifty must show in
/// the pace at any time; a request that waited for a processor must not show for long.
const PACE_OVER: u64 = 64;

/// A connection in shared use. When an idle connection is shared again, it gets another slot.
pub(super) struct Slot<T> {
    /// The connection's id.
    pub(super) id: u64,
    pub(super) connection: Arc<T>,
    pub(super) expires_at: Instant,
    /// The number of users, leases from the actor included.
    users: AtomicU32,
    /// Whether a user marked the connection broken: nobody joins any more.
    broken: AtomicBool,
    progress: Progress,
    /// Where the last user reports.
    ended: Arc<EndedLeases>,
}

/// How fast the server answers the users of a slot. Users may update it at the same time; what is lost then
/// is one value of an average.
struct Progress {
    begin: Instant,
    /// When the last use ended, or the slot began, in nanoseconds since `begin`.
    at: AtomicU64,
    /// The average time between such ends lately, in nanoseconds. 0: unknown.
    pace: AtomicU64,
}

impl Progress {
    fn new(begin: Instant, pace: Option<Duration>) -> Self {
        Self {
            begin,
            at: AtomicU64::new(0),
            pace: AtomicU64::new(pace.map_or(0, |pace| nanos(pace).max(1))),
        }
    }

    /// A use has ended.
    fn record(&self, now: Instant) {
        let at = nanos(now.saturating_duration_since(self.begin));
        let interval = at.saturating_sub(self.at.swap(at, Ordering::Relaxed));
        let pace = match self.pace.load(Ordering::Relaxed) {
            0 => interval,
            old => (old * (PACE_OVER - 1)).saturating_add(interval) / PACE_OVER,
        };
        self.pace.store(pace.max(1), Ordering::Relaxed);
    }

    fn at(&self) -> Instant {
        self.begin + Duration::from_nanos(self.at.load(Ordering::Relaxed))
    }

    fn pace(&self) -> Option<Duration> {
        let pace = self.pace.load(Ordering::Relaxed);
        (pace > 0).then(|| Duration::from_nanos(pace))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl<T> Slot<T> {
    /// The slot of a connection that gets its first user at `now`.
    pub(super) fn new(
        id: u64,
        connection: Arc<T>,
        expires_at: Instant,
        now: Instant,
        pace: Option<Duration>,
        ended: Arc<EndedLeases>,
    ) -> Self {
        Self {
            id,
            connection,
            expires_at,
            users: AtomicU32::new(1),
            broken: AtomicBool::new(false),
            progress: Progress::new(now, pace),
            ended,
        }
    }

    /// Adds a user, unless there is none or `depth` of them.
    pub(super) fn join(&self, depth: u32) -> bool {
        let joined = |users: u32| (1..depth).contains(&users).then_some(users + 1);
        self.users
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, joined)
            .is_ok()
    }

    /// Removes a user whose use ends at `now`. Returns whether it was the last one: then nobody uses the
    /// connection any more, or ever again through this slot.
    pub(super) fn leave(&self, now: Instant) -> bool {
        self.progress.record(now);
        self.users.fetch_sub(1, Ordering::SeqCst) == 1
    }

    pub(super) fn users(&self) -> u32 {
        self.users.load(Ordering::SeqCst)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// When the last use ended, or the first one began.
    pub(super) fn progress_at(&self) -> Instant {
        self.progress.at()
    }

    /// The average time between the ends of two uses lately, if any has ended.
    pub(super) fn pace(&self) -> Option<Duration> {
        self.progress.pace()
    }
}

/// The slots of one pool.
pub(super) struct Board<T> {
    pub(super) rules: SharingRules,
    /// In the order of their ids.
    slots: RwLock<Vec<Arc<Slot<T>>>>,
    /// Whether callers may join without asking the actor.
    open: AtomicBool,
    /// Whether a connection is idle.
    has_idle: AtomicBool,
    /// Whether the actor would open another connection.
    may_grow: AtomicBool,
    /// The limits, as the actor sees them: of the connections, and of a short wait in nanoseconds.
    connections: AtomicU32,
    short_wait: AtomicU64,
    uses: Mutex<Uses>,
}

impl<T> Board<T> {
    /// The board of a pool without connections.
    pub(super) fn new(rules: SharingRules) -> Self {
        Self {
            rules,
            slots: RwLock::default(),
            open: AtomicBool::new(false),
            has_idle: AtomicBool::new(false),
            may_grow: AtomicBool::new(false),
            connections: AtomicU32::new(0),
            short_wait: AtomicU64::new(0),
            uses: Mutex::default(),
        }
    }

    /// Joins the users of a connection for which `takes_users` is true. `None` if the caller has to ask
    /// the actor.
    pub(super) fn join(
        self: &Arc<Self>,
        now: Instant,
        takes_users: impl Fn(&T) -> bool,
    ) -> Option<User<T>> {
        if !self.open.load(Ordering::Acquire) {
            return None;
        }
        let limits = SharingLimits {
            connections: self.connections.load(Ordering::Relaxed),
            short_wait: Duration::from_nanos(self.short_wait.load(Ordering::Relaxed)),
        };
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let sharing = Sharing::of(slots.iter(), self.rules, limits, now, takes_users);
        if self.has_idle.load(Ordering::Relaxed) && sharing.prefers_idle() {
            return None;
        }
        if self.may_grow.load(Ordering::Relaxed) && sharing.needs_more() {
            return None;
        }
        let (slot, _) = sharing.joinable?;
        slot.join(self.rules.shared_depth)
            .then(|| User::new(Arc::clone(slot), Arc::clone(self), now))
    }

    /// Lets callers in again, if nobody waits. The actor calls it after each change of its state.
    pub(super) fn update(
        &self,
        is_open: bool,
        has_idle: bool,
        may_grow: bool,
        limits: SharingLimits,
    ) {
        self.may_grow.store(may_grow, Ordering::Relaxed);
        self.connections
            .store(limits.connections, Ordering::Relaxed);
        self.short_wait
            .store(nanos(limits.short_wait), Ordering::Relaxed);
        self.has_idle.store(has_idle, Ordering::Relaxed);
        self.open.store(is_open, Ordering::Release);
    }

    /// Has all callers ask the actor. A user that leaves from now on tells the actor; what those before
    /// have left, it sees in the slots.
    pub(super) fn shut(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    pub(super) fn publish(&self, slot: &Arc<Slot<T>>) {
        let mut slots = self.write();
        let at = slots.partition_point(|other| other.id < slot.id);
        slots.insert(at, Arc::clone(slot));
    }

    pub(super) fn withdraw(&self, slot: &Arc<Slot<T>>) {
        self.write().retain(|other| !Arc::ptr_eq(other, slot));
    }

    /// The uses that ended since the last call, if there are any.
    pub(super) fn take_uses(&self) -> Option<Uses> {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.take()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Arc<Slot<T>>>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A user of a slot.
pub(super) struct User<T> {
    slot: Arc<Slot<T>>,
    board: Arc<Board<T>>,
    since: Instant,
}

impl<T> User<T> {
    /// The user that a new slot begins with, or that has joined `slot`, at `since`.
    pub(super) fn new(slot: Arc<Slot<T>>, board: Arc<Board<T>>, since: Instant) -> Self {
        Self { slot, board, since }
    }

    pub(super) fn connection(&self) -> &Arc<T> {
        &self.slot.connection
    }

    /// Keeps others from joining.
    pub(super) fn mark_broken(&self) {
        self.slot.broken.store(true, Ordering::Release);
    }

    /// Ends the use. `lease` is the number of the lease, if the actor granted it: then the actor counts
    /// the use itself.
    pub(super) fn leave(&self, now: Instant, lease: Option<u64>) {
        let ended = &self.slot.ended;
        match lease {
            Some(lease) => ended.push(Ended::Lease {
                lease,
                condition: Condition::Clean,
            }),
            None => {
                let uses = self.board.uses.lock();
                let mut uses = uses.unwrap_or_else(PoisonError::into_inner);
                uses.record(now.saturating_duration_since(self.since));
            }
        }
        if self.slot.leave(now) {
            ended.push(Ended::Slot {
                connection: self.slot.id,
            });
        } else if lease.is_none() && !self.board.open.load(Ordering::SeqCst) {
            // Perhaps there is room now for one of those that wait.
            ended.wake.notify_one();
        }
    }
}
