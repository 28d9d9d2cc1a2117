//! The series of what comes and goes: those with a label whose values come from outside, such as the name of a model.
//!
//! The recorder of the exporter never forgets a series, so these are kept here. A series ends when what it is about is no
//! longer known; as long as somebody still holds it, it is only not shown, so that nothing counts in vain if the name is known
//! again. The first names have series of their own. All further ones share one, so a gauge of them must be changed by
//! differences and not be set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use headroom_actors::kernel::MetricKind;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, Label};

use super::catalogue;
use super::exposition::Exposition;

/// The most values of a label that have series of their own.
pub const LABEL_VALUES_MAX: usize = 500;

/// The value that stands for all further ones.
pub const OTHER: &str = "other";

/// The series, by the labels that are cut.
#[derive(Debug)]
pub(super) struct NamedSeries {
    cut: BTreeSet<&'static str>,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The values that have series of their own.
    names: BTreeSet<String>,
    series: BTreeMap<Key, Series>,
}

#[derive(Debug, Clone)]
enum Series {
    Counter(Arc<AtomicU64>),
    /// The bits of a float.
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Buckets>),
}

impl Series {
    /// Whether somebody else holds it, and may record more.
    fn is_held(&self) -> bool {
        let holders = match self {
            Self::Counter(value) | Self::Gauge(value) => Arc::strong_count(value),
            Self::Histogram(buckets) => Arc::strong_count(buckets),
        };
        holders > 1
    }
}

impl NamedSeries {
    /// The series with one of the labels `cut`.
    pub(super) fn new(cut: BTreeSet<&'static str>) -> Self {
        let state = RwLock::default();
        Self { cut, state }
    }

    /// Whether the series is kept here.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.name_of(key).is_some()
    }

    /// The value of the label that is cut.
    fn name_of<'key>(&self, key: &'key Key) -> Option<&'key str> {
        let mut labels = key.labels();
        let label = labels.find(|label| self.cut.contains(label.key()))?;
        Some(label.value())
    }

    pub(super) fn counter(&self, key: &Key) -> Counter {
        match self.get(key, || Series::Counter(Arc::default())) {
            Series::Counter(counter) => Counter::from_arc(counter),
            Series::Gauge(_) | Series::Histogram(_) => Counter::noop(),
        }
    }

    pub(super) fn gauge(&self, key: &Key) -> Gauge {
        match self.get(key, || Series::Gauge(Arc::default())) {
            Series::Gauge(gauge) => Gauge::from_arc(gauge),
            Series::Counter(_) | Series::Histogram(_) => Gauge::noop(),
        }
    }

    pub(super) fn histogram(&self, key: &Key) -> Histogram {
        let make = || Series::Histogram(Arc::new(Buckets::new(bounds(key.name()))));
        match self.get(key, make) {
            Series::Histogram(buckets) => Histogram::from_arc(buckets),
            Series::Counter(_) | Series::Gauge(_) => Histogram::noop(),
        }
    }

    /// The series, which is made if there is none.
    fn get(&self, key: &Key, make: impl FnOnce() -> Series) -> Series {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let found = state.series.get(key);
        let found = found.or_else(|| state.series.get(&self.cut_key(key, &state.names)));
        if let Some(series) = found {
            return series.clone();
        }
        drop(state);
        let mut state = self.state();
        let key = self.cut_key(key, &state.names);
        if let Some(name) = self.name_of(&key).filter(|name| *name != OTHER) {
            state.names.insert(name.to_owned());
        }
        state.series.entry(key).or_insert_with(make).clone()
    }

    /// The key of the series for `key`: that of all further names, if there is no room for its own.
    fn cut_key(&self, key: &Key, names: &BTreeSet<String>) -> Key {
        let has_room = names.len() < LABEL_VALUES_MAX;
        let labels = key.labels().map(|label| {
            let is_free = !self.cut.contains(label.key());
            if is_free || has_room || names.contains(label.value()) {
                label.clone()
            } else {
                Label::new(label.key().to_owned(), OTHER)
            }
        });
        let labels: Vec<_> = labels.collect();
        Key::from_parts(key.name().to_owned(), labels)
    }

    fn state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the series of what is not known, and writes those of what is.
    pub(super) fn write(&self, exposition: &mut Exposition, is_known: impl Fn(&str) -> bool) {
        let shown = self.known(is_known);
        let mut families: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (key, series) in &shown {
            families.entry(key.name()).or_default().push((key, series));
        }
        for metric in catalogue::all() {
            let Some(series) = families.get(metric.name) else {
                continue;
            };
            let mut family = exposition.family(metric);
            for (key, series) in series {
                let labels = key.labels().map(|label| (label.key(), label.value()));
                let labels: Vec<_> = labels.collect();
                match series {
                    Series::Counter(count) => family.sample(&labels, count.load(Relaxed) as f64),
                    Series::Gauge(bits) => {
                        family.sample(&labels, f64::from_bits(bits.load(Relaxed)));
                    }
                    Series::Histogram(buckets) => {
                        let (counts, count, sum) = buckets.read();
                        family.histogram(&labels, counts.into_iter(), count, sum);
                    }
                }
            }
        }
    }

    /// Ends the series of what is not known, unless somebody holds them, and returns those of what is. They are written when
    /// the lock is free again.
    fn known(&self, is_known: impl Fn(&str) -> bool) -> Vec<(Key, Series)> {
        let is_shown = |key: &Key| {
            let name = self.name_of(key).unwrap_or(OTHER);
            name == OTHER || is_known(name)
        };
        let mut state = self.state();
        let State { names, series } = &mut *state;
        series.retain(|key, series| is_shown(key) || series.is_held());
        let kept: BTreeSet<_> = series.keys().filter_map(|key| self.name_of(key)).collect();
        names.retain(|name| kept.contains(name.as_str()));
        let shown = series.iter().filter(|(key, _)| is_shown(key));
        let shown = shown.map(|(key, series)| (key.clone(), series.clone()));
        shown.collect()
    }
}

/// The bounds of a histogram's buckets.
fn bounds(name: &str) -> &'static [f64] {
    match catalogue::all().find(|metric| metric.name == name) {
        Some(metric) => match metric.kind {
            MetricKind::Histogram(bounds) => bounds,
            MetricKind::Counter | MetricKind::Gauge => &[],
        },
        None => &[],
    }
}

/// Counts values by size.
#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    /// The values of each bucket alone. The last one has those that pass all bounds.
    counts: Vec<AtomicU64>,
    /// The bits of a float.
    sum: AtomicU64,
}

impl Buckets {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = std::iter::repeat_with(AtomicU64::default);
        Self {
            bounds,
            counts: counts.take(bounds.len() + 1).collect(),
            sum: AtomicU64::default(),
        }
    }

    /// The bounds with the number of values that do not pass them, the number of all, and their sum.
    fn read(&self) -> (Vec<(f64, u64)>, u64, f64) {
        let mut count = 0;
        let mut counts = Vec::with_capacity(self.bounds.len());
        for (index, values) in self.counts.iter().enumerate() {
            count += values.load(Relaxed);
            counts.extend(self.bounds.get(index).map(|bound| (*bound, count)));
        }
        (counts, count, f64::from_bits(self.sum.load(Relaxed)))
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        self.sum.fetch_update(Relaxed, Relaxed, add).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOADS: &str = "headroom_lazy_loads_total";

    fn key(metric: &'static str, name: &str) -> Key {
        let labels = vec![
            Label::new("kind", "model"),
            Label::new("name", name.to_owned()),
        ];
        Key::from_parts(metric, labels)
    }

    fn named() -> NamedSeries {
        NamedSeries::new(["name"].into())
    }

    fn text(named: &NamedSeries, is_known: impl Fn(&str) -> bool) -> String {
        let mut exposition = Exposition::default();
        named.write(&mut exposition, is_known);
        exposition.into_text()
    }

    #[test]
    fn series_end_when_what_they_are_about_is_not_known_and_leave_room() {
        let named = named();
        for number in 0..=LABEL_VALUES_MAX {
            let key = key(LOADS, &format!("m{number}:1"));
            named.counter(&key).increment(1);
        }
        let all = text(&named, |_| true);
        assert!(all.contains("name=\"other\"} 1\n"), "{all}");
        let some = text(&named, |name| name == "m7:1");
        let lines: Vec<_> = some.lines().filter(|line| !line.starts_with('#')).collect();
        let series = |name| format!("{LOADS}{{kind=\"model\",name=\"{name}\"}} 1");
        assert_eq!(lines, [series("m7:1"), series("other")]);
        named.counter(&key(LOADS, "new:1")).increment(1);
        assert!(text(&named, |_| true).contains(&series("new:1")));
    }

    #[test]
    fn a_series_that_somebody_holds_goes_on_when_its_name_is_known_again() {
        let named = named();
        let loads = key(LOADS, "a:1");
        let held = named.counter(&loads);
        held.increment(1);
        assert!(!text(&named, |_| false).contains("a:1"));
        held.increment(1);
        let line = format!("{LOADS}{{kind=\"model\",name=\"a:1\"}} 2");
        assert!(text(&named, |_| true).contains(&line));
        drop(held);
        text(&named, |_| false);
        assert!(!text(&named, |_| true).contains("a:1"));
    }

    #[test]
    fn each_type_is_written_as_it_is_declared() {
        let named = named();
        named.counter(&key(LOADS, "a:1")).increment(3);
        let seconds = key("headroom_lazy_load_duration_seconds", "a:1");
        let histogram = named.histogram(&seconds);
        for value in [0.01, 0.02, 0.5, 1e6] {
            histogram.record(value);
        }
        let growth = Key::from_parts(
            "headroom_model_growth_bytes",
            vec![Label::new("name", "a:1"), Label::new("host", "host-0")],
        );
        named.gauge(&growth).increment(12.0);
        named.gauge(&growth).decrement(2.0);
        let text = text(&named, |_| true);
        let of_a = "kind=\"model\",name=\"a:1\"";
        for line in [
            format!("{LOADS}{{{of_a}}} 3"),
            format!("headroom_lazy_load_duration_seconds_bucket{{{of_a},le=\"0.01\"}} 1"),
            format!("headroom_lazy_load_duration_seconds_bucket{{{of_a},le=\"0.5\"}} 3"),
            format!("headroom_lazy_load_duration_seconds_bucket{{{of_a},le=\"+Inf\"}} 4"),
            format!("headroom_lazy_load_duration_seconds_sum{{{of_a}}} 1000000.53"),
            "headroom_model_growth_bytes{name=\"a:1\",host=\"host-0\"} 10".to_owned(),
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }
}
