//! What an operator can see and do over HTTP.

use headroom_test_support::models::Models;
use serde_json::Value;

use super::stage::{MIB, ModelsExt, ask, host, number};

#[tokio::test]
async fn the_statistics_tell_where_every_number_comes_from() {
    let models = Models::new();
    models.adds("one", 60, 1.0);
    let server = models.serve("memory.limit = '1GiB'");
    assert_eq!(number(ask(&server, "one", 1).await), 2.0);
    let response = server.get("/api/performance/memory/stats").await;
    let stats: Value = response.json().await.unwrap();
    let bytes = |key: &str| stats[key].as_u64().unwrap();
    assert_eq!(stats["budget"]["bytes"], 1024 * MIB);
    assert_eq!(stats["budget"]["source"], "configured");
    assert!(bytes("used_bytes") > 60 * MIB && bytes("used_bytes") < 1024 * MIB);
    assert_eq!(bytes("free_bytes"), 1024 * MIB - bytes("projected_bytes"));
    let sources = stats["sources"].as_array().unwrap();
    let source = |name: &str| sources.iter().find(|it| it["source"] == name).unwrap();
    assert_eq!(source("configured")["in_use"], true);
    assert_eq!(source("processes")["health"], "healthy");
    // The real server's memory comes from jemalloc, whose books are read.
    assert_eq!(source("allocator")["health"], "healthy");
    let allocator = &stats["allocator"];
    assert!(allocator["resident"].as_u64() >= allocator["active"].as_u64());
    for status in sources {
        assert!(!status["detail"].as_str().unwrap().is_empty(), "{status}");
    }
    let entries = stats["entries"].as_array().unwrap();
    let entry = entries.iter().find(|it| it["name"] == "one:1").unwrap();
    assert!(entry["reserved_bytes"].as_u64().unwrap() > 60 * MIB);
    assert_eq!(entry["processes"][0], host(&server, "one").unwrap().pid);

    let wrong = server
        .get("/api/performance/memory/stats?events=many")
        .await;
    assert_eq!(wrong.status(), 400);
    assert_eq!(wrong.headers()["content-type"], "application/problem+json");
}

#[tokio::test]
async fn collecting_garbage_tells_what_each_process_gave() {
    let models = Models::new();
    models.takes("takes");
    let server = models.serve("");
    assert_eq!(number(ask(&server, "takes", 100).await), 100.0);
    let pid = host(&server, "takes").unwrap().pid;
    let response = server
        .post("/api/performance/memory/gc", &Value::Null)
        .await;
    assert_eq!(response.status(), 200);
    let report: Value = response.json().await.unwrap();
    assert_eq!(report["silent"], serde_json::json!([]), "{report}");
    let actors = report["actors"].as_array().unwrap();
    let what = |name: &str| actors.iter().find(|it| it["what"] == name);
    for name in ["server", "takes:1/host-0"] {
        let actor = what(name).unwrap_or_else(|| panic!("{name} is missing: {report}"));
        let bytes = |key: &str| actor[key].as_u64().unwrap();
        assert!(
            bytes("before_bytes") > 0 && bytes("after_bytes") > 0,
            "{actor}"
        );
        let gained = bytes("before_bytes").saturating_sub(bytes("after_bytes"));
        assert_eq!(bytes("gained_bytes"), gained);
    }
    assert!(report["used_after_bytes"].as_u64() > Some(0));
    // Nobody lost anything.
    assert_eq!(number(ask(&server, "takes", 3).await), 3.0);
    assert_eq!(host(&server, "takes").unwrap().pid, pid);
    let get = server.get("/api/performance/memory/gc").await;
    assert_eq!(get.status(), 405);
}
