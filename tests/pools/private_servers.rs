//! Without any URL: private servers, which the first use starts.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use headroom_test_support::child;
use headroom_test_support::process_tree::{Process, wait_until_gone};
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use serde_json::Value;

use super::{BINARY, POOLS, get, probe, probe_ok, processes, start};

/// Longest time from the return of a server to the first answer of its pool.
const RECOVERY: Duration = Duration::from_secs(2);

/// The main process of a private server. PostgreSQL's other processes are children of it.
fn main_process(server: &Server, name: &str) -> Process {
    let mut found = processes(server, name);
    found.retain(|process| process.parent == server.pid());
    match <[Process; 1]>::try_from(found) {
        Ok([process]) => process,
        Err(found) => panic!("not one process {name}: {found:?}"),
    }
}

#[tokio::test]
async fn private_servers_start_with_the_first_use_and_end_with_the_server() {
    let mut server = start("");
    let cold = get(&server, "/api/performance/connections/stats").await;
    let pools = cold["pools"].as_array().unwrap();
    let names = pools.iter().map(|pool| pool["name"].as_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), POOLS);
    assert!(pools.iter().all(|pool| pool["opened_total"] == 0), "{cold}");
    assert_eq!(processes(&server, "postgres").len(), 0);
    assert_eq!(processes(&server, "redis-server").len(), 0);

    let idle = get(&server, "/api/pools/postgres").await;
    assert_eq!(idle["private_server"]["state"], "idle", "{idle}");
    let report = probe_ok(&server, "postgres").await;
    let running = get(&server, "/api/pools/postgres").await;
    assert_eq!(
        running["private_server"]["pid"],
        main_process(&server, "postgres").pid,
        "{running}"
    );
    assert!(
        report["server"]["version"]
            .as_str()
            .is_some_and(|version| !version.is_empty()),
        "{report}"
    );
    probe_ok(&server, "redis-primary").await;
    let main_processes = ["postgres", "redis-server"].map(|name| main_process(&server, name));
    for Process { pid, .. } in &main_processes {
        let owner = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
        assert_ne!(owner, 0, "{pid} runs as root");
        if !geteuid().is_root() {
            assert_eq!(owner, geteuid().as_raw());
        }
    }
    let warm = get(&server, "/api/performance/connections/stats").await;
    assert_eq!(warm["pools"][0]["opened_total"], 1, "{warm}");
    let retries = serde_json::json!({ "repeated_total": 0, "prepared_again_total": 0 });
    assert_eq!(warm["pools"][0]["statements"], retries, "{warm}");
    assert!(warm["pools"][1]["statements"].is_null(), "{warm}");

    server.signal(Signal::SIGTERM);
    assert!(server.wait_for_exit().success());
    assert!(!main_processes.iter().any(Process::is_running));
}

#[tokio::test]
async fn each_role_of_redis_has_a_private_server_of_its_own() {
    let server = start("");
    let roles = ["redis-primary", "redis-cache", "redis-pubsub"];
    for (running, pool) in roles.into_iter().enumerate() {
        assert_eq!(processes(&server, "redis-server").len(), running);
        probe_ok(&server, pool).await;
    }
    let running = processes(&server, "redis-server");
    let mut pids: Vec<_> = running
        .iter()
        .map(|process| u64::from(process.pid))
        .collect();
    let mut shown = Vec::new();
    for pool in roles {
        let status = get(&server, &format!("/api/pools/{pool}")).await;
        shown.push(status["private_server"]["pid"].as_u64().unwrap());
    }
    pids.sort_unstable();
    shown.sort_unstable();
    assert_eq!(pids, shown);
    let stats = get(&server, "/api/performance/memory/stats").await;
    let entries = stats["entries"].as_array().unwrap();
    let mut names: Vec<_> = entries
        .iter()
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["redis", "redis-cache", "redis-pubsub"]);
}

#[tokio::test]
async fn running_private_servers_are_measured_and_memory_is_read_once_a_second() {
    let server = start("");
    for pool in ["postgres", "redis-primary"] {
        probe_ok(&server, pool).await;
    }
    wait_for_async(DEADLINE, || async {
        let stats = get(&server, "/api/performance/memory/stats").await;
        let entries = stats["entries"].as_array().unwrap();
        let is_measured = |entry: &&Value| {
            let bytes = |key: &str| entry[key].as_u64().unwrap();
            let measured = bytes("measured_bytes");
            entry["loading"] == false && measured > 0 && bytes("reserved_bytes") >= measured
        };
        let measured = entries.iter().filter(is_measured).count();
        (measured == 2).then_some(()).ok_or(stats)
    })
    .await;
    let readings = "headroom_memory_readings_total";
    let (begun, before) = (Instant::now(), server.metric(readings, &[]).await);
    server
        .wait_for_metric(readings, &[], |now| now >= before + 4.0)
        .await;
    // Four readings take four seconds at rest, and a fifth of a second during a load.
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn private_servers_listen_on_no_network() {
    let server = start("");
    probe_ok(&server, "postgres").await;
    probe_ok(&server, "redis-primary").await;
    let listening = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| {
        let text = fs::read_to_string(table).unwrap_or_default();
        let listening = text.lines().skip(1).filter_map(|line| {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            (fields.get(3) == Some(&"0A")).then(|| fields[9].to_owned())
        });
        listening.collect::<Vec<_>>()
    });
    let sockets = listening.concat();
    for name in ["postgres", "redis-server"] {
        for Process { pid, .. } in processes(&server, name) {
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
            for link in descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()) {
                let link = link.to_string_lossy().into_owned();
                let inode = link
                    .strip_prefix("socket:[")
                    .map(|rest| rest.trim_end_matches(']'));
                let is_network = inode.is_some_and(|inode| sockets.iter().any(|it| it == inode));
                assert!(!is_network, "{name} listens on the network");
            }
        }
    }
}

#[tokio::test]
async fn a_killed_private_server_is_back_within_two_seconds() {
    let server = start("");
    for (pool, name) in [("postgres", "postgres"), ("redis-primary", "redis-server")] {
        probe_ok(&server, pool).await;
        let before = main_process(&server, name);
        before.kill();
        let killed = Instant::now();
        let answered = wait_for_async(DEADLINE, || async {
            let (status, body) = probe(&server, pool).await;
            assert!(
                status == 200 || status == 503 || status == 504,
                "{status}: {body}"
            );
            // A session of the killed server may answer once more.
            let mut running = processes(&server, name).into_iter();
            let is_new = running.any(|it| it.parent == server.pid() && it != before);
            (status == 200 && is_new).then(Instant::now).ok_or(body)
        })
        .await;
        let took = answered.duration_since(killed);
        // This time includes the start of the server itself, which the target leaves out.
        assert!(took < RECOVERY * 5, "{pool}: {took:?}");
        assert_ne!(main_process(&server, name), before);
    }
}

#[tokio::test]
async fn after_a_kill_of_the_server_the_next_one_replaces_its_private_servers() {
    let mut first = start("");
    for pool in ["postgres", "redis-primary"] {
        probe_ok(&first, pool).await;
    }
    let orphans = [
        main_process(&first, "postgres"),
        main_process(&first, "redis-server"),
    ];
    let data = first.folder().join("data");
    first.signal(Signal::SIGKILL);
    first.wait_for_exit();
    // At once, without waiting for the end of the old private servers.
    let settings = format!("data.dir = '{}'", data.display());
    let second = Server::start(Options::new(BINARY).settings(&settings));
    for pool in ["postgres", "redis-primary"] {
        wait_for_async(DEADLINE, || async {
            let (status, body) = probe(&second, pool).await;
            (status == 200).then_some(()).ok_or(body)
        })
        .await;
    }
    wait_until_gone(&orphans);
}

#[tokio::test]
async fn in_a_namespace_without_other_users_it_is_said_who_is_missing() {
    let unshare = ["unshare", "--user", "--map-root-user"];
    let mut is_allowed = child::command(unshare[0]);
    is_allowed.args(&unshare[1..]).arg("true");
    let is_allowed = child::output(&mut is_allowed, DEADLINE);
    if !is_allowed.is_ok_and(|output| output.status.success()) {
        println!("skipped: this machine allows no user namespaces");
        return;
    }
    // The namespace changes the rights of the process, which ends its death signal.
    let launcher = [&unshare[..], &["setpriv", "--pdeathsig", "KILL", "--"]].concat();
    let server = Server::start(Options::new(BINARY).launched_by(&launcher));
    let (status, body) = probe(&server, "postgres").await;
    assert_eq!(status, 503, "{body}");
    let detail = body["detail"].as_str().unwrap();
    assert!(
        detail.contains("the user namespace") && detail.contains("/proc/self/uid_map"),
        "{detail}"
    );
}

#[tokio::test]
async fn without_binaries_the_server_starts_and_says_what_to_install() {
    let empty = tempfile::tempdir().unwrap();
    let settings = format!(
        "postgres.embedded.bin_dir = '{0}'\nredis.embedded.bin_dir = '{0}'",
        empty.path().display()
    );
    let server = start(&settings);
    for (pool, program) in [("postgres", "postgres"), ("redis-cache", "redis-server")] {
        let (status, body) = probe(&server, pool).await;
        assert_eq!(status, 503, "{body}");
        let detail = body["detail"].as_str().unwrap();
        assert!(
            detail.contains(program) && detail.contains("install"),
            "{detail}"
        );
    }
    let health = get(&server, "/api/performance/connections/health").await;
    assert_eq!(health["status"], "down", "{health}");
    assert_eq!(server.admin("/health/ready").await.status(), 200);
}
