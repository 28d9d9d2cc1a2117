//! Inference of the sample model: the overhead over a bare forward, and throughput.
//!
//! One client in a closed loop measures the overhead: nothing queues, so it is the cost of the way there
//! and back. Several clients in closed loops measure the throughput.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use headroom_test_support::child;
use headroom_test_support::models::{Models, SAMPLE, SAMPLE_CHUNK, sample_file, speech_60s};
use headroom_test_support::protocol::{infer_path, tensor};
use headroom_test_support::wav;
use serde::Deserialize;
use serde_json::json;

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

/// The deadline of the bare forwards of a round.
const BARE_WITHIN: Duration = Duration::from_secs(600);

pub(super) fn measure(binary: &Path) -> Result<()> {
    let models = Models::new();
    models.add_sample();
    let server = start(binary, &models, "");
    let address = server.address();
    let requests = requests();
    overhead(binary, address, &requests)?;
    for connections in [1, 8, 64] {
        let rate = throughput(address, &requests, connections)?;
        let name = format!("throughput, closed loop, {connections} connections");
        figure(&name, rate, "/s");
    }
    Ok(())
}

/// One request per chunk of real speech.
fn requests() -> Vec<String> {
    let chunks = wav::chunks(&speech_60s(), SAMPLE_CHUNK);
    let request = |chunk: &Vec<f32>| {
        let input = tensor("input", "FP32", &[1, chunk.len() as i64], json!(chunk));
        post(
            &infer_path(SAMPLE),
            &json!({ "inputs": [input] }).to_string(),
        )
    };
    chunks.iter().map(request).collect()
}

fn overhead(binary: &Path, address: SocketAddr, requests: &[String]) -> Result<()> {
    let mut connection = Connection::open(address)?;
    let live = [get("/v2/health/live")];
    one_by_one(&mut connection, requests, WARM_UP)?;
    one_by_one(&mut connection, &live, WARM_UP)?;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let bare = bare_forward(binary)?;
        let served = one_by_one(&mut connection, requests, PER_ROUND)?;
        let floor = one_by_one(&mut connection, &live, PER_ROUND)?;
        rounds.push([
            bare.p50_ms,
            bare.p99_ms,
            served.median(),
            served.at(0.99),
            served.median() - bare.p50_ms,
            floor.median(),
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
}

/// Measures forwards of the sample model in a process with only libtorch: the example that was built
/// beside the server. The state is reset before each, as the server does for requests without a sequence.
fn bare_forward(binary: &Path) -> Result<BareTimes> {
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
    Ok(report.plain)
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
fn throughput(address: SocketAddr, requests: &[String], clients: usize) -> Result<f64> {
    let begun = Instant::now();
    let client = |index| -> Result<u32> {
        let mut connection = Connection::open(address)?;
        let mut answered = 0;
        for request in requests.iter().cycle().skip(index) {
            if begun.elapsed() >= MEASURED {
                break;
            }
            connection.ask(request)?;
            answered += 1;
        }
        Ok(answered)
    };
    let answered: u32 = std::thread::scope(|scope| {
        let spawn = |index| scope.spawn(move || client(index));
        let threads: Vec<_> = (0..clients).map(spawn).collect();
        let joined = threads.into_iter().map(|thread| {
            let died = |_| Err("a client's thread panicked".into());
            thread.join().unwrap_or_else(died)
        });
        joined.sum::<Result<u32>>()
    })?;
    Ok(f64::from(answered) / begun.elapsed().as_secs_f64())
}
