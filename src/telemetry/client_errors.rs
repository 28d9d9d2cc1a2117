//! Connections that end with an error of the client's: a malformed request, a head that takes too
//! long, a reset.
//!
//! Why it exists: actix-http logs each of them as an error, so that anybody who can connect decides
//! how much is logged. Here such events are counted instead, and one line now and then says how many
//! there were.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Time between two lines in the log, at least.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// How actix-http's HTTP/1 code begins what it logs when a connection ends with an error. Its own
/// faults are told in the same words, as `INTERNAL`, and stay errors.
const PREFIXES: [&str; 3] = ["stream error: ", "MAX_BUFFER_SIZE", "write zero"];
const INTERNAL: &str = "stream error: internal error";
const TARGET: &str = "actix_http::h1::";

/// Longest reason that is logged.
const REASON_MAX: usize = 120;

/// The metric that counts them.
const METRIC: &str = "headroom_http_client_errors_total";

/// Counts these events and keeps them from the layers within. It has to be the outermost layer,
/// since it logs while it looks at an event.
#[derive(Debug, Default)]
pub(super) struct ClientErrors(Mutex<Unlogged>);

#[derive(Debug, Default)]
struct Unlogged {
    count: u64,
    logged_at: Option<Instant>,
}

impl ClientErrors {
    pub(super) fn describe() {
        metrics::describe_counter!(
            METRIC,
            "HTTP connections that ended with an error of the client's: a malformed request, a head \
             that took too long, a reset. Counted unless log.filter mutes errors of actix_http."
        );
    }

    /// Counts one more; returns the count to be logged, when it is time for that.
    fn add(&self, now: Instant) -> Option<u64> {
        let mut unlogged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        unlogged.count += 1;
        let is_due = unlogged
            .logged_at
            .is_none_or(|at| now.saturating_duration_since(at) >= LOG_EVERY);
        if !is_due {
            return None;
        }
        unlogged.logged_at = Some(now);
        Some(std::mem::take(&mut unlogged.count))
    }
}

impl<S: Subscriber> Layer<S> for ClientErrors {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        if !event.metadata().target().starts_with(TARGET) {
            return true;
        }
        let mut message = Message::default();
        event.record(&mut message);
        let Message(message) = message;
        let is_one = PREFIXES.iter().any(|prefix| message.starts_with(prefix));
        if !is_one || message.starts_with(INTERNAL) {
            return true;
        }
        metrics::counter!(METRIC).increment(1);
        if let Some(connections) = self.add(Instant::now()) {
            let last: String = message.chars().take(REASON_MAX).collect();
            tracing::info!(connections, last, "connections ended with client errors");
        }
        false
    }
}

/// An event's message.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn many_errors_are_one_line_now_and_then() {
        let errors = ClientErrors::default();
        let begin = Instant::now();
        assert_eq!(errors.add(begin), Some(1));
        for n in 0..1000 {
            assert_eq!(errors.add(begin + Duration::from_millis(n)), None);
        }
        assert_eq!(errors.add(begin + LOG_EVERY), Some(1001));
    }
}
