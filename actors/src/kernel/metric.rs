//! Declarations of metrics. Each module declares every metric that it records, in a table `METRICS`, with
//! its meaning, its labels and the bounds of its buckets.
//!
//! Why it exists: the recorder, `docs/metrics.md` and the checks of the alert rules take all that they
//! know from these tables, so they agree. A metric is recorded under the name of its declaration.

/// Bounds of buckets in seconds, from an actor's round trip to a slow request.
pub const SHORT_TIMES: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 60.0,
];

/// Bounds of buckets in seconds, from a quick load to a long job.
pub const LONG_TIMES: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0,
];

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// Its name, by the conventions of Prometheus: a base unit at the end, then `_total` of a counter.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// What it means, in one sentence or few.
    pub help: &'static str,
    /// Its labels.
    pub labels: &'static [Label],
    /// When operators should be alerted, for the metrics that tell it.
    pub alert: Option<&'static str>,
}

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetricKind {
    /// It only rises while the server runs.
    Counter,
    /// It rises and falls.
    Gauge,
    /// It counts values by size, in buckets with these upper bounds.
    Histogram(&'static [f64]),
}

impl MetricKind {
    /// The name of the type in Prometheus.
    pub fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// A label of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// The values that it can have.
    pub values: LabelValues,
}

/// The values of a label. Their number is bounded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LabelValues {
    /// These words.
    OneOf(&'static [&'static str]),
    /// What this text describes; the code or the settings bound their number.
    Described(&'static str),
    /// What this text describes. Their number has no natural bound, so the recorder keeps the first ones
    /// and replaces all others by `other`.
    Cut(&'static str),
}

impl Label {
    /// A label with these words as values.
    pub const fn one_of(name: &'static str, words: &'static [&'static str]) -> Self {
        let values = LabelValues::OneOf(words);
        Self { name, values }
    }

    /// A label whose values `text` describes. The code or the settings bound their number.
    pub const fn described(name: &'static str, text: &'static str) -> Self {
        let values = LabelValues::Described(text);
        Self { name, values }
    }

    /// A label whose values `text` describes. The recorder bounds their number.
    pub const fn cut(name: &'static str, text: &'static str) -> Self {
        let values = LabelValues::Cut(text);
        Self { name, values }
    }
}

impl Metric {
    /// A counter.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(name, MetricKind::Counter, help)
    }

    /// A gauge.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(name, MetricKind::Gauge, help)
    }

    /// A histogram with these upper bounds of its buckets.
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        buckets: &'static [f64],
    ) -> Self {
        Self::new(name, MetricKind::Histogram(buckets), help)
    }

    const fn new(name: &'static str, kind: MetricKind, help: &'static str) -> Self {
        Self {
            name,
            kind,
            help,
            labels: &[],
            alert: None,
        }
    }

    /// Sets the labels.
    #[must_use]
    pub const fn labels(self, labels: &'static [Label]) -> Self {
        Self { labels, ..self }
    }

    /// Sets when operators should be alerted.
    #[must_use]
    pub const fn alert(self, when: &'static str) -> Self {
        Self {
            alert: Some(when),
            ..self
        }
    }

    /// Makes the series of a counter before its first event, so that an alert sees that event as an increase. There is one
    /// for each word of each label; `known` has the values of labels that have no words, or of which one is wanted. A label
    /// without either is a mistake.
    pub fn start_at_zero(&self, known: &[(&str, &str)]) {
        let mut series = vec![Vec::new()];
        for label in self.labels {
            let value = known.iter().find(|(name, _)| *name == label.name);
            let values = match (value, label.values) {
                (Some((_, value)), _) => vec![*value],
                (None, LabelValues::OneOf(words)) => words.to_vec(),
                (None, LabelValues::Described(_) | LabelValues::Cut(_)) => Vec::new(),
            };
            debug_assert!(
                !values.is_empty(),
                "{}: no value of the label {}, so no series",
                self.name,
                label.name
            );
            let with = |labels: &Vec<metrics::Label>, value: &str| {
                let label = metrics::Label::new(label.name, value.to_owned());
                [&labels[..], &[label]].concat()
            };
            let longer = series.iter();
            series = longer
                .flat_map(|labels| values.iter().map(|value| with(labels, value)))
                .collect();
        }
        for labels in series {
            metrics::counter!(self.name, labels).increment(0);
        }
    }

    /// The unit, which the name ends with.
    pub fn unit(&self) -> &'static str {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        let units = ["bytes", "seconds", "ratio"];
        let unit = units
            .into_iter()
            .find(|unit| name.ends_with(&format!("_{unit}")));
        unit.unwrap_or("")
    }
}
