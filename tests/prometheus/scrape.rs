//! A real Prometheus scrapes the real server and evaluates the alert rules; promtool checks what the server exports.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::Path;

use headroom::prometheus::catalogue;
use headroom_actors::kernel::MetricKind;
use headroom_test_support::child::{self, Child};
use headroom_test_support::models::Models;
use headroom_test_support::protocol::{floats, host_path};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for, wait_for_async};
use serde_json::{Value, json};

use crate::promtool::{is_installed, promtool, report};
use crate::rules::RULES;
use crate::{BINARY, repository};

/// A Prometheus that scrapes some servers, on a free port.
struct Prometheus {
    _process: Child,
    client: reqwest::Client,
    url: String,
}

impl Prometheus {
    fn start(folder: &Path, servers: &[&Server]) -> Self {
        let config = folder.join("prometheus.yml");
        let rules = repository(RULES);
        let targets: Vec<_> = servers.iter().map(|it| instance(it)).collect();
        let text = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{ job_name: headroom, static_configs: [{{ targets: {targets:?} }}] }}]\n",
            rules.display()
        );
        fs::write(&config, text).unwrap();
        let log = folder.join("log");
        let mut command = child::command("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg("--web.listen-address=127.0.0.1:0")
            .stderr(File::create(&log).unwrap());
        let process = child::start(&mut command).unwrap();
        let address = wait_for(DEADLINE, || {
            let log = fs::read_to_string(&log).unwrap();
            let mut lines = log.lines().filter(|line| line.contains("\"Listening on\""));
            let address = lines.find_map(|line| line.split("address=").nth(1)?.split(' ').next());
            address.map(str::to_owned).ok_or_else(|| log.clone())
        });
        Self {
            _process: process,
            client: servers[0].client().clone(),
            url: format!("http://{address}/api/v1"),
        }
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        let request = self.client.get(format!("{}/{path}", self.url));
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let mut json: Value = answer.json().await.map_err(|error| error.to_string())?;
        Ok(json["data"].take())
    }

    /// Waits until a query has this result.
    async fn wait_for(&self, query: &str, value: &str) {
        wait_for_async(DEADLINE, || async {
            let result = self.get(&format!("query?query={query}")).await?;
            let found = result["result"][0]["value"][1] == value;
            found
                .then_some(())
                .ok_or_else(|| format!("{query}: {result}"))
        })
        .await;
    }

    /// Waits until every rule was evaluated and these alerts are there and no others: the server, the name, the state.
    /// That of stalls does not count: other programs can keep the machine short of memory.
    async fn wait_for_alerts(&self, expected: &[[String; 3]]) {
        wait_for_async(DEADLINE, || async {
            let groups = self.get("rules").await?;
            let rules = groups["groups"][0]["rules"].as_array().cloned();
            let rules = rules.unwrap_or_default();
            let evaluated = rules.iter().all(|rule| rule["health"] == "ok");
            let alerts = rules.iter().filter_map(|rule| rule["alerts"].as_array());
            let alerts = alerts.flatten().map(|alert| {
                let label = |name| alert["labels"][name].as_str().unwrap().to_owned();
                let state = alert["state"].as_str().unwrap().to_owned();
                [label("instance"), label("alertname"), state]
            });
            let alerts = alerts.filter(|[_, name, _]| name != "HeadroomMemoryStalls");
            let mut found: Vec<_> = alerts.collect();
            found.sort();
            let is_so = rules.len() > 5 && evaluated && found == expected;
            is_so.then_some(()).ok_or_else(|| groups.to_string())
        })
        .await;
    }
}

/// How Prometheus calls a server.
fn instance(server: &Server) -> String {
    server.admin_address().to_string()
}

/// A server whose model `affine` was used once.
async fn used_server() -> (Server, Models) {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    server.infer("affine", &floats("x", &[1.0])).await.ok();
    (server, models)
}

#[tokio::test]
async fn prometheus_scrapes_the_server() {
    if !is_installed() {
        return;
    }
    let (server, _models) = used_server().await;
    let folder = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(folder.path(), &[&server]);

    wait_for_async(DEADLINE, || async {
        let targets = prometheus.get("targets").await?;
        let target = &targets["activeTargets"][0];
        let is_up = target["health"] == "up" && target["lastError"] == "";
        is_up.then_some(()).ok_or_else(|| targets.to_string())
    })
    .await;
    for (query, value) in [
        ("headroom_build_info", "1"),
        ("headroom_lazy_loads_total{name=\"affine:1\"}", "1"),
        (
            "headroom_model_forward_seconds_count{name=\"affine:1\"}",
            "1",
        ),
        ("headroom_actor_up{actor=\"headroom/memory\"}", "1"),
        ("process_resident_memory_bytes>bool 1e6", "1"),
        ("scrape_samples_scraped>bool 200", "1"),
    ] {
        prometheus.wait_for(query, value).await;
    }
}

#[tokio::test]
async fn alerts_are_about_a_broken_server_and_not_about_one_that_is_well() {
    if !is_installed() {
        return;
    }
    let (well, _models) = used_server().await;
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let nowhere = "postgres.url = 'postgres://headroom@127.0.0.1:1/headroom'";
    let broken = Server::start(models.options(BINARY).settings(nowhere));
    let folder = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(folder.path(), &[&well, &broken]);
    prometheus
        .wait_for("count(headroom_memory_reading_age_seconds)", "2")
        .await;
    prometheus.wait_for_alerts(&[]).await;

    // Now one has no PostgreSQL, and the process of its model dies again and again.
    let probe = "/api/pools/postgres/probe";
    assert_eq!(broken.post_json(probe, &json!({})).await.status, 503);
    broken.load("affine").await.ok();
    for count in 1..=4 {
        broken.host("affine").unwrap().kill();
        broken.wait_for_restarts(&host_path("affine"), count).await;
        broken.infer("affine", &floats("x", &[1.0])).await.ok();
    }
    // So many that they are a share of the test's own requests.
    for _ in 0..100 {
        broken.post_json(probe, &json!({})).await;
    }
    let alert = |name: &str, state: &str| [instance(&broken), name.to_owned(), state.to_owned()];
    let expected = [
        alert("HeadroomActorRestarts", "firing"),
        // Minutes before they fire.
        alert("HeadroomErrors", "pending"),
        alert("HeadroomModelCrashes", "firing"),
        alert("HeadroomPoolDown", "pending"),
    ];
    prometheus.wait_for_alerts(&expected).await;
}

#[tokio::test]
async fn promtool_has_no_complaint_about_the_metrics() {
    if !is_installed() {
        return;
    }
    let (server, _models) = used_server().await;
    server.unload("affine").await.ok();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metrics");
    fs::write(&file, server.metrics().await).unwrap();
    assert_eq!(complaints(&file), "");

    // No server has all of them.
    let mut declared = String::new();
    for metric in catalogue::all() {
        let (name, kind, help) = (metric.name, metric.kind.label(), metric.help);
        let sample = match metric.kind {
            MetricKind::Counter | MetricKind::Gauge => format!("{name} 1"),
            MetricKind::Histogram(_) => {
                format!("{name}_bucket{{le=\"+Inf\"}} 1\n{name}_sum 1\n{name}_count 1")
            }
        };
        writeln!(
            declared,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{sample}"
        )
        .unwrap();
    }
    fs::write(&file, declared).unwrap();
    assert_eq!(complaints(&file), "");
}

/// What promtool says about the metrics in a file.
fn complaints(file: &Path) -> String {
    let mut command = promtool(&["check", "metrics"]);
    command.stdin(File::open(file).unwrap());
    report(command)
}
