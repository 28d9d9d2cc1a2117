//! The metrics of jobs, by kind. Kinds are fixed words of the code.

use std::time::Duration;

use super::status::{JobKind, JobState};
use crate::kernel::{LONG_TIMES, Label, Metric};

const RUNNING: Metric =
    Metric::gauge("headroom_jobs_running", "Jobs that are running.").labels(&[KIND]);
const ENDED: Metric = Metric::counter("headroom_jobs_ended_total", "Jobs that have ended.")
    .labels(&[
        KIND,
        Label::one_of("state", &["succeeded", "failed", "cancelled", "timed_out"]),
    ])
    .alert("an increase of failed or timed_out: `GET /api/jobs` has the reason");
const DURATION: Metric = Metric::histogram(
    "headroom_job_duration_seconds",
    "Time from the start of a job to its end.",
    LONG_TIMES,
)
.labels(&[KIND]);

const JOURNAL_UNSAVED: Metric = Metric::gauge(
    "headroom_journal_unsaved",
    "1 if the journal of optimisations could not be read or saved at the last try, otherwise 0.",
)
.alert("1 for 5 minutes: the journal ends with the server; its status has the error (`HeadroomJournalUnsaved`)");

const KIND: Label = Label::described(
    "kind",
    "what the job does: `preload`, `optimize` or `load-test`",
);

/// The metrics of this module.
pub const METRICS: &[Metric] = &[RUNNING, ENDED, DURATION, JOURNAL_UNSAVED];

/// The numbers of running and of ended jobs start with the server, for these kinds of jobs.
pub fn start_at_zero(kinds: &[JobKind]) {
    for kind in kinds {
        metrics::gauge!(RUNNING.name, "kind" => kind.name).increment(0.0);
        ENDED.start_at_zero(&[("kind", kind.name)]);
    }
}

pub(super) fn set_journal_unsaved(is_unsaved: bool) {
    metrics::gauge!(JOURNAL_UNSAVED.name).set(f64::from(u8::from(is_unsaved)));
}

pub(super) fn record_start(kind: &'static str) {
    metrics::gauge!(RUNNING.name, "kind" => kind).increment(1.0);
}

pub(super) fn record_end(kind: &'static str, state: JobState, took: Duration) {
    metrics::gauge!(RUNNING.name, "kind" => kind).decrement(1.0);
    let state = state.label();
    metrics::counter!(ENDED.name, "kind" => kind, "state" => state).increment(1);
    metrics::histogram!(DURATION.name, "kind" => kind).record(took.as_secs_f64());
}
