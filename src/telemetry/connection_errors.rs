//! Counts connections that end with an error of the client, such as a malformed request or a reset, and those that cannot
//! be accepted.
//!
//! The framework logs each of them as an error, so any client could fill the log. This layer counts these
//! events instead, and logs the number of each kind at most once in ten seconds.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::prometheus::edge::{ACCEPT_ERRORS, CLIENT_ERRORS};

/// The shortest time between two log lines.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The prefixes of actix-http's log messages about connections that end with an error. Messages that
/// contain `INTERNAL` are about its own faults, and stay errors.
const PREFIXES: [&str; 3] = ["stream error: ", "MAX_BUFFER_SIZE", "write zero"];
const INTERNAL: &str = "stream error: internal error";
const TARGET: &str = "actix_http::h1::";

/// actix-server's log message about a connection that it cannot accept.
const ACCEPT_TARGET: &str = "actix_server::accept";
const ACCEPT_PREFIX: &str = "Error accepting connection: ";

/// The longest reason that is logged, in bytes.
const REASON_MAX: usize = 120;

/// Counts these events and hides them from the inner layers. It must be the outermost layer, since it
/// logs while it handles an event.
#[derive(Debug, Default)]
pub(super) struct ConnectionErrors {
    clients: Tally,
    accepts: Tally,
}

/// Events of one kind, of which a line is due at most once in ten seconds.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Unlogged>);

#[derive(Debug, Default)]
struct Unlogged {
    count: u64,
    logged_at: Option<Instant>,
}

impl Tally {
    /// Counts one event. Returns the count if a log line is due.
    pub(crate) fn add(&self, now: Instant) -> Option<u64> {
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

impl<S: Subscriber> Layer<S> for ConnectionErrors {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let target = event.metadata().target();
        let is_accept = target == ACCEPT_TARGET;
        if !is_accept && !target.starts_with(TARGET) {
            return true;
        }
        let mut message = Message::default();
        event.record(&mut message);
        let Message(message) = message;
        if is_accept {
            let Some(last) = message.strip_prefix(ACCEPT_PREFIX) else {
                return true;
            };
            metrics::counter!(ACCEPT_ERRORS.name).increment(1);
            if let Some(errors) = self.accepts.add(Instant::now()) {
                // Of the server or its machine.
                tracing::error!(errors, last, "connections cannot be accepted");
            }
            return false;
        }
        let is_one = PREFIXES.iter().any(|prefix| message.starts_with(prefix));
        if !is_one || message.starts_with(INTERNAL) {
            return true;
        }
        metrics::counter!(CLIENT_ERRORS.name, "cause" => cause(&message)).increment(1);
        if let Some(connections) = self.clients.add(Instant::now()) {
            let last: String = message.chars().take(REASON_MAX).collect();
            tracing::info!(connections, last, "connections ended with client errors");
        }
        false
    }
}

/// The cause of a client's error, as a label.
fn cause(message: &str) -> &'static str {
    let error = message.strip_prefix("stream error: ").unwrap_or(message);
    if error.contains("I/O error") || error.starts_with("write zero") {
        "io"
    } else if error.starts_with("request parse error") || error.starts_with("MAX_BUFFER_SIZE") {
        "parse"
    } else if error.contains("timeout") {
        "timeout"
    } else {
        "other"
    }
}

/// The message of an event.
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
    fn the_cause_of_an_error_is_one_of_few_words() {
        for (message, expected) in [
            (
                "stream error: request parse error: invalid Header provided",
                "parse",
            ),
            ("MAX_BUFFER_SIZE unprocessed data reached, closing", "parse"),
            ("stream error: request parse error: I/O error: reset", "io"),
            ("stream error: I/O error: connection reset by peer", "io"),
            ("write zero; closing", "io"),
            (
                "stream error: request did not complete within the specified timeout",
                "timeout",
            ),
            ("stream error: connection shutdown timeout", "timeout"),
            (
                "stream error: handler dropped payload before reading EOF",
                "other",
            ),
        ] {
            assert_eq!(cause(message), expected, "{message}");
        }
    }

    #[test]
    fn many_errors_are_one_line_now_and_then() {
        let errors = Tally::default();
        let begin = Instant::now();
        assert_eq!(errors.add(begin), Some(1));
        for n in 0..1000 {
            assert_eq!(errors.add(begin + Duration::from_millis(n)), None);
        }
        assert_eq!(errors.add(begin + LOG_EVERY), Some(1001));
    }
}
