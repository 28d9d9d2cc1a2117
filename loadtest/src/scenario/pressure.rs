//! The memory supervisor: its cost at rest, and its reaction to a sudden growth.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::PeakSampler;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use headroom_test_support::unreserved_process::UnreservedProcess;
use serde_json::Value;

use super::{pause, repository, start};
use crate::Result;
use crate::client::{Connection, get};
use crate::report::{figure, figure_at_most};
use crate::sample::Samples;

const MIB: u64 = 1 << 20;

/// Loaded idle models, and the bytes of their weights.
const MODELS: [&str; 3] = ["model-0", "model-1", "model-2"];
const WEIGHTS: u64 = 100 * MIB;

/// Idle blocking threads end after ten seconds, and the record of their time ends with them.
const IDLE_THREADS_END: Duration = Duration::from_secs(15);

/// How long the servers are measured at rest.
const REST: Duration = Duration::from_secs(60);

/// The growth, which is far above 85 % of the budget, how often it happens, and the budget.
const GROWTH: u64 = 300 * MIB;
const ROUNDS: usize = 7;
const BUDGET: u64 = 740 * MIB;

/// After a change, how long until the server is at rest.
const SETTLE: Duration = Duration::from_secs(3);

/// The deadline of a clean-up.
const WITHIN: Duration = Duration::from_secs(20);

pub(super) fn measure(binary: &Path) -> Result<()> {
    let models = Models::new();
    for name in MODELS {
        models.add(name, 1, |path| torchscript::weights(path, WEIGHTS));
    }
    at_rest(binary, &models)?;
    emergency(binary, &models)
}

/// Measures a server that reads memory every second, beside one that does not. Both run at the same time,
/// so that they see the same machine load.
fn at_rest(binary: &Path, models: &Models) -> Result<()> {
    let servers = ["1s", "1h"].map(|interval| {
        let settings = format!(
            "memory.sample_interval = '{interval}'\nmemory.sample_interval_fast = '50ms'\n\
             memory.gc_interval = '1h'"
        );
        start(binary, models, &settings)
    });
    for server in &servers {
        load_all(server)?;
    }
    pause(IDLE_THREADS_END);
    let begun = Instant::now();
    let before = servers.each_ref().map(processor_time);
    pause(REST);
    let after = servers.each_ref().map(processor_time);
    let took = begun.elapsed().as_secs_f64();
    let [read, unread] = [0, 1].map(|server| {
        [0, 1].map(|part| (after[server][part] - before[server][part]) / took * 100.0)
    });
    let name = "reading memory at rest, share of a core";
    figure_at_most(0.2, name, read[1] - unread[1], "%");
    figure("of it on the threads that read", read[0], "%");
    figure("the whole server at rest, share of a core", read[1], "%");
    figure("the same without readings", unread[1], "%");
    Ok(())
}

/// The processor seconds of a server: those of its blocking threads, which at rest only read memory, and
/// those of all threads.
fn processor_time(server: &Server) -> [f64; 2] {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid()));
    let mut seconds = [0.0, 0.0];
    for task in tasks.into_iter().flatten().flatten() {
        // The thread may have ended.
        let text = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let schedstat = text("schedstat");
        let nanoseconds = schedstat.split(' ').next().and_then(|it| it.parse().ok());
        let ran: f64 = nanoseconds.unwrap_or(0.0) / 1e9;
        if text("comm").starts_with("tokio-rt") {
            seconds[0] += ran;
        }
        seconds[1] += ran;
    }
    seconds
}

/// Measures clean-ups: the server's memory grows by [`GROWTH`] at once, several times.
fn emergency(binary: &Path, models: &Models) -> Result<()> {
    let process = UnreservedProcess::new();
    let settings =
        format!("log.filter = 'warn'\nmemory.limit = '{BUDGET}B'\nmemory.dwell = '500ms'");
    let server = process.start_server(models.options(binary).settings(&settings));
    let mut connection = Connection::open(server.address())?;
    let (mut below, mut over) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        load_all(&server)?;
        pause(SETTLE);
        let seen = events(&mut connection)?.len();
        let sampler = PeakSampler::start(server.pid());
        process.hold(GROWTH);
        let events = wait_for_end(&mut connection, seen)?;
        over.push(sampler.finish().bytes.saturating_sub(BUDGET) as f64 / MIB as f64);
        below.extend(time_to_relief(&events));
        process.hold(1);
        pause(SETTLE);
    }
    let (below, over) = (Samples::new(below), Samples::new(over));
    let name = "from critical to below 75 %, median";
    figure_at_most(1000.0, name, below.median(), "ms");
    let name = "from critical to below 75 %, longest";
    figure_at_most(1000.0, name, below.at(1.0), "ms");
    let name = "above the budget while growing, median";
    figure(name, over.median(), "MiB");
    Ok(())
}

fn load_all(server: &Server) -> Result<()> {
    MODELS
        .iter()
        .try_for_each(|name| repository(server, name, "load"))
}

fn events(connection: &mut Connection) -> Result<Vec<Value>> {
    let answer = connection.ask(&get("/api/performance/memory/stats?events=1000"))?;
    let mut stats: Value = serde_json::from_slice(answer)?;
    match stats["events"].take() {
        Value::Array(events) => Ok(events),
        _ => Err("the memory statistics have no events".into()),
    }
}

/// Waits until the level has risen and fallen. Returns the events after the first `seen`.
fn wait_for_end(connection: &mut Connection, seen: usize) -> Result<Vec<Value>> {
    let begun = Instant::now();
    loop {
        let new = events(connection)?.split_off(seen);
        let levels = || new.iter().filter(|event| event["event"] == "level");
        let fell = |event: &Value| event["to"] == "normal" || event["to"] == "elevated";
        if levels().any(is_emergency) && levels().next_back().is_some_and(fell) {
            return Ok(new);
        }
        if begun.elapsed() > WITHIN {
            return Err(format!("no clean-up has ended within {WITHIN:?}: {new:?}").into());
        }
        pause(Duration::from_millis(50));
    }
}

fn is_emergency(event: &Value) -> bool {
    event["event"] == "level" && (event["to"] == "critical" || event["to"] == "exhausted")
}

/// Milliseconds from the first emergency to the first reading below three quarters of the budget.
fn time_to_relief(events: &[Value]) -> Option<f64> {
    let at = |event: &Value| humantime::parse_rfc3339(event["at"].as_str()?).ok();
    let mut after = events.iter().skip_while(|event| !is_emergency(event));
    let began: SystemTime = at(after.next()?)?;
    let relieved = after.find(|event| {
        let used = event["used_after_bytes"].as_u64();
        used.is_some_and(|used| used < BUDGET / 4 * 3)
    })?;
    let took = at(relieved)?.duration_since(began).ok()?;
    Some(took.as_secs_f64() * 1e3)
}
