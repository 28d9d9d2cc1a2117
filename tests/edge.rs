//! The HTTP edge and the command line of the real binary, with real signals and sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::time::Duration;

use headroom_test_support::child;
use headroom_test_support::process_tree::Process;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::{DEADLINE, wait_for_async, wait_until};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_headroom");

/// Runs the binary to its end, in a folder with an empty folder of models.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("models")).unwrap();
    let mut command = child::command(BINARY);
    command.args(arguments).current_dir(folder.path());
    command.envs(environment.iter().copied());
    child::output(&mut command, DEADLINE).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn start() -> Server {
    Server::start(Options::new(BINARY))
}

async fn assert_problem(response: reqwest::Response, status: u16, slug: &str) -> Value {
    assert_eq!(response.status(), status);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let id = response.headers().get("x-request-id").cloned();
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["type"], format!("/problems/{slug}"));
    assert_eq!(problem["status"], status);
    if let Some(id) = id {
        assert_eq!(problem["instance"], id.to_str().unwrap());
    }
    problem
}

#[test]
fn no_arguments_print_help() {
    let output = run(&[], &[]);
    assert_eq!(output.status.code(), Some(0));
    for command in ["serve", "check-config"] {
        assert!(stdout(&output).contains(command));
    }
}

#[test]
fn the_version_contains_the_commit() {
    let output = run(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).starts_with(concat!(
        "headroom ",
        env!("CARGO_PKG_VERSION"),
        " (commit "
    )));
    // A build that does not know it says how it gets to know it.
    let text = stdout(&output);
    assert!(
        !text.contains("not recorded") || text.contains("make build"),
        "{text}"
    );
    assert!(!text.contains("unknown"), "{text}");
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for arguments in [
        &["serf"][..],
        &["serve", "--colour"],
        &["serve", "--config"],
    ] {
        let output = run(arguments, &[]);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(stderr(&output).starts_with("error: "));
    }
}

#[test]
fn invalid_settings_are_reported_in_one_line_each_before_anything_is_bound() {
    for command in ["serve", "check-config"] {
        let variables = [
            ("HEADROOM__SERVER__LISTN", "127.0.0.1:0"),
            ("HEADROOM__MODELS__TTL", "soon"),
        ];
        let output = run(&[command], &variables);
        assert_eq!(output.status.code(), Some(78));
        assert_eq!(
            stderr(&output),
            "headroom: environment variable HEADROOM__SERVER__LISTN: unknown key server.listn; \
             did you mean server.listen?\n\
             headroom: environment variable HEADROOM__MODELS__TTL: models.ttl = \"soon\" must be a \
             duration of at most a year, such as \"250ms\", \"30s\" or \"10m\"\n"
        );
    }
}

#[test]
fn a_budget_that_cannot_work_is_refused_before_anything_is_bound() {
    // The address is in use, so an attempt to bind it would be reported.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for command in ["serve", "check-config"] {
        for limit in ["10MiB", "200MiB"] {
            let variables = [
                ("HEADROOM__MEMORY__LIMIT", limit),
                ("HEADROOM__SERVER__LISTEN", &address),
            ];
            let output = run(&[command], &variables);
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(78), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
            let start = "headroom: memory.limit: a memory budget of ";
            let end = "set it to 227.0 MiB or more\n";
            assert!(text.starts_with(start) && text.ends_with(end), "{text}");
        }
    }
    let least = [("HEADROOM__MEMORY__LIMIT", "227MiB")];
    let output = run(&["check-config"], &least);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

/// Opens connections that stay idle.
fn open_idle_connections(server: &Server, count: usize) -> Vec<TcpStream> {
    let address = server.address();
    let connect = |_| TcpStream::connect(address).unwrap();
    (0..count).map(connect).collect()
}

async fn reading_age(server: &Server) -> f64 {
    server
        .metric("headroom_memory_reading_age_seconds", &[])
        .await
}

#[tokio::test]
async fn idle_clients_leave_descriptors_for_readings_and_the_admin_listener() {
    let limited = ["sh", "-c", "ulimit -n 256 && exec \"$@\"", "sh"];
    let options = Options::new(BINARY).launched_by(&limited);
    let server = Server::start(options.settings("memory.stale_after = '3s'"));
    let clients = open_idle_connections(&server, 400);
    let process = Process::read(server.pid()).unwrap();
    let open = || process.descriptors();
    wait_until(DEADLINE, "clients are connected", || open() > 100);
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        assert!(open() < 200, "clients have {} descriptors", open());
        let age = reading_age(&server).await;
        assert!(age < 3.0, "memory was read {age} s ago");
        assert_eq!(server.admin("/health/ready").await.status(), 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let log = server.log();
    assert!(log.contains("fewer connections than"), "{log}");
    // Waiting clients are served once the others disconnect.
    drop(clients);
    wait_for_async(DEADLINE, || async {
        let answer = server.get("/v2/health/live").await.status().as_u16();
        (answer == 200).then_some(()).ok_or(answer)
    })
    .await;
}

#[tokio::test]
async fn the_soft_limit_of_descriptors_is_raised_and_connections_max_caps_connections() {
    let soft = ["sh", "-c", "ulimit -Sn 256 && exec \"$@\"", "sh"];
    let options = Options::new(BINARY).launched_by(&soft);
    let settings = "server.connections_max = 300\nserver.workers = 2";
    let server = Server::start(options.settings(settings));
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files: Vec<_> = files.unwrap().split_whitespace().collect();
    assert_eq!(files[3], files[4], "{limits}");
    let _clients = open_idle_connections(&server, 400);
    let process = Process::read(server.pid()).unwrap();
    let open = || process.descriptors();
    wait_until(DEADLINE, "clients are connected", || open() > 300);
    assert!(open() < 380, "{}", open());
    assert_eq!(server.admin("/health/ready").await.status(), 200);
}

#[tokio::test]
async fn a_limit_above_the_memory_of_the_machine_is_capped_with_a_warning() {
    let server = Server::start(Options::new(BINARY).settings("memory.limit = '9000000TiB'"));
    let stats = server.memory_stats().await;
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let total = memory.split_whitespace().nth(1).unwrap();
    let total = total.parse::<u64>().unwrap() * 1024;
    let budget = &stats["budget"];
    assert!(budget["bytes"].as_u64().unwrap() <= total, "{budget}");
    let text = budget.to_string();
    assert!(text.contains("more than the machine has"), "{text}");
    let log = server.log();
    let warnings = log
        .lines()
        .filter(|line| line.contains("memory.limit is more"));
    let warnings: Vec<_> = warnings.collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("WARN"), "{log}");
}

#[test]
fn check_config_shows_the_effective_settings_without_secrets() {
    let output = run(
        &["check-config"],
        &[
            ("HEADROOM__MEMORY__LIMIT", "2GiB"),
            ("HEADROOM__POSTGRES__URL", "postgres://user:hunter2@db/x"),
        ],
    );
    assert_eq!(output.status.code(), Some(0));
    let shown = stdout(&output);
    assert!(
        shown.contains("[server]\nprofile = \"production\"\nlisten = \"127.0.0.1:8080\"\n"),
        "{shown}"
    );
    assert!(
        shown.contains("limit = \"2GiB\" # environment variable HEADROOM__MEMORY__LIMIT\n"),
        "{shown}"
    );
    assert!(shown.contains("url = \"***\""), "{shown}");
    assert!(!shown.contains("hunter2"));
}

#[test]
fn an_address_in_use_is_reported_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (key, other) in [("LISTEN", "ADMIN_LISTEN"), ("ADMIN_LISTEN", "LISTEN")] {
        let (key, other) = (
            format!("HEADROOM__SERVER__{key}"),
            format!("HEADROOM__SERVER__{other}"),
        );
        let variables = [
            (key.as_str(), address.as_str()),
            (other.as_str(), "127.0.0.1:0"),
            ("HEADROOM__LOG__FILTER", "error"),
        ];
        let output = run(&["serve"], &variables);
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        assert!(
            text.starts_with(&format!("headroom: cannot listen on {address}")),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[tokio::test]
async fn the_root_shows_name_and_version() {
    let server = start();
    let index = server.get_json("/").await.ok();
    assert_eq!(index["name"], "Headroom");
    assert_eq!(index["version"], env!("CARGO_PKG_VERSION"));

    let head = server.client().head(server.url("/")).send().await.unwrap();
    assert_eq!(head.status(), 200);
}

#[tokio::test]
async fn a_path_that_does_not_exist_is_a_problem() {
    let server = start();
    for path in ["/nothing", "/../etc/passwd", "/%2e%2e/%00", "//"] {
        assert_problem(server.get(path).await, 404, "not-found").await;
    }
    assert_problem(server.admin("/nothing").await, 404, "not-found").await;
}

#[tokio::test]
async fn a_wrong_method_is_refused_with_the_allowed_ones() {
    let server = start();
    for url in [server.url("/"), server.admin_url("/metrics")] {
        for method in [Method::POST, Method::DELETE, Method::PUT, Method::PATCH] {
            let response = server.client().request(method, &url).send().await.unwrap();
            assert_eq!(response.headers()["allow"], "GET, HEAD");
            assert_problem(response, 405, "method-not-allowed").await;
        }
    }
}

#[tokio::test]
async fn every_answer_has_the_id_of_its_request() {
    let server = start();
    let request_id = async |id: Option<&str>, path: &str| {
        let mut request = server.client().get(server.url(path));
        if let Some(id) = id {
            request = request.header("x-request-id", id);
        }
        let response = request.send().await.unwrap();
        response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    for path in ["/", "/nothing"] {
        assert_eq!(request_id(Some("order-17"), path).await, "order-17");
        assert_ne!(request_id(Some("two words"), path).await, "two words");
        assert_ne!(
            request_id(Some(&"x".repeat(129)), path).await,
            "x".repeat(129)
        );
        assert_ne!(request_id(None, path).await, request_id(None, path).await);
    }
}

#[tokio::test]
async fn a_page_of_another_origin_can_change_nothing() {
    let server = start();
    for (path, member) in [
        ("/api/performance/optimize", "detail"),
        ("/api/performance/memory/gc", "detail"),
        ("/v2/repository/models/some/unload", "error"),
    ] {
        let foreign = server.client().post(server.url(path)).body("{}");
        let response = foreign
            .header("origin", "https://example.org")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 403, "{path}");
        let problem = response.json::<Value>().await.unwrap();
        let text = problem[member].as_str().unwrap();
        assert!(text.contains("another origin"), "{path}: {problem}");
    }
    let own = server.url("");
    let own = server
        .client()
        .post(server.url("/api/performance/memory/gc"))
        .header("origin", &own);
    assert_eq!(own.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn requests_for_an_unknown_host_are_refused_on_both_listeners() {
    let status_of = async |server: &Server, url: String, host: &str| {
        let request = server.client().get(url).header("host", host);
        request.send().await.unwrap()
    };
    let server = start();
    for host in ["localhost", "localhost:8080", "127.0.0.1"] {
        let response = status_of(&server, server.url("/api/status"), host).await;
        assert_eq!(response.status(), 200, "{host}");
    }
    let foreign = "evil.example:8080";
    let problem = status_of(&server, server.url("/api/status"), foreign).await;
    let problem = assert_problem(problem, 421, "unknown-host").await;
    assert!(problem["detail"].as_str().unwrap().contains("server.hosts"));
    let metrics = status_of(&server, server.admin_url("/metrics"), foreign).await;
    assert_eq!(metrics.status(), 421);
    let protocol = status_of(&server, server.url("/v2/models/some"), foreign).await;
    let error = protocol.json::<Value>().await.unwrap();
    assert!(error["error"].as_str().unwrap().contains("server.hosts"));

    let settings = "server.hosts = ['evil.example']";
    let server = Server::start(Options::new(BINARY).settings(settings));
    for url in [server.url("/api/status"), server.admin_url("/metrics")] {
        assert_eq!(status_of(&server, url, foreign).await.status(), 200);
    }
}

#[tokio::test]
async fn the_admin_listener_serves_health_and_metrics() {
    let server = start();
    for (path, status) in [
        ("/health/live", "live"),
        ("/health/ready", "ready"),
        ("/health/startup", "started"),
    ] {
        let response = server.admin(path).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(
            response.json::<Value>().await.unwrap(),
            json!({"status": status})
        );
    }

    server.get("/").await;
    server.get("/nothing").await;
    // What a request holds is given back after its answer was sent.
    wait_for_async(DEADLINE, || async {
        let metrics = server.metrics().await;
        let missing = [
            "headroom_http_requests_total{class=\"status\",outcome=\"2xx\"} 1",
            "headroom_http_requests_total{class=\"unmatched\",outcome=\"4xx\"} 1",
            "headroom_http_requests_in_flight 0",
            "headroom_http_bodies_bytes 0",
            "headroom_http_request_duration_seconds_count{class=\"status\"} 1",
        ]
        .into_iter()
        .find(|line| !metrics.lines().any(|found| found == *line));
        missing.map_or(Ok(()), |line| Err(format!("no {line} in\n{metrics}")))
    })
    .await;
}

/// What the server sends until it closes the connection, in which `bytes` are sent.
fn sent_to(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Asserts that `answer` is one whole problem, after which the connection is closed.
#[track_caller]
fn assert_refused(answer: &str, status: u16, slug: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with(&format!("http/1.1 {status} ")), "{answer}");
    for line in [
        "content-type: application/problem+json",
        "connection: close",
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{answer}");
    }
    let problem: Value = serde_json::from_str(body).expect("a problem alone");
    assert_eq!(problem["type"], format!("/problems/{slug}"), "{answer}");
    assert_eq!(problem["status"], status);
    let id = problem["instance"].as_str().expect("an id");
    assert!(
        head.contains(&format!("\r\nx-request-id: {id}\r\n")),
        "{answer}"
    );
}

#[tokio::test]
async fn a_request_that_cannot_be_parsed_gets_a_problem() {
    let server = start();
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(96));
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET /\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "GET / HTTP/9.9\r\nhost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: x\r\n\r\n",
    ] {
        assert_refused(
            &sent_to(&server, request.as_bytes()),
            400,
            "malformed-request",
        );
    }
    assert_refused(&sent_to(&server, many.as_bytes()), 431, "head-too-large");
    // A chunk whose length is no number: the route has begun to read the body.
    let chunks = "POST /api/performance/optimize HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\nnone\r\n";
    assert_refused(
        &sent_to(&server, chunks.as_bytes()),
        400,
        "malformed-request",
    );
    let mut large = b"GET / HTTP/1.1\r\nhost: x\r\na: ".to_vec();
    large.resize(128 * 1024, b'a');
    assert_refused(&sent_to(&server, &large), 431, "head-too-large");
    // After a response in the same connection.
    let both = "GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\nGET / HTTP/9.9\r\n\r\n";
    let answers = sent_to(&server, both.as_bytes());
    assert!(answers.starts_with("HTTP/1.1 200 "), "{answers}");
    let second = answers.rfind("HTTP/1.1 400 ").expect("a second response");
    assert_refused(&answers[second..], 400, "malformed-request");
    assert_eq!(server.get("/").await.status(), 200);
}

#[test]
fn a_request_whose_host_is_malformed_is_refused() {
    let get = |host: &str| {
        format!("GET /api/status HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
    };
    let refused = |server: &Server, host: &str| {
        let answer = sent_to(server, get(host).as_bytes());
        assert_refused(&answer, 400, "malformed-request");
    };
    let server = start();
    for host in ["a b", "a/b", "[::1", "localhost:99999", "evil%2eexample"] {
        refused(&server, host);
    }
    let answer = sent_to(&server, get("").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let settings = "server.hosts = ['a.lan']";
    refused(&Server::start(Options::new(BINARY).settings(settings)), "");
}

#[test]
fn the_ready_file_exists_exactly_while_the_server_answers() {
    let mut server = start();
    let content: Value =
        serde_json::from_str(&fs::read_to_string(server.ready_file()).unwrap()).unwrap();
    assert_eq!(content["listen"], server.address().to_string());
    assert_eq!(content["pid"], server.pid());
    TcpStream::connect(content["admin_listen"].as_str().unwrap()).unwrap();

    server.signal(Signal::SIGTERM);
    server.wait_for_exit();
    let left: Vec<_> = fs::read_dir(server.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("ready"))
        .collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn a_ready_file_that_cannot_be_written_is_refused_before_anything_starts() {
    let output = run(
        &["serve", "--ready-file", "/nonexistent/ready.json"],
        &[
            ("HEADROOM__SERVER__LISTEN", "127.0.0.1:0"),
            ("HEADROOM__SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
            ("HEADROOM__LOG__FILTER", "debug"),
        ],
    );
    assert_eq!(output.status.code(), Some(64));
    let text = stderr(&output);
    assert!(
        text.starts_with("error: --ready-file /nonexistent/ready.json cannot be written: "),
        "{text}"
    );
    assert!(!text.contains("starting"), "{text}");
}

#[test]
fn a_limit_of_descriptors_that_is_too_low_prevents_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = child::command("sh");
    command
        .args(["-c", "ulimit -n 64 && exec \"$@\"", "sh", BINARY, "serve"])
        .current_dir(folder.path())
        .env("HEADROOM__SERVER__LISTEN", "127.0.0.1:0")
        .env("HEADROOM__SERVER__ADMIN_LISTEN", "127.0.0.1:0")
        .env("HEADROOM__LOG__FILTER", "off");
    let output = child::output(&mut command, DEADLINE).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.starts_with("headroom: this process may open only 64 files"),
        "{text}"
    );
}

#[tokio::test]
async fn the_admin_listener_has_a_deadline_of_its_own_for_request_heads() {
    let settings = "server.client_request_timeout = '10m'";
    let server = Server::start(Options::new(BINARY).settings(settings));
    let mut stream = TcpStream::connect(server.admin_address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /health/live HT").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn sigterm_sigint_and_sigquit_end_the_server_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut server = start();
        // An idle keep-alive connection must not delay the exit.
        server.get("/").await;
        server.signal(signal);
        assert_eq!(server.wait_for_exit().code(), Some(0));
        assert!(server.log().contains("stopped"), "{}", server.log());
    }
}

#[test]
fn signals_that_the_parent_has_blocked_are_received() {
    let block = "import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
os.execv(sys.argv[1], sys.argv[1:])";
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let options = Options::new(BINARY).launched_by(&["python3", "-c", block]);
        let mut server = Server::start(options);
        server.signal(Signal::SIGHUP);
        server.wait_for_log("settings reloaded");
        server.signal(signal);
        assert_eq!(server.wait_for_exit().code(), Some(0));
        assert!(server.log().contains("stopped"), "{}", server.log());
    }
}

#[tokio::test]
async fn while_the_server_stops_it_is_alive_and_not_ready() {
    let mut server = start();
    let unfinished = unfinished_request(&server);
    server.signal(Signal::SIGTERM);
    wait_for_async(DEADLINE, || async {
        let response = server.admin("/health/ready").await;
        match response.status().as_u16() {
            503 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let problem = assert_problem(server.admin("/health/ready").await, 503, "not-ready").await;
    assert!(
        problem["reasons"]["server"]
            .as_str()
            .unwrap()
            .starts_with("draining")
    );
    assert_eq!(server.admin("/health/live").await.status(), 200);
    assert_eq!(server.admin("/health/startup").await.status(), 200);

    drop(unfinished);
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_server_at_once_and_the_log_has_what_it_cuts() {
    for (signal, code) in [
        (Signal::SIGTERM, 143),
        (Signal::SIGINT, 130),
        (Signal::SIGQUIT, 131),
    ] {
        let mut server = start();
        let _unfinished = unfinished_request(&server);
        server.signal(Signal::SIGTERM);
        server.wait_for_log("finishing requests in flight");
        server.signal(signal);
        assert_eq!(server.wait_for_exit().code(), Some(code));
        let log = server.log();
        let line = log.lines().find(|line| line.contains("ending at once"));
        let line = line.unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains(signal.as_str()), "{line}");
        assert!(line.contains("requests=1 connections=1"), "{line}");
    }
}

/// A connection with a request whose handler waits for the body.
fn unfinished_request(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream
        .write_all(
            b"POST /v2/repository/index HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n",
        )
        .unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    stream
}

#[tokio::test]
async fn a_reload_replaces_the_log_filter_and_names_settings_that_need_a_restart() {
    let server = Server::start(Options::new(BINARY).settings("log.filter = 'info'"));
    server.get("/").await;
    assert!(!server.log().contains("request answered"));

    fs::write(
        server.settings_file(),
        "log.filter = 'info,headroom::access=debug'\nserver.workers = 3\n",
    )
    .unwrap();
    server.signal(Signal::SIGHUP);
    let log = server.wait_for_log("settings reloaded");
    assert!(
        log.contains("log.filter") && log.contains("server.workers"),
        "{log}"
    );
    server.get("/").await;
    server.wait_for_log("request answered");

    fs::write(server.settings_file(), "log.filter = 7\n").unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("settings not reloaded");
    assert_eq!(server.get("/").await.status(), 200);
}

#[tokio::test]
async fn reloads_are_counted_by_their_outcome() {
    let server = start();
    let reloads = async |outcome: &str| {
        let label = format!("outcome=\"{outcome}\"");
        server
            .metric("headroom_settings_reloads_total", &[&label])
            .await
    };
    for (line, said, counts, successful) in [
        (
            "log.filter = 'wran'",
            "settings not reloaded",
            [0.0, 1.0],
            0.0,
        ),
        ("log.filter = 'warn'", "settings reloaded", [1.0, 1.0], 1.0),
    ] {
        fs::write(server.settings_file(), line).unwrap();
        server.signal(Signal::SIGHUP);
        server.wait_for_log(said);
        assert_eq!([reloads("applied").await, reloads("refused").await], counts);
        let last = server
            .metric("headroom_settings_last_reload_successful", &[])
            .await;
        assert_eq!(last, successful);
    }
}

#[tokio::test]
async fn signals_without_a_meaning_here_are_named_in_the_log_and_do_not_end_the_server() {
    let mut server = start();
    for (signal, name) in [(Signal::SIGUSR1, "SIGUSR1"), (Signal::SIGUSR2, "SIGUSR2")] {
        server.signal(signal);
        server.wait_for_log(name);
        assert_eq!(server.get("/").await.status(), 200);
    }
    assert!(!server.log().contains("reloaded"), "{}", server.log());
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

#[tokio::test]
async fn the_result_of_a_reload_is_logged_with_any_filter() {
    for filter in ["off", "hyper=error"] {
        let settings = format!("log.filter = '{filter}'");
        let server = Server::start(Options::new(BINARY).settings(&settings));
        assert_eq!(server.log(), "");
        fs::write(server.settings_file(), "log.filter = 'wran'\n").unwrap();
        server.signal(Signal::SIGHUP);
        let log = server.wait_for_log("settings not reloaded");
        assert!(log.contains("did you mean warn?"), "{log}");
        // The old filter stays in force.
        server.get("/nothing").await;
        fs::write(server.settings_file(), "log.filter = 'warn'\n").unwrap();
        server.signal(Signal::SIGHUP);
        let log = server.wait_for_log("settings reloaded");
        assert_eq!(log.lines().count(), 2, "{log}");
    }
}

#[tokio::test]
async fn json_logs_are_one_object_per_line() {
    let mut server =
        Server::start(Options::new(BINARY).settings("log = { format = 'json', filter = 'debug' }"));
    server.get("/nothing").await;
    server.signal(Signal::SIGTERM);
    server.wait_for_exit();
    let events: Vec<Value> = server
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let request = events
        .iter()
        .find(|event| event["target"] == "headroom::access")
        .unwrap();
    assert_eq!(request["status"], 404);
    assert_eq!(request["problem"], "not-found");
    assert_eq!(request["path"], "unmatched");
    let timestamp = request["timestamp"].as_str().unwrap();
    assert!(
        timestamp.contains('T') && timestamp.ends_with('Z'),
        "{timestamp}"
    );
}
