//! Leases: the right to use a connection.
//!
//! A lease may be dropped anywhere. Its end is an entry in a list and a wake-up of the pool, which
//! neither wait nor fail.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::Notify;

/// How a connection is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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

const CLEAN: u8 = 0;
const DIRTY: u8 = 1;
const BROKEN: u8 = 2;

/// A lease that ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndedLease {
    pub(super) lease: u64,
    pub(super) condition: Condition,
}

/// The leases that ended since the pool looked last. Never more than there are leases.
#[derive(Debug, Default)]
pub(super) struct EndedLeases {
    ended: Mutex<Vec<EndedLease>>,
    wake: Notify,
}

impl EndedLeases {
    /// Waits until a lease may have ended.
    pub(super) async fn wait(&self) {
        self.wake.notified().await;
    }

    pub(super) fn take(&self) -> Vec<EndedLease> {
        std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, ended: EndedLease) {
        let mut all = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(ended);
        drop(all);
        self.wake.notify_one();
    }
}

/// The right to use a connection, until it is dropped.
#[must_use = "dropping the lease gives the connection back"]
pub struct Lease<T> {
    connection: Arc<T>,
    lease: u64,
    condition: AtomicU8,
    ended: Arc<EndedLeases>,
}

impl<T> Lease<T> {
    pub(super) fn new(connection: Arc<T>, lease: u64, ended: Arc<EndedLeases>) -> Self {
        Self {
            connection,
            lease,
            condition: AtomicU8::new(CLEAN),
            ended,
        }
    }

    /// The connection.
    pub fn connection(&self) -> &Arc<T> {
        &self.connection
    }

    /// Marks the connection dirty, for example because a transaction begins. If the lease ends
    /// before [`Lease::mark_clean`], the pool cleans the connection before the next lease. Has no
    /// effect in shared use.
    pub fn mark_dirty(&self) {
        // A broken connection stays broken.
        self.condition
            .compare_exchange(CLEAN, DIRTY, Ordering::AcqRel, Ordering::Acquire)
            .ok();
    }

    /// Takes [`Lease::mark_dirty`] back.
    pub fn mark_clean(&self) {
        self.condition
            .compare_exchange(DIRTY, CLEAN, Ordering::AcqRel, Ordering::Acquire)
            .ok();
    }

    /// Marks the connection broken: the pool leases it to no other caller. In shared use the
    /// current leases on it stay valid.
    pub fn mark_broken(&self) {
        self.condition.store(BROKEN, Ordering::Release);
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
        let condition = match self.condition.load(Ordering::Acquire) {
            CLEAN => Condition::Clean,
            DIRTY => Condition::Dirty,
            _ => Condition::Broken,
        };
        self.ended.push(EndedLease {
            lease: self.lease,
            condition,
        });
    }
}
