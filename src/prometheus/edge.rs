//! The metrics of the HTTP edge and of the log. Requests are counted in the figures; the others are
//! recorded where they happen.

use headroom_actors::kernel::{Label, Metric, SHORT_TIMES};

use super::exposition::Exposition;
use crate::figures::HttpFigures;
use crate::figures::http::{OUTCOMES, STATUSES};

const CLASS: Label = Label::described(
    "class",
    "the class of the route, as in `GET /api/performance/metrics`",
);

const REQUESTS: Metric = Metric::counter(
    "headroom_http_requests_total",
    "Requests answered, by class of route and of status; abandoned: the client went away before.",
)
.labels(&[CLASS, Label::one_of("outcome", &OUTCOMES)])
.alert("a share of 5xx above 5 % for 5 minutes (`HeadroomErrors`)");
const RESPONSES: Metric = Metric::counter(
    "headroom_http_responses_total",
    "Requests answered, by class of route and by status; other: one that is not listed.",
)
.labels(&[CLASS, Label::one_of("status", &STATUSES)]);
const IN_FLIGHT: Metric =
    Metric::gauge("headroom_http_requests_in_flight", "Requests in progress.");
const REQUEST_DURATION: Metric = Metric::histogram(
    "headroom_http_request_duration_seconds",
    "Time from a request's head to its response's head. The bounds are exact to a hundredth.",
    SHORT_TIMES,
)
.labels(&[CLASS])
.alert("a p99 that users notice, for minutes");
/// Request bodies.
pub const BODIES: Metric = Metric::gauge(
    "headroom_http_bodies_bytes",
    "Bytes of request bodies that are being read or used.",
);
/// Open connections.
pub const CONNECTIONS: Metric = Metric::gauge(
    "headroom_http_connections",
    "Connections of clients that are open at the main listener.",
)
.alert(
    "above 90 % of `headroom_http_connections_max` for 5 minutes: at the maximum new clients wait, and the log has a \
     warning at most every ten seconds; raise `server.connections_max`, or find who holds idle connections \
     (`HeadroomConnectionsFull`)",
);
/// The most open connections.
pub const CONNECTIONS_MAX: Metric = Metric::gauge(
    "headroom_http_connections_max",
    "The most open connections: `server.connections_max`, or fewer if the limit of open files is low, in equal \
     parts for each worker.",
);
/// Connections that the server cut.
pub const CONNECTIONS_CUT: Metric = Metric::counter(
    "headroom_http_connections_cut_total",
    "Connections cut: idle (no request), head (request head not complete in time), stalled (response \
     not read, or too slowly), memory (none for unread bytes), crowded (no request, and the admin listener \
     had few places left).",
)
.labels(&[Label::one_of(
    "reason",
    &["idle", "head", "stalled", "memory", "crowded"],
)]);
/// Connections that ended with an error of the client's.
pub const CLIENT_ERRORS: Metric = Metric::counter(
    "headroom_http_client_errors_total",
    "HTTP connections that ended with an error of the client's: parse (a malformed request), timeout (a head \
     or a close that took too long), io (a reset), other. Counted, except io, unless log.filter mutes errors of \
     actix_http.",
)
.labels(&[Label::one_of("cause", &["parse", "timeout", "io", "other"])]);
/// Connections that were not accepted.
pub const ACCEPT_ERRORS: Metric = Metric::counter(
    "headroom_http_accept_errors_total",
    "Connections that could not be accepted. Counted unless log.filter mutes errors of actix_server.",
)
.alert(
    "any increase within 10 minutes: the log has an error at most every ten seconds; most often no file descriptor \
     is left (`HeadroomAcceptErrors`)",
);
/// Reloads of the settings.
pub const RELOADS: Metric = Metric::counter(
    "headroom_settings_reloads_total",
    "Reloads of the settings; refused: they have a fault, and all keep their values.",
)
.labels(&[Label::one_of("outcome", &["applied", "refused"])]);
/// Whether the server would start with its settings.
pub const LAST_RELOAD: Metric = Metric::gauge(
    "headroom_settings_last_reload_successful",
    "0 if the last reload of the settings was refused, otherwise 1.",
)
.alert("0: the log has the faults of the settings (`HeadroomReloadRefused`)");
/// Whether the server should get requests.
pub(super) const READY: Metric = Metric::gauge(
    "headroom_ready",
    "1 if the server should get requests, 0 if not, as `GET /health/ready` answers.",
)
.alert("0 for 5 minutes: `GET /health/ready` has the reasons (`HeadroomNotReady`)");
/// Lost log lines.
pub const DROPPED_LINES: Metric = Metric::counter(
    "headroom_log_dropped_lines_total",
    "Log lines that were dropped because standard error was not read fast enough.",
)
.alert("any increase within 10 minutes: the log is incomplete (`HeadroomLogDropped`)");
/// The age of the memory supervisor's figures.
pub const READING_AGE: Metric = Metric::gauge(
    "headroom_memory_reading_age_seconds",
    "Age of the last reading of memory; absent before the first reading.",
)
.alert(
    "above 10 or absent for a minute: the supervisor of memory hangs, and the server is not ready \
     (`HeadroomMemoryUnread`)",
);

/// The metrics of requests and connections.
pub const HTTP: &[Metric] = &[
    REQUESTS,
    RESPONSES,
    REQUEST_DURATION,
    IN_FLIGHT,
    BODIES,
    CONNECTIONS,
    CONNECTIONS_MAX,
    CONNECTIONS_CUT,
    CLIENT_ERRORS,
    ACCEPT_ERRORS,
];

/// The metrics of the server's state, of its settings and of the log.
pub const SELF: &[Metric] = &[READY, RELOADS, LAST_RELOAD, DROPPED_LINES, READING_AGE];

/// The counters start with the server.
pub fn start_at_zero() {
    for metric in [CONNECTIONS_CUT, CLIENT_ERRORS, ACCEPT_ERRORS, RELOADS] {
        metric.start_at_zero(&[]);
    }
    metrics::gauge!(LAST_RELOAD.name).set(1.0);
}

/// Writes the metrics of requests.
pub(super) fn write(exposition: &mut Exposition, figures: &HttpFigures) {
    let totals = figures.totals();
    let mut family = exposition.family(&REQUESTS);
    for total in &totals {
        for (outcome, count) in &total.outcomes {
            let labels = [("class", total.class), ("outcome", outcome)];
            family.sample(&labels, *count as f64);
        }
    }
    let mut family = exposition.family(&RESPONSES);
    for (class, counts) in figures.statuses() {
        for (status, count) in STATUSES.iter().zip(counts) {
            let labels = [("class", class), ("status", status)];
            family.sample(&labels, count as f64);
        }
    }
    let mut family = exposition.family(&REQUEST_DURATION);
    for total in &totals {
        let latencies = &total.latencies;
        let counts = latencies.counts_up_to(SHORT_TIMES);
        let buckets = SHORT_TIMES.iter().copied().zip(counts);
        let (count, sum) = (latencies.count(), latencies.sum_seconds());
        family.histogram(&[("class", total.class)], buckets, count, sum);
    }
    let in_flight = figures.in_flight() as f64;
    exposition.family(&IN_FLIGHT).sample(&[], in_flight);
}
