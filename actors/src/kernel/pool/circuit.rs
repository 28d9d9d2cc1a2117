//! The circuit in front of a server that may be away.
//!
//! After a failed connect the pool waits before the next one, longer after each failure and with
//! jitter, and opens one connection at a time. After too many failures in a row the circuit is open:
//! callers are refused at once until the next connect is due.
//!
//! A server that denies access is tried much less often: it would log each try, and may lock the user
//! out. Nothing but a change of the settings or of the server helps. A change of what the driver reads for
//! each connect is looked for meanwhile, and ends the wait.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::connect::{ConnectError, ConnectErrorKind};
use super::status::{CircuitState, CircuitStatus};
use crate::kernel::Backoff;

/// The shortest wait after a failure, whatever the jitter.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The longest wait after a first denial, and after many. At least half of it passes.
const DENIED_WAIT: Duration = Duration::from_secs(1);
const DENIED_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often such a change is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Circuit {
    failures_max: u32,
    backoff: Backoff,
    failures: u32,
    /// Whether it is open or half open.
    pub(super) open: bool,
    failed_at: Option<Instant>,
    /// When the first of the failures in a row was.
    failing_since: Option<Instant>,
    /// When the next connect may begin, if it has to wait.
    pub(super) next_try: Option<Instant>,
    /// When to look for a change next. `None` also while somebody looks.
    next_look: Option<Instant>,
    /// Why the last failed connect failed.
    pub(super) last_error: Option<ConnectError>,
}

impl Circuit {
    pub(super) fn new(failures_max: u32, backoff: Backoff) -> Self {
        Self {
            failures_max,
            backoff,
            failures: 0,
            open: false,
            failed_at: None,
            failing_since: None,
            next_try: None,
            next_look: None,
            last_error: None,
        }
    }

    /// Records the failure of a connect that began at `began`. Failures of connects that ran at the
    /// same time count once.
    pub(super) fn failed(&mut self, began: Instant, now: Instant, error: ConnectError) {
        if self.failed_at.is_none_or(|at| began > at) {
            self.failures += 1;
            self.failed_at = Some(now);
            self.failing_since.get_or_insert(now);
            self.next_try = Some(now + self.wait(error.kind));
            let is_denied = error.kind == ConnectErrorKind::Denied;
            self.next_look = is_denied.then_some(now + LOOK_EVERY);
        }
        self.open |= self.failures >= self.failures_max || !error.kind.is_transient();
        self.last_error = Some(error);
    }

    /// How long to wait after the last failure, of the kind `kind`.
    fn wait(&self, kind: ConnectErrorKind) -> Duration {
        if kind != ConnectErrorKind::Denied {
            return self.backoff.delay(self.failures).max(WAIT_MIN);
        }
        let factor = 2_u32.saturating_pow(self.failures.saturating_sub(1));
        let longest = DENIED_WAIT.saturating_mul(factor).min(DENIED_WAIT_MAX);
        rand::rng().random_range(longest / 2..=longest)
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.open = false;
        self.failed_at = None;
        self.failing_since = None;
        self.next_try = None;
        self.next_look = None;
    }

    /// When to look whether the driver would use something else for the next connect.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.next_look.filter(|look| self.next_try > Some(*look))
    }

    /// Whether to look now. Not again before [`Circuit::looked`].
    pub(super) fn must_look(&mut self, now: Instant) -> bool {
        let is_due = self.next_look().is_some_and(|look| look <= now);
        self.next_look.take_if(|_| is_due).is_some()
    }

    /// Records whether the driver would use something else: then the next connect may begin.
    pub(super) fn looked(&mut self, now: Instant, has_changed: bool) {
        match self.next_try {
            Some(at) if has_changed => self.next_try = Some(at.min(now)),
            Some(_) if self.next_look.is_none() => self.next_look = Some(now + LOOK_EVERY),
            _ => {}
        }
    }

    /// Whether the last connect failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// How many more connects may begin now, beside `opening` ones.
    pub(super) fn allowed_connects(&self, now: Instant, opening: usize) -> usize {
        match self.next_try {
            Some(at) => usize::from(now >= at && opening == 0),
            None => usize::MAX,
        }
    }

    /// While the circuit is open: the time until the next connect, and the last error.
    pub(super) fn refusal(&self, now: Instant) -> Option<(Duration, ConnectError)> {
        let left = self.next_try?.saturating_duration_since(now);
        let last_error = self.last_error.clone()?;
        (self.open && !left.is_zero()).then_some((left, last_error))
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
            failing_for_seconds: self
                .failing_since
                .map(|since| now.saturating_duration_since(since).as_secs_f64()),
            next_try_seconds: left.map(|left| left.as_secs_f64()),
        }
    }
}
