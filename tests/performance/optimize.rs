//! Full clean-ups on request, and their history.

use std::fs;
use std::time::Duration;

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::Stopped;
use headroom_test_support::protocol::floats;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{self, Fill, Script};
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::BINARY;
use crate::jobs::{delete, has_ended, location, wait_for_job};

pub(crate) const OPTIMIZE: &str = "/api/performance/optimize";

const HISTORY: &str = "/api/performance/optimize/history";

const STEPS: [&str; 6] = [
    "allocators",
    "caches",
    "connections",
    "idle_models",
    "leaks",
    "reading",
];

const MIB: u64 = 1 << 20;

/// A model with 100 MiB of weights, and a pinned one.
fn models() -> Models {
    let models = Models::new();
    let code = "def forward(self, x: Tensor) -> Tensor:\n  return x + self.w[0][0]\n";
    models
        .add("large", 1, |path| {
            Script::new(code)
                .tensor("w", &[100 * 256, 1024], Fill::Value(1.0))
                .write(path)
        })
        .add("pinned", 1, torchscript::affine)
        .settings("pinned", 1, "pinned = true");
    models
}

async fn optimize(server: &Server, body: &Value) -> Value {
    let answer = server.post_json(&format!("{OPTIMIZE}?wait=30"), body).await;
    let path = location(&answer);
    let job = answer.ok();
    assert_eq!(job, server.get_json(&path).await.ok());
    job
}

fn step<'job>(job: &'job Value, name: &str) -> &'job Value {
    let steps = job["result"]["steps"].as_array().expect("steps");
    let found = steps.iter().find(|step| step["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is missing in {job}"))
}

fn names(steps: &Value) -> Vec<&str> {
    let steps = steps.as_array().expect("steps").iter();
    steps.map(|step| step["name"].as_str().unwrap()).collect()
}

/// The history, when it meets `condition`.
async fn history(server: &Server, condition: impl Fn(&Value) -> bool) -> Value {
    wait_for_async(DEADLINE, || async {
        let history = server.get_json(HISTORY).await.ok();
        let fits = history["state"] == "answered" && condition(&history);
        if fits { Ok(history) } else { Err(history) }
    })
    .await
}

#[tokio::test]
async fn each_step_frees_what_it_can_and_the_report_is_kept() {
    let models = models();
    let server = Server::start(models.options(BINARY));
    for model in ["large", "pinned"] {
        server.infer(model, &floats("x", &[1.0])).await.ok();
    }
    let probe = "/api/pools/redis-primary/probe";
    server.post_json(probe, &json!({})).await.ok();

    let job = optimize(&server, &json!({ "idle_seconds": 0 })).await;
    assert_eq!(
        (&job["state"], &job["kind"]),
        (&json!("succeeded"), &json!("optimize")),
        "{job}"
    );
    let report = &job["result"];
    assert_eq!(names(&report["steps"]), STEPS);
    for step in report["steps"].as_array().unwrap() {
        assert!(step["took_ms"].as_f64() >= Some(0.0), "{step}");
        let outcome = step["outcome"].as_str().unwrap();
        assert!(["done", "nothing_to_do"].contains(&outcome), "{step}");
    }
    let bytes = |value: &Value, key: &str| {
        let bytes = value[key].as_u64();
        bytes.unwrap_or_else(|| panic!("{key} is not a number in {value}"))
    };
    let allocators = &step(&job, "allocators")["details"];
    let trimmed = allocators["actions"].as_array().unwrap();
    for name in ["server", "large:1/host-0", "pinned:1/host-0"] {
        assert!(trimmed.iter().any(|it| it["what"] == name), "{allocators}");
    }
    assert_eq!(step(&job, "caches")["outcome"], "nothing_to_do");
    let connections = step(&job, "connections");
    assert_eq!(connections["outcome"], "done", "{connections}");
    let actions = &connections["details"]["actions"];
    assert_eq!(actions[0]["by"], "redis-primary", "{connections}");
    let unloads = step(&job, "idle_models");
    assert_eq!(unloads["outcome"], "done", "{unloads}");
    let resources = unloads["details"]["resources"].as_array().unwrap();
    let resource = |name: &str| resources.iter().find(|it| it["name"] == name).unwrap();
    assert_eq!(resource("large:1")["outcome"], "unloaded", "{unloads}");
    assert_eq!(resource("pinned:1")["reason"], "pinned", "{unloads}");
    assert!(bytes(&unloads["details"], "promised_bytes") > 100 * MIB);
    assert!(bytes(unloads, "gained_bytes") > 60 * MIB, "{unloads}");
    let leaks = &step(&job, "leaks")["details"];
    assert_eq!(
        (&leaks["suspects"], &leaks["is_enabled"]),
        (&json!(0), &json!(true))
    );
    assert_eq!(leaks["hosts"][0]["host"], "pinned:1/host-0", "{leaks}");
    let reading = step(&job, "reading");
    assert!(bytes(&reading["details"], "free_bytes") > 0, "{reading}");
    assert_eq!(bytes(report, "after_bytes"), bytes(reading, "after_bytes"));
    assert!(bytes(report, "gained_bytes") > 60 * MIB, "{report}");
    assert!(server.host("large").is_none() && server.host("pinned").is_some());
    let pool = server.get_json("/api/pools/redis-primary").await.ok();
    assert_eq!(pool["size"], 0, "{pool}");

    // A model that was just used stays by default.
    server.infer("large", &floats("x", &[1.0])).await.ok();
    let second = optimize(&server, &json!({})).await;
    let unloads = step(&second, "idle_models");
    assert_eq!(unloads["outcome"], "nothing_to_do", "{unloads}");
    assert!(server.host("large").is_some());

    let kept = history(&server, |it| it["is_saved"] == true).await;
    let entries = kept["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "{kept}");
    for (entry, job) in entries.iter().zip([&second, &job]) {
        assert_eq!(entry["job_id"], job["id"], "{entry}");
        assert_eq!(entry["requested_by"], "127.0.0.1");
        assert_eq!(entry["requested_at"], job["created_at"]);
        assert_eq!(entry["ended_at"], job["ended_at"]);
        assert_eq!(entry["state"], "succeeded");
        assert_eq!(entry["report"], job["result"]);
    }
}

#[tokio::test]
async fn one_at_a_time_and_a_cancelled_one_ends_within_its_step() {
    let models = models();
    let server = Server::start(
        models
            .options(BINARY)
            .settings("models.heartbeat_timeout = '60s'"),
    );
    server.infer("large", &floats("x", &[1.0])).await.ok();
    // A host that does not end holds up its unload.
    let host = server.host("large").unwrap();
    let stopped = Stopped::stop(vec![host]);
    let first = server
        .post_json(OPTIMIZE, &json!({ "idle_seconds": 0 }))
        .await;
    assert_eq!(first.status, 202, "{first:?}");
    let path = location(&first);
    let refused = server.post_json(OPTIMIZE, &json!({})).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_eq!(refused.json["type"], "/problems/conflict");
    assert_eq!(refused.json["job_id"], first.json["id"]);
    assert_eq!(refused.json["job"], path.as_str());

    wait_for_job(&server, &path, |job| {
        job["progress"]["current_step"] == "unload idle resources"
    })
    .await;
    delete(&server, &path).await;
    let job = wait_for_job(&server, &path, has_ended).await;
    assert_eq!(job["state"], "cancelled", "{job}");
    assert_eq!(names(&job["result"]["steps"]), STEPS);
    assert_eq!(step(&job, "idle_models")["outcome"], "cancelled", "{job}");
    for name in ["leaks", "reading"] {
        assert_eq!(step(&job, name)["outcome"], "not_tried", "{job}");
    }
    drop(stopped);
    let kept = history(&server, |it| it["entries"][0]["state"] != "running").await;
    assert_eq!(kept["entries"][0]["state"], "cancelled", "{kept}");
    assert_eq!(kept["entries"].as_array().unwrap().len(), 1, "{kept}");
    // The next one may run.
    optimize(&server, &json!({})).await;
}

#[tokio::test]
async fn it_ends_in_seconds_while_all_processes_behind_the_server_are_stopped() {
    let models = models();
    let server = Server::start(
        models
            .options(BINARY)
            .settings("models.heartbeat_timeout = '60s'"),
    );
    for model in ["large", "pinned"] {
        server.infer(model, &floats("x", &[1.0])).await.ok();
    }
    for pool in ["postgres", "redis-primary"] {
        let path = format!("/api/pools/{pool}/probe");
        server.post_json(&path, &json!({})).await.ok();
    }
    let _stopped = Stopped::below(server.pid());
    let job = optimize(&server, &json!({ "idle_seconds": 0 })).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let took = Duration::from_secs_f64(job["result"]["took_ms"].as_f64().unwrap() / 1e3);
    assert!(took < Duration::from_secs(20), "{job}");
    assert_eq!(step(&job, "connections")["outcome"], "done", "{job}");
    // The host that does not trim is known by what it said last.
    let leaks = &step(&job, "leaks")["details"];
    let hosts = leaks["hosts"].as_array().unwrap();
    let pinned = hosts.iter().find(|it| it["host"] == "pinned:1/host-0");
    assert!(pinned.unwrap()["measured_at"].is_string(), "{leaks}");
}

#[tokio::test]
async fn the_history_outlives_a_killed_server_and_a_damaged_one_is_set_aside() {
    let models = models();
    let mut first = Server::start(models.options(BINARY));
    let job = optimize(&first, &json!({})).await;
    history(&first, |it| {
        it["is_saved"] == true && it["entries"][0]["state"] == "succeeded"
    })
    .await;
    let data = first.folder().join("data");
    let file = data.join("optimize-history.json");
    first.signal(Signal::SIGKILL);
    first.wait_for_exit();

    let settings = format!("data.dir = '{}'", data.display());
    let options = || models.options(BINARY).settings(&settings);
    let mut second = Server::start(options());
    let kept = history(&second, |_| true).await;
    assert_eq!(kept["entries"][0]["job_id"], job["id"], "{kept}");
    assert_eq!(kept["entries"][0]["report"], job["result"], "{kept}");
    second.signal(Signal::SIGTERM);
    assert!(second.wait_for_exit().success());

    fs::write(&file, "{\"version\": 1, \"entr").unwrap();
    let third = Server::start(options());
    let kept = history(&third, |_| true).await;
    assert_eq!(kept["entries"], json!([]), "{kept}");
    third.wait_for_log("a journal of jobs is damaged");
    assert!(file.with_extension("json.damaged").exists() && !file.exists());
    optimize(&third, &json!({})).await;
    history(&third, |it| it["is_saved"] == true).await;
    assert!(file.exists());
}

#[tokio::test]
async fn the_history_has_the_last_100_over_a_restart_and_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let models = Models::new();
    let settings = format!("data.dir = '{}'", folder.path().display());
    let start = || Server::start(models.options(BINARY).settings(&settings));
    let ids = |history: &Value| -> Vec<String> {
        let entries = history["entries"].as_array().unwrap().iter();
        let ids = entries.map(|it| it["job_id"].as_str().unwrap().to_owned());
        ids.collect()
    };
    // As after 100 clean-ups.
    let mut first = start();
    optimize(&first, &json!({})).await;
    first.signal(Signal::SIGTERM);
    assert!(first.wait_for_exit().success());
    let file = folder.path().join("optimize-history.json");
    let mut content: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let one = content["entries"][0].clone();
    let numbered = (0..100).map(|number| {
        let mut entry = one.clone();
        entry["job_id"] = json!(format!("earlier-{number}"));
        entry
    });
    content["entries"] = numbered.collect();
    fs::write(&file, content.to_string()).unwrap();

    let mut second = start();
    let job = optimize(&second, &json!({})).await;
    let kept = history(&second, |it| {
        it["is_saved"] == true && it["entries"][0]["state"] == "succeeded"
    })
    .await;
    let mut expected = vec![job["id"].as_str().unwrap().to_owned()];
    expected.extend((0..99).map(|number| format!("earlier-{number}")));
    assert_eq!(ids(&kept), expected);
    assert_eq!(kept["entries_max"], 100);
    second.signal(Signal::SIGKILL);
    second.wait_for_exit();

    let third = start();
    let kept = history(&third, |_| true).await;
    assert_eq!(ids(&kept), expected);
    assert_eq!(kept["entries"][0]["report"], job["result"]);
}

#[tokio::test]
async fn a_history_that_cannot_be_read_is_read_later_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let models = Models::new();
    let settings = format!("data.dir = '{}'", folder.path().display());
    let start = || Server::start(models.options(BINARY).settings(&settings));
    let mut first = start();
    let earlier = optimize(&first, &json!({})).await;
    first.signal(Signal::SIGTERM);
    assert!(first.wait_for_exit().success());
    let file = folder.path().join("optimize-history.json");
    let aside = folder.path().join("aside.json");
    fs::rename(&file, &aside).unwrap();
    fs::create_dir(&file).unwrap();

    let second = start();
    let kept = history(&second, |_| true).await;
    assert_eq!(
        (&kept["entries"], &kept["is_saved"]),
        (&json!([]), &json!(false))
    );
    let error = kept["save_error"].as_str().unwrap();
    assert!(error.contains("cannot be read"), "{error}");
    let status = second.get_json("/api/status").await.ok();
    let alerts = status["alerts"].as_array().unwrap();
    let alert = alerts.iter().find(|it| it["code"] == "journal_unsaved");
    let text = alert.unwrap()["text"].as_str().unwrap();
    assert!(text.contains("cannot be read"), "{status}");
    assert_eq!(second.metric("headroom_journal_unsaved", &[]).await, 1.0);
    let later = optimize(&second, &json!({})).await;
    let kept = history(&second, |it| it["entries"][0]["state"] == "succeeded").await;
    assert_eq!(kept["is_saved"], false, "{kept}");

    fs::remove_dir(&file).unwrap();
    fs::rename(&aside, &file).unwrap();
    let kept = history(&second, |it| it["is_saved"] == true).await;
    assert_eq!(kept["save_error"], json!(null), "{kept}");
    let entries = kept["entries"].as_array().unwrap();
    let ids: Vec<_> = entries.iter().map(|it| &it["job_id"]).collect();
    assert_eq!(ids, [&later["id"], &earlier["id"]]);
}

#[tokio::test]
async fn without_a_usable_data_folder_the_history_is_kept_in_memory() {
    let server = Server::start(Models::new().options(BINARY));
    let data = server.folder().join("data");
    fs::remove_dir_all(&data).unwrap();
    fs::write(&data, "a file in the place of the folder").unwrap();
    optimize(&server, &json!({})).await;
    let kept = history(&server, |it| !it["save_error"].is_null()).await;
    assert_eq!(
        (&kept["is_saved"], kept["entries"].as_array().unwrap().len()),
        (&json!(false), 1)
    );
}

#[tokio::test]
async fn wrong_requests_are_refused_with_what_is_allowed() {
    let server = Server::start(Models::new().options(BINARY));
    let too_long = format!("{OPTIMIZE}?wait=3600");
    let unknown = format!("{OPTIMIZE}?steps=caches");
    let empty = json!({});
    for (path, body, status, text) in [
        (
            OPTIMIZE,
            json!({ "idle_seconds": -1 }),
            422,
            "from 0 to 86400",
        ),
        (
            OPTIMIZE,
            json!({ "idle": 1 }),
            422,
            "expected `idle_seconds`",
        ),
        (&too_long, empty.clone(), 400, "wait is a number of seconds"),
        (&unknown, empty.clone(), 400, "expected `wait`"),
        (HISTORY, empty, 405, "GET, HEAD"),
    ] {
        let answer = server.post_json(path, &body).await;
        assert_eq!(answer.status, status, "{answer:?}");
        let detail = answer.json["detail"].as_str().unwrap();
        assert!(detail.contains(text), "{text:?} not in {detail:?}");
    }
    let list = server.get_json("/api/jobs").await.ok();
    assert_eq!(list, json!({ "jobs": [] }));
}
