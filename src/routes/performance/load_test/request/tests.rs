use headroom_measure::Thresholds;
use serde_json::{Value, json};

use super::*;
use crate::body::read_json;
use crate::problem::ProblemKind;

fn parse(body: &Value) -> Result<Plan, Problem> {
    Plan::new(read_json(body.to_string().as_bytes())?)
}

#[test]
fn everything_runs_that_can_unless_scenarios_are_named() {
    let plan = parse(&json!({})).unwrap();
    let names: Vec<_> = plan.scenarios.iter().map(Scenario::name).collect();
    assert_eq!(names, ["memory", "lazy_loading", "database", "http"]);
    assert!(!plan.is_selection);
    // 30 + 120 + 120 + 30 s, and the time to report.
    assert_eq!(plan.deadline, Duration::from_secs(330));

    let http = json!({ "callers": 7, "rate_per_second": null, "thresholds": { "p99_ms": 5 } });
    let body = json!({ "deadline_seconds": 9.5, "scenarios": { "http": http, "memory": {} } });
    let plan = parse(&body).unwrap();
    let expected = Http {
        callers: 7,
        rate_per_second: None,
        thresholds: Thresholds {
            p99_ms: Some(5.0),
            ..Thresholds::default()
        },
        ..Http::default()
    };
    assert!(plan.is_selection);
    assert_eq!(plan.deadline, Duration::from_millis(9500));
    assert_eq!(
        plan.scenarios,
        [
            Scenario::Memory(Memory::default()),
            Scenario::Http(expected)
        ]
    );
}

#[test]
fn the_defaults_are_within_the_limits() {
    for name in ["memory", "lazy_loading", "database", "http"] {
        let mut scenarios = serde_json::Map::new();
        scenarios.insert(name.into(), json!({}));
        parse(&json!({ "scenarios": scenarios })).unwrap();
    }
}

#[test]
fn what_is_beyond_a_limit_is_refused_with_the_limit() {
    for (scenarios, words) in [
        (
            json!({}),
            "at least one of: memory, lazy_loading, database, http",
        ),
        (
            json!({ "memory": { "operations": 0 } }),
            "operations is 0; it can be 1 to 1000000",
        ),
        (
            json!({ "memory": { "callers": 65 } }),
            "callers is 65; it can be 1 to 64",
        ),
        (
            json!({ "memory": { "callers": 8, "block_bytes": 67_108_864 } }),
            "is 536870912; it can be at most 251658240",
        ),
        (
            json!({ "memory": { "block_bytes": 1 } }),
            "it can be 4096 to 67108864",
        ),
        (
            json!({ "memory": { "deadline_seconds": 601 } }),
            "is 601; it can be 0.1 to 600",
        ),
        (
            json!({ "lazy_loading": { "models": [] } }),
            "scenarios.lazy_loading.models: the number of entries is 0; it can be 1 to 16",
        ),
        (
            json!({ "lazy_loading": { "rounds": 101 } }),
            "it can be 1 to 100",
        ),
        (
            json!({ "lazy_loading": { "hits": 0 } }),
            "it can be 1 to 100000",
        ),
        (
            json!({ "lazy_loading": { "thresholds": { "hit": { "p50_ms": -1 } } } }),
            "scenarios.lazy_loading.thresholds.hit.p50_ms must be",
        ),
        (
            json!({ "database": { "callers": 1001 } }),
            "it can be 1 to 1000",
        ),
        (
            json!({ "database": { "rows": 100_001 } }),
            "it can be 1 to 100000",
        ),
        (
            json!({ "database": { "rate_per_second": 0 } }),
            "it can be 0.1 to 100000",
        ),
        (json!({ "http": { "callers": 501 } }), "it can be 1 to 500"),
        (
            json!({ "http": { "path": "/nothing" } }),
            "it must be the path of a GET route",
        ),
        (
            json!({ "http": { "path": "/api/jobs/{id}" } }),
            "without parameters",
        ),
        (
            json!({ "http": { "thresholds": { "errors_max": 10_000_001 } } }),
            "scenarios.http.thresholds.errors_max is 10000001; it can be 0 to 10000000",
        ),
        (
            json!({ "http": { "path": "/api/status/events" } }),
            "that ends",
        ),
        (json!({ "http": { "paths": [] } }), "expected one of `path`"),
        (
            json!({ "http": { "thresholds": { "p75_ms": 1 } } }),
            "expected one of `p50_ms`",
        ),
        (json!({ "redis": {} }), "expected one of `memory`"),
    ] {
        let problem = parse(&json!({ "scenarios": scenarios })).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::InvalidInput);
        assert!(
            problem.detail.contains(words),
            "{scenarios}: {}",
            problem.detail
        );
    }
    for deadline in [0.5, 1801.0] {
        let problem = parse(&json!({ "deadline_seconds": deadline })).unwrap_err();
        assert!(
            problem.detail.contains("it can be 1 to 1800"),
            "{}",
            problem.detail
        );
    }
}
