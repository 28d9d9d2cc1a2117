//! With URLs: servers that Headroom does not start, and what errors show of a URL.

use headroom_test_support::child;
use headroom_test_support::protocol::Answer;
use headroom_test_support::wait::{DEADLINE, wait_for};
use serde_json::json;

use super::{BINARY, get, probe, processes, start};

const PASSWORD: &str = "hunter2-never-to-be-seen";

#[tokio::test]
async fn a_server_that_is_down_is_reported_without_its_password() {
    let server = start(&format!(
        "log.filter = 'trace'\n\
         postgres.url = 'postgres://headroom:{PASSWORD}@127.0.0.1:1/headroom'\n\
         postgres.replicas.url = 'postgres://headroom:{PASSWORD}@127.0.0.1:1/headroom'\n\
         redis.primary.url = 'redis://:{PASSWORD}@127.0.0.1:1/0'"
    ));
    for pool in ["postgres", "postgres-replicas", "redis-primary"] {
        let path = format!("/api/pools/{pool}/probe");
        let answer = Answer::to(server.client().post(server.url(&path))).await;
        assert_eq!(answer.status, 503);
        assert!(answer.headers.contains_key("retry-after"), "{pool}");
        assert!(!answer.json.to_string().contains(PASSWORD), "{answer:?}");
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

#[test]
fn the_log_says_that_postgresql_is_taken_to_be_behind_a_pooler() {
    let said = "connections to PostgreSQL are taken to lead through a pooler in transaction mode";
    for (max, times) in [(0, 1), (256, 0)] {
        let settings = format!("log.filter = 'info'\npostgres.statements_max = {max}");
        let server = start(&settings);
        let log = wait_for(DEADLINE, || {
            let log = server.log();
            if log.contains("serving") {
                Ok(log)
            } else {
                Err(log)
            }
        });
        assert_eq!(log.matches(said).count(), times, "{log}");
    }
}

/// Two parts of a password that is not percent-encoded. No message may contain them.
const PARTS: [&str; 2] = ["S3CRET", "TAILPW"];

#[test]
fn a_password_that_breaks_its_url_prevents_the_start_and_is_not_shown() {
    for (key, url) in [
        ("POSTGRES__URL", "postgres://u:S3CRET@TAILPW@127.0.0.1:9/d"),
        ("POSTGRES__URL", "postgres://u:S3CRET/TAILPW@127.0.0.1:9/d"),
        ("POSTGRES__URL", "postgres://u:S3CRET@127.0.0.1:TAILPW/d"),
        ("POSTGRES__URL", "postgres://u:S3CRET%TAILPW@127.0.0.1:9/d"),
        (
            "POSTGRES__REPLICAS__URL",
            "postgres://u:S3CRET@TAILPW@127.0.0.1:9/d",
        ),
        ("REDIS__CACHE__URL", "redis://u:S3CRET@TAILPW@127.0.0.1:9/0"),
        ("REDIS__CACHE__URL", "redis://u:9#S3CRET@TAILPW"),
        (
            "MEMORY__ALERTS__WEBHOOK_URL",
            "https://u:S3CRET@TAILPW@127.0.0.1:9/x",
        ),
    ] {
        for command in ["serve", "check-config"] {
            let folder = tempfile::tempdir().unwrap();
            let mut refused = child::command(BINARY);
            refused
                .arg(command)
                .env("HEADROOM__POSTGRES__URL", "postgres://h/d")
                .env(format!("HEADROOM__{key}"), url)
                .current_dir(folder.path());
            let output = child::output(&mut refused, DEADLINE).unwrap();
            assert_eq!(output.status.code(), Some(78), "{url}");
            let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            let name = key.to_lowercase().replace("__", ".");
            assert!(text.contains(&format!("{name} must be a URL")), "{text}");
            for part in PARTS {
                assert!(!text.contains(part), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn errors_contain_the_host_and_port_of_a_url_and_nothing_else() {
    let server = start(
        "log.filter = 'trace'\n\
         postgres.url = 'postgres://USERPART:S3CRET%40TAILPW@127.0.0.1:1/DBPART?application_name=APPPART'\n\
         redis.primary.url = 'redis://USERPART:S3CRET%40TAILPW@127.0.0.1:1/3'\n\
         redis.cache.sentinels = ['127.0.0.1:1']\nredis.cache.sentinel_master = 'main'\n\
         redis.cache.sentinel_password = 'S3CRET@TAILPW'\nredis.cache.username = 'USERPART'\n\
         redis.cache.password = 'S3CRET@TAILPW'\n\
         redis.pubsub.url = 'redis://USERPART:S3CRET%40TAILPW@127.0.0.1:1'\n\
         memory.alerts.webhook_url = 'http://USERPART:S3CRET%40TAILPW@127.0.0.1:1/TAILPW'",
    );
    let mut shown = Vec::new();
    for pool in ["postgres", "redis-primary", "redis-cache"] {
        let (status, body) = probe(&server, pool).await;
        assert_eq!(status, 503, "{pool}: {body}");
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.contains("127.0.0.1:1"), "{pool}: {detail}");
        shown.push(body.to_string());
    }
    for path in [
        "/api/performance/connections/health",
        "/api/performance/connections/stats",
        "/api/pools",
        "/api/actors",
    ] {
        shown.push(get(&server, path).await.to_string());
    }
    shown.push(server.metrics().await);
    shown.push(server.log());
    for text in shown {
        for part in ["S3CRET", "TAILPW", "USERPART", "DBPART", "APPPART"] {
            assert!(!text.contains(part), "{part}: {text}");
        }
    }
}

#[tokio::test]
async fn without_a_url_and_with_private_servers_disabled_no_server_is_started() {
    let server = start("postgres.embedded.enabled = false\nredis.embedded.enabled = false");
    for (pool, section) in [
        ("postgres", "postgres"),
        ("redis-primary", "redis.primary"),
        ("redis-cache", "redis.cache"),
        ("redis-pubsub", "redis.pubsub"),
    ] {
        let (status, body) = probe(&server, pool).await;
        assert_eq!((status, &body["cause"]), (503, &json!("missing")), "{body}");
        let message = format!("{section}.url is not set");
        assert!(
            body["detail"].as_str().unwrap().contains(&message),
            "{body}"
        );
        assert!(server.log().contains(&message), "not logged at the start");
    }
    for program in ["postgres", "redis-server"] {
        assert!(processes(&server, program).is_empty());
    }
    assert!(!server.folder().join("data/postgres").exists());
}
