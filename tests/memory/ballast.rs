//! Memory that nobody reserved: a process within the budget grows all at once.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use headroom_test_support::models::Models;
use headroom_test_support::server::Server;
use headroom_test_support::wait::wait_for_async;
use serde_json::Value;
use tempfile::TempDir;

use super::stage::{BINARY, DEADLINE, MIB, Stage, ask, number};

/// What the ballast takes at once, in MiB.
const BALLAST: u64 = 300;

/// A child of the server that takes memory when told to, and ends with the server.
struct Ballast {
    folder: TempDir,
}

impl Ballast {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("orders");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self { folder }
    }

    fn pipe(&self) -> PathBuf {
        self.folder.path().join("orders")
    }

    /// The server's command becomes that of a shell that has started the ballast before.
    fn serve(&self, models: &Models, settings: &str) -> Server {
        let grow = "import sys\nfor line in sys.stdin:\n  held = bytearray(b'x') * int(line)";
        let start = format!(
            "python3 -c \"{grow}\" < '{}' & exec \"$0\" \"$@\"",
            self.pipe().display()
        );
        let options = models.options(BINARY).settings(settings);
        Server::start(options.launched_by(&["sh", "-c", &start]))
    }

    /// For reading too, so that the pipe always has both ends.
    fn open(&self) -> File {
        let mut both = File::options();
        both.read(true).write(true).open(self.pipe()).unwrap()
    }
}

async fn events(server: &Server) -> Vec<Value> {
    let stats = server
        .get("/api/performance/memory/stats?events=1000")
        .await;
    let mut stats: Value = stats.json().await.unwrap();
    let Value::Array(events) = stats["events"].take() else {
        panic!("{stats}");
    };
    events
}

fn at(event: &Value) -> SystemTime {
    humantime::parse_rfc3339(event["at"].as_str().unwrap()).unwrap()
}

fn rank(level: &Value) -> usize {
    let levels = ["normal", "elevated", "high", "critical", "exhausted"];
    let known = levels.iter().position(|name| level == name);
    known.unwrap_or_else(|| panic!("{level}"))
}

#[tokio::test]
async fn a_sudden_growth_is_answered_at_once_and_the_events_tell_the_story() {
    let models = Models::new();
    models.adds("one", 100, 1.0).adds("two", 100, 2.0);
    let ballast = Ballast::new();
    let mut orders = ballast.open();
    let limit = 680 * MIB;
    let server = ballast.serve(
        &models,
        &format!("memory.limit = '{limit}B'\nmemory.dwell = '300ms'"),
    );
    assert_eq!(number(ask(&server, "one", 1).await), 2.0);
    assert_eq!(number(ask(&server, "two", 1).await), 3.0);
    assert_eq!(events(&server).await, [Value::Null; 0]);

    writeln!(orders, "{}", BALLAST * MIB).unwrap();
    wait_for_async(DEADLINE, || async {
        let events = events(&server).await;
        let last = events.iter().rev().find(|event| event["event"] == "level");
        match last {
            Some(event) if rank(&event["to"]) < 2 && rank(&event["from"]) > 0 => Ok(()),
            _ => Err(events),
        }
    })
    .await;

    let events = events(&server).await;
    println!("{events:#?}");
    // It rose to an emergency; what is idle went; then it fell, one event after the other.
    let of = |event: &Value, name: &str| event["event"] == name;
    let risen = events
        .iter()
        .position(|it| of(it, "level") && rank(&it["to"]) >= 3);
    let risen = risen.expect("an emergency");
    let emergency = |it: &&Value| of(it, "clean_up") && rank(&it["level"]) >= 3;
    let clean_ups: Vec<&Value> = events.iter().filter(emergency).collect();
    let last = *clean_ups.last().expect("a clean-up");
    let fallen = events.iter().rfind(|it| of(it, "level")).unwrap();
    let order = |event: &Value| event["number"].as_u64().unwrap();
    assert!(order(&events[risen]) < order(clean_ups[0]));
    assert!(order(last) < order(fallen));
    let numbers = events.iter().map(order);
    assert!(numbers.eq(1..=events.len() as u64));
    let bytes = |event: &Value, key: &str| event[key].as_u64().unwrap();
    assert!(bytes(&events[risen], "used_after_bytes") > limit * 85 / 100);
    assert!(bytes(last, "used_after_bytes") < limit * 75 / 100);
    let actions = clean_ups
        .iter()
        .flat_map(|it| it["actions"].as_array().unwrap());
    let by_loader: Vec<&Value> = actions.filter(|it| it["by"] == "lazy-loader").collect();
    assert!(!by_loader.is_empty(), "{clean_ups:?}");
    for action in by_loader {
        assert!(bytes(action, "promised_bytes") > 100 * MIB, "{action}");
        assert!(bytes(action, "gained_bytes") > 100 * MIB, "{action}");
    }
    let took = at(last).duration_since(at(&events[risen])).unwrap();
    println!("from the emergency to below three quarters: {took:?}");
    // The promise is one second; a machine that is busy with other tests gets some more.
    assert!(took < Duration::from_secs(5), "{took:?}");

    // Memory comes back, and with it the models.
    writeln!(orders, "1").unwrap();
    assert_eq!(number(ask(&server, "one", 2).await), 3.0);
    let failures = server.metric("headroom_lazy_load_failures_total", &[]);
    assert_eq!(failures.await, 0.0);
}
