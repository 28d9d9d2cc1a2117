//! The memory resources of the HTTP API.

use headroom_test_support::models::Models;
use serde_json::Value;

use super::setup::{AddModels, MIB, ask};

#[tokio::test]
async fn the_statistics_name_the_source_of_every_figure() {
    let models = Models::new();
    models.add_adder("one", 60, 1.0);
    let server = models.start_server("memory.limit = '1GiB'");
    assert_eq!(ask(&server, "one", 1).await.number(), 2.0);
    let stats = server.memory_stats().await;
    let bytes = |key: &str| stats[key].as_u64().unwrap();
    assert_eq!(stats["budget"]["bytes"], 1024 * MIB);
    assert_eq!(stats["budget"]["source"], "configured");
    assert!(bytes("used_bytes") > 60 * MIB && bytes("used_bytes") < 1024 * MIB);
    assert_eq!(bytes("free_bytes"), 1024 * MIB - bytes("projected_bytes"));
    let sources = stats["sources"].as_array().unwrap();
    let source = |name: &str| sources.iter().find(|it| it["source"] == name).unwrap();
    assert_eq!(source("configured")["in_use"], true);
    assert_eq!(source("processes")["health"], "healthy");
    // The server's allocator is jemalloc, whose statistics are read.
    assert_eq!(source("allocator")["health"], "healthy");
    let allocator = &stats["allocator"];
    assert!(allocator["resident_bytes"].as_u64() >= allocator["active_bytes"].as_u64());
    for status in sources {
        assert!(!status["detail"].as_str().unwrap().is_empty(), "{status}");
    }
    let entries = stats["entries"].as_array().unwrap();
    let entry = entries.iter().find(|it| it["name"] == "one:1").unwrap();
    assert!(entry["reserved_bytes"].as_u64().unwrap() > 60 * MIB);
    assert_eq!(entry["processes"][0], server.host("one").unwrap().pid);

    let wrong = server
        .get("/api/performance/memory/stats?events=many")
        .await;
    assert_eq!(wrong.status(), 400);
    assert_eq!(wrong.headers()["content-type"], "application/problem+json");
}

#[tokio::test]
async fn a_collection_on_request_reports_what_each_process_freed() {
    let models = Models::new();
    models.add_allocator("allocator");
    let server = models.start_server("");
    assert_eq!(ask(&server, "allocator", 100).await.number(), 100.0);
    let pid = server.host("allocator").unwrap().pid;
    let report = server
        .post_json("/api/performance/memory/gc?wait=10", &Value::Null)
        .await
        .ok();
    assert_eq!(report["silent"], serde_json::json!([]), "{report}");
    let actors = report["actors"].as_array().unwrap();
    let by_name = |name: &str| actors.iter().find(|it| it["what"] == name);
    for name in ["server", "allocator:1/host-0"] {
        let actor = by_name(name).unwrap_or_else(|| panic!("{name} is missing: {report}"));
        let bytes = |key: &str| actor[key].as_u64().unwrap();
        assert!(
            bytes("before_bytes") > 0 && bytes("after_bytes") > 0,
            "{actor}"
        );
        let gained = bytes("before_bytes").saturating_sub(bytes("after_bytes"));
        assert_eq!(bytes("gained_bytes"), gained);
    }
    assert!(report["used_after_bytes"].as_u64() > Some(0));
    // The model still runs in the same process.
    assert_eq!(ask(&server, "allocator", 3).await.number(), 3.0);
    assert_eq!(server.host("allocator").unwrap().pid, pid);
    let get = server.get("/api/performance/memory/gc").await;
    assert_eq!(get.status(), 405);
}
