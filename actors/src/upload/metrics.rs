//! The metrics of uploads.

use std::time::Duration;

use super::error::UploadError;
use crate::kernel::{LONG_TIMES, Label, Metric};

const ACTIVE: Metric = Metric::gauge("headroom_uploads_active", "Uploads in progress.");
const STORED: Metric = Metric::counter("headroom_uploads_stored_total", "Files that were stored.");
const STORED_BYTES: Metric = Metric::counter(
    "headroom_uploads_stored_bytes_total",
    "Bytes of the files that were stored.",
);
const RECEIVED_BYTES: Metric = Metric::counter(
    "headroom_uploads_received_bytes_total",
    "Bytes of files that arrived, also of those that were not stored.",
);
const REFUSED: Metric = Metric::counter(
    "headroom_uploads_refused_total",
    "Uploads that were refused or failed.",
)
.labels(&[Label::one_of("reason", &REASONS)])
.alert("an increase of `disk` or `storage` for 5 minutes: the log has the cause (`HeadroomUploadsFail`)");
const SAVE_SECONDS: Metric = Metric::histogram(
    "headroom_uploads_save_duration_seconds",
    "Time to store the files of an upload after the last of them has arrived.",
    LONG_TIMES,
);
const FILES: Metric = Metric::gauge(
    "headroom_uploads_files",
    "Uploads that are stored, as of the last sweep.",
);
const BYTES: Metric = Metric::gauge(
    "headroom_uploads_bytes",
    "Bytes of the uploads that are stored, as of the last sweep.",
);
const SWEEPS: Metric = Metric::counter("headroom_uploads_sweeps_total", "Sweeps that have ended.")
    .labels(&[Label::one_of("result", &["done", "failed"])])
    .alert("an increase of failed: uploads whose time is over stay; the log has the cause");
const SWEPT: Metric = Metric::counter(
    "headroom_uploads_swept_total",
    "What sweeps have removed: uploads whose time was over, and files that no upload used.",
)
.labels(&[Label::one_of("what", &SWEPT_WHAT)]);

const SWEPT_WHAT: [&str; 2] = ["expired", "unused"];

const UNSCANNED: Metric = Metric::counter(
    "headroom_uploads_unscanned_total",
    "Files that were stored although the virus scanner could not scan them.",
)
.alert("an increase: `GET /api/actors` has the state of the scanner");

const REASONS: [&str; 15] = [
    "form", "slow", "busy", "memory", "size", "type", "content", "infected", "scanner", "quota",
    "disk", "storage", "database", "key", "partial",
];

/// The metrics of this module.
pub const METRICS: &[Metric] = &[
    ACTIVE,
    STORED,
    STORED_BYTES,
    RECEIVED_BYTES,
    REFUSED,
    SAVE_SECONDS,
    FILES,
    BYTES,
    SWEEPS,
    SWEPT,
    UNSCANNED,
];

/// The counters start with the server.
pub(super) fn start_at_zero() {
    for metric in [
        STORED,
        STORED_BYTES,
        RECEIVED_BYTES,
        REFUSED,
        SWEEPS,
        SWEPT,
        UNSCANNED,
    ] {
        metric.start_at_zero(&[]);
    }
    set_active(0);
    set_totals(0, 0);
}

pub(super) fn set_active(number: usize) {
    metrics::gauge!(ACTIVE.name).set(number as f64);
}

pub(super) fn record_received(bytes: u64) {
    metrics::counter!(RECEIVED_BYTES.name).increment(bytes);
}

pub(super) fn record_stored(files: u64, bytes: u64, took: Duration) {
    metrics::counter!(STORED.name).increment(files);
    metrics::counter!(STORED_BYTES.name).increment(bytes);
    metrics::histogram!(SAVE_SECONDS.name).record(took.as_secs_f64());
}

pub(super) fn set_totals(files: u64, bytes: u64) {
    metrics::gauge!(FILES.name).set(files as f64);
    metrics::gauge!(BYTES.name).set(bytes as f64);
}

/// Counts a sweep, and what it has removed.
pub(super) fn record_swept(expired: u64, unused: u64, is_done: bool) {
    let result = if is_done { "done" } else { "failed" };
    metrics::counter!(SWEEPS.name, "result" => result).increment(1);
    metrics::counter!(SWEPT.name, "what" => "expired").increment(expired);
    metrics::counter!(SWEPT.name, "what" => "unused").increment(unused);
}

/// Counts files that were stored and not scanned, although there is a scanner.
pub(super) fn record_unscanned(files: u64) {
    metrics::counter!(UNSCANNED.name).increment(files);
}

/// What was wrong with the request of an upload, or with the way to its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestFault {
    /// The form, or what the headers say of a part of a file, is malformed.
    Form,
    /// The client sends too slowly.
    Slow,
    /// It is too large.
    Size,
    /// It is neither a form nor a part of a file.
    Type,
    /// The server has no time for it.
    Busy,
    /// There is no memory for it.
    Memory,
    /// The folder cannot be used.
    Storage,
}

/// Counts an upload that was refused by its request, not by its files.
pub fn record_refused_request(fault: RequestFault) {
    let reason = match fault {
        RequestFault::Form => "form",
        RequestFault::Slow => "slow",
        RequestFault::Size => "size",
        RequestFault::Type => "type",
        RequestFault::Busy => "busy",
        RequestFault::Memory => "memory",
        RequestFault::Storage => "storage",
    };
    metrics::counter!(REFUSED.name, "reason" => reason).increment(1);
}

/// Counts an upload that was refused or failed.
pub fn record_refused(error: &UploadError) {
    metrics::counter!(REFUSED.name, "reason" => reason(error)).increment(1);
}

fn reason(error: &UploadError) -> &'static str {
    use UploadError as E;
    match error {
        _ if error.is_disk_full() => "disk",
        E::Full { .. } | E::CallerFull { .. } => "busy",
        E::Memory(_) => "memory",
        E::TooLarge { .. } => "size",
        E::Name(_) | E::Kind(_) | E::KindRefused(_) => "type",
        E::Content(_) => "content",
        E::Infected { .. } => "infected",
        E::Scan(_) => "scanner",
        E::Quota { .. } => "quota",
        E::Database(_) | E::NotFound(_) | E::NoLink | E::LinkOver => "database",
        E::KeyOfOthers | E::KeyOfRemoved => "key",
        E::Partial(_) => "partial",
        E::DiskFull { .. }
        | E::Storage(_)
        | E::Unsynced(_)
        | E::Bucket(_)
        | E::Damaged
        | E::Panicked => "storage",
    }
}
