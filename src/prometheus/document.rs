//! Writes `docs/metrics.md` from the declarations.

use std::fmt::Write;

use headroom_actors::kernel::{Label, LabelValues, Metric, MetricKind};

use super::actors::ACTORS_MAX;
use super::catalogue::{GROUPS, all};
use super::{LABEL_VALUES_MAX, OTHER};
use crate::figures::models::MODELS_MAX;

/// The whole document.
pub fn document() -> String {
    let mut text = format!(
        "# Metrics\n\n\
         `GET /metrics` on the admin listener (`server.admin_listen`) answers in the text format of Prometheus.\n\
         This page is written from the declarations in the code: `UPDATE=1 cargo test --test prometheus document`.\n\n\
         - Units are seconds and bytes; a ratio is from 0 to 1.\n\
         - Counters exist from the start of the server, at 0, if the values of their labels are known then. Those of a\n  \
           resource, such as a model, begin with its first use, and its series end when it is no longer known. Series of\n  \
           an actor begin and end with it.\n\
         - The number of series is bounded. The label `name` has at most {LABEL_VALUES_MAX} values, the first ones that\n  \
           were used of those that are known; all others share the value `{OTHER}`. At most {ACTORS_MAX} actors have series.\n\
         - Requests to models have series of the {MODELS_MAX} models that were used last. Those of the others end, and begin\n  \
           again at 0.\n\
         - `process_*` is about the server process. Its hosts and private servers count in\n  \
           `headroom_memory_usage_bytes`.\n\
         - `deploy/prometheus/headroom.rules.yml` has the alerts that this page names.\n"
    );
    for group in GROUPS {
        add(&mut text, format_args!("\n## {}\n\n", group.title));
        text.push_str("| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n");
        for metric in group.metrics {
            let (name, kind, unit) = (metric.name, metric.kind.label(), metric.unit());
            let labels: Vec<_> = metric.labels.iter().map(|label| label.name).collect();
            let labels = labels.join(", ");
            let help = metric.help;
            add(
                &mut text,
                format_args!("| `{name}` | {kind} | {unit} | {labels} | {help} |\n"),
            );
        }
        labels(&mut text, group.metrics);
    }
    buckets(&mut text);
    alerts(&mut text);
    text
}

/// The values of the labels of a group. Equal labels are there once.
fn labels(text: &mut String, metrics: &[Metric]) {
    let mut seen: Vec<&Label> = Vec::new();
    for label in metrics.iter().flat_map(|metric| metric.labels) {
        if seen.contains(&label) {
            continue;
        }
        if seen.is_empty() {
            text.push_str("\nLabels:\n\n");
        }
        seen.push(label);
        let values = match label.values {
            LabelValues::OneOf(words) => format!("`{}`", words.join("`, `")),
            LabelValues::Described(what) => what.to_owned(),
            LabelValues::Cut(what) => format!("{what}; or `{OTHER}`"),
        };
        add(text, format_args!("- `{}`: {values}\n", label.name));
    }
}

fn buckets(text: &mut String) {
    text.push_str("\n## Buckets\n\nThe upper bounds of the histograms' buckets, in seconds:\n");
    let mut sets: Vec<(&[f64], Vec<&str>)> = Vec::new();
    for metric in all() {
        let MetricKind::Histogram(bounds) = metric.kind else {
            continue;
        };
        match sets.iter_mut().find(|(set, _)| *set == bounds) {
            Some((_, names)) => names.push(metric.name),
            None => sets.push((bounds, vec![metric.name])),
        }
    }
    for (bounds, names) in sets {
        let bounds: Vec<_> = bounds.iter().map(ToString::to_string).collect();
        let (bounds, names) = (bounds.join(", "), names.join("`, `"));
        add(text, format_args!("\n- {bounds}: `{names}`\n"));
    }
}

fn alerts(text: &mut String) {
    text.push_str("\n## What to alert on\n\n| metric | when |\n|---|---|\n");
    for metric in all() {
        if let Some(when) = metric.alert {
            add(text, format_args!("| `{}` | {when} |\n", metric.name));
        }
    }
}

fn add(text: &mut String, part: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    text.write_fmt(part).ok();
}
