//! Inference of the sample model: the overhead over a bare forward, and throughput.
//!
//! One client in a closed loop measures the overhead: nothing queues, so it is the cost of the way there
//! and back. Several clients in closed loops measure the throughput.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headroom_measure::{HttpTarget, Meter, Pace, Request, Workload};
use headroom_test_support::child;
use headroom_test_support::models::{Models, SAMPLE, SAMPLE_CHUNK, sample_file, speech_60s};
use headroom_test_support::protocol::{infer_path, tensor};
use headroom_test_support::wav;
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::start;
use crate::Result;
use crate::client::{Connection, get, post};
use crate::report::{figure, figure_at_most};
use crate::sample::Samples;

/// Rounds. In each, the server and the bare forward take turns, so that both see the same machine load.
const ROUNDS: usize = 7;

/// Requests, and bare forwards, per round.
const PER_ROUND: usize = 600;

const WARM_UP: usize = 50;

/// How long each throughput is measured.
const MEASURED: Duration = Duration::from_secs(5);

/// How long one request may take while the throughput is measured.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The deadline of the bare forwards of a round.
const BARE_WITHIN: Duration = Duration::from_secs(600);

pub(super) fn measure(binary: &Path) -> Result<()> {
    let models = Models::new();
    models.add_sample();
    let server = start(binary, &models, "");
    let address = server.address();
    let bodies = bodies();
    overhead(binary, address, &bodies)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    for connections in [1, 8, 64] {
        let rate = runtime.block_on(throughput(address, &bodies, connections))?;
        let name = format!("throughput, closed loop, {connections} connections");
        figure(&name, rate, "/s");
    }
    Ok(())
}

/// The body of one request to the sample model per chunk of real speech.
pub(crate) fn bodies() -> Vec<String> {
    let chunks = wav::chunks(&speech_60s(), SAMPLE_CHUNK);
    let body = |chunk: &Vec<f32>| {
        let input = tensor("input", "FP32", &[1, chunk.len() as i64], json!(chunk));
        json!({ "inputs": [input] }).to_string()
    };
    chunks.iter().map(body).collect()
}

fn overhead(binary: &Path, address: SocketAddr, bodies: &[String]) -> Result<()> {
    let path = infer_path(SAMPLE);
    let requests: Vec<_> = bodies.iter().map(|body| post(&path, body)).collect();
    let requests = &requests[..];
    let mut connection = Connection::open(address)?;
    let live = [get("/v2/health/live")];
    one_by_one(&mut connection, requests, WARM_UP)?;
    one_by_one(&mut connection, &live, WARM_UP)?;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let (bare, bare_paused) = bare_forwards(binary)?;
        let served = one_by_one(&mut connection, requests, PER_ROUND)?;
        let floor = one_by_one(&mut connection, &live, PER_ROUND)?;
        rounds.push([
            bare.p50_ms,
            bare.p99_ms,
            served.median(),
            served.at(0.99),
            served.median() - bare.p50_ms,
            floor.median(),
            bare_paused.p50_ms,
            served.median() - bare_paused.p50_ms,
        ]);
    }
    let median =
        |column: usize| Samples::new(rounds.iter().map(|it| it[column]).collect()).median();
    figure("bare forward, one process, p50", median(0), "ms");
    figure("bare forward, one process, p99", median(1), "ms");
    figure("over HTTP, 1 connection, p50", median(2), "ms");
    figure("over HTTP, 1 connection, p99", median(3), "ms");
    let name = "overhead over a bare forward, p50";
    figure_at_most(0.3, name, median(4), "ms");
    figure("an HTTP request that does nothing, p50", median(5), "ms");
    figure("bare forward after a pause of 0.3 ms, p50", median(6), "ms");
    figure("overhead over that, p50", median(7), "ms");
    Ok(())
}

/// Times of bare forwards.
#[derive(Deserialize)]
struct BareTimes {
    p50_ms: f64,
    p99_ms: f64,
}

/// What the example prints.
#[derive(Deserialize)]
struct BareReport {
    plain: BareTimes,
    paused: BareTimes,
}

/// Measures forwards of the sample model in a process with only libtorch, without and with pauses: the example that was
/// built beside the server. The state is reset before each, as the server does for requests without a sequence.
fn bare_forwards(binary: &Path) -> Result<(BareTimes, BareTimes)> {
    let program = binary.with_file_name("examples").join("bare_forward");
    let mut command = child::command(&program);
    command.arg(sample_file()).arg(speech_60s()).arg("--fresh");
    command.arg("--bench").arg(PER_ROUND.to_string());
    let output = child::output(&mut command, BARE_WITHIN).map_err(|error| {
        let build = "cargo build --release -p headroom-model-host --examples";
        format!("{}: {error}: build it first ({build})", program.display())
    })?;
    let report: BareReport = serde_json::from_slice(&output.stdout).map_err(|_| {
        let errors = String::from_utf8_lossy(&output.stderr);
        format!("{} printed no times: {errors}", program.display())
    })?;
    // The sample model's settings disable the optimiser.
    Ok((report.plain, report.paused))
}

fn one_by_one(connection: &mut Connection, requests: &[String], count: usize) -> Result<Samples> {
    let mut times = Vec::with_capacity(count);
    for request in requests.iter().cycle().take(count) {
        let begun = Instant::now();
        connection.ask(request)?;
        times.push(begun.elapsed());
    }
    Ok(Samples::of_times(times))
}

/// Answers per second of `clients` clients in closed loops.
async fn throughput(address: SocketAddr, bodies: &[String], clients: u32) -> Result<f64> {
    let path = infer_path(SAMPLE);
    let requests = bodies
        .iter()
        .map(|json| Request::post(&*path, json.clone()));
    let requests: Arc<[Request]> = requests.collect();
    let target = Arc::new(HttpTarget::new(address));
    let workload = Workload {
        callers: clients,
        operations: u64::MAX,
        time: MEASURED,
        each: ANSWER_WITHIN,
        pace: Pace::Closed,
    };
    let meter = Arc::new(Meter::default());
    let ask = move |number: u64| {
        let (target, requests) = (Arc::clone(&target), Arc::clone(&requests));
        // The remainder is one of the indices.
        let index = (number % requests.len() as u64) as usize;
        async move { target.ask(&requests[index]).await }
    };
    headroom_measure::run(workload, &meter, &CancellationToken::new(), ask).await;
    let figures = meter.figures();
    match figures.first_error {
        Some(error) => Err(error.into()),
        None => Ok(figures.throughput_per_second),
    }
}
