//! The metrics of the scanner.

use std::time::Duration;

use super::error::ScanError;
use super::stream::Verdict;
use crate::kernel::{LONG_TIMES, Label, Metric};

const SCANS: Metric = Metric::counter("headroom_scans_total", "Scans of files that have ended.")
    .labels(&[Label::one_of(
        "verdict",
        &["clean", "infected", "size_limit", "failed"],
    )])
    .alert("an increase of failed: `GET /api/performance/metrics` has the last error");
const SECONDS: Metric = Metric::histogram(
    "headroom_scan_seconds",
    "Time from a file's last byte to clamd's verdict.",
    LONG_TIMES,
);
const WAIT_SECONDS: Metric = Metric::histogram(
    "headroom_scan_wait_seconds",
    "Time that callers waited for a place at clamd and for the connect.",
    LONG_TIMES,
);
const CONNECTIONS: Metric = Metric::gauge(
    "headroom_scan_connections",
    "Connections to clamd, each with one file.",
);
const UP: Metric = Metric::gauge(
    "headroom_scanner_up",
    "1 if clamd answered the last time that something was asked of it, otherwise 0.",
)
.alert("0 for 5 minutes: uploads that must be scanned are refused (`HeadroomScannerDown`)");

/// The metrics of this module.
pub const METRICS: &[Metric] = &[SCANS, SECONDS, WAIT_SECONDS, CONNECTIONS, UP];

/// The counters start with the server.
pub fn start_at_zero() {
    SCANS.start_at_zero(&[]);
}

pub(super) fn record_end(result: &Result<Verdict, ScanError>) {
    let verdict = match result {
        Ok(Verdict::Clean) => "clean",
        Ok(Verdict::Infected { .. }) => "infected",
        Err(ScanError::SizeLimit) => "size_limit",
        Err(_) => "failed",
    };
    metrics::counter!(SCANS.name, "verdict" => verdict).increment(1);
}

pub(super) fn record_verdict(took: Duration) {
    metrics::histogram!(SECONDS.name).record(took.as_secs_f64());
}

pub(super) fn record_wait(took: Duration) {
    metrics::histogram!(WAIT_SECONDS.name).record(took.as_secs_f64());
}

pub(super) fn connection_opened() {
    metrics::gauge!(CONNECTIONS.name).increment(1.0);
}

pub(super) fn connection_closed() {
    metrics::gauge!(CONNECTIONS.name).decrement(1.0);
}

pub(super) fn set_up(is_up: bool) {
    metrics::gauge!(UP.name).set(f64::from(u8::from(is_up)));
}
