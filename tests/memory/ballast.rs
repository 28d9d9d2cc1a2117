//! Memory that nobody reserved: a process within the budget grows all at once.

use std::time::{Duration, SystemTime};

use headroom_test_support::ballast::Ballast;
use headroom_test_support::models::Models;
use headroom_test_support::protocol::{floats, infer_path};
use headroom_test_support::server::Server;
use headroom_test_support::wait::wait_for_async;
use serde_json::Value;

use super::stage::{BINARY, DEADLINE, MIB, ModelsExt, ask, number};

/// What the ballast takes at once, in MiB.
const BALLAST: u64 = 300;

fn serve(ballast: &Ballast, models: &Models, settings: &str) -> Server {
    ballast.serve(models.options(BINARY).settings(settings))
}

async fn events(server: &Server) -> Vec<Value> {
    let stats = server
        .get("/api/performance/memory/stats?events=1000")
        .await;
    let mut stats: Value = stats.json().await.unwrap();
    let Value::Array(events) = stats["events"].take() else {
        panic!("{stats}");
    };
    events
}

fn at(event: &Value) -> SystemTime {
    humantime::parse_rfc3339(event["at"].as_str().unwrap()).unwrap()
}

fn rank(level: &Value) -> usize {
    let levels = ["normal", "elevated", "high", "critical", "exhausted"];
    let known = levels.iter().position(|name| level == name);
    known.unwrap_or_else(|| panic!("{level}"))
}

#[tokio::test]
async fn a_sudden_growth_is_answered_at_once_and_the_events_tell_the_story() {
    let models = Models::new();
    models.adds("one", 100, 1.0).adds("two", 100, 2.0);
    let ballast = Ballast::new();
    let limit = 680 * MIB;
    let server = serve(
        &ballast,
        &models,
        &format!("memory.limit = '{limit}B'\nmemory.dwell = '300ms'"),
    );
    assert_eq!(number(ask(&server, "one", 1).await), 2.0);
    assert_eq!(number(ask(&server, "two", 1).await), 3.0);
    let quiet = |event: &Value| event["event"] != "level" && event["event"] != "clean_up";
    assert!(events(&server).await.iter().all(quiet));

    ballast.take(BALLAST * MIB);
    wait_for_async(DEADLINE, || async {
        let events = events(&server).await;
        let last = events.iter().rev().find(|event| event["event"] == "level");
        match last {
            Some(event) if rank(&event["to"]) < 2 && rank(&event["from"]) > 0 => Ok(()),
            _ => Err(events),
        }
    })
    .await;

    let events = events(&server).await;
    println!("{events:#?}");
    // It rose; what is idle went, for which a high level is enough; then it fell.
    let is = |event: &Value, name: &str| event["event"] == name;
    let risen = events
        .iter()
        .find(|it| is(it, "level") && rank(&it["to"]) >= 2)
        .expect("memory was short");
    let by_loader = |event: &Value| {
        let actions = event["actions"].as_array().into_iter().flatten();
        actions
            .filter(|it| it["by"] == "lazy-loader")
            .cloned()
            .collect::<Vec<_>>()
    };
    let clean_ups: Vec<&Value> = events
        .iter()
        .filter(|it| !by_loader(it).is_empty())
        .collect();
    let last = *clean_ups.last().expect("a clean-up");
    let fallen = events.iter().rfind(|it| is(it, "level")).unwrap();
    let order = |event: &Value| event["number"].as_u64().unwrap();
    assert!(order(risen) < order(clean_ups[0]));
    assert!(order(last) < order(fallen));
    assert!(events.iter().map(order).eq(1..=events.len() as u64));
    let bytes = |event: &Value, key: &str| event[key].as_u64().unwrap();
    assert!(bytes(risen, "used_after_bytes") > limit * 80 / 100);
    assert!(bytes(last, "used_after_bytes") < limit * 80 / 100);
    for action in clean_ups.iter().flat_map(|it| by_loader(it)) {
        assert!(bytes(&action, "promised_bytes") > 100 * MIB, "{action}");
        assert!(bytes(&action, "gained_bytes") > 100 * MIB, "{action}");
    }
    let took = at(last).duration_since(at(risen)).unwrap();
    println!("from a high level to below it: {took:?}");
    // The promise is one second; a machine that is busy with other tests gets some more.
    assert!(took < Duration::from_secs(5), "{took:?}");

    // Memory comes back, and with it the models.
    ballast.take(1);
    assert_eq!(number(ask(&server, "one", 2).await), 3.0);
    let failures = server.metric("headroom_lazy_load_failures_total", &[]);
    assert_eq!(failures.await, 0.0);
}

#[tokio::test]
async fn when_memory_is_exhausted_the_model_in_use_ends_and_its_caller_is_told_to_come_back() {
    let models = Models::new();
    models.works("busy", 100, 1.0).adds("other", 8, 2.0);
    let ballast = Ballast::new();
    let limit = 680 * MIB;
    let server = serve(
        &ballast,
        &models,
        &format!("memory.limit = '{limit}B'\nmemory.dwell = '300ms'"),
    );
    assert_eq!(number(ask(&server, "busy", 1).await), 2.0);

    // More than it may ever work: without an end by force, this would take twenty seconds.
    let work = floats("x", &[20_000.0]);
    let path = infer_path("busy");
    let working = server.post(&path, &work);
    let growing = async {
        wait_for_async(DEADLINE, || async {
            let actor = server.actor("headroom/models/busy:1/owner").await;
            match actor["observed"]["busy"].as_u64() {
                Some(1) => Ok(()),
                _ => Err(actor),
            }
        })
        .await;
        ballast.take(520 * MIB);
    };
    let begun = std::time::Instant::now();
    let (response, ()) = tokio::join!(working, growing);
    assert!(begun.elapsed() < Duration::from_secs(20));
    let answered = SystemTime::now();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let body = response.text().await.unwrap();
    assert!(body.contains("memory ran out"), "{body}");
    // Its process is killed and not asked, and the request is not run again.
    let events = events(&server).await;
    let exhausted = events.iter().find(|event| event["to"] == "exhausted");
    let took = answered.duration_since(at(exhausted.unwrap())).unwrap();
    println!("from exhausted memory to the answer: {took:?}");
    // The promise is one second; a machine that is busy with other tests gets some more.
    assert!(took < Duration::from_millis(2500), "{took:?}");
    // Nothing is loaded as long as it lasts.
    let refused = server
        .post(&infer_path("other"), &floats("x", &[1.0]))
        .await;
    assert_eq!(refused.status(), 503);
    assert!(server.log().contains("ending a resource in use"));

    ballast.take(1);
    wait_for_async(DEADLINE, || async {
        let response = server.post(&infer_path("busy"), &floats("x", &[1.0])).await;
        match response.status().as_u16() {
            200 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}
