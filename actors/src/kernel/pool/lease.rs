//! Leases: the right to use a connection.
//!
//! A lease may be dropped anywhere. Its end is an entry in a list and a wake-up of the pool, which
//! neither wait nor fail.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::board::User;

/// How a connection is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = LeaseMode)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By one lease alone: for transactions.
    Exclusive,
    /// By several leases at once: for single requests, over a connection that can carry many.
    Shared,
}

/// The condition of a connection when its lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// Ready for the next user.
    Clean,
    /// Something may be left open on it, for example a transaction.
    Dirty,
    /// Unusable.
    Broken,
}

/// What happened on a pool's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// A lease that the pool granted.
    Lease { lease: u64, condition: Condition },
    /// A lease that the pool granted is meant to last. It has not ended.
    Kept { lease: u64 },
    /// The last use of a shared connection, by a caller that had joined it.
    Slot { connection: u64 },
}

/// What happened since the pool looked last. Never more than two entries for each lease, and one for each
/// connection. As a waker, it has the pool look at its waiters again.
#[derive(Debug, Default)]
pub(super) struct EndedLeases {
    ended: Mutex<Vec<Ended>>,
    /// Notified when a lease has ended, or when waiters may be served for another reason.
    pub(super) wake: Notify,
}

impl Wake for EndedLeases {
    fn wake(self: Arc<Self>) {
        self.wake.notify_one();
    }
}

impl EndedLeases {
    pub(super) fn take(&self) -> Vec<Ended> {
        std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn push(&self, event: Ended) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push(event);
        drop(ended);
        self.wake.notify_one();
    }
}

/// The right to use a connection, until it is dropped.
#[must_use = "dropping the lease gives the connection back"]
pub struct Lease<T> {
    right: Right<T>,
    is_dirty: AtomicBool,
    is_broken: AtomicBool,
    has_ended: bool,
}

enum Right<T> {
    Exclusive {
        connection: Arc<T>,
        /// The number by which the actor knows the lease.
        number: u64,
        ended: Arc<EndedLeases>,
    },
    Shared {
        user: User<T>,
        /// As above. `None` if the user joined others without asking.
        number: Option<u64>,
    },
}

impl<T> Lease<T> {
    pub(super) fn exclusive(connection: Arc<T>, number: u64, ended: Arc<EndedLeases>) -> Self {
        Self::of(Right::Exclusive {
            connection,
            number,
            ended,
        })
    }

    /// A lease for `user`. Without a `number`, the actor does not know it.
    pub(super) fn shared(user: User<T>, number: Option<u64>) -> Self {
        Self::of(Right::Shared { user, number })
    }

    fn of(right: Right<T>) -> Self {
        Self {
            right,
            is_dirty: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            has_ended: false,
        }
    }

    /// The number by which the actor knows it.
    pub(super) fn number(&self) -> Option<u64> {
        match self.right {
            Right::Exclusive { number, .. } => Some(number),
            Right::Shared { number, .. } => number,
        }
    }

    /// Whether it is exclusive.
    #[cfg(test)]
    pub(super) fn is_alone(&self) -> bool {
        matches!(self.right, Right::Exclusive { .. })
    }

    /// Ends the lease at `now`. Its drop does that otherwise.
    pub(super) fn end(&mut self, now: Instant) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        match &self.right {
            Right::Shared { user, number } => user.leave(now, *number),
            Right::Exclusive { number, ended, .. } => {
                let condition = if self.is_broken.load(Ordering::Acquire) {
                    Condition::Broken
                } else if self.is_dirty.load(Ordering::Acquire) {
                    Condition::Dirty
                } else {
                    Condition::Clean
                };
                let lease = *number;
                ended.push(Ended::Lease { lease, condition });
            }
        }
    }

    /// Marks the connection dirty, for example because a transaction begins. If the lease ends
    /// before [`Lease::mark_clean`], the pool resets the connection before the next lease. Has no
    /// effect in shared use.
    pub fn mark_dirty(&self) {
        self.is_dirty.store(true, Ordering::Release);
    }

    /// Takes [`Lease::mark_dirty`] back.
    pub fn mark_clean(&self) {
        self.is_dirty.store(false, Ordering::Release);
    }

    /// Says, once, that the lease is meant to last for as long as its holder exists. It then does not count
    /// as one that is held for too long, nor for how long connections stay in use.
    pub(crate) fn keep(&self) {
        if let Right::Exclusive { number, ended, .. } = &self.right {
            ended.push(Ended::Kept { lease: *number });
        }
    }

    /// Marks the connection broken: the pool leases it to no other caller. In shared use the
    /// current leases on it stay valid.
    pub fn mark_broken(&self) {
        match &self.right {
            Right::Exclusive { .. } => self.is_broken.store(true, Ordering::Release),
            Right::Shared { user, .. } => user.mark_broken(),
        }
    }
}

impl<T> Deref for Lease<T> {
    type Target = Arc<T>;

    fn deref(&self) -> &Arc<T> {
        match &self.right {
            Right::Exclusive { connection, .. } => connection,
            Right::Shared { user, .. } => user.connection(),
        }
    }
}

impl<T> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number() {
            Some(number) => write!(f, "Lease({number})"),
            None => f.write_str("Lease"),
        }
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        self.end(Instant::now());
    }
}
