//! All metrics of the server, in the groups of `docs/metrics.md`.

use std::collections::BTreeSet;

use headroom_actors::kernel::{Label, LabelValues, Metric, MetricKind, pool};
use headroom_actors::{chain, jobs, lazy, memory, model, postgres, redis, upload};

use super::{actors, edge, models, process};
use crate::figures::rpc;

/// Metrics of one subject.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// The subject.
    pub title: &'static str,
    /// The metrics.
    pub metrics: &'static [Metric],
}

/// All metrics.
pub const GROUPS: &[Group] = &[
    Group {
        title: "Memory",
        metrics: memory::METRICS,
    },
    Group {
        title: "Resources",
        metrics: lazy::METRICS,
    },
    Group {
        title: "Model processes",
        metrics: model::METRICS,
    },
    Group {
        title: "Requests to models",
        metrics: models::METRICS,
    },
    Group {
        title: "HTTP",
        metrics: edge::HTTP,
    },
    Group {
        title: "Actors",
        metrics: actors::METRICS,
    },
    Group {
        title: "Connection pools",
        metrics: pool::METRICS,
    },
    Group {
        title: "PostgreSQL",
        metrics: postgres::METRICS,
    },
    Group {
        title: "Redis",
        metrics: redis::METRICS,
    },
    Group {
        title: "Jobs",
        metrics: jobs::METRICS,
    },
    Group {
        title: "Uploads",
        metrics: upload::METRICS,
    },
    Group {
        title: "The virus scanner",
        metrics: upload::scanner::METRICS,
    },
    Group {
        title: "Requests to chains",
        metrics: rpc::METRICS,
    },
    Group {
        title: "Chains",
        metrics: chain::METRICS,
    },
    Group {
        title: "Kept answers of chains",
        metrics: chain::cache::METRICS,
    },
    Group {
        title: "Providers of chains",
        metrics: chain::provider::METRICS,
    },
    Group {
        title: "The server itself",
        metrics: edge::SELF,
    },
    Group {
        title: "Process and build",
        metrics: process::METRICS,
    },
];

/// All metrics, in order.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    GROUPS.iter().flat_map(|group| group.metrics)
}

/// The labels whose values are bounded, and whose series end with what they name.
pub(super) fn cut_labels() -> BTreeSet<&'static str> {
    let labels = all().flat_map(|metric| metric.labels);
    let cut = labels.filter(|label| matches!(label.values, LabelValues::Cut(_)));
    cut.map(|label: &Label| label.name).collect()
}

/// Tells the recorder what each metric means. It needs that before the first scrape.
pub(super) fn describe() {
    for metric in all() {
        match metric.kind {
            MetricKind::Counter => metrics::describe_counter!(metric.name, metric.help),
            MetricKind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            MetricKind::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_declared_once_and_by_the_conventions() {
        let mut names = BTreeSet::new();
        for metric in all() {
            let name = metric.name;
            assert!(names.insert(name), "{name} is there twice");
            let of_process = name.starts_with("process_");
            assert!(name.starts_with("headroom_") || of_process, "{name}");
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == MetricKind::Counter,
                "{name}"
            );
            assert!(metric.help.ends_with('.'), "{name}: {}", metric.help);
            if let MetricKind::Histogram(buckets) = metric.kind {
                let of_calls = name.ends_with("_calls");
                assert!(metric.unit() == "seconds" || of_calls, "{name}");
                assert!(buckets.is_sorted() && buckets.len() < 20, "{name}");
            }
            for label in metric.labels {
                // Prometheus adds these to each series of a target.
                assert!(!["job", "instance", "le"].contains(&label.name), "{name}");
            }
        }
    }

    #[test]
    fn only_names_of_resources_are_cut() {
        assert_eq!(cut_labels().into_iter().collect::<Vec<_>>(), ["name"]);
    }

    #[test]
    fn gauges_that_share_a_series_say_how() {
        for metric in all().filter(|metric| metric.kind == MetricKind::Gauge) {
            let mut labels = metric.labels.iter();
            let is_cut = labels.any(|label| matches!(label.values, LabelValues::Cut(_)));
            assert!(!is_cut || metric.help.contains("added up"), "{metric:?}");
        }
    }
}
