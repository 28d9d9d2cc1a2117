//! Log events and panics.
//!
//! Log events go to standard error as text or JSON, with RFC 3339 times in UTC. Logging never blocks:
//! see [`stderr`]. The filter can be replaced while the server runs. Panics are logged as error events,
//! so a JSON log stays JSON.

mod connection_errors;
pub mod stderr;

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::panic::{self, PanicHookInfo};
use std::time::Duration;

use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Registry};

use crate::prometheus::edge::DROPPED_LINES;
use crate::settings::log_filter::LogFilter;
use crate::settings::sections::LogSettings;
use crate::settings::values::LogFormat;

use connection_errors::ConnectionErrors;
pub(crate) use connection_errors::Tally;

/// The target of events that the filter never removes: results of an operator's requests, such as a
/// reload.
pub const ALWAYS_KEPT: &str = "headroom::operator";

/// How long a panic waits until its line is written, since the process may end right after.
const PANIC_FLUSH_WITHIN: Duration = Duration::from_millis(100);

/// Why telemetry was not installed.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The process has a log subscriber already.
    #[error("cannot install the log subscriber: {0}")]
    Subscriber(#[from] TryInitError),
    /// Standard error cannot be written to.
    #[error("cannot write to standard error: {0}")]
    Stderr(#[from] io::Error),
}

/// Replaces the log filter of a running server.
#[derive(Clone, Debug)]
pub struct FilterHandle(reload::Handle<EnvFilter, Registry>);

impl FilterHandle {
    /// Applies `filter` to all further events.
    ///
    /// # Errors
    /// The subscriber no longer exists.
    pub fn replace(&self, filter: &LogFilter) -> Result<(), reload::Error> {
        self.0.reload(env_filter(filter))
    }
}

/// Sends log events and panics to standard error, in the form that `settings` select.
///
/// # Errors
/// The process has a subscriber already, or the writer thread cannot be started.
pub fn install_logs(settings: &LogSettings) -> Result<FilterHandle, TelemetryError> {
    let (filter, handle) = reload::Layer::new(env_filter(&settings.filter));
    let registry = tracing_subscriber::registry().with(filter);
    let output = tracing_subscriber::fmt::layer().with_writer(stderr::queue()?);
    match settings.format {
        LogFormat::Text => registry
            .with(output.with_ansi(io::stderr().is_terminal()))
            .with(ConnectionErrors::default())
            .try_init()?,
        LogFormat::Json => registry
            .with(
                output
                    .json()
                    .flatten_event(true)
                    .with_current_span(true)
                    .with_span_list(false),
            )
            .with(ConnectionErrors::default())
            .try_init()?,
    }
    panic::set_hook(Box::new(log_panic));
    Ok(FilterHandle(handle))
}

/// A `LogFilter` is valid, so nothing of it is lost.
fn env_filter(filter: &LogFilter) -> EnvFilter {
    EnvFilter::builder().parse_lossy(format!("{},{ALWAYS_KEPT}=info", filter.as_str()))
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    tracing::error!(
        location = location.as_deref().unwrap_or("unknown"),
        thread = std::thread::current().name().unwrap_or("unnamed"),
        payload = payload_text(info.payload()),
        backtrace = backtrace.as_ref().map(tracing::field::display),
        "panicked"
    );
    stderr::flush(PANIC_FLUSH_WITHIN);
}

fn payload_text(payload: &dyn Any) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("not a text")
}

/// Updates the metrics about telemetry itself. Called before metrics are rendered.
pub fn record_metrics() {
    metrics::counter!(DROPPED_LINES.name).absolute(stderr::dropped_lines());
}
