//! Load tests: what they measure, how they judge it, where they are refused, and that they leave nothing behind.

use headroom_test_support::models::{Models, SAMPLE};
use headroom_test_support::protocol::{Answer, floats};
use headroom_test_support::server::{Options, Server};
use headroom_test_support::torchscript;
use headroom_test_support::unreserved_process::UnreservedProcess;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::{Value, json};
use tokio_postgres::NoTls;

use crate::BINARY;
use crate::jobs::{delete, has_ended, location, wait_for_job};

pub(crate) const LOAD_TEST: &str = "/api/performance/load-test";

pub(crate) const DEVELOPMENT: &str = "server.profile = 'development'";

const MIB: u64 = 1 << 20;

/// More operations than a test waits for.
pub(crate) const ENDLESS: u64 = 10_000_000;

/// Starts a load test. Returns the path of its job.
pub(crate) async fn start(server: &Server, body: &Value) -> String {
    let answer = server.post_json(LOAD_TEST, body).await;
    // A short one may have ended by now.
    assert!(matches!(answer.status, 200 | 202), "{answer:?}");
    assert_eq!(answer.json["kind"], "load-test");
    location(&answer)
}

/// Runs a load test to its end, and returns the job.
pub(crate) async fn run(server: &Server, body: &Value) -> Value {
    let path = start(server, body).await;
    wait_for_job(server, &path, has_ended).await
}

/// The report of a scenario.
pub(crate) fn scenario<'job>(job: &'job Value, name: &str) -> &'job Value {
    let scenarios = job["result"]["scenarios"].as_array();
    let found = scenarios.and_then(|all| all.iter().find(|it| it["name"] == name));
    found.unwrap_or_else(|| panic!("no {name} in {job}"))
}

/// The figures of an operation.
pub(crate) fn operation<'job>(job: &'job Value, of: &str, name: &str) -> &'job Value {
    let operations = scenario(job, of)["operations"].as_array().unwrap();
    let found = operations.iter().find(|it| it["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {job}"))
}

/// Asserts that an operation has figures, and that its quantiles ascend.
fn assert_measured(operation: &Value, succeeded: u64) {
    assert_eq!(operation["succeeded"], succeeded, "{operation}");
    assert_eq!(operation["failed"], 0, "{operation}");
    assert_eq!(operation["errors"], json!({}), "{operation}");
    assert!(operation["throughput_per_second"].as_f64() > Some(0.0));
    let quantiles = ["p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms"];
    let quantiles = quantiles.map(|name| operation["latency"][name].as_f64().unwrap());
    assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{operation}");
}

/// Asserts that a load test holds no memory and no connections any more.
pub(crate) async fn assert_released(server: &Server) {
    assert_eq!(server.buffer_bytes("load_test").await, 0);
    wait_for_async(DEADLINE, || async {
        let pool = server.get_json("/api/pools/postgres").await.ok();
        let is_idle = pool["in_use"] == 0 && pool["waiting"] == 0;
        is_idle.then_some(()).ok_or(pool)
    })
    .await;
}

/// A connection of the test's own to the private PostgreSQL of a server, which must run.
async fn connect(server: &Server) -> tokio_postgres::Client {
    let folder = server.folder().join("data/postgres");
    let password = std::fs::read_to_string(folder.join("password")).unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host_path(folder).port(5432).dbname("headroom");
    config.user("headroom").password(password.trim());
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The tables that load tests have made.
async fn tables(server: &Server) -> Vec<String> {
    let select = "SELECT relname::text FROM pg_class WHERE relkind = 'r' \
                  AND relname LIKE 'headroom_load_test%' ORDER BY 1";
    let rows = connect(server).await.query(select, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_server_that_is_not_for_development_refuses_load_tests() {
    for settings in ["", "server.profile = 'production'"] {
        let server = Server::start(Options::new(BINARY).settings(settings));
        // Whatever the body is: it is not read.
        for body in [
            json!({}),
            json!({ "scenarios": { "memory": {} } }),
            json!(1),
        ] {
            let refused = server.post_json(LOAD_TEST, &body).await;
            assert_eq!(refused.status, 403, "{refused:?}");
            assert_eq!(refused.json["type"], "/problems/forbidden");
            assert_eq!(refused.json["setting"], "server.profile");
            let detail = refused.json["detail"].as_str().unwrap();
            assert!(detail.contains("--profile development"), "{detail}");
        }
        assert_eq!(server.get_json("/api/jobs").await.ok()["jobs"], json!([]));
    }
}

#[tokio::test]
async fn every_scenario_is_measured_and_each_threshold_gets_a_verdict() {
    let models = Models::new();
    models.add_sample();
    let server = Server::start(models.options(BINARY).settings(DEVELOPMENT));
    let kept = json!({ "p50_ms": 60_000, "errors_max": 0 });
    let body = json!({ "scenarios": {
        "memory": {
            "operations": 200, "callers": 3, "block_bytes": 65_536,
            "thresholds": { "p99_ms": 60_000, "throughput_min_per_second": 1e12 },
        },
        "lazy_loading": {
            "models": [SAMPLE], "rounds": 2, "hits": 25,
            "thresholds": { "cold_load": kept, "hit": { "max_ms": 0 }, "unload": kept },
        },
        "database": { "operations": 3000, "callers": 500, "rows": 700, "thresholds": kept },
        "http": {
            "path": "/api/performance/metrics", "operations": 150, "callers": 8,
            "rate_per_second": 300, "thresholds": kept,
        },
    }});
    let job = run(&server, &body).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(
        job["progress"],
        json!({ "done": 400, "total": 400, "current_step": null })
    );
    let steps = job["steps"].as_array().unwrap();
    let steps: Vec<_> = steps
        .iter()
        .map(|it| [&it["name"], &it["result"]])
        .collect();
    let step = |name, result| [name, result];
    let expected = [
        step("memory", "failed"),
        step("lazy_loading", "failed"),
        step("database", "succeeded"),
        step("http", "succeeded"),
    ];
    assert_eq!(steps, expected, "{job}");

    let verdict = |name| &scenario(&job, name)["verdict"];
    assert_eq!(
        [verdict("memory"), verdict("lazy_loading")],
        ["failed", "failed"]
    );
    assert_eq!(
        [verdict("database"), verdict("http")],
        ["passed", "passed"],
        "{job}"
    );
    assert_eq!(job["result"]["verdict"], "failed");
    let checks = |of, name| {
        let checks = operation(&job, of, name)["checks"].as_array().unwrap();
        let verdict = |it: &Value| json!([it["threshold"], it["limit"], it["verdict"]]);
        checks.iter().map(verdict).collect::<Vec<_>>()
    };
    assert_eq!(
        checks("memory", "block"),
        [
            json!(["p99_ms", 60_000.0, "passed"]),
            json!(["throughput_min_per_second", 1e12, "failed"])
        ]
    );
    assert_eq!(
        checks("lazy_loading", "hit"),
        [json!(["max_ms", 0.0, "failed"])]
    );
    let passed = [
        json!(["p50_ms", 60_000.0, "passed"]),
        json!(["errors_max", 0.0, "passed"]),
    ];
    for (of, name) in [
        ("lazy_loading", "unload"),
        ("database", "query"),
        ("http", "request"),
    ] {
        assert_eq!(checks(of, name), passed);
    }

    assert_measured(operation(&job, "memory", "block"), 200);
    assert_measured(operation(&job, "lazy_loading", "cold_load"), 2);
    assert_measured(operation(&job, "lazy_loading", "hit"), 50);
    // After the last round the model stays.
    assert_measured(operation(&job, "lazy_loading", "unload"), 1);
    assert_measured(operation(&job, "database", "query"), 3000);
    assert_measured(operation(&job, "http", "request"), 150);
    for (of, name, kind) in [
        ("memory", "block", "closed"),
        ("database", "query", "closed"),
        ("http", "request", "open"),
    ] {
        assert_eq!(operation(&job, of, name)["loop"], kind);
    }
    // 150 requests at 300 a second: the last is due after half a second.
    let took = operation(&job, "http", "request")["took_seconds"]
        .as_f64()
        .unwrap();
    assert!(took >= 149.0 / 300.0, "{took}");
    for name in ["memory", "lazy_loading", "database", "http"] {
        let report = scenario(&job, name);
        assert_eq!(report["ended_by"], "operations", "{report}");
        let memory = ["before_bytes", "peak_bytes", "after_bytes"];
        let [before, peak, after] = memory.map(|it| report["memory"][it].as_u64().unwrap());
        assert!(before > 0 && peak >= before && peak >= after, "{report}");
    }
    // The parameters in force, with the defaults.
    assert_eq!(
        scenario(&job, "database")["parameters"]["deadline_seconds"],
        120.0
    );
    let loads = &scenario(&job, "lazy_loading")["loads"];
    assert_eq!(loads["models"], json!(["silero-vad:1"]));
    assert_eq!(loads["loaded_before"], json!([]));
    assert_eq!(loads["evictions"], json!({ "request": 1 }), "{loads}");

    // What it has loaded stays for the usual policy.
    let left = job["result"]["left_loaded"].as_object().unwrap();
    let left: Vec<_> = left.iter().map(|(name, until)| (&**name, until)).collect();
    let expected = [
        "private server of the pool postgres",
        "silero-vad:1",
        "zygote",
    ];
    assert_eq!(left.iter().map(|it| it.0).collect::<Vec<_>>(), expected);
    assert_eq!(left[1].1, "when it was idle for 600 s, or memory is short");
    assert_eq!(server.index().await[0]["state"], "READY");
    assert_eq!(tables(&server).await, [""; 0]);
    assert_released(&server).await;
}

#[tokio::test]
async fn a_model_that_was_loaded_before_is_not_unloaded() {
    let models = Models::new();
    models.add("used", 1, torchscript::counter);
    models.add("cold", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY).settings(DEVELOPMENT));
    server.load("used").await.ok();
    let pid = server.host("used").unwrap().pid;
    let lazy_loading = json!({ "rounds": 3, "hits": 10 });
    let job = run(
        &server,
        &json!({ "scenarios": { "lazy_loading": lazy_loading } }),
    )
    .await;
    assert_eq!(job["result"]["verdict"], "passed", "{job}");
    let loads = &scenario(&job, "lazy_loading")["loads"];
    assert_eq!(loads["loaded_before"], json!(["used:1"]));
    assert_eq!(loads["models"], json!(["cold:1", "used:1"]));
    assert_measured(operation(&job, "lazy_loading", "cold_load"), 3);
    assert_measured(operation(&job, "lazy_loading", "unload"), 2);
    assert_measured(operation(&job, "lazy_loading", "hit"), 60);
    assert_eq!(server.host("used").unwrap().pid, pid);
    let left = &job["result"]["left_loaded"];
    assert!(
        left["cold:1"].is_string() && left["used:1"].is_null(),
        "{left}"
    );
}

#[tokio::test]
async fn without_scenarios_all_run_that_can() {
    let settings = format!("{DEVELOPMENT}\npostgres.embedded.enabled = false");
    let server = Server::start(Options::new(BINARY).settings(&settings));
    let job = run(&server, &json!({})).await;
    assert_eq!(job["result"]["verdict"], "passed", "{job}");
    assert_measured(operation(&job, "memory", "block"), 1000);
    assert_measured(operation(&job, "http", "request"), 2000);
    let left_out = &job["result"]["left_out"];
    assert_eq!(
        left_out["lazy_loading"], "there is no model to load",
        "{job}"
    );
    let reason = left_out["database"].as_str().unwrap();
    assert!(reason.contains("postgres.url is not set"), "{reason}");
    // One that was asked for must run.
    let named = json!({ "scenarios": { "database": {}, "lazy_loading": { "models": ["none"] } } });
    let job = run(&server, &named).await;
    assert_eq!(job["result"]["verdict"], "failed", "{job}");
    for (name, word) in [
        ("database", "postgres.url is not set"),
        ("lazy_loading", "\"none\""),
    ] {
        let report = scenario(&job, name);
        assert_eq!(
            [&report["verdict"], &report["ended_by"]],
            ["failed", "error"]
        );
        assert!(
            report["reason"].as_str().unwrap().contains(word),
            "{report}"
        );
    }
}

#[tokio::test]
async fn a_cancelled_load_test_leaves_nothing_behind_and_only_one_runs_at_once() {
    let server = Server::start(Options::new(BINARY).settings(DEVELOPMENT));
    let endless = json!({ "operations": ENDLESS, "callers": 500 });
    let body = json!({ "scenarios": { "database": endless, "http": {} } });
    let path = start(&server, &body).await;
    // Its queries are under way: there were more checkouts than callers, so some of them have succeeded.
    wait_for_async(DEADLINE, || async {
        let checkouts = "headroom_pool_checkouts_total";
        let checkouts = server.metric(checkouts, &["pool=\"postgres\""]).await;
        (checkouts >= 1000.0).then_some(()).ok_or(checkouts)
    })
    .await;
    assert_eq!(tables(&server).await.len(), 1);

    let second = server.post_json(LOAD_TEST, &json!({})).await;
    assert_eq!(second.status, 409, "{second:?}");
    assert_eq!(second.json["type"], "/problems/conflict");
    assert_eq!(second.json["job"], *path);

    let cancelled = delete(&server, &path).await;
    assert_eq!(cancelled.status, 202, "{cancelled:?}");
    let job = wait_for_job(&server, &path, has_ended).await;
    assert_eq!(job["state"], "cancelled", "{job}");
    let report = scenario(&job, "database");
    assert_eq!(
        [&report["ended_by"], &report["verdict"]],
        ["cancelled", "incomplete"]
    );
    assert!(
        report["operations"][0]["succeeded"].as_u64() > Some(0),
        "{job}"
    );
    assert_eq!(
        job["result"]["left_out"],
        json!({ "http": "the job ended before" })
    );
    assert_eq!(job["result"]["verdict"], "incomplete");
    assert_eq!(tables(&server).await, [""; 0]);
    assert_released(&server).await;

    // The next one may run.
    let small = json!({ "memory": { "operations": 10 } });
    let job = run(&server, &json!({ "scenarios": small })).await;
    assert_eq!(job["result"]["verdict"], "passed", "{job}");
}

#[tokio::test]
async fn deadlines_end_scenarios_and_load_tests() {
    let server = Server::start(Options::new(BINARY).settings(DEVELOPMENT));
    let timed = json!({ "operations": ENDLESS, "rate_per_second": null, "deadline_seconds": 0.5 });
    let job = run(&server, &json!({ "scenarios": { "http": timed } })).await;
    let report = scenario(&job, "http");
    assert_eq!(
        [&report["ended_by"], &report["verdict"]],
        ["deadline", "passed"],
        "{job}"
    );
    assert!(report["took_seconds"].as_f64() < Some(5.0), "{job}");
    let endless = json!({ "operations": ENDLESS, "rate_per_second": null });
    let body = json!({ "deadline_seconds": 1, "scenarios": { "http": endless } });
    let job = run(&server, &body).await;
    assert_eq!(job["state"], "timed_out", "{job}");
    assert_eq!(job["result"]["verdict"], "incomplete");
}

#[tokio::test]
async fn tables_of_load_tests_that_were_killed_are_removed_and_no_others() {
    let server = Server::start(Options::new(BINARY).settings(DEVELOPMENT));
    let probe = "/api/pools/postgres/probe";
    server.post_json(probe, &json!({})).await.ok();
    let kept = [
        // In use until the year 5138.
        "headroom_load_test_99999999999_0123456789abcdef",
        // Not of this form.
        "headroom_load_test_1_0123456789abcdeg",
        "headroom_load_test_mine",
    ];
    let client = connect(&server).await;
    for name in kept
        .into_iter()
        .chain(["headroom_load_test_1_0123456789abcdef"])
    {
        let create = format!("CREATE TABLE {name} (id int)");
        client.batch_execute(&create).await.unwrap();
    }
    let database = json!({ "operations": 100, "callers": 5, "rows": 10 });
    let job = run(&server, &json!({ "scenarios": { "database": database } })).await;
    assert_eq!(job["result"]["verdict"], "passed", "{job}");
    let mut kept = kept.map(str::to_owned);
    kept.sort();
    assert_eq!(tables(&server).await, kept);
}

/// Has the transaction of a new connection that makes a table for a load test wait in its commit, while somebody holds
/// an advisory lock: the function that fills the table is replaced by one with a deferred trigger.
const COMMITS_WAIT: &str = "\
    CREATE SCHEMA slow;
    CREATE TABLE slow.filled (id int);
    CREATE FUNCTION slow.wait() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON slow.filled
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow.wait();
    CREATE FUNCTION slow.generate_series(int, int) RETURNS SETOF int LANGUAGE plpgsql AS
        $$ BEGIN
            INSERT INTO slow.filled VALUES (1);
            RETURN QUERY SELECT * FROM pg_catalog.generate_series($1, $2);
        END $$;
    ALTER DATABASE headroom SET search_path = slow, pg_catalog";

#[tokio::test]
async fn a_table_whose_commit_outlasts_the_load_test_is_removed_after_it() {
    let server = Server::start(Options::new(BINARY).settings(DEVELOPMENT));
    let probe = "/api/pools/postgres/probe";
    server.post_json(probe, &json!({})).await.ok();
    let client = connect(&server).await;
    let count = async |select: &str| {
        let row = client.query_one(select, &[]).await.unwrap();
        row.get::<_, i64>(0)
    };
    client.batch_execute(COMMITS_WAIT).await.unwrap();
    let lock = "SELECT pg_advisory_lock(1)";
    client.batch_execute(lock).await.unwrap();
    // The pool has to open new connections.
    let end_others = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity \
                      WHERE usename = 'headroom' AND pid <> pg_backend_pid()";
    assert!(count(end_others).await > 0);
    server.post_json(probe, &json!({})).await.ok();
    let database = json!({ "operations": 100, "callers": 5, "rows": 10 });
    let path = start(&server, &json!({ "scenarios": { "database": database } })).await;
    wait_for_async(DEADLINE, || async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        let waiting = count(waiting).await;
        (waiting == 1).then_some(()).ok_or(waiting)
    })
    .await;
    delete(&server, &path).await;
    let job = wait_for_job(&server, &path, has_ended).await;
    let report = scenario(&job, "database");
    assert_eq!(report["ended_by"], "cancelled", "{job}");

    let unlock = "SELECT pg_advisory_unlock(1)";
    client.batch_execute(unlock).await.unwrap();
    wait_for_async(DEADLINE, || async {
        let committed = count("SELECT count(*) FROM slow.filled").await;
        let left = tables(&server).await;
        let is_over = committed == 1 && left.is_empty();
        is_over.then_some(()).ok_or((committed, left))
    })
    .await;
    assert_released(&server).await;
}

#[tokio::test]
async fn a_refusal_of_memory_ends_the_scenario() {
    let settings = format!("{DEVELOPMENT}\nmemory.limit = '288MiB'");
    let server = Server::start(Options::new(BINARY).settings(&settings));
    // Four blocks do not fit below the critical level (245 MiB), however little the server itself needs.
    let memory = json!({ "callers": 4, "block_bytes": 60 * MIB });
    let job = run(&server, &json!({ "scenarios": { "memory": memory } })).await;
    let report = scenario(&job, "memory");
    assert_eq!(
        [&report["ended_by"], &report["verdict"]],
        ["no_memory", "failed"],
        "{job}"
    );
    let reason = report["reason"].as_str().unwrap();
    assert!(reason.contains("the memory budget refused"), "{reason}");
    assert!(
        report["operations"][0]["succeeded"].as_u64() < Some(1000),
        "{job}"
    );
    assert_released(&server).await;
    // The level never got critical.
    let critical = "headroom_memory_level_changes_total";
    assert_eq!(server.metric(critical, &["to=\"critical\""]).await, 0.0);
}

#[tokio::test]
async fn a_load_test_ends_by_itself_when_memory_gets_critically_short() {
    let process = UnreservedProcess::new();
    let settings = format!("{DEVELOPMENT}\nmemory.limit = '400MiB'");
    let server = process.start_server(Options::new(BINARY).settings(&settings));
    let endless = json!({ "operations": ENDLESS, "rate_per_second": 100, "deadline_seconds": 300 });
    let path = start(&server, &json!({ "scenarios": { "http": endless } })).await;
    wait_for_job(&server, &path, |job| {
        job["progress"]["current_step"] == "http"
    })
    .await;
    process.hold(330 * MIB);
    let job = wait_for_job(&server, &path, has_ended).await;
    let report = scenario(&job, "http");
    assert_eq!(
        [&report["ended_by"], &report["verdict"]],
        ["memory_pressure", "failed"],
        "{job}"
    );
    process.hold(1);
}

#[tokio::test]
async fn a_load_test_that_cannot_be_understood_is_refused() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY).settings(DEVELOPMENT));
    for (body, word) in [
        (
            json!({ "scenario": {} }),
            "unknown field `scenario`, expected `deadline_seconds` or `scenarios`",
        ),
        (json!({ "scenarios": {} }), "at least one of"),
        (
            json!({ "scenarios": { "memory": { "operations": 1_000_001 } } }),
            "it can be 1 to 1000000",
        ),
        (
            json!({ "scenarios": { "memory": { "size": 1 } } }),
            "unknown field `size`",
        ),
        (
            json!({ "scenarios": { "http": { "path": "/api/jobs/{id}" } } }),
            "GET route",
        ),
        (
            json!({ "scenarios": { "http": { "thresholds": { "p99": 1 } } } }),
            "unknown field `p99`",
        ),
    ] {
        let answer = server.post_json(LOAD_TEST, &body).await;
        assert_eq!(answer.status, 422, "{body}: {answer:?}");
        let detail = answer.json["detail"].as_str().unwrap();
        assert!(detail.contains(word), "{body}: {detail}");
    }
    let request = server.client().post(server.url(LOAD_TEST)).body("{");
    assert_eq!(Answer::to(request).await.status, 400);
    let query = format!("{LOAD_TEST}?scenarios=memory");
    assert_eq!(server.post_json(&query, &json!({})).await.status, 400);
    assert_eq!(server.get_json(LOAD_TEST).await.status, 405);
    assert_eq!(server.get_json("/api/jobs").await.ok()["jobs"], json!([]));
    // The server works on.
    server.infer("affine", &floats("x", &[1.0])).await.ok();
}
