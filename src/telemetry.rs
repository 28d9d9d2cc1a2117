//! What the server tells about itself: log events, panics, and the metrics recorder.
//!
//! Log events go to standard error, as text or as JSON, with RFC 3339 times in UTC. The filter can
//! be replaced in a running server. A panic is an error event like any other, so that it cannot
//! get lost between lines of JSON.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::panic::{self, PanicHookInfo};
use std::sync::{Mutex, PoisonError};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Registry};

use crate::settings::sections::LogSettings;
use crate::settings::values::{LogFilter, LogFormat};

/// Upper bounds of every duration histogram, in seconds: from an actor's round trip to a slow load.
const SECONDS_BUCKETS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 60.0,
];

/// Why telemetry could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// Something else in this process collects log events already.
    #[error("cannot install the log subscriber: {0}")]
    Subscriber(#[from] TryInitError),
    /// The filter does not parse.
    #[error("cannot parse the log filter {filter:?}: {source}")]
    Filter {
        /// As it was given.
        filter: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The subscriber that the filter belongs to is gone.
    #[error("cannot replace the log filter: {0}")]
    Reload(#[from] reload::Error),
    /// The metrics recorder refuses its configuration.
    #[error("cannot build the metrics recorder: {0}")]
    Recorder(#[from] BuildError),
    /// Something else in this process records metrics already.
    #[error("cannot install the metrics recorder: another one is in place")]
    RecorderTaken,
}

/// Replaces the log filter of a running server.
#[derive(Clone, Debug)]
pub struct FilterHandle(reload::Handle<EnvFilter, Registry>);

impl FilterHandle {
    /// From here on, events are kept by `filter`.
    ///
    /// # Errors
    /// When the subscriber is gone.
    pub fn replace(&self, filter: &LogFilter) -> Result<(), TelemetryError> {
        Ok(self.0.reload(parse(filter)?)?)
    }
}

/// Sends log events and panics to standard error, as `settings` say.
///
/// # Errors
/// When this process has a subscriber already.
pub fn install_logs(settings: &LogSettings) -> Result<FilterHandle, TelemetryError> {
    let (filter, handle) = reload::Layer::new(parse(&settings.filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let output = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match settings.format {
        LogFormat::Text => registry
            .with(output.with_ansi(io::stderr().is_terminal()))
            .try_init()?,
        LogFormat::Json => registry
            .with(
                output
                    .json()
                    .flatten_event(true)
                    .with_current_span(true)
                    .with_span_list(false),
            )
            .try_init()?,
    }
    panic::set_hook(Box::new(log_panic));
    Ok(FilterHandle(handle))
}

fn parse(filter: &LogFilter) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(filter.as_str())
        .map_err(|source| TelemetryError::Filter {
            filter: filter.as_str().into(),
            source,
        })
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
}

fn payload_text(payload: &dyn Any) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("not a text")
}

/// Installs the process's one metrics recorder and returns what renders it; later calls return the
/// same.
///
/// # Errors
/// When this process has another recorder already.
pub fn install_metrics() -> Result<PrometheusHandle, TelemetryError> {
    // Held while installing: of two callers at once, the second must see the first one's handle.
    static HANDLE: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = HANDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| TelemetryError::RecorderTaken)?;
    Ok(installed.insert(handle).clone())
}
