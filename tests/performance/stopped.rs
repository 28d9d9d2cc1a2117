//! Every route answers in time and says what is not well while PostgreSQL, Redis, the zygote and every host are
//! stopped.

use std::time::{Duration, Instant};

use headroom::routes::{Route, table};
use headroom_test_support::models::Models;
use headroom_test_support::process_tree::{Stopped, descendants};
use headroom_test_support::protocol::{Answer, floats, infer_path, milliseconds};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::{Value, json};

use crate::BINARY;
use crate::jobs::{has_ended, preload, wait_for_job};

/// The longest time to an answer of a route of the performance API, at the median. It waits 40 ms for what is stopped; the
/// rest is for a machine with other work.
const ANSWER_WITHIN: Duration = Duration::from_millis(150);

/// The longest time to an answer of every other route that reads state. The tree of actors waits 200 ms for an actor.
const STATUS_WITHIN: Duration = Duration::from_millis(500);

/// Requests for one median.
const REQUESTS: usize = 9;

const HEALTH: &str = "/api/performance/connections/health";

/// `server.request_deadline`.
const DEADLINE_OF_REQUESTS: Duration = Duration::from_secs(2);

/// A server with open pools and a loaded model; another model is not loaded.
async fn start() -> (Server, Models) {
    let models = Models::new();
    models
        .add("loaded", 1, torchscript::slow)
        .add("cold", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY).settings(
        "server.request_deadline = '2s'\n\
         models.heartbeat_timeout = '60s'\n\
         chains.ethereum.providers.node.url = 'http://127.0.0.1:1'",
    ));
    server.infer("loaded", &milliseconds(0)).await.ok();
    for pool in ["postgres", "redis-primary", "redis-cache", "redis-pubsub"] {
        wait_for_async(DEADLINE, || async {
            let path = format!("/api/pools/{pool}/probe");
            let probed = server.post_json(&path, &json!({})).await;
            if probed.status == 200 {
                Ok(())
            } else {
                Err(probed)
            }
        })
        .await;
    }
    (server, models)
}

/// Asks again and again. Returns the status and the body of the last answer, and the median of the times.
async fn ask(server: &Server, path: &str) -> (u16, String, Duration) {
    let (mut took, mut status, mut text) = (Vec::new(), 0, String::new());
    for _ in 0..REQUESTS {
        let began = Instant::now();
        let answer = server.get(path).await;
        status = answer.status().as_u16();
        text = answer.text().await.unwrap();
        took.push(began.elapsed());
    }
    took.sort();
    (status, text, took[took.len() / 2])
}

fn pool<'health>(health: &'health Value, name: &str) -> &'health Value {
    let mut pools = health["pools"].as_array().unwrap().iter();
    pools.find(|pool| pool["name"] == name).unwrap()
}

async fn wait_for_healthy(server: &Server) {
    wait_for_async(DEADLINE, || async {
        let health = server.get_json(HEALTH).await.ok();
        (health["status"] == "healthy").then_some(()).ok_or(health)
    })
    .await;
}

#[tokio::test]
async fn every_route_answers_in_time_and_says_what_is_not_well() {
    let (server, _models) = start().await;
    // A job that has ended, whose events end as well.
    let job = preload(&server, &["loaded"]).await;
    wait_for_job(&server, &job, has_ended).await;
    // The first report of a server may take longer than the route waits.
    wait_for_healthy(&server).await;
    let stopped = Stopped::below(server.pid());
    let names: Vec<_> = stopped.processes().iter().map(|it| &*it.name).collect();
    for name in ["postgres", "redis-server", "hr-zygote", "hr:loaded"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    // A load, an inference and a checkout that hang.
    let hanging = [
        (infer_path("cold"), floats("x", &[1.0])),
        (infer_path("loaded"), milliseconds(0)),
        ("/api/pools/postgres/probe".to_owned(), json!({})),
    ];
    let hanging = hanging.map(|(path, body)| {
        let request = server.client().post(server.url(&path)).json(&body);
        tokio::spawn(Answer::to(request))
    });

    // The others use what is stopped.
    let reads_state = |route: &Route| route.method == "GET" && route.class.label() == "status";
    for route in table().into_iter().filter(reads_state) {
        if route.path == "/api/status/events" {
            continue; // It never ends.
        }
        let path = route
            .path
            .replace("{id}", job.rsplit('/').next().unwrap())
            .replace("{pool}", "postgres")
            .replace("{chain}", "ethereum")
            .replace("{model}", "loaded")
            .replace("{version}", "1");
        let (status, text, took) = ask(&server, &path).await;
        let is_performance = path.starts_with("/api/performance");
        let within = if is_performance {
            ANSWER_WITHIN
        } else {
            STATUS_WITHIN
        };
        assert!(took < within, "{path}: {took:?}");
        assert!(
            status == 200 || path.ends_with("/ready"),
            "{path}: {status} {text}"
        );
    }
    for path in [
        "/health/live",
        "/health/ready",
        "/health/startup",
        "/metrics",
    ] {
        let asked = tokio::time::timeout(STATUS_WITHIN, server.admin(path));
        assert_eq!(asked.await.unwrap().status(), 200, "{path}");
    }
    // A collection that hosts hold up is not waited for.
    let collected = server.post_json("/api/performance/memory/gc", &json!(null));
    let collected = collected.await;
    assert!(collected.took < 2 * STATUS_WITHIN, "{collected:?}");
    assert_eq!(collected.json["state"], "no_answer", "{collected:?}");

    // What hangs ends at its deadline with a problem.
    for hanging in hanging {
        let answer = hanging.await.unwrap();
        assert!([503, 504].contains(&answer.status), "{answer:?}");
        assert!(
            answer.took < DEADLINE_OF_REQUESTS + STATUS_WITHIN,
            "{answer:?}"
        );
    }
    // Servers that do not report are named, with what they reported last.
    wait_for_async(DEADLINE, || async {
        let health = server.get_json(HEALTH).await.ok();
        let is_named = ["postgres", "redis-primary"].iter().all(|name| {
            let pool = pool(&health, name);
            let server = &pool["server"];
            (pool["status"] == "degraded" || pool["status"] == "down")
                && server["state"] == "no_answer"
                && server["reason"].is_string()
                && server["waited_ms"].as_f64() < Some(2000.0)
                && server["version"].is_string()
                && server["age_seconds"].as_f64() > Some(0.0)
        });
        is_named.then_some(()).ok_or(health)
    })
    .await;
    let (_, _, took) = ask(&server, HEALTH).await;
    assert!(took < ANSWER_WITHIN, "{took:?}");
    let loader = server.get_json("/api/performance/lazy-loader/status").await;
    let loader = loader.ok();
    let cold = loader["resources"].as_array().unwrap().iter();
    let cold = cold.filter(|it| it["name"] == "cold:1");
    let phases: Vec<_> = cold.map(|it| &it["phase"]).collect();
    assert_eq!(phases, ["loading"], "{loader}");

    // Everything goes on.
    drop(stopped);
    wait_for_async(DEADLINE, || async {
        let answer = server.infer("cold", &floats("x", &[1.0])).await;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
    server.infer("loaded", &milliseconds(0)).await.ok();
    wait_for_healthy(&server).await;
    assert!(descendants(server.pid()).len() > 3);
}
