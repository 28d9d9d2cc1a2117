//! The text that the server exports, taken apart.

use std::collections::{BTreeMap, BTreeSet};

/// One family of metrics.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    /// The labels of each sample, without the bounds of buckets.
    pub(crate) samples: Vec<BTreeMap<String, String>>,
}

/// The families by name.
///
/// Each has one HELP line, then one TYPE line, then its samples.
pub(crate) fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            current = name.to_owned();
            let family = Family {
                help: help.to_owned(),
                ..Family::default()
            };
            let earlier = families.insert(current.clone(), family);
            assert!(earlier.is_none(), "{name} is there twice");
            continue;
        }
        let family = families.get_mut(&current);
        let family = family.unwrap_or_else(|| panic!("no HELP before {line}"));
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, current, "TYPE without HELP");
            kind.clone_into(&mut family.kind);
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let parts: &[&str] = match &*family.kind {
            "histogram" => &["_bucket", "_sum", "_count"],
            "counter" | "gauge" => &[""],
            kind => panic!("{current} is a {kind:?}"),
        };
        let part = name.strip_prefix(&*current);
        let part = part.unwrap_or_else(|| panic!("no HELP for {line}"));
        assert!(parts.contains(&part), "{line} in {current}");
        let mut labels = labels_of(labels.strip_suffix('}').unwrap());
        assert_eq!(labels.remove("le").is_some(), part == "_bucket", "{line}");
        family.samples.push(labels);
    }
    families
}

/// Takes `a="b",c="d"` apart. The tests use no values with quotes or commas.
fn labels_of(labels: &str) -> BTreeMap<String, String> {
    let labels = labels.split(',').filter(|label| !label.is_empty());
    let labels = labels.map(|label| {
        let (name, value) = label.split_once('=').unwrap();
        (name.to_owned(), value.trim_matches('"').to_owned())
    });
    labels.collect()
}

/// The number of samples.
pub(crate) fn series(families: &BTreeMap<String, Family>) -> usize {
    families.values().map(|family| family.samples.len()).sum()
}

/// The names of the families.
pub(crate) fn names(families: &BTreeMap<String, Family>) -> BTreeSet<&str> {
    families.keys().map(String::as_str).collect()
}
