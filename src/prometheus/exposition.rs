//! Writes metrics in the Prometheus text format.

use std::fmt::{self, Write};

use headroom_actors::kernel::Metric;

/// Text of whole families.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

/// The samples of one metric.
#[derive(Debug)]
pub(super) struct Family<'exposition> {
    text: &'exposition mut String,
    name: &'static str,
}

impl Exposition {
    /// Begins a metric.
    pub(super) fn family(&mut self, metric: &Metric) -> Family<'_> {
        let (name, kind) = (metric.name, metric.kind.label());
        let help = Escaped(metric.help);
        let text = &mut self.0;
        add(text, format_args!("# HELP {name} {help}\n"));
        add(text, format_args!("# TYPE {name} {kind}\n"));
        Family { text, name }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// Adds a sample of a counter or a gauge.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.line("", labels, value);
    }

    /// Adds the samples of a histogram. `buckets`: upper bounds, and how many values do not pass them.
    pub(super) fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        buckets: impl Iterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        for (bound, count) in buckets {
            let bound = bound.to_string();
            let labels = [labels, &[("le", &*bound)]].concat();
            self.line("_bucket", &labels, count as f64);
        }
        let labels_of_all = [labels, &[("le", "+Inf")]].concat();
        self.line("_bucket", &labels_of_all, count as f64);
        self.line("_sum", labels, sum);
        self.line("_count", labels, count as f64);
    }

    fn line(&mut self, part: &str, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(self.name);
        self.text.push_str(part);
        let mut separator = '{';
        for (name, value) in labels {
            let value = Escaped(value);
            add(self.text, format_args!("{separator}{name}=\"{value}\""));
            separator = ',';
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        add(self.text, format_args!(" {value}\n"));
    }
}

fn add(text: &mut String, part: fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    text.write_fmt(part).ok();
}

/// A text in which a backslash, a quote and the end of a line are escaped.
struct Escaped<'text>(&'text str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                char => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_help_type_and_escaped_labels() {
        let mut exposition = Exposition::default();
        let mut family = exposition.family(&Metric::counter("x_total", "What it is."));
        family.sample(&[], 0.25);
        family.sample(&[("a", "b\"\\\n"), ("c", "d")], 1e6);
        let expected = "# HELP x_total What it is.\n# TYPE x_total counter\nx_total 0.25\n\
                        x_total{a=\"b\\\"\\\\\\n\",c=\"d\"} 1000000\n";
        assert_eq!(exposition.into_text(), expected);
    }

    #[test]
    fn a_histogram_has_cumulative_buckets_a_sum_and_a_count() {
        let mut exposition = Exposition::default();
        let metric = Metric::histogram("x_seconds", "A time.", &[0.5, 1.0]);
        let buckets = [(0.5, 1), (1.0, 3)].into_iter();
        let mut family = exposition.family(&metric);
        family.histogram(&[("a", "b")], buckets, 4, 2.5);
        let text = exposition.into_text();
        let lines: Vec<_> = text.lines().skip(2).collect();
        let expected = [
            "x_seconds_bucket{a=\"b\",le=\"0.5\"} 1",
            "x_seconds_bucket{a=\"b\",le=\"1\"} 3",
            "x_seconds_bucket{a=\"b\",le=\"+Inf\"} 4",
            "x_seconds_sum{a=\"b\"} 2.5",
            "x_seconds_count{a=\"b\"} 4",
        ];
        assert_eq!(lines, expected);
    }
}
