//! Bounds the values of labels that come from outside, such as the names of models.
//!
//! A recorder never forgets a series, so names that come and go would make each scrape larger. The first
//! values of such a label have series of their own, until the server restarts. All others share one, so
//! a gauge with such a label must be changed by differences and not be set.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::PrometheusRecorder;

/// The most values of a label that have series of their own.
pub const LABEL_VALUES_MAX: usize = 500;

/// The value that stands for all further ones.
pub const OTHER: &str = "other";

/// Passes everything on to the recorder, with bounded labels.
pub(super) struct Bounded {
    recorder: PrometheusRecorder,
    /// The values so far of each bounded label.
    values: HashMap<&'static str, RwLock<HashSet<String>>>,
}

impl Bounded {
    /// Bounds these labels.
    pub(super) fn new(
        recorder: PrometheusRecorder,
        labels: impl IntoIterator<Item = &'static str>,
    ) -> Self {
        let labels = labels.into_iter();
        Self {
            recorder,
            values: labels.map(|label| (label, RwLock::default())).collect(),
        }
    }

    /// Whether the label may keep its value.
    fn may_keep(&self, label: &Label) -> bool {
        let Some(values) = self.values.get(label.key()) else {
            return true;
        };
        let known = values.read().unwrap_or_else(PoisonError::into_inner);
        if known.contains(label.value()) {
            return true;
        }
        if known.len() >= LABEL_VALUES_MAX {
            return false;
        }
        drop(known);
        let mut known = values.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < LABEL_VALUES_MAX {
            known.insert(label.value().to_owned());
        }
        known.contains(label.value())
    }

    /// The key with bounded labels, if that is another one.
    fn bounded(&self, key: &Key) -> Option<Key> {
        if key.labels().all(|label| self.may_keep(label)) {
            return None;
        }
        let labels = key.labels().map(|label| {
            if self.may_keep(label) {
                label.clone()
            } else {
                Label::new(label.key().to_owned(), OTHER)
            }
        });
        let labels: Vec<_> = labels.collect();
        Some(Key::from_parts(key.name().to_owned(), labels))
    }
}

impl Recorder for Bounded {
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
        let bounded = self.bounded(key);
        self.recorder
            .register_counter(bounded.as_ref().unwrap_or(key), metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        let bounded = self.bounded(key);
        self.recorder
            .register_gauge(bounded.as_ref().unwrap_or(key), metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        let bounded = self.bounded(key);
        self.recorder
            .register_histogram(bounded.as_ref().unwrap_or(key), metadata)
    }
}
