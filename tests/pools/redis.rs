//! Redis only: subscriptions, and a password for each role.

use std::net::TcpListener;
use std::path::Path;

use headroom_test_support::child::{self, Child};
use headroom_test_support::wait::{DEADLINE, wait_for};

use super::{get, probe, probe_ok, start};

const SECRET: &str = "hunter2-never-to-be-seen";

/// A `redis-server` that Headroom does not start.
struct ExternalRedis {
    _process: Child,
    port: u16,
}

impl ExternalRedis {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut command = child::command("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ]);
        command.args(arguments).current_dir(folder);
        let redis = Self {
            _process: child::start(&mut command).expect("redis-server is installed"),
            port,
        };
        wait_for(DEADLINE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())
        });
        redis
    }
}

#[tokio::test]
async fn a_probe_of_pubsub_publishes_a_message_and_receives_it() {
    let server = start("");
    let cold = get(&server, "/api/pools/redis-pubsub").await;
    assert_eq!(cold["subscriber"]["connects"], 0, "{cold}");
    assert!(get(&server, "/api/pools/redis-primary").await["subscriber"].is_null());
    let report = probe_ok(&server, "redis-pubsub").await;
    assert_eq!(report["server"]["nodes"], 1, "{report}");
    let warm = get(&server, "/api/pools/redis-pubsub").await;
    assert_eq!(warm["subscriber"]["connects"], 1, "{warm}");
    assert_eq!(warm["subscriber"]["messages"], 1, "{warm}");
    let metrics = server.metrics().await;
    assert!(
        metrics.contains("headroom_redis_subscriber_messages_total 1"),
        "{metrics}"
    );
    let tree = get(&server, "/api/actors").await.to_string();
    assert!(tree.contains("redis-subscriber"), "{tree}");
}

#[tokio::test]
async fn a_cache_that_is_away_degrades_the_server_and_a_primary_is_down() {
    for (role, pool, health) in [
        ("redis.cache", "redis-cache", "degraded"),
        ("redis.primary", "redis-primary", "down"),
    ] {
        let server = start(&format!("{role}.url = 'redis://127.0.0.1:1/0'"));
        let (status, body) = probe(&server, pool).await;
        assert_eq!(status, 503, "{body}");
        let report = get(&server, "/api/performance/connections/health").await;
        assert_eq!(report["status"], health, "{report}");
        let of_pool = get(&server, &format!("/api/pools/{pool}")).await;
        assert_eq!(of_pool["health"], health, "{of_pool}");
        // Whether or not callers need it: somebody should look at it.
        let status = get(&server, "/api/status").await;
        let mut alerts = status["alerts"].as_array().unwrap().iter();
        assert!(alerts.any(|alert| alert["subject"] == pool), "{status}");
    }
}

#[tokio::test]
async fn each_role_uses_its_own_password_and_none_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let redis = ExternalRedis::start(folder.path(), &["--requirepass", SECRET]);
    let port = redis.port;
    let server = start(&format!(
        "log.filter = 'trace'\n\
         redis.primary.url = 'redis://:{SECRET}@127.0.0.1:{port}/1'\n\
         redis.pubsub.url = 'redis://:{SECRET}@127.0.0.1:{port}/2'\n\
         redis.cache.url = 'redis://:wrong-{SECRET}@127.0.0.1:{port}/3'"
    ));
    probe_ok(&server, "redis-primary").await;
    probe_ok(&server, "redis-pubsub").await;
    let (status, body) = probe(&server, "redis-cache").await;
    assert_eq!(status, 503, "{body}");
    let health = get(&server, "/api/performance/connections/health").await;
    assert!(
        health
            .to_string()
            .contains("refused the user or the password"),
        "{health}"
    );
    for text in [
        body.to_string(),
        health.to_string(),
        get(&server, "/api/pools/redis-cache").await.to_string(),
        get(&server, "/api/actors").await.to_string(),
        server.metrics().await,
        server.log(),
    ] {
        assert!(!text.contains(SECRET), "{text}");
    }
}
