//! What is known of clamd.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::error::ScanError;
use super::metrics;
use super::stream::Verdict;
use crate::kernel::{Clock, Timestamp};

/// A check of a clamd that answers is repeated after this time, if somebody asks ...
const CHECK_AGAIN: Duration = Duration::from_secs(30);

/// ... and one of a clamd that does not, after this time.
const CHECK_AGAIN_DOWN: Duration = Duration::from_secs(2);

/// Whether clamd answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScannerState {
    /// Nothing was asked of it yet.
    #[default]
    NeverTried,
    /// It answered the last time.
    Up,
    /// It did not.
    Down,
}

/// ClamAV's own signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Signatures {
    /// Their version.
    pub version: u32,
    /// When they were made, exact to a day.
    pub built: Timestamp,
}

/// The state of the scanner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ScannerStatus {
    /// Whether clamd answers.
    pub state: ScannerState,
    /// The version of clamd, when it last told it.
    pub version: Option<String>,
    /// Its signatures. None are known if it has only local ones.
    pub signatures: Option<Signatures>,
    /// When it was last asked for them.
    pub checked_at: Option<Timestamp>,
    /// Why the last scan, connect or check failed. Kept when a later one succeeds.
    pub last_error: Option<String>,
    /// The most files that are scanned at once.
    pub connections_max: u32,
    /// Files that are scanned now.
    pub in_use: u32,
    /// Callers that wait for a place.
    pub waiting: u32,
    /// Files that got a verdict since the server started.
    pub scanned: u64,
    /// Of these, the infected ones.
    pub infected: u64,
    /// Scans that began and got no verdict. Those that were dropped do not count.
    pub failed: u64,
}

/// Shared by the actor, for all of its incarnations, and the scans.
#[derive(Debug, Default)]
pub(super) struct Facts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    state: ScannerState,
    version: Option<String>,
    signatures: Option<Signatures>,
    checked_at: Option<Instant>,
    last_error: Option<ScanError>,
    scanned: u64,
    infected: u64,
    failed: u64,
}

impl Known {
    fn set(&mut self, state: ScannerState) {
        self.state = state;
        metrics::set_up(state == ScannerState::Up);
    }

    fn set_error(&mut self, error: &ScanError) {
        self.last_error = Some(error.clone());
        match error.is_up() {
            Some(true) => self.set(ScannerState::Up),
            Some(false) => self.set(ScannerState::Down),
            None => {}
        }
    }
}

impl Facts {
    /// Each use is complete in itself, so a panic elsewhere harms nothing.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the end of a scan.
    pub(super) fn scan_ended(&self, result: &Result<Verdict, ScanError>) {
        metrics::record_end(result);
        let mut known = self.known();
        match result {
            Ok(verdict) => {
                known.scanned += 1;
                known.infected += u64::from(*verdict != Verdict::Clean);
                known.set(ScannerState::Up);
            }
            Err(error) => {
                known.failed += 1;
                known.set_error(error);
            }
        }
    }

    /// Records a failed connect.
    pub(super) fn connect_failed(&self, error: &ScanError) {
        self.known().set_error(error);
    }

    /// Records the end of a check.
    pub(super) fn checked(&self, result: Result<(String, Option<Signatures>), ScanError>) {
        let mut known = self.known();
        known.checked_at = Some(Instant::now());
        match result {
            Ok((version, signatures)) => {
                known.version = Some(version);
                known.signatures = signatures;
                known.set(ScannerState::Up);
            }
            Err(error) => known.set_error(&error),
        }
    }

    /// Whether the last check is too old for somebody who asks now.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        let known = self.known();
        let again = if known.state == ScannerState::Up {
            CHECK_AGAIN
        } else {
            CHECK_AGAIN_DOWN
        };
        let checked_at = known.checked_at;
        checked_at.is_none_or(|at| now.saturating_duration_since(at) >= again)
    }

    /// The status, of a scanner that has these figures.
    pub(super) fn status(&self, connections_max: u32, in_use: u32, waiting: u32) -> ScannerStatus {
        let (known, clock) = (self.known(), Clock::now());
        ScannerStatus {
            state: known.state,
            version: known.version.clone(),
            signatures: known.signatures,
            checked_at: known.checked_at.map(|at| clock.time_of(at)),
            last_error: known.last_error.as_ref().map(ToString::to_string),
            connections_max,
            in_use,
            waiting,
            scanned: known.scanned,
            infected: known.infected,
            failed: known.failed,
        }
    }
}
