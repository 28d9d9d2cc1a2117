//! What Prometheus scrapes.
//!
//! Modules record most metrics when something happens, in the recorder. The rest is read at each scrape
//! and written beside the recorder's text: figures of actors, whose series must end with the actor, of
//! requests, which are counted without the recorder, and of the process, whose counters have fractions.
//! [`catalogue`] has the declarations of all metrics.

pub mod actors;
mod bounded;
pub mod catalogue;
pub mod document;
pub mod edge;
mod exposition;
pub mod process;

use std::sync::{Mutex, PoisonError};

use headroom_actors::kernel::{MetricKind, Tree};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use thiserror::Error;

use crate::figures::Figures;

pub use bounded::{LABEL_VALUES_MAX, OTHER};

use bounded::Bounded;
use exposition::Exposition;

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
    /// The recorder's own metrics.
    pub recorder: PrometheusHandle,
    /// Called before rendering.
    pub collectors: Collectors,
    /// The actors.
    pub tree: Tree,
    /// The requests and the process.
    pub figures: Figures,
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
        let mut text = exposition.into_text();
        text.push_str(&self.recorder.render());
        text
    }

    /// Drains the recorder's histograms, which would grow until the next scrape otherwise. Call it every
    /// few seconds.
    pub fn keep_up(&self) {
        self.recorder.run_upkeep();
    }
}

/// Installs the metrics recorder of the process, and returns its handle. Later calls return the same
/// handle.
///
/// # Errors
/// The process has another recorder already.
pub fn install() -> Result<PrometheusHandle, PrometheusError> {
    // The lock is held during the installation, so that a concurrent caller gets the same handle.
    static HANDLE: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = HANDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let (recorder, handle) = recorder()?;
    metrics::set_global_recorder(recorder).map_err(|_| PrometheusError::RecorderTaken)?;
    Ok(installed.insert(handle).clone())
}

/// A recorder that knows the declarations of all metrics, and its handle.
fn recorder() -> Result<(Bounded, PrometheusHandle), BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in catalogue::all() {
        if let MetricKind::Histogram(buckets) = metric.kind {
            let name = Matcher::Full(metric.name.to_owned());
            builder = builder.set_buckets_for_metric(name, buckets)?;
        }
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    let cut = catalogue::cut_labels();
    let bounded = Bounded::new(recorder, cut);
    metrics::with_local_recorder(&bounded, catalogue::describe);
    Ok((bounded, handle))
}

#[cfg(test)]
mod tests {
    use headroom_actors::kernel::LabelValues;

    use super::*;

    #[test]
    fn more_names_than_the_maximum_make_no_more_series() {
        let (recorder, handle) = recorder().unwrap();
        let series_with = |names: usize| {
            metrics::with_local_recorder(&recorder, || (0..names).for_each(record_all));
            let text = handle.render();
            let series = text.lines().filter(|line| line.contains("name=\"")).count();
            (series, text.len())
        };
        let at_most = series_with(LABEL_VALUES_MAX + 1);
        assert!(at_most.0 > LABEL_VALUES_MAX, "{at_most:?}");
        let (series, bytes) = series_with(4 * LABEL_VALUES_MAX);
        assert_eq!(series, at_most.0);
        // Only the numbers get longer.
        assert!(bytes < at_most.1 * 11 / 10, "{bytes} {at_most:?}");
        let other = handle.render();
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
