//! Without any URL: private servers, started at the first use.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use headroom_test_support::process_tree::{Process, is_alive};
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::{wait_for, wait_for_async};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

use super::{BINARY, DEADLINE, POOLS, get, probe, processes, start, use_pool};

/// A server that is back must be found this soon.
const RECOVERY: Duration = Duration::from_secs(2);

fn kill_process(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
}

/// The one process of this name that the server itself started: PostgreSQL's others are its children.
fn main_process(server: &Server, name: &str) -> u32 {
    let mut found = processes(server, name);
    found.retain(|process| process.parent == server.pid());
    assert_eq!(found.len(), 1, "{name}: {found:?}");
    found[0].pid
}

#[tokio::test]
async fn nothing_is_started_before_the_first_use_and_nobody_is_left_after_the_end() {
    let mut server = start("");
    let cold = get(&server, "/api/performance/connections/stats").await;
    let names: Vec<_> = cold["pools"].as_array().unwrap().iter().collect();
    assert_eq!(
        names
            .iter()
            .map(|pool| pool["name"].as_str().unwrap())
            .collect::<Vec<_>>(),
        POOLS
    );
    assert!(names.iter().all(|pool| pool["opened"] == 0), "{cold}");
    assert_eq!(processes(&server, "postgres").len(), 0);
    assert_eq!(processes(&server, "redis-server").len(), 0);

    let idle = get(&server, "/api/pools/postgres").await;
    assert_eq!(idle["private_server"]["state"], "idle", "{idle}");
    let facts = use_pool(&server, "postgres").await;
    let running = get(&server, "/api/pools/postgres").await;
    assert_eq!(
        running["private_server"]["pid"],
        main_process(&server, "postgres"),
        "{running}"
    );
    assert!(
        facts["server"]["version"]
            .as_str()
            .is_some_and(|version| !version.is_empty()),
        "{facts}"
    );
    use_pool(&server, "redis-primary").await;
    let (postgres, redis) = (
        main_process(&server, "postgres"),
        main_process(&server, "redis-server"),
    );
    for pid in [postgres, redis] {
        let owner = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
        assert_ne!(owner, 0, "{pid} runs as root");
        if !geteuid().is_root() {
            assert_eq!(owner, geteuid().as_raw());
        }
    }
    let warm = get(&server, "/api/performance/connections/stats").await;
    assert_eq!(warm["pools"][0]["opened"], 1, "{warm}");

    server.signal(Signal::SIGTERM);
    assert!(server.wait_for_end(DEADLINE).success());
    assert!(!is_alive(postgres) && !is_alive(redis));
}

#[tokio::test]
async fn once_private_servers_run_they_count_as_measured_and_memory_is_read_as_at_rest() {
    let server = start("");
    for pool in ["postgres", "redis-primary"] {
        use_pool(&server, pool).await;
    }
    wait_for_async(DEADLINE, || async {
        let stats = get(&server, "/api/performance/memory/stats").await;
        let entries = stats["entries"].as_array().unwrap();
        let settled = |entry: &&Value| {
            let bytes = |key: &str| entry[key].as_u64().unwrap();
            let measured = bytes("measured_bytes");
            entry["loading"] == false && measured > 0 && bytes("reserved_bytes") >= measured
        };
        let settled = entries.iter().filter(settled).count();
        (settled == 2).then_some(()).ok_or(stats)
    })
    .await;
    let read = || server.metric("headroom_memory_samples_total", &[]);
    let (begun, before) = (Instant::now(), read().await);
    wait_for_async(DEADLINE, || async {
        let now = read().await;
        (now >= before + 4.0).then_some(()).ok_or(now)
    })
    .await;
    // One a second. While something is loaded, these would take a fifth of a second.
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn private_servers_listen_on_no_network() {
    let server = start("");
    use_pool(&server, "postgres").await;
    use_pool(&server, "redis-primary").await;
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
        use_pool(&server, pool).await;
        let before = main_process(&server, name);
        kill_process(before);
        let killed = Instant::now();
        let answered = wait_for_async(DEADLINE, || async {
            let (status, body) = probe(&server, pool).await;
            assert!(
                status == 200 || status == 503 || status == 504,
                "{status}: {body}"
            );
            // A session of the one that was killed may answer once more, before it notices.
            let mut running = processes(&server, name).into_iter();
            let is_new = running.any(|it| it.parent == server.pid() && it.pid != before);
            (status == 200 && is_new).then(Instant::now).ok_or(body)
        })
        .await;
        let took = answered.duration_since(killed);
        // Its own start included: far more than the promise, which counts from its return.
        assert!(took < RECOVERY * 5, "{pool}: {took:?}");
        assert_ne!(main_process(&server, name), before);
    }
}

#[tokio::test]
async fn after_a_kill_of_the_server_itself_the_next_one_takes_over() {
    let mut first = start("");
    for pool in ["postgres", "redis-primary"] {
        use_pool(&first, pool).await;
    }
    let orphans = [
        main_process(&first, "postgres"),
        main_process(&first, "redis-server"),
    ];
    let data = first.folder().join("data");
    first.signal(Signal::SIGKILL);
    first.wait_for_end(DEADLINE);
    // At once: nothing waits for the old ones to go.
    let settings = format!("data.dir = '{}'", data.display());
    let second = Server::start(Options::new(BINARY).settings(&settings));
    for pool in ["postgres", "redis-primary"] {
        wait_for_async(DEADLINE, || async {
            let (status, body) = probe(&second, pool).await;
            (status == 200).then_some(()).ok_or(body)
        })
        .await;
    }
    wait_for(DEADLINE, || {
        let left: Vec<_> = orphans.iter().filter(|pid| is_alive(**pid)).collect();
        left.is_empty()
            .then_some(())
            .ok_or(format!("{left:?} are left"))
    });
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
