//! Preloads: what is selected is loaded in a job, which says what became of each resource.

use std::io;
use std::path::Path;

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::descendants;
use headroom_test_support::protocol::floats;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::BINARY;
use crate::jobs::{PRELOAD, delete, has_ended, location, preload, start, wait_for_job};

const MIB: u64 = 1 << 20;

/// Preloads, and returns the finished job.
async fn preload_and_wait(server: &Server, body: &Value) -> Value {
    let answer = server.post_json(&format!("{PRELOAD}?wait=30"), body).await;
    let path = location(&answer);
    let job = answer.ok();
    assert_eq!(job, server.get_json(&path).await.ok());
    job
}

/// The resource `name` in the result of a job.
fn resource<'job>(job: &'job Value, name: &str) -> &'job Value {
    let resources = job["result"]["resources"].as_array().expect("a result");
    let found = resources.iter().find(|resource| resource["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is not in {job}"))
}

/// The state of a model in the index of the model repository.
async fn state(server: &Server, model: &str) -> String {
    let index = server.index().await;
    let entry = index.iter().find(|entry| entry["name"] == model);
    entry.unwrap()["state"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn names_are_loaded_with_their_dependencies_and_each_outcome_is_told() {
    let models = Models::new();
    models
        .add("one", 1, torchscript::affine)
        .add("one", 2, torchscript::affine)
        .add("two", 1, torchscript::affine)
        .add("broken", 1, |path| std::fs::write(path, "no model"));
    let server = Server::start(models.options(BINARY));
    server.load("two").await.ok();
    // The highest version of a model, a resource, a model that is loaded, and two that cannot be.
    let names = json!({ "names": ["one", "one:1", "two:1", "broken", "missing"] });
    let job = preload_and_wait(&server, &names).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let result = &job["result"];
    let counts = [
        "loaded",
        "already",
        "refused",
        "under_way",
        "not_tried",
        "left_out",
    ];
    let counts = counts.map(|count| result[count].as_u64().unwrap());
    // The zygote, a dependency, was loaded with the first model.
    assert_eq!(counts, [2, 2, 2, 0, 0, 0], "{job}");
    assert_eq!(job["progress"]["done"], 5);

    let one = resource(&job, "one:2");
    assert_eq!(
        (&one["outcome"], &one["asked_for"]),
        (&json!("loaded"), &json!("one"))
    );
    assert!(one["load_seconds"].as_f64() > Some(0.0), "{one}");
    assert!(one["held_bytes"].as_u64() > Some(MIB), "{one}");
    assert_eq!(resource(&job, "one:1")["outcome"], "loaded");
    assert_eq!(resource(&job, "two:1")["outcome"], "already");
    let zygote = resource(&job, "zygote");
    assert_eq!(
        (&zygote["outcome"], &zygote["is_dependency"]),
        (&json!("already"), &json!(true))
    );
    assert_eq!(state(&server, "two").await, "READY");

    // The problems are those that requests get.
    let broken = &resource(&job, "broken:1")["problem"];
    assert_eq!(broken["type"], "/problems/unusable", "{broken}");
    let answer = server.infer("broken", &floats("x", &[1.0])).await;
    assert_eq!(broken["status"], answer.status);
    assert_eq!(broken["detail"], answer.json["error"]);
    let missing = &resource(&job, "missing")["problem"];
    assert_eq!(
        (&missing["type"], &missing["status"]),
        (&json!("/problems/not-found"), &json!(404))
    );

    let steps = job["steps"].as_array().unwrap();
    let step = |name: &str| steps.iter().find(|step| step["name"] == name).unwrap();
    assert_eq!(step("look for models")["result"], "succeeded");
    assert_eq!(step("load one:2")["result"], "succeeded");
    assert_eq!(step("load broken:1")["result"], "failed");
    assert!(step("load one:2")["took_seconds"].as_f64() > Some(0.0));
}

#[tokio::test]
async fn a_preload_that_loads_nothing_of_what_was_named_has_failed() {
    let (server, _models) = start();
    let job = preload_and_wait(&server, &json!({ "names": ["nobody", "nothing:1"] })).await;
    assert_eq!(job["state"], "failed", "{job}");
    let error = job["error"].as_str().unwrap();
    for name in ["nobody", "nothing:1"] {
        assert!(
            error.contains(&format!("{name}: there is no resource")),
            "{error}"
        );
        let problem = &resource(&job, name)["problem"];
        assert_eq!(problem["type"], "/problems/not-found", "{job}");
    }
    let job = preload_and_wait(&server, &json!({ "names": ["nobody", "quick"] })).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(resource(&job, "nobody")["outcome"], "refused");
}

#[tokio::test]
async fn a_preload_of_a_cold_server_loads_the_zygote_too() {
    let (server, _models) = start();
    let job = preload_and_wait(&server, &json!({ "names": ["quick"] })).await;
    let zygote = resource(&job, "zygote");
    assert_eq!(zygote["outcome"], "loaded", "{job}");
    assert!(zygote["load_seconds"].as_f64() > Some(0.0), "{job}");
    // A request finds it loaded.
    server.infer("quick", &floats("x", &[2.0])).await.ok();
    let loads = server
        .metric("headroom_lazy_loads_total", &["name=\"quick:1\""])
        .await;
    assert_eq!(loads, 1.0);
    // Its kind alone.
    let job = preload_and_wait(&server, &json!({ "kinds": ["process"] })).await;
    assert_eq!(job["result"]["already"], 1, "{job}");
    let job = preload_and_wait(&server, &json!({ "kinds": ["model", "chain"] })).await;
    assert_eq!(job["state"], "failed", "{job}");
    let error = job["error"].as_str().unwrap();
    assert!(
        error.contains("\"chain\"; there are: model, process"),
        "{error}"
    );
}

#[tokio::test]
async fn a_wait_that_is_too_short_is_answered_with_the_running_job() {
    let (server, _models) = start();
    let endless = json!({ "names": ["endless"] });
    let answer = server
        .post_json(&format!("{PRELOAD}?wait=0.2"), &endless)
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.json["state"], "running");
    assert!(answer.took.as_secs_f64() >= 0.2, "{answer:?}");
    delete(&server, &location(&answer)).await;
}

#[tokio::test]
async fn a_preload_that_cannot_be_understood_is_refused() {
    let (server, _models) = start();
    for (body, word) in [
        (json!({}), "exactly one of"),
        (
            json!({ "names": ["a"], "all_that_fit": true }),
            "exactly one of",
        ),
        (json!({ "all_that_fit": false }), "exactly one of"),
        (json!({ "names": [] }), "1 to 500"),
        (json!({ "name": "a" }), "expected one of `names`"),
        (
            json!(["a"]),
            "a JSON object with the members `names`, `kinds`, `all_that_fit`",
        ),
    ] {
        let answer = server.post_json(PRELOAD, &body).await;
        assert_eq!(answer.status, 422, "{body}: {answer:?}");
        assert_eq!(answer.json["type"], "/problems/invalid-input");
        let detail = answer.json["detail"].as_str().unwrap();
        assert!(detail.contains(word), "{body}: {detail}");
    }
    let request = server.client().post(server.url(PRELOAD)).body("{");
    assert_eq!(request.send().await.unwrap().status(), 400);
    let quick = json!({ "names": ["quick"] });
    for (query, status) in [
        ("wait=31", 400),
        ("wait=-1", 400),
        ("wait=x", 400),
        ("waits=1", 400),
    ] {
        let answer = server
            .post_json(&format!("{PRELOAD}?{query}"), &quick)
            .await;
        assert_eq!(answer.status, status, "{query}: {answer:?}");
    }
    assert_eq!(server.get_json(PRELOAD).await.status, 405);
    assert_eq!(server.get_json("/api/jobs").await.ok()["jobs"], json!([]));
}

#[tokio::test]
async fn a_cancelled_preload_begins_no_load_and_keeps_what_is_loaded() {
    let models = Models::new();
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        models.add(name, 1, torchscript::affine);
    }
    let server = Server::start(models.options(BINARY));
    preload_and_wait(&server, &json!({ "kinds": ["process"] })).await;
    let mut processes = descendants(server.pid()).into_iter();
    let zygote = processes
        .find(|process| process.name == "hr-zygote")
        .unwrap();
    // No load ends while the zygote is stopped.
    zygote.stop();
    let path = preload(&server, &names).await;
    wait_for_job(&server, &path, |job| {
        job["progress"]["current_step"] == "load d:1"
    })
    .await;
    assert_eq!(delete(&server, &path).await.status, 202);
    zygote.signal(Signal::SIGCONT);
    let job = wait_for_job(&server, &path, has_ended).await;
    assert_eq!(job["state"], "cancelled", "{job}");
    for name in ["e:1", "f:1"] {
        assert_eq!(resource(&job, name)["outcome"], "not_tried", "{job}");
    }
    assert_eq!(job["result"]["not_tried"], 2, "{job}");
    for model in ["a", "d"] {
        headroom_test_support::wait::wait_for_async(
            headroom_test_support::wait::DEADLINE,
            || async {
                let state = state(&server, model).await;
                if state == "READY" { Ok(()) } else { Err(state) }
            },
        )
        .await;
    }
    for model in ["e", "f"] {
        assert_eq!(state(&server, model).await, "UNAVAILABLE");
    }
}

fn heavy(path: &Path) -> io::Result<()> {
    torchscript::weights(path, 100 * MIB)
}

#[tokio::test]
async fn all_that_fit_are_loaded_the_last_used_first_and_nothing_is_evicted() {
    let models = Models::new();
    for name in ["a", "b", "c", "d"] {
        models.add(name, 1, heavy);
    }
    // One or two of them fit.
    let options = models.options(BINARY).settings("memory.limit = '500MiB'");
    let server = Server::start(options);
    server.load("d").await.ok();
    server.unload("d").await.ok();
    let job = preload_and_wait(&server, &json!({ "all_that_fit": true })).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let resources = job["result"]["resources"].as_array().unwrap();
    let order = resources
        .iter()
        .map(|resource| resource["name"].as_str().unwrap());
    let order: Vec<_> = order.filter(|name| name.ends_with(":1")).collect();
    assert_eq!(order, ["d:1", "a:1", "b:1", "c:1"], "{job}");
    assert_eq!(resource(&job, "d:1")["outcome"], "loaded", "{job}");
    let refused = resource(&job, "c:1");
    assert_eq!(
        refused["problem"]["type"], "/problems/insufficient-memory",
        "{job}"
    );
    let labels = ["reason=\"room\""];
    let evicted = server
        .metric("headroom_lazy_evictions_total", &labels)
        .await;
    assert_eq!(evicted, 0.0, "{job}");
}
