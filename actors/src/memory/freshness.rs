//! How old the figures are, for those who must know it while the actor that reads them may be stuck.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::room::Shared;

/// Intervals without a reading that are no reason to worry.
const INTERVALS: u32 = 3;

/// When memory was last read.
#[derive(Debug, Default)]
pub(super) struct LastReading(Mutex<Option<Instant>>);

impl LastReading {
    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reading has been taken over.
    pub(super) fn renew(&self) {
        *self.lock() = Some(Instant::now());
    }

    fn age(&self) -> Option<Duration> {
        self.lock().map(|at| at.elapsed())
    }
}

/// Tells how old the last reading is. It asks nobody, so it answers from any thread and at any time.
#[derive(Debug, Clone)]
pub struct Freshness {
    pub(super) shared: Arc<Shared>,
}

impl Freshness {
    /// The age of the last reading; `None` before the first.
    pub fn age(&self) -> Option<Duration> {
        self.shared.last_reading.age()
    }

    /// The age of the last reading, if it is too old to keep a budget by it.
    pub fn stale(&self) -> Option<Duration> {
        let config = self.shared.config();
        let bound = config.stale_after.max(config.sample_interval * INTERVALS);
        self.age().filter(|age| *age > bound)
    }
}
