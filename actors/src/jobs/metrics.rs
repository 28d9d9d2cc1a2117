//! The metrics of jobs, by kind. Kinds are fixed words of the code.

use std::time::Duration;

use super::status::JobState;

/// Describes the metrics. The recorder must be installed before.
pub(super) fn describe() {
    metrics::describe_gauge!("headroom_jobs_running", "Jobs that are running, by kind.");
    metrics::describe_counter!(
        "headroom_jobs_ended_total",
        "Jobs that have ended, by kind and state: succeeded, failed, cancelled, timed_out."
    );
    metrics::describe_histogram!(
        "headroom_jobs_duration_seconds",
        "Time from the start of a job to its end, by kind."
    );
}

pub(super) fn record_start(kind: &'static str) {
    metrics::gauge!("headroom_jobs_running", "kind" => kind).increment(1.0);
}

pub(super) fn record_end(kind: &'static str, state: JobState, took: Duration) {
    metrics::gauge!("headroom_jobs_running", "kind" => kind).decrement(1.0);
    let state = state.label();
    metrics::counter!("headroom_jobs_ended_total", "kind" => kind, "state" => state).increment(1);
    metrics::histogram!("headroom_jobs_duration_seconds", "kind" => kind)
        .record(took.as_secs_f64());
}
