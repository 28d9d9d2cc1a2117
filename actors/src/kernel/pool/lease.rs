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
use utoipa::ToSchema;

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

/// The leases that ended since the pool looked last. Never more than there are leases. As a waker, it
/// has the pool look at its waiters again.
#[derive(Debug, Default)]
pub(super) struct EndedLeases {
    ended: Mutex<Vec<(u64, Condition)>>,
    /// Notified when a lease has ended, or when waiters may be served for another reason.
    pub(super) wake: Notify,
}

impl Wake for EndedLeases {
    fn wake(self: Arc<Self>) {
        self.wake.notify_one();
    }
}

impl EndedLeases {
    pub(super) fn take(&self) -> Vec<(u64, Condition)> {
        std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, lease: u64, condition: Condition) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push((lease, condition));
        drop(ended);
        self.wake.notify_one();
    }
}

/// The right to use a connection, until it is dropped.
#[must_use = "dropping the lease gives the connection back"]
pub struct Lease<T> {
    connection: Arc<T>,
    pub(super) lease: u64,
    is_dirty: AtomicBool,
    is_broken: AtomicBool,
    ended: Arc<EndedLeases>,
}

impl<T> Lease<T> {
    pub(super) fn new(connection: Arc<T>, lease: u64, ended: Arc<EndedLeases>) -> Self {
        Self {
            connection,
            lease,
            is_dirty: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            ended,
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

    /// Marks the connection broken: the pool leases it to no other caller. In shared use the
    /// current leases on it stay valid.
    pub fn mark_broken(&self) {
        self.is_broken.store(true, Ordering::Release);
    }
}

impl<T> Deref for Lease<T> {
    type Target = Arc<T>;

    fn deref(&self) -> &Arc<T> {
        &self.connection
    }
}

impl<T> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.lease)
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        let condition = if self.is_broken.load(Ordering::Acquire) {
            Condition::Broken
        } else if self.is_dirty.load(Ordering::Acquire) {
            Condition::Dirty
        } else {
            Condition::Clean
        };
        self.ended.push(self.lease, condition);
    }
}
