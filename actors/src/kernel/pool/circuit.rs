//! The circuit in front of a server that may be away.
//!
//! After a failed connect the next waits, longer each time and with jitter, and only one is tried at
//! once. After too many in a row, callers are told so at once until the next try is due.

use std::time::Duration;

use tokio::time::Instant;

use super::connect::ConnectError;
use super::status::{CircuitState, CircuitStatus};
use crate::kernel::Backoff;

/// The shortest wait, whatever the jitter says: no try begins in the moment of a failure.
const WAIT_MIN: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Circuit {
    failures_max: u32,
    backoff: Backoff,
    failures: u32,
    open: bool,
    failed_at: Option<Instant>,
    next_try: Option<Instant>,
    last: Option<ConnectError>,
}

impl Circuit {
    pub(super) fn new(failures_max: u32, backoff: Backoff) -> Self {
        Self {
            failures_max,
            backoff,
            failures: 0,
            open: false,
            failed_at: None,
            next_try: None,
            last: None,
        }
    }

    /// Counts a failure of a connect that began at `began`. Those that were under way together
    /// count once.
    pub(super) fn failed(&mut self, began: Instant, now: Instant, error: ConnectError) {
        if self.failed_at.is_none_or(|at| began > at) {
            self.failures += 1;
            self.failed_at = Some(now);
            let wait = self.backoff.delay(self.failures).max(WAIT_MIN);
            self.next_try = Some(now + wait);
        }
        self.open |= self.failures >= self.failures_max || !error.kind.is_transient();
        self.last = Some(error);
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.open = false;
        self.failed_at = None;
        self.next_try = None;
    }

    /// Whether the last connect failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Whether it is not closed.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// How many more connects may begin now, beside those being `opening`; `None` for no limit.
    pub(super) fn allows(&self, now: Instant, opening: usize) -> Option<usize> {
        let next = self.next_try?;
        Some(usize::from(now >= next && opening == 0))
    }

    /// When the next try may begin.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.next_try
    }

    /// What to tell callers while nothing is tried.
    pub(super) fn refusal(&self, now: Instant) -> Option<(Duration, ConnectError)> {
        let left = self.next_try?.saturating_duration_since(now);
        let last = self.last.clone()?;
        (self.open && !left.is_zero()).then_some((left, last))
    }

    /// Why the last failed connect failed.
    pub(super) fn last(&self) -> Option<&ConnectError> {
        self.last.as_ref()
    }

    pub(super) fn status(&self, now: Instant) -> CircuitStatus {
        let left = self.next_try.map(|at| at.saturating_duration_since(now));
        let left = left.filter(|left| !left.is_zero());
        let state = match (self.open, left) {
            (false, _) => CircuitState::Closed,
            (true, Some(_)) => CircuitState::Open,
            (true, None) => CircuitState::HalfOpen,
        };
        CircuitStatus {
            state,
            failures: self.failures,
            next_try_seconds: left.map(|left| left.as_secs_f64()),
        }
    }
}
