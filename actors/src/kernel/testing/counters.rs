//! A recorder of metrics for one thread of a test. It counts, and checks that what is recorded is declared.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use crate::kernel::{LabelValues, Metric, MetricKind, pool};

/// The counters by the names of their metrics, whatever their labels.
///
/// # Panics
/// When it is dropped, if something was recorded that is not declared.
#[derive(Debug)]
pub(crate) struct Counters {
    declared: &'static [Metric],
    counts: Mutex<HashMap<String, Arc<AtomicU64>>>,
    /// All metrics that were recorded, and what is wrong with some.
    names: Mutex<BTreeSet<String>>,
    faults: Mutex<BTreeSet<String>>,
}

impl Counters {
    /// Knows these metrics, and those of the kernel's pools.
    pub(crate) fn of(declared: &'static [Metric]) -> Self {
        Self {
            declared,
            counts: Mutex::default(),
            names: Mutex::default(),
            faults: Mutex::default(),
        }
    }

    /// The value of a counter.
    pub(crate) fn get(&self, name: &str) -> u64 {
        let counts = self.counts.lock().unwrap();
        counts
            .get(name)
            .map_or(0, |value| value.load(Ordering::Relaxed))
    }

    /// The names of all metrics that were recorded.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.names.lock().unwrap().clone()
    }

    fn check(&self, key: &Key, kind: &str) {
        self.names.lock().unwrap().insert(key.name().to_owned());
        let mut declared = self.declared.iter().chain(pool::METRICS);
        let metric = declared.find(|metric| metric.name == key.name());
        let is_declared = metric.is_some_and(|metric| {
            let names: BTreeSet<_> = metric.labels.iter().map(|label| label.name).collect();
            let found: BTreeSet<_> = key.labels().map(metrics::Label::key).collect();
            let fits = |label: &metrics::Label| {
                let mut labels = metric.labels.iter();
                labels.any(|it| match it.values {
                    LabelValues::OneOf(words) => {
                        it.name == label.key() && words.contains(&label.value())
                    }
                    LabelValues::Described(_) | LabelValues::Cut(_) => it.name == label.key(),
                })
            };
            metric.kind.label() == kind && names == found && key.labels().all(fits)
        });
        if !is_declared {
            let mut faults = self.faults.lock().unwrap();
            faults.insert(format!("{kind} {key}"));
        }
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.check(key, MetricKind::Counter.label());
        let mut counts = self.counts.lock().unwrap();
        let counter = counts.entry(key.name().to_owned()).or_default();
        Counter::from_arc(Arc::clone(counter))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.check(key, MetricKind::Gauge.label());
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.check(key, MetricKind::Histogram(&[]).label());
        Histogram::noop()
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        let faults = self.faults.lock().unwrap();
        if !std::thread::panicking() {
            assert!(faults.is_empty(), "not declared: {faults:#?}");
        }
    }
}
