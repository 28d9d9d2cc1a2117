//! The names and labels of the metrics, on which dashboards and alerts rely.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};

use super::scripted::{Scripted, Step, unavailable};
use super::test_loader::{TestLoader, paused};

/// Records the series that were written, without their values.
#[derive(Clone, Default)]
struct Series(Arc<Mutex<BTreeSet<String>>>);

impl Series {
    fn record(&self, key: &Key) {
        let labels: Vec<_> = key
            .labels()
            .map(|it| format!("{}={}", it.key(), it.value()))
            .collect();
        let series = format!("{}{{{}}}", key.name(), labels.join(","));
        self.0.lock().unwrap().insert(series);
    }
}

impl Recorder for Series {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.record(key);
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.record(key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.record(key);
        Histogram::noop()
    }
}

#[test]
fn every_metric_has_its_name_and_labels() {
    let series = Series::default();
    with_local_recorder(&series, || {
        paused(|system| async move {
            let thing = Scripted::new();
            let broken = Scripted::new().script([Step::Fail(unavailable("broken"))]);
            let resources = vec![thing.resource("thing", &[]), broken.resource("broken", &[])];
            let loader = TestLoader::start(&system, 100, resources).await;
            loader.acquire("broken").await.unwrap_err();
            loader.use_once("thing").await;
            loader.use_once("thing").await;
            loader.evict_idle(1).await;
            loader.use_once("thing").await;
            thing.die("crashed");
            tokio::task::yield_now().await;
            loader.stop_and_check().await;
        });
    });
    let thing = "kind=scripted,name=thing";
    let expected = [
        format!("headroom_lazy_deaths_total{{{thing}}}"),
        format!("headroom_lazy_evictions_total{{{thing},reason=pressure}}"),
        format!("headroom_lazy_hits_total{{{thing}}}"),
        "headroom_lazy_load_failures_total{kind=scripted,name=broken}".to_owned(),
        format!("headroom_lazy_load_duration_seconds{{{thing}}}"),
        format!("headroom_lazy_loads_total{{{thing}}}"),
        format!("headroom_lazy_misses_total{{{thing}}}"),
        "headroom_lazy_resources{phase=ready}".to_owned(),
        format!("headroom_lazy_waits_total{{{thing}}}"),
    ];
    let written = series.0.lock().unwrap();
    for name in expected {
        assert!(written.contains(&name), "{name} is missing in {written:#?}");
    }
}
