//! A real Prometheus scrapes the real server, and promtool checks what it exports and the alert rules.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use headroom_test_support::capability;
use headroom_test_support::child::{self, Child};
use headroom_test_support::models::Models;
use headroom_test_support::protocol::floats;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for, wait_for_async};
use serde_json::Value;

use crate::{BINARY, repository};

const RULES: &str = "deploy/prometheus/headroom.rules.yml";

/// Longest time for a run of promtool.
const CHECKED_WITHIN: Duration = Duration::from_secs(60);

/// Whether Prometheus is installed. If it is not, the test is skipped.
fn is_installed() -> bool {
    let installed = ["prometheus", "promtool"].map(|program| child::find(program).is_some());
    let installed = installed == [true, true];
    if !installed {
        capability::skip("prometheus is missing (scripts/setup.sh prometheus)");
    }
    installed
}

/// A Prometheus with one target, on a free port.
struct Prometheus {
    _process: Child,
    url: String,
}

impl Prometheus {
    fn start(folder: &Path, target: &str) -> Self {
        let config = folder.join("prometheus.yml");
        let rules = repository(RULES);
        let text = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{ job_name: headroom, static_configs: [{{ targets: ['{target}'] }}] }}]\n",
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
            url: format!("http://{address}/api/v1"),
        }
    }

    async fn get(&self, server: &Server, path: &str) -> Result<Value, String> {
        let request = server.client().get(format!("{}/{path}", self.url));
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let mut json: Value = answer.json().await.map_err(|error| error.to_string())?;
        Ok(json["data"].take())
    }
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
async fn prometheus_scrapes_the_server_and_evaluates_the_rules() {
    if !is_installed() {
        return;
    }
    let (server, _models) = used_server().await;
    let folder = tempfile::tempdir().unwrap();
    let target = server.admin_address().to_string();
    let prometheus = Prometheus::start(folder.path(), &target);

    wait_for_async(DEADLINE, || async {
        let targets = prometheus.get(&server, "targets").await?;
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
        wait_for_async(DEADLINE, || async {
            let result = prometheus
                .get(&server, &format!("query?query={query}"))
                .await?;
            let found = result["result"][0]["value"][1] == value;
            found
                .then_some(())
                .ok_or_else(|| format!("{query}: {result}"))
        })
        .await;
    }
    // Every rule was evaluated, and none fires for a server that is well.
    wait_for_async(DEADLINE, || async {
        let groups = prometheus.get(&server, "rules").await?;
        let rules = groups["groups"][0]["rules"].as_array().cloned();
        let rules = rules.unwrap_or_default();
        let is_well = |rule: &Value| rule["health"] == "ok" && rule["state"] != "firing";
        let all_well = rules.len() > 5 && rules.iter().all(is_well);
        all_well.then_some(()).ok_or_else(|| groups.to_string())
    })
    .await;
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
    let mut command = child::command("promtool");
    command
        .args(["check", "metrics"])
        .stdin(File::open(file).unwrap());
    assert_eq!(promtool(command), "");
}

#[test]
fn promtool_has_no_complaint_about_the_alert_rules() {
    if !is_installed() {
        return;
    }
    let mut command = child::command("promtool");
    command.args(["check", "rules", "--lint=all", "--lint-fatal"]);
    command.arg(repository(RULES));
    let report = promtool(command);
    assert!(report.contains("SUCCESS"), "{report}");
}

/// What promtool prints, if it succeeds.
fn promtool(mut command: std::process::Command) -> String {
    let output = child::output(&mut command, CHECKED_WITHIN).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let report = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{report}");
    report
}
