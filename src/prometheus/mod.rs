//! What Prometheus scrapes.
//!
//! Modules record most metrics when something happens, in the recorder. The rest is read at each scrape
//! and written beside the recorder's text: figures of actors, whose series must end with the actor, of
//! requests, which are counted without the recorder, and of the process, whose counters have fractions.
//! The series of models and other resources end with them. [`catalogue`] has the declarations of all metrics.

pub mod actors;
pub mod catalogue;
pub mod document;
pub mod edge;
mod exposition;
pub mod models;
mod named;
pub mod process;
mod recorder;

use std::sync::{Mutex, PoisonError};

use headroom_actors::kernel::{MetricKind, Tree};
use headroom_actors::lazy::ResourceNames;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use thiserror::Error;

use crate::figures::Figures;
use crate::readiness::Readiness;

pub use named::{LABEL_VALUES_MAX, OTHER};
pub use recorder::Recorded;

use exposition::Exposition;
use named::NamedSeries;
use recorder::Recorder;

/// The media type of the Prometheus text format.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why metrics cannot be recorded.
#[derive(Debug, Error)]
pub enum PrometheusError {
    /// The metrics recorder rejects its configuration.
    #[error("cannot build the metrics recorder: {0}")]
    Recorder(#[from] BuildError),
    /// The process has a metrics recorder already.
    #[error("cannot install the metrics recorder: another one is in place")]
    RecorderTaken,
}

/// Functions that set gauges. They are called before metrics are rendered.
pub type Collectors = Vec<Box<dyn Fn() + Send + Sync>>;

/// Renders the metrics.
pub struct Exporter {
    /// What modules recorded.
    pub recorded: Recorded,
    /// Called before rendering.
    pub collectors: Collectors,
    /// The resources that have series.
    pub resources: ResourceNames,
    /// The actors.
    pub tree: Tree,
    /// The requests and the process.
    pub figures: Figures,
    /// Whether the server should get requests.
    pub readiness: Readiness,
}

impl Exporter {
    /// All metrics, as text.
    pub fn render(&self) -> String {
        for collect in &self.collectors {
            collect();
        }
        let mut exposition = Exposition::default();
        process::write(&mut exposition, &self.figures.process);
        edge::write(&mut exposition, &self.figures.http);
        actors::write(&mut exposition, self.tree.counted());
        let is_known = |name: &str| self.resources.contains(name);
        models::write(&mut exposition, &self.figures.models, is_known);
        let is_ready = f64::from(self.readiness.is_ready());
        exposition.family(&edge::READY).sample(&[], is_ready);
        let mut text = exposition.into_text();
        text.push_str(&self.recorded.render(is_known));
        text
    }

    /// Drains the recorder's histograms, which would grow until the next scrape otherwise. Call it every
    /// few seconds.
    pub fn keep_up(&self) {
        self.recorded.keep_up();
    }
}

/// Installs the metrics recorder of the process, and returns what it records. Later calls return the
/// same.
///
/// # Errors
/// The process has another recorder already.
pub fn install() -> Result<Recorded, PrometheusError> {
    // The lock is held during the installation, so that a concurrent caller gets the same.
    static RECORDED: Mutex<Option<Recorded>> = Mutex::new(None);
    let mut installed = RECORDED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(recorded) = &*installed {
        return Ok(recorded.clone());
    }
    let recorder = recorder()?;
    let recorded = recorder.recorded();
    metrics::set_global_recorder(recorder).map_err(|_| PrometheusError::RecorderTaken)?;
    Ok(installed.insert(recorded).clone())
}

/// A recorder that knows the declarations of all metrics.
fn recorder() -> Result<Recorder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in catalogue::all() {
        if let MetricKind::Histogram(buckets) = metric.kind {
            let name = Matcher::Full(metric.name.to_owned());
            builder = builder.set_buckets_for_metric(name, buckets)?;
        }
    }
    let named = NamedSeries::new(catalogue::cut_labels());
    let recorder = Recorder::new(builder.build_recorder(), named);
    metrics::with_local_recorder(&recorder, catalogue::describe);
    Ok(recorder)
}

#[cfg(test)]
mod tests {
    use headroom_actors::kernel::LabelValues;

    use super::*;

    #[test]
    fn more_names_than_the_maximum_make_no_more_series() {
        let recorder = recorder().unwrap();
        let recorded = recorder.recorded();
        let series_with = |names: usize| {
            metrics::with_local_recorder(&recorder, || (0..names).for_each(record_all));
            let text = recorded.render(|_| true);
            let series = text.lines().filter(|line| line.contains("name=\"")).count();
            (series, text.len())
        };
        let at_most = series_with(LABEL_VALUES_MAX + 1);
        assert!(at_most.0 > LABEL_VALUES_MAX, "{at_most:?}");
        let (series, bytes) = series_with(4 * LABEL_VALUES_MAX);
        assert_eq!(series, at_most.0);
        // Only the numbers get longer.
        assert!(bytes < at_most.1 * 11 / 10, "{bytes} {at_most:?}");
        let other = recorded.render(|_| true);
        assert!(other.contains("name=\"other\""));
        assert!(bytes < 8 << 20, "{bytes} bytes");
    }

    /// Records every metric that has the name of a resource as a label, for one name.
    fn record_all(number: usize) {
        for metric in catalogue::all() {
            let is_cut = |label: &headroom_actors::kernel::Label| {
                matches!(label.values, LabelValues::Cut(_))
            };
            if !metric.labels.iter().any(is_cut) {
                continue;
            }
            // Each word of the other labels in turn: the bound of the text is that of the worst case.
            let words = metric.labels.iter().find_map(|label| match label.values {
                LabelValues::OneOf(words) => Some((label.name, words)),
                _ => None,
            });
            let (label, words) = words.unwrap_or(("kind", &["model"]));
            for word in words {
                let labels = [
                    ("name", format!("a-model-with-a-long-name-{number}:1")),
                    (label, (*word).to_owned()),
                ];
                match metric.kind {
                    MetricKind::Counter => metrics::counter!(metric.name, &labels).increment(1),
                    MetricKind::Gauge => metrics::gauge!(metric.name, &labels).set(1.0),
                    MetricKind::Histogram(_) => {
                        metrics::histogram!(metric.name, &labels).record(0.1);
                    }
                }
            }
        }
    }
}
