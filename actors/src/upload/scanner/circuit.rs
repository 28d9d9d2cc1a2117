//! When to connect to a clamd that may be away.

use std::time::Duration;

use tokio::time::Instant;

use super::error::ScanError;
use crate::kernel::Backoff;

/// The shortest wait after a failure, whatever the jitter.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// Opens after some failed connects in a row. Then it allows one connect at a time, after a growing wait.
#[derive(Debug)]
pub(super) struct Circuit {
    failures_max: u32,
    backoff: Backoff,
    failures: u32,
    /// When the next connect may begin, while it is open.
    next_try: Option<Instant>,
    /// Whether that connect has begun.
    is_trying: bool,
    last_error: Option<ScanError>,
}

impl Circuit {
    pub(super) fn new(failures_max: u32, backoff: Backoff) -> Self {
        Self {
            failures_max,
            backoff,
            failures: 0,
            next_try: None,
            is_trying: false,
            last_error: None,
        }
    }

    /// Why no connect may begin now.
    ///
    /// # Errors
    /// The circuit is open.
    pub(super) fn check(&self, now: Instant) -> Result<(), ScanError> {
        let Some(next_try) = self.next_try else {
            return Ok(());
        };
        if now >= next_try && !self.is_trying {
            return Ok(());
        }
        let why = match &self.last_error {
            Some(ScanError::Unreachable { why, .. }) => why.clone(),
            Some(other) => other.to_string().into(),
            None => "the last connects failed".into(),
        };
        Err(ScanError::Unreachable {
            why,
            retry_in: Some(next_try.saturating_duration_since(now)),
        })
    }

    /// Begins a connect. Its end must be recorded.
    ///
    /// # Errors
    /// As [`Circuit::check`].
    pub(super) fn begin(&mut self, now: Instant) -> Result<(), ScanError> {
        self.check(now)?;
        self.is_trying = self.next_try.is_some();
        Ok(())
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.next_try = None;
        self.is_trying = false;
    }

    pub(super) fn failed(&mut self, now: Instant, error: ScanError) {
        self.failures = self.failures.saturating_add(1);
        self.is_trying = false;
        self.last_error = Some(error);
        if self.failures >= self.failures_max {
            let since_open = self.failures - self.failures_max + 1;
            self.next_try = Some(now + self.backoff.delay(since_open).max(WAIT_MIN));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circuit() -> Circuit {
        let second = Duration::from_secs(1);
        Circuit::new(2, Backoff::try_new(second, second, second).unwrap())
    }

    fn refused() -> ScanError {
        ScanError::unreachable("refused")
    }

    #[test]
    fn it_opens_after_some_failures_in_a_row() {
        let (mut circuit, now) = (circuit(), Instant::now());
        for _ in 0..3 {
            circuit.begin(now).unwrap();
            circuit.failed(now, refused());
            circuit.begin(now).unwrap();
            circuit.succeeded();
        }
        circuit.failed(now, refused());
        circuit.failed(now, refused());
        let error = circuit.check(now).unwrap_err();
        let ScanError::Unreachable { why, retry_in } = error else {
            panic!("{error}");
        };
        assert_eq!(&*why, "refused");
        assert!(retry_in.unwrap() >= WAIT_MIN);
    }

    #[test]
    fn one_connect_at_a_time_looks_whether_it_is_back() {
        let (mut circuit, now) = (circuit(), Instant::now());
        circuit.failed(now, refused());
        circuit.failed(now, refused());
        let later = now + Duration::from_secs(2);
        circuit.begin(later).unwrap();
        circuit.begin(later).unwrap_err();
        circuit.failed(later, refused());
        circuit.begin(later).unwrap_err();
        circuit.begin(later + Duration::from_secs(2)).unwrap();
        circuit.succeeded();
        circuit.begin(later).unwrap();
        circuit.begin(later).unwrap();
    }
}
