//! `/api/performance/lazy-loader`: the status, the dry run of a load, and unloads.

use std::time::{Duration, Instant};

use crate::BINARY;
use headroom_test_support::models::Models;
use headroom_test_support::process_tree::{Stopped, descendants};
use headroom_test_support::protocol::{Answer, floats, infer_path, milliseconds};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{self, Fill, Script};
use headroom_test_support::wait::{DEADLINE, wait_for_async, wait_until};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

const STATUS: &str = "/api/performance/lazy-loader/status";

const CACHE: &str = "/api/performance/lazy-loader/cache";

/// Adds a model with `mib` MiB of weights, which adds 1 to its input.
fn add_model(models: &Models, name: &str, mib: u64) {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  return x + self.w[0][0]\n";
    models.add(name, 1, |path| {
        // A row of 1,024 floats is 4 KiB.
        let rows = i64::try_from(mib * 256).unwrap();
        let script = Script::new(code).tensor("w", &[rows, 1024], Fill::Value(1.0));
        script.write(path)
    });
}

/// Starts a server, and waits until the loader knows a model: it looks for all of them soon after its start.
async fn start(models: &Models, settings: &str) -> Server {
    let server = Server::start(models.options(BINARY).settings(settings));
    wait_for_async(DEADLINE, || async {
        let status = status(&server, "").await;
        let resources = status["resources"].as_array().unwrap();
        let is_known = resources.iter().any(|resource| resource["kind"] == "model");
        is_known.then_some(()).ok_or(status)
    })
    .await;
    server
}

async fn ask(server: &Server, model: &str) {
    let answer = server.infer(model, &floats("x", &[1.0])).await;
    assert_eq!(answer.number(), 2.0);
}

/// The status of the loader. On a busy machine it may miss its 40 ms, which the answer says.
async fn status(server: &Server, query: &str) -> Value {
    wait_for_async(DEADLINE, || async {
        let status = server.get_json(&format!("{STATUS}{query}")).await.ok();
        (status["state"] == "answered")
            .then_some(status.clone())
            .ok_or(status)
    })
    .await
}

async fn clear(server: &Server, query: &str) -> Answer {
    let url = server.url(&format!("{CACHE}{query}"));
    Answer::to(server.client().delete(url)).await
}

/// The member of `list` with this name.
#[track_caller]
fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let list = list.as_array().expect("a list");
    let found = list.iter().find(|it| it["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is missing in {list:?}"))
}

/// The names in `list`, in its order.
fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list").iter();
    list.map(|it| it["name"].as_str().unwrap()).collect()
}

#[track_caller]
fn bytes(of: &Value, key: &str) -> u64 {
    let bytes = of[key].as_u64();
    bytes.unwrap_or_else(|| panic!("{key} is not a number in {of}"))
}

#[tokio::test]
async fn the_status_shows_every_resource_before_and_after_its_first_use() {
    let models = Models::new();
    add_model(&models, "one", 8);
    models.settings("one", 1, "ttl = '50s'");
    let server = start(&models, "").await;
    let cold = status(&server, "").await;
    assert_eq!(names(&cold["resources"]), ["one:1", "uploads", "zygote"]);
    assert_eq!(cold["hit_rate"]["since_start"], json!(null));
    assert_eq!(cold["next_evictions"], json!([]));
    let one = named(&cold["resources"], "one:1");
    assert_eq!(
        (&one["kind"], &one["phase"]),
        (&json!("model"), &json!("cold"))
    );
    assert_eq!(
        (&one["load_times"], &one["last_use_at"]),
        (&json!(null), &json!(null))
    );
    assert!(bytes(one, "estimated_bytes") > 8 * MIB);

    ask(&server, "one").await;
    ask(&server, "one").await;
    let warm = status(&server, "").await;
    let one = named(&warm["resources"], "one:1");
    assert_eq!(one["phase"], "ready");
    assert_eq!(
        (&one["hits_total"], &one["misses_total"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(one["depends_on"], json!(["zygote"]));
    assert!(bytes(one, "measured_bytes") > 8 * MIB, "{one}");
    assert!(
        bytes(one, "reserved_bytes") >= bytes(one, "measured_bytes"),
        "{one}"
    );
    let left = one["ttl_left_seconds"].as_f64().unwrap();
    assert!(left > 0.0 && left <= 50.0, "{one}");
    let times = &one["load_times"];
    let took = times["max_seconds"].as_f64().unwrap();
    assert!(took > 0.0 && times["p99_seconds"] == took, "{times}");
    let at = |value: &Value| humantime::parse_rfc3339(value.as_str().unwrap()).unwrap();
    assert!(
        at(&one["phase_since_at"]) <= at(&one["last_use_at"]),
        "{one}"
    );
    assert!(at(&one["last_use_at"]) <= at(&warm["at"]), "{one}");
    assert_eq!(
        named(&warm["resources"], "zygote")["dependents"],
        json!(["one:1"])
    );
    assert_eq!(warm["hit_rate"]["last_1_minute"], 0.5);
    assert_eq!(names(&warm["next_evictions"]), ["one:1", "zygote"]);
    let reasons = ["least_reload_time_per_byte", "after_its_dependents"];
    for (next, reason) in warm["next_evictions"]
        .as_array()
        .unwrap()
        .iter()
        .zip(reasons)
    {
        assert_eq!(next["reason"], reason, "{next}");
    }
    // The tree of actors shows the same resources.
    let observed = server.actor("headroom/lazy-loader").await["observed"].take();
    assert_eq!(named(&observed, "one:1")["phase"], "ready");
}

#[tokio::test]
async fn a_load_evicts_what_its_dry_run_has_named() {
    const WEIGHTS: u64 = 120;
    let models = Models::new();
    add_model(&models, "one", WEIGHTS);
    add_model(&models, "two", WEIGHTS);
    add_model(&models, "huge", 4 * WEIGHTS);
    // Holds one of the models with 40 MiB to spare, and never both (see tests/memory/setup.rs).
    let limit = (168 + WEIGHTS + 45 + 40) * MIB;
    let settings = format!(
        "memory.limit = '{limit}B'\n\
         memory.levels = {{ elevated = 0.90, high = 0.95, critical = 0.97, exhausted = 0.98 }}"
    );
    let server = start(&models, &settings).await;
    let shown = status(&server, "?if_loaded=one:1").await["if_loaded"].take();
    assert_eq!(shown["outcome"], "fits", "{shown}");
    assert_eq!(names(&shown["reserves"]), ["zygote", "one:1"]);
    ask(&server, "one").await;

    let shown = status(&server, "?if_loaded=two:1").await["if_loaded"].take();
    assert_eq!(shown["outcome"], "evicts", "{shown}");
    assert_eq!(names(&shown["reserves"]), ["two:1"]);
    assert!(bytes(&shown, "reserve_bytes") > WEIGHTS * MIB, "{shown}");
    assert_eq!(names(&shown["evicts"]), ["one:1"]);
    assert!(bytes(&shown, "evict_bytes") > WEIGHTS * MIB, "{shown}");
    assert!(
        server.host("one").is_some(),
        "the dry run changed something"
    );
    ask(&server, "two").await;
    let after = status(&server, "").await;
    let one = named(&after["resources"], "one:1");
    assert_eq!(
        (&one["phase"], &one["evictions_total"]),
        (&json!("cold"), &json!({ "room": 1 }))
    );

    let shown = status(&server, "?if_loaded=huge:1").await["if_loaded"].take();
    assert_eq!(shown["outcome"], "refused", "{shown}");
    assert_eq!(shown["refusal"]["reason"], "never_fits", "{shown}");
    assert_eq!(shown["evicts"], json!([]));
}

#[tokio::test]
async fn unloading_everything_frees_the_bytes_that_were_promised() {
    let models = Models::new();
    add_model(&models, "one", 300);
    add_model(&models, "pinned", 8);
    models.settings("pinned", 1, "pinned = true");
    let server = start(&models, "").await;
    ask(&server, "one").await;
    ask(&server, "pinned").await;

    let dry = clear(&server, "?dry_run=true").await.ok();
    assert_eq!(dry["dry_run"], true);
    assert_eq!(named(&dry["resources"], "one:1")["outcome"], "unloaded");
    assert_eq!(dry["gained_bytes"], json!(null));
    assert!(
        server.host("one").is_some(),
        "the dry run changed something"
    );

    let report = clear(&server, "").await.ok();
    let one = named(&report["resources"], "one:1");
    assert_eq!(one["outcome"], "unloaded", "{report}");
    let pinned = named(&report["resources"], "pinned:1");
    assert_eq!(
        (&pinned["outcome"], &pinned["reason"]),
        (&json!("kept"), &json!("pinned"))
    );
    let zygote = named(&report["resources"], "zygote");
    assert_eq!(
        (&zygote["reason"], &zygote["needed_by"]),
        (&json!("needed"), &json!(["pinned:1"]))
    );
    assert_eq!(report["promised_bytes"], one["bytes"], "{report}");
    assert!(bytes(&report, "promised_bytes") > 300 * MIB, "{report}");
    let [before, after] = ["used_before_bytes", "used_after_bytes"].map(|key| bytes(&report, key));
    assert_eq!(bytes(&report, "gained_bytes"), before - after, "{report}");
    // The usage also rises meanwhile if other processes on the machine end that had libtorch mapped.
    assert!(before - after > 200 * MIB, "{report}");
    assert!(server.host("one").is_none());
    assert!(server.host("pinned").is_some());

    let report = clear(&server, "?name=pinned:1&name=zygote").await.ok();
    for name in ["pinned:1", "zygote"] {
        let one = named(&report["resources"], name);
        assert_eq!(one["outcome"], "unloaded", "{report}");
    }
    wait_until(DEADLINE, "no process is left", || {
        descendants(server.pid()).is_empty()
    });
    // The next request loads it again.
    ask(&server, "one").await;
}

#[tokio::test]
async fn a_models_name_means_its_highest_version_as_for_pins_and_preloads() {
    let models = Models::new();
    models
        .add("one", 1, torchscript::affine)
        .add("one", 2, torchscript::affine);
    let server = start(&models, "").await;
    server.load("one").await.ok();
    // The loader does not know it yet.
    models.add("late", 1, torchscript::affine);
    let report = clear(&server, "?name=one&name=late&name=zygote").await.ok();
    assert_eq!(names(&report["resources"]), ["late:1", "one:2", "zygote"]);
    let late = named(&report["resources"], "late:1");
    assert_eq!(
        (&late["outcome"], &late["reason"]),
        (&json!("kept"), &json!("not_loaded"))
    );
    let one = named(&report["resources"], "one:2");
    assert_eq!(one["outcome"], "unloaded", "{report}");
    assert!(server.host("one").is_none());
}

#[tokio::test]
async fn a_model_in_use_is_drained_and_its_request_is_answered() {
    let models = Models::new();
    models.add("slow", 1, torchscript::slow);
    let server = start(&models, "").await;
    server.infer("slow", &milliseconds(0)).await.ok();
    let busy = async { server.infer("slow", &milliseconds(1500)).await.ok() };
    let clearing = async {
        server.wait_until_busy("slow").await;
        let idle_only = clear(&server, "?name=slow:1&idle_seconds=0").await.ok();
        let draining = clear(&server, "?name=slow:1&wait_seconds=0").await.ok();
        (idle_only, draining)
    };
    let (_, (idle_only, draining)) = tokio::join!(busy, clearing);
    let slow = named(&idle_only["resources"], "slow:1");
    assert_eq!(
        (&slow["outcome"], &slow["reason"]),
        (&json!("kept"), &json!("in_use"))
    );
    let slow = named(&draining["resources"], "slow:1");
    assert_eq!(slow["outcome"], "draining", "{draining}");
    assert!(bytes(slow, "leases") > 0, "{draining}");
    wait_for_async(DEADLINE, || async {
        let host = server.host("slow");
        host.is_none().then_some(()).ok_or(host)
    })
    .await;
}

#[tokio::test]
async fn a_load_can_be_tried_by_the_name_of_a_model() {
    let models = Models::new();
    add_model(&models, "one", 1);
    let server = start(&models, "").await;
    let by_model = status(&server, "?if_loaded=one").await;
    let by_resource = status(&server, "?if_loaded=one:1").await;
    assert_eq!(by_model["if_loaded"]["name"], "one:1", "{by_model}");
    assert_eq!(by_model["if_loaded"], by_resource["if_loaded"]);
}

#[tokio::test]
async fn wrong_requests_are_refused_with_what_is_allowed() {
    let models = Models::new();
    add_model(&models, "one", 1);
    let server = start(&models, "").await;
    ask(&server, "one").await;
    let unknown_name = server
        .get_json(&format!("{STATUS}?if_loaded=nothing"))
        .await;
    let unknown_query = server.get_json(&format!("{STATUS}?if_load=one")).await;
    for (answer, status, text) in [
        (
            unknown_name,
            404,
            "no resource and no model named \"nothing\"",
        ),
        (unknown_query, 400, "expected `if_loaded`"),
        (
            clear(&server, "?name=one:1&name=nothing").await,
            404,
            "\"nothing\"",
        ),
        (
            clear(&server, "?kind=modell").await,
            400,
            "no resource is of the kind \"modell\"; there are: model, process",
        ),
        (
            clear(&server, "?names=one:1").await,
            400,
            "expected one of `name`, `kind`",
        ),
        (
            clear(&server, "?idle_seconds=soon").await,
            400,
            "expected seconds",
        ),
        (server.get_json(CACHE).await, 405, "DELETE"),
    ] {
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        let detail = answer.json["detail"].as_str().unwrap();
        assert!(detail.contains(text), "{text:?} not in {detail:?}");
    }
    assert!(
        server.host("one").is_some(),
        "a refused request changed something"
    );
}

#[tokio::test]
async fn the_status_answers_while_the_zygote_is_stopped() {
    let models = Models::new();
    add_model(&models, "one", 1);
    add_model(&models, "two", 1);
    let server = start(&models, "models.heartbeat_timeout = '60s'").await;
    ask(&server, "one").await;
    let processes = descendants(server.pid()).into_iter();
    let zygote = processes.filter(|process| process.name == "hr-zygote");
    let _stopped = Stopped::stop(zygote.collect());

    let url = server.url(&infer_path("two"));
    let load = server.client().post(url).json(&floats("x", &[1.0]));
    let load = tokio::spawn(load.send());
    wait_for_async(DEADLINE, || async {
        let status = status(&server, "").await;
        let phase = &named(&status["resources"], "two:1")["phase"];
        (phase == "loading").then_some(()).ok_or(status)
    })
    .await;
    let mut took = Vec::new();
    for _ in 0..21 {
        let begun = Instant::now();
        server
            .get_json(&format!("{STATUS}?if_loaded=two:1"))
            .await
            .ok();
        took.push(begun.elapsed());
    }
    took.sort();
    assert!(took[10] < Duration::from_millis(50), "{took:?}");
    // The load that hangs is drained after it, so the request for that ends at its bound.
    let report = clear(&server, "?name=two:1&wait_seconds=0.2").await.ok();
    assert_eq!(report["resources"][0]["outcome"], "draining", "{report}");
    load.abort();
}
