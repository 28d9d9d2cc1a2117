//! A soak: a server under a steady mixed load for minutes or hours. Nothing may grow without end, and no request may
//! fail. docs/load-tests.md says what is measured.
//!
//! It holds little itself: the number of samples is bounded however long it takes, meters have a fixed size, and the
//! log is read in pieces.

mod line;
mod load;
mod sampler;
mod trend;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use headroom_measure::{Figures, Verdict};
use headroom_test_support::server::Server;
use serde_json::json;

use self::load::{BUDGET, Load};
use self::sampler::{Sample, Sampler};
use self::trend::{Trend, trends};
use crate::Result;
use crate::chart::{self, Panel};
use crate::client::{Connection, get};
use crate::report::{self, figure};
use crate::scenario::{built, pause};

/// The time between two samples, at least.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// The most samples while the load runs. With more time, they are further apart.
const SAMPLES_MAX: u32 = 720;

/// How long the server may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// Puts load on a server with the binary at `path` for `time`. With `out`, it writes the results to that folder too, as
/// JSON and as a chart.
///
/// # Errors
/// A request failed, a quantity grew faster than it may, or the load did not do what it is for.
pub(crate) fn measure(path: &Path, time: Duration, out: Option<&Path>) -> Result<()> {
    let models = load::models();
    let options = models.options(built(path)?);
    let server = Server::start(options.settings(&format!("memory.limit = '{BUDGET}'")));
    wait_until_ready(&server)?;
    let load = Load::new(&server);
    let every = SAMPLE_EVERY.max(time / SAMPLES_MAX);
    report::title(&format!("soak of {time:?}, a sample every {every:?}"));
    let samples = sample_under_load(&server, &load, time, every)?;
    let trends = trends(&samples).ok_or("there are too few samples")?;
    let figures: Vec<_> = load.figures().collect();
    print_requests(&figures);
    trend::print(&trends);
    let evictions = samples.last().map_or(0.0, |sample| sample.evictions);
    println!();
    figure("models evicted for others", evictions, "");
    if let Some(folder) = out {
        write(folder, time, &samples, &trends, &figures)?;
    }
    judge(&trends, &figures, evictions)
}

fn wait_until_ready(server: &Server) -> Result<()> {
    let begun = Instant::now();
    loop {
        let asked = Connection::open(server.admin_address())
            .and_then(|mut connection| connection.ask(&get("/health/ready")).map(drop));
        match asked {
            Err(error) if begun.elapsed() > READY_WITHIN => return Err(error),
            Err(_) => pause(Duration::from_millis(50)),
            Ok(()) => return Ok(()),
        }
    }
}

/// Samples while the load runs, and once more when all requests have ended.
fn sample_under_load(
    server: &Server,
    load: &Load,
    time: Duration,
    every: Duration,
) -> Result<Vec<Sample>> {
    let mut sampler = Sampler::new(server)?;
    let mut samples = Vec::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let begun = Instant::now();
    let hours = || begun.elapsed().as_secs_f64() / 3600.0;
    let running = runtime.spawn(load.run(time));
    let mut due = Duration::ZERO;
    while due < time {
        pause(due.saturating_sub(begun.elapsed()));
        samples.push(sampler.sample(hours(), load.failed())?);
        due += every;
    }
    runtime.block_on(running)?;
    samples.push(sampler.sample(hours(), load.failed())?);
    Ok(samples)
}

fn print_requests(figures: &[(&str, Figures)]) {
    println!("\n| requests | answered | failed | p50 ms | p99 ms | max ms |");
    println!("|---|---|---|---|---|---|");
    for (name, it) in figures {
        let [p50, p99, max] = it.latency.map_or([f64::NAN; 3], |latency| {
            [latency.p50_ms, latency.p99_ms, latency.max_ms]
        });
        println!(
            "| {name} | {} | {} | {p50:.2} | {p99:.2} | {max:.1} |",
            it.succeeded, it.failed,
        );
    }
}

/// Writes `soak.json`, and `soak.svg` with each quantity over time.
fn write(
    folder: &Path,
    time: Duration,
    samples: &[Sample],
    trends: &[Trend],
    figures: &[(&str, Figures)],
) -> Result<()> {
    fs::create_dir_all(folder)?;
    let requests: serde_json::Map<_, _> = figures
        .iter()
        .map(|(name, figures)| ((*name).to_owned(), json!(figures)))
        .collect();
    let results = json!({ "trends": trends, "requests": requests, "samples": samples });
    let text = serde_json::to_string_pretty(&results)? + "\n";
    fs::write(folder.join("soak.json"), text)?;
    let labels: Vec<_> = trends
        .iter()
        .map(|it| {
            let Trend { name, unit, .. } = it;
            let slope = it.slope_per_hour;
            format!("{name}: {slope:+.2} {unit} per hour").replace("  ", " ")
        })
        .collect();
    let panels: Vec<_> = trends
        .iter()
        .zip(&labels)
        .map(|(trend, label)| Panel {
            label,
            points: &trend.points,
            line: trend.fitted,
        })
        .collect();
    let title = format!(
        "soak of {} minutes; dark: the slope of the last two thirds",
        time.as_secs() / 60
    );
    fs::write(folder.join("soak.svg"), chart::panels(&title, &panels)?)?;
    Ok(())
}

fn judge(trends: &[Trend], figures: &[(&str, Figures)], evictions: f64) -> Result<()> {
    let failed: Vec<_> = trends
        .iter()
        .filter(|trend| trend.verdict == Verdict::Failed)
        .map(|trend| trend.name)
        .collect();
    let first_error = figures
        .iter()
        .find_map(|(name, figures)| Some((name, figures.first_error.as_ref()?)));
    if let Some((name, error)) = first_error {
        return Err(format!("{}; first error: {name}: {error}", failed.join(", ")).into());
    }
    if !failed.is_empty() {
        return Err(format!("above the limit: {}", failed.join(", ")).into());
    }
    if evictions == 0.0 {
        return Err("no model was evicted: the soak does not show what it is for".into());
    }
    Ok(())
}
