//! A user's hold on a loaded resource.
//!
//! Taking one needs the loader; giving it back does not: a counter and a wake-up, which neither
//! block nor can be refused, so that leases may be dropped anywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The users of one load of one resource. Each load has its own, so that leases on one that died
/// do not count for its successor.
#[derive(Debug)]
pub(super) struct Uses {
    name: Arc<str>,
    held: Arc<AtomicUsize>,
    origin: Instant,
    last_nanos: AtomicU64,
    /// Wakes the loader when a count falls to zero. Shared by all resources.
    idle: Arc<Notify>,
}

impl Uses {
    pub(super) fn new(name: &str, idle: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            held: Arc::default(),
            origin: Instant::now(),
            last_nanos: AtomicU64::new(0),
            idle,
        })
    }

    /// Leases held now.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// The same, for whoever has to follow it.
    pub(super) fn counter(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.held)
    }

    /// When one was last taken or given back; the time of the load before that.
    pub(super) fn last(&self) -> Instant {
        self.origin + Duration::from_nanos(self.last_nanos.load(Ordering::Acquire))
    }

    fn touch(&self) {
        let nanos = self.origin.elapsed().as_nanos();
        self.last_nanos
            .fetch_max(nanos.try_into().unwrap_or(u64::MAX), Ordering::AcqRel);
    }
}

/// Keeps a resource loaded until it is dropped.
#[derive(Debug)]
#[must_use = "without its lease the resource may be unloaded at once"]
pub struct Lease {
    uses: Arc<Uses>,
}

impl Lease {
    pub(super) fn take(uses: &Arc<Uses>) -> Self {
        uses.touch();
        uses.held.fetch_add(1, Ordering::AcqRel);
        Self {
            uses: Arc::clone(uses),
        }
    }

    /// The name of the resource.
    pub fn name(&self) -> &str {
        &self.uses.name
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.uses.touch();
        if self.uses.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.uses.idle.notify_one();
        }
    }
}
