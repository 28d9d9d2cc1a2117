//! The names of the metrics are a promise to dashboards and alerts.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};

use super::super::Evict;
use super::double::{MINUTE, Scripted, Step, TestLoader, paused, unavailable};

/// Keeps the series that were written to, not their values.
#[derive(Clone, Default)]
struct Series(Arc<Mutex<BTreeSet<String>>>);

impl Series {
    fn note(&self, key: &Key) {
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
        self.note(key);
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.note(key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.note(key);
        Histogram::noop()
    }
}

#[test]
fn every_figure_has_its_name_and_labels() {
    let series = Series::default();
    with_local_recorder(&series, || {
        paused(|system| async move {
            let thing = Scripted::new();
            let broken = Scripted::new().script([Step::Fail(unavailable("broken"))]);
            let resources = vec![thing.resource("thing", &[]), broken.resource("broken", &[])];
            let test = TestLoader::open(&system, 100, resources).await;
            test.acquire("broken").await.unwrap_err();
            test.touch("thing").await;
            test.touch("thing").await;
            test.loader.ask(Evict { bytes: 1 }, MINUTE).await.unwrap();
            test.touch("thing").await;
            thing.die("crashed");
            tokio::task::yield_now().await;
            test.close().await;
        });
    });
    let thing = "kind=scripted,name=thing";
    let expected = [
        format!("headroom_lazy_deaths_total{{{thing}}}"),
        format!("headroom_lazy_evictions_total{{{thing},reason=request}}"),
        format!("headroom_lazy_hits_total{{{thing}}}"),
        "headroom_lazy_load_failures_total{kind=scripted,name=broken}".to_owned(),
        format!("headroom_lazy_load_seconds{{{thing}}}"),
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
