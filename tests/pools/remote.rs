//! With a URL: servers that somebody else runs.

use super::{get, probe, start};

const PASSWORD: &str = "hunter2-never-to-be-seen";

#[tokio::test]
async fn a_server_that_is_not_there_is_told_and_its_password_is_not() {
    let server = start(&format!(
        "log.filter = 'trace'\n\
         postgres.url = 'postgres://headroom:{PASSWORD}@127.0.0.1:1/headroom'\n\
         postgres.replicas.url = 'postgres://headroom:{PASSWORD}@127.0.0.1:1/headroom'\n\
         redis.primary.url = 'redis://:{PASSWORD}@127.0.0.1:1/0'"
    ));
    for pool in ["postgres", "postgres-replicas", "redis-primary"] {
        let answer = server
            .client()
            .post(server.url(&format!("/api/pools/{pool}/probe")))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"), "{pool}");
        let body = answer.text().await.unwrap();
        assert!(!body.contains(PASSWORD), "{body}");
    }
    let health = get(&server, "/api/performance/connections/health").await;
    assert_eq!(health["status"], "down", "{health}");
    for text in [
        health.to_string(),
        get(&server, "/api/pools").await.to_string(),
        get(&server, "/api/actors").await.to_string(),
        server.metrics().await,
        server.log(),
    ] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
}

#[tokio::test]
async fn a_pool_that_does_not_exist_is_not_found() {
    let server = start("");
    assert_eq!(probe(&server, "mysql").await.0, 404);
    assert_eq!(server.get("/api/pools/mysql").await.status(), 404);
}
