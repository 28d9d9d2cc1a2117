//! Leases on loaded resources.
//!
//! Only the loader gives out leases. The end of a lease does not need the loader: it changes a
//! counter and sends a wake-up. Both neither block nor can be refused, so leases may be dropped
//! anywhere.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::kernel::Load;

/// Counts the leases on one load of one resource. Each load has its own tracker, so a lease on a
/// load that died does not count for the next one.
pub(super) struct LeaseTracker {
    name: Arc<str>,
    resource: Arc<dyn Load>,
    count: Arc<AtomicUsize>,
    loaded_at: Instant,
    /// Nanoseconds from `loaded_at` to the last use.
    last_use: AtomicU64,
    /// Wakes the loader when a count falls to 0. All resources share it.
    became_idle: Arc<Notify>,
}

impl LeaseTracker {
    pub(super) fn new(name: &str, resource: &Arc<dyn Load>, became_idle: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            resource: Arc::clone(resource),
            count: Arc::default(),
            loaded_at: Instant::now(),
            last_use: AtomicU64::new(0),
            became_idle,
        })
    }

    /// Leases that exist now.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// The counter behind [`Self::count`].
    pub(super) fn counter(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.count)
    }

    /// When a lease last began or ended. The time of the load if there was none.
    pub(super) fn last_use(&self) -> Instant {
        self.loaded_at + Duration::from_nanos(self.last_use.load(Ordering::Acquire))
    }

    fn record_use(&self) {
        let nanos = self.loaded_at.elapsed().as_nanos();
        self.last_use
            .fetch_max(nanos.try_into().unwrap_or(u64::MAX), Ordering::AcqRel);
    }
}

/// Keeps a resource loaded until it is dropped.
#[must_use = "without its lease the resource may be unloaded at once"]
pub struct Lease {
    tracker: Arc<LeaseTracker>,
}

impl Lease {
    pub(super) fn new(tracker: &Arc<LeaseTracker>) -> Self {
        tracker.record_use();
        tracker.count.fetch_add(1, Ordering::AcqRel);
        Self {
            tracker: Arc::clone(tracker),
        }
    }

    /// The resource's name.
    pub fn name(&self) -> &str {
        &self.tracker.name
    }

    /// What is loaded. Another resource may be registered under its name meanwhile.
    pub fn resource(&self) -> Arc<dyn Load> {
        Arc::clone(&self.tracker.resource)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.name())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.tracker.record_use();
        if self.tracker.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.tracker.became_idle.notify_one();
        }
    }
}
