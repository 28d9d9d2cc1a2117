//! The memory supervisor: its cost at rest, and its reaction to a sudden growth.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::PeakSampler;
use headroom_test_support::torchscript;
use headroom_test_support::unreserved_process::UnreservedProcess;
use serde_json::Value;

use super::pause;
use crate::Error;
use crate::client::{Connection, Request};
use crate::report::Figure;
use crate::sample::Samples;
use crate::server::{Binaries, repository};

const MIB: u64 = 1 << 20;

/// Loaded idle models, and the bytes of their weights.
const MODELS: usize = 3;
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

pub(crate) fn pressure(binaries: &Binaries) -> Result<Vec<Figure>, Error> {
    let [read, unread] = rest(binaries, ["1s", "1h"])?;
    let mut figures = vec![
        Figure::new(
            "reading memory at rest, share of a core",
            read.all - unread.all,
            "%",
        )
        .at_most(0.2),
        Figure::new("of it on the threads that read", read.blocking, "%"),
        Figure::new("the whole server at rest, share of a core", read.all, "%"),
        Figure::new("the same without readings", unread.all, "%"),
    ];
    figures.extend(emergency(binaries)?);
    Ok(figures)
}

/// Processor time at rest, in percent of one core.
struct Rest {
    /// The blocking threads. At rest they only read memory.
    blocking: f64,
    /// All threads.
    all: f64,
}

/// Measures servers with idle models that read memory at these intervals. All run at the same time, so
/// that they see the same machine load.
fn rest<const N: usize>(binaries: &Binaries, intervals: [&str; N]) -> Result<[Rest; N], Error> {
    let models = models();
    let servers = intervals.map(|interval| {
        let settings = format!(
            "memory.sample_interval = '{interval}'\nmemory.sample_interval_fast = '50ms'\n\
             memory.gc_interval = '1h'"
        );
        binaries.start(&models, &settings)
    });
    for server in &servers {
        for index in 0..MODELS {
            repository(server, &name(index), "load")?;
        }
    }
    pause(IDLE_THREADS_END);
    let times = || -> Result<Vec<_>, Error> {
        servers
            .iter()
            .map(|server| processor_time(server.pid()))
            .collect()
    };
    let (before, began) = (times()?, Instant::now());
    pause(REST);
    let (after, took) = (times()?, began.elapsed());
    let share = |before: Duration, after: Duration| {
        after.saturating_sub(before).as_secs_f64() / took.as_secs_f64() * 100.0
    };
    Ok(std::array::from_fn(|server| Rest {
        blocking: share(before[server].0, after[server].0),
        all: share(before[server].1, after[server].1),
    }))
}

/// The processor time of a process: that of its blocking threads, and that of all threads.
fn processor_time(pid: u32) -> Result<(Duration, Duration), Error> {
    let tasks = format!("/proc/{pid}/task");
    let (mut blocking, mut all) = (0, 0);
    for task in fs::read_dir(&tasks).map_err(Error::io(&tasks))?.flatten() {
        // The thread may have ended.
        let text = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let schedstat = text("schedstat");
        let nanoseconds = schedstat.split_ascii_whitespace().next();
        let ran = nanoseconds
            .and_then(|it| it.parse::<u64>().ok())
            .unwrap_or(0);
        all += ran;
        if text("comm").starts_with("tokio-rt") {
            blocking += ran;
        }
    }
    Ok((Duration::from_nanos(blocking), Duration::from_nanos(all)))
}

/// Measures clean-ups: the server's memory grows by [`GROWTH`] at once, several times.
fn emergency(binaries: &Binaries) -> Result<Vec<Figure>, Error> {
    let models = models();
    let process = UnreservedProcess::new();
    let settings = format!(
        "models.dir = '{}'\nlog.filter = 'warn'\nmemory.limit = '{BUDGET}B'\nmemory.dwell = '500ms'",
        models.path().display()
    );
    let server = process.start_server(binaries.options().settings(&settings));
    let mut connection = Connection::open(server.address())?;
    let (mut below, mut over) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for index in 0..MODELS {
            repository(&server, &name(index), "load")?;
        }
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
    Ok(vec![
        Figure::new("from critical to below 75 %, median", below.median(), "ms").at_most(1000.0),
        Figure::new("from critical to below 75 %, longest", below.at(1.0), "ms").at_most(1000.0),
        Figure::new(
            "above the budget while growing, median",
            over.median(),
            "MiB",
        ),
    ])
}

fn models() -> Models {
    let models = Models::new();
    for index in 0..MODELS {
        models.add(&name(index), 1, |path| torchscript::weights(path, WEIGHTS));
    }
    models
}

fn name(index: usize) -> String {
    format!("model-{index}")
}

fn events(connection: &mut Connection) -> Result<Vec<Value>, Error> {
    let answer = connection.ask(&Request::get("/api/performance/memory/stats?events=1000"))?;
    let mut stats: Value = serde_json::from_slice(answer)
        .map_err(|error| Error::Answer(format!("the memory statistics are not JSON: {error}")))?;
    match stats["events"].take() {
        Value::Array(events) => Ok(events),
        _ => Err(Error::Answer(
            "the memory statistics have no events".to_owned(),
        )),
    }
}

/// Waits until the level has risen and fallen. Gives the events after the first `seen`.
fn wait_for_end(connection: &mut Connection, seen: usize) -> Result<Vec<Value>, Error> {
    let begun = Instant::now();
    loop {
        let new = events(connection)?.split_off(seen);
        let levels = || new.iter().filter(|event| event["event"] == "level");
        let fell = |event: &Value| event["to"] == "normal" || event["to"] == "elevated";
        if levels().any(is_emergency) && levels().next_back().is_some_and(fell) {
            return Ok(new);
        }
        if begun.elapsed() > WITHIN {
            return Err(Error::Answer(format!(
                "no clean-up has ended within {WITHIN:?}: {new:?}"
            )));
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
