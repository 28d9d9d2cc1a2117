//! The alert rules: promtool checks and runs them, and `docs/metrics.md` says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use headroom::prometheus::{catalogue, document};

use crate::promtool::{is_installed, promtool, report};
use crate::{repository, words};

pub(crate) const RULES: &str = "deploy/prometheus/headroom.rules.yml";

/// What promtool runs the rules with.
const TESTS: &str = "deploy/prometheus/headroom.rules.test.yml";

fn text(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap()
}

/// The text of each rule, by the name of its alert.
fn rules(text: &str) -> BTreeMap<&str, &str> {
    let rules = text.split("- alert: ").skip(1);
    let rules = rules.map(|rule| rule.split_once('\n').unwrap());
    rules.collect()
}

#[test]
fn promtool_has_no_complaint_about_the_alert_rules() {
    if !is_installed() {
        return;
    }
    let mut command = promtool(&["check", "rules", "--lint=all", "--lint-fatal"]);
    command.arg(repository(RULES));
    let report = report(command);
    assert!(report.contains("SUCCESS"), "{report}");
}

#[test]
fn each_alert_fires_in_its_situation_and_not_beside_it() {
    if !is_installed() {
        return;
    }
    let mut command = promtool(&["test", "rules"]);
    command.arg(repository(TESTS));
    let report = report(command);
    assert!(report.contains("SUCCESS"), "{report}");

    let tests = text(TESTS);
    for alert in rules(&text(RULES)).into_keys() {
        let fires = format!("alertname: {alert}\n        exp_alerts:");
        let is_silent = format!("alertname: {alert} }}\n");
        for test in [fires, is_silent] {
            assert!(tests.contains(&test), "{TESTS} has no {test:?}");
        }
    }
}

#[test]
fn the_rules_and_the_document_name_the_same_alerts_and_known_metrics() {
    let text = text(RULES);
    let mut alerts: BTreeSet<_> = rules(&text).into_keys().collect();
    // It needs no metric of the server.
    assert!(alerts.remove("HeadroomDown"));
    let written = document::document();
    assert_eq!(words(&written, "Headroom"), alerts);

    let known: BTreeSet<_> = catalogue::all().map(|metric| metric.name).collect();
    for prefix in ["headroom_", "process_"] {
        for name in words(&text, prefix) {
            let mut parts = ["_bucket", "_sum", "_count"].into_iter();
            let histogram = parts.find_map(|part| name.strip_suffix(part));
            let is_known = known.contains(name) || histogram.is_some_and(|it| known.contains(it));
            assert!(is_known, "{name} is no metric");
        }
    }
}

/// The seconds of a duration of Prometheus, and the duration in words.
fn duration(duration: &str) -> (u64, String) {
    let (count, unit) = duration.split_at(duration.len() - 1);
    let count: u64 = count.parse().unwrap();
    let (seconds, unit) = match unit {
        "m" => (60, "minute"),
        "h" => (3600, "hour"),
        _ => panic!("{duration}"),
    };
    let words = match (count, unit) {
        (1, "hour") => "an hour".to_owned(),
        (1, unit) => format!("a {unit}"),
        (count, unit) => format!("{count} {unit}s"),
    };
    (count * seconds, words)
}

#[test]
fn the_document_gives_the_times_of_the_rules() {
    for (alert, rule) in rules(&text(RULES)) {
        let name = format!("(`{alert}`)");
        let mut metrics = catalogue::all().filter_map(|metric| metric.alert);
        let Some(when) = metrics.find(|when| when.contains(&name)) else {
            continue;
        };
        let lasts = rule
            .lines()
            .find_map(|line| line.trim().strip_prefix("for: "));
        let range = || rule.split_once('[')?.1.split(']').next();
        let said = match (lasts, range()) {
            (Some(lasts), _) => format!("for {}", duration(lasts).1),
            (None, Some(range)) => format!("within {}", duration(range).1),
            (None, None) => continue,
        };
        assert!(when.contains(&said), "{alert}: {said:?} in {when:?}");
    }
}

/// A rule that takes the value of a new series for its increase has the same time in five places.
#[test]
fn the_times_of_a_rule_about_new_series_agree() {
    let mut found = 0;
    for (alert, rule) in rules(&text(RULES)) {
        let Some((_, start)) = rule.split_once("time() - ") else {
            continue;
        };
        found += 1;
        let start: u64 = start.split(')').next().unwrap().parse().unwrap();
        let offsets = rule.split("offset ").skip(1);
        let offsets = offsets.map(|rest| rest.split([' ', '\n', ')']).next().unwrap());
        let ranges = rule.split('[').skip(1);
        let ranges = ranges.map(|rest| rest.split(']').next().unwrap());
        for time in offsets.chain(ranges) {
            assert_eq!(duration(time).0, start, "{alert}");
        }
    }
    assert!(found >= 4, "{found}");
}
