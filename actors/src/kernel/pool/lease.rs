//! A user's hold on a connection.
//!
//! Taking one needs the pool; giving it back does not: an entry in a list and a wake-up, which
//! neither wait nor can be refused, so that leases may be dropped anywhere.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// How a connection comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// Fit for the next one.
    Fit,
    /// Something may be left open on it.
    Dirty,
    /// Of no use any more.
    Broken,
}

const FIT: u8 = 0;
const DIRTY: u8 = 1;
const BROKEN: u8 = 2;

/// One lease that ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Returned {
    pub(super) lease: u64,
    pub(super) condition: Condition,
}

/// Where leases say that they ended. There are never more entries than leases.
#[derive(Debug, Default)]
pub(super) struct Returns {
    ended: Mutex<Vec<Returned>>,
    wake: Notify,
}

impl Returns {
    /// Waits until there may be something to take.
    pub(super) async fn some(&self) {
        self.wake.notified().await;
    }

    /// Takes what there is.
    pub(super) fn take(&self) -> Vec<Returned> {
        std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, returned: Returned) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push(returned);
        drop(ended);
        self.wake.notify_one();
    }
}

/// A connection on loan. Dropping it gives it back.
#[must_use = "dropping the lease gives the connection back"]
pub struct Lease<T> {
    connection: Arc<T>,
    lease: u64,
    condition: AtomicU8,
    returns: Arc<Returns>,
}

impl<T> Lease<T> {
    pub(super) fn new(connection: Arc<T>, lease: u64, returns: Arc<Returns>) -> Self {
        Self {
            connection,
            lease,
            condition: AtomicU8::new(FIT),
            returns,
        }
    }

    /// The connection.
    pub fn connection(&self) -> &Arc<T> {
        &self.connection
    }

    /// Says that from now on something may be left open on it, say a transaction: if the lease ends
    /// before [`Lease::mark_clean`], the connection is cleaned before anybody else has it. Means
    /// nothing in shared use.
    pub fn mark_dirty(&self) {
        // Not over `BROKEN`, which nothing mends.
        self.condition
            .compare_exchange(FIT, DIRTY, Ordering::AcqRel, Ordering::Acquire)
            .ok();
    }

    /// Says that nothing is open on it any more.
    pub fn mark_clean(&self) {
        self.condition
            .compare_exchange(DIRTY, FIT, Ordering::AcqRel, Ordering::Acquire)
            .ok();
    }

    /// Says that it is of no use any more: nobody else gets it. In shared use the others that have
    /// it may end what they began.
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
            FIT => Condition::Fit,
            DIRTY => Condition::Dirty,
            _ => Condition::Broken,
        };
        self.returns.put(Returned {
            lease: self.lease,
            condition,
        });
    }
}
