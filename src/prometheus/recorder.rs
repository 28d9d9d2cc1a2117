//! The recorder of the process: it keeps the series of what comes and goes by itself, and passes all others on.

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};

use super::exposition::Exposition;
use super::named::NamedSeries;

/// Records metrics.
pub(super) struct Recorder {
    recorder: PrometheusRecorder,
    named: Arc<NamedSeries>,
}

/// What was recorded. Clones share it.
#[derive(Clone)]
pub struct Recorded {
    handle: PrometheusHandle,
    named: Arc<NamedSeries>,
}

impl Recorder {
    /// Passes on what has no place in `named`.
    pub(super) fn new(recorder: PrometheusRecorder, named: NamedSeries) -> Self {
        let named = Arc::new(named);
        Self { recorder, named }
    }

    pub(super) fn recorded(&self) -> Recorded {
        Recorded {
            handle: self.recorder.handle(),
            named: Arc::clone(&self.named),
        }
    }
}

impl Recorded {
    /// All series, without those of names that are not known.
    pub(super) fn render(&self, is_known: impl Fn(&str) -> bool) -> String {
        let mut exposition = Exposition::default();
        self.named.write(&mut exposition, is_known);
        let mut text = exposition.into_text();
        text.push_str(&self.handle.render());
        text
    }

    /// Drains the histograms, which would grow until the next scrape otherwise.
    pub(super) fn keep_up(&self) {
        self.handle.run_upkeep();
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.recorder.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.recorder.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.recorder.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        match self.named.has(key) {
            true => self.named.counter(key),
            false => self.recorder.register_counter(key, metadata),
        }
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        match self.named.has(key) {
            true => self.named.gauge(key),
            false => self.recorder.register_gauge(key, metadata),
        }
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        match self.named.has(key) {
            true => self.named.histogram(key),
            false => self.recorder.register_histogram(key, metadata),
        }
    }
}
