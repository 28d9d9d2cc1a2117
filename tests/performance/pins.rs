//! Pins: a pinned model outlives its TTL and clean-ups, until it is unpinned.

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{Answer, floats};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::{Value, json};

use crate::BINARY;
use crate::jobs::delete;

const PINS: &str = "/api/performance/lazy-loader/pins";

async fn put(server: &Server, name: &str) -> Answer {
    let url = server.url(&format!("{PINS}/{name}"));
    Answer::to(server.client().put(url)).await
}

async fn unpin(server: &Server, name: &str) -> Answer {
    delete(server, &format!("{PINS}/{name}")).await
}

/// The resource `name` in the status of the loader.
async fn resource(server: &Server, name: &str) -> Value {
    wait_for_async(DEADLINE, || async {
        let status = server.get_json("/api/performance/lazy-loader/status").await;
        let status = status.ok();
        let resources = status["resources"].as_array().cloned().unwrap_or_default();
        let found = resources.into_iter().find(|it| it["name"] == name);
        found.ok_or(status)
    })
    .await
}

#[tokio::test]
async fn a_pinned_model_outlives_its_ttl_and_a_clean_up_until_it_is_unpinned() {
    let models = Models::new();
    models
        .add("pinned", 1, torchscript::affine)
        .settings("pinned", 1, "ttl = '300ms'")
        .add("other", 1, torchscript::affine)
        .settings("other", 1, "ttl = '300ms'");
    let server = Server::start(models.options(BINARY));
    // By the name of the model, before its first use.
    let state = put(&server, "pinned").await.ok();
    assert_eq!(
        (&state["name"], &state["pinned"], &state["phase"]),
        (&json!("pinned:1"), &json!(true), &json!("cold"))
    );
    for model in ["pinned", "other"] {
        server.infer(model, &floats("x", &[1.0])).await.ok();
    }
    wait_for_async(DEADLINE, || async {
        let other = resource(&server, "other:1").await;
        (other["phase"] == "cold").then_some(()).ok_or(other)
    })
    .await;
    let state = resource(&server, "pinned:1").await;
    assert_eq!(
        (
            &state["phase"],
            &state["pinned"],
            &state["ttl_left_seconds"]
        ),
        (&json!("ready"), &json!(true), &json!(null))
    );
    let cleared = delete(&server, "/api/performance/lazy-loader/cache")
        .await
        .ok();
    let kept = &cleared["resources"][0];
    assert_eq!(
        (&kept["name"], &kept["reason"]),
        (&json!("pinned:1"), &json!("pinned"))
    );

    // By the name of the resource. Its TTL has long passed.
    let state = unpin(&server, "pinned:1").await.ok();
    assert_eq!(state["pinned"], false);
    wait_for_async(DEADLINE, || async {
        let state = resource(&server, "pinned:1").await;
        (state["phase"] == "cold").then_some(()).ok_or(state)
    })
    .await;
}

#[tokio::test]
async fn an_unknown_name_a_parameter_and_another_method_are_refused() {
    let server = Server::start(Models::new().options(BINARY));
    let path = format!("{PINS}/nothing");
    for (answer, status, text) in [
        (put(&server, "nothing").await, 404, "named \"nothing\""),
        (unpin(&server, "nothing").await, 404, "named \"nothing\""),
        (
            put(&server, "zygote?for=ever").await,
            400,
            "unknown field `for`",
        ),
        (server.get_json(&path).await, 405, "PUT, DELETE"),
    ] {
        assert_eq!(answer.status, status, "{answer:?}");
        let detail = answer.json["detail"].as_str().unwrap();
        assert!(detail.contains(text), "{text:?} not in {detail:?}");
    }
    assert_eq!(put(&server, "zygote").await.ok()["pinned"], true);
}
