//! Inference of the sample model: the overhead over a bare forward, throughput, and latency under load.
//!
//! One client in a closed loop measures the overhead: nothing queues, so it is the cost of the way there
//! and back. Several clients in closed loops measure the throughput. An open loop measures latency under
//! load: requests are due at a constant rate, whether or not earlier ones were answered, and each
//! latency counts from when the request was due.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use headroom_test_support::models::{Models, SAMPLE, SAMPLE_CHUNK, speech_60s};
use headroom_test_support::protocol::infer_path;
use headroom_test_support::server::Server;
use headroom_test_support::wav;
use serde_json::json;

use super::pause;
use crate::Error;
use crate::client::{Connection, Request};
use crate::report::Figure;
use crate::sample::Samples;
use crate::server::Binaries;

/// Rounds. In each, the server and the bare forward take turns, so that both see the same machine load.
const ROUNDS: usize = 7;

/// Requests, and bare forwards, per round.
const PER_ROUND: usize = 600;

const WARM_UP: usize = 50;

/// How long each throughput and the open loop are measured.
const MEASURED: Duration = Duration::from_secs(5);

/// The rate of the open loop, as a share of the best throughput.
const OPEN_LOOP_SHARE: f64 = 0.7;

const OPEN_LOOP_CONNECTIONS: usize = 64;

pub(crate) fn infer(binaries: &Binaries) -> Result<Vec<Figure>, Error> {
    let models = Models::new();
    models.add_sample();
    let server = binaries.start(&models, "");
    let address = server.address();
    let requests = requests();
    let mut figures = overhead(binaries, &server, &requests)?;
    let mut best: f64 = 0.0;
    for connections in [1, 8, 64] {
        let rate = throughput(address, &requests, connections)?;
        let name = format!("throughput, closed loop, {connections} connections");
        figures.push(Figure::new(name, rate, "/s"));
        best = best.max(rate);
    }
    let rate = best * OPEN_LOOP_SHARE;
    let times = open_loop(address, &requests, rate)?;
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let name =
            format!("{name}, open loop, {rate:.0}/s over {OPEN_LOOP_CONNECTIONS} connections");
        figures.push(Figure::new(name, times.at(share), "ms"));
    }
    Ok(figures)
}

/// One request per chunk of real speech.
fn requests() -> Vec<Request> {
    let chunks = wav::chunks(&speech_60s(), SAMPLE_CHUNK);
    let request = |chunk: &Vec<f32>| {
        let shape = [1, chunk.len()];
        let input = json!({"name": "input", "datatype": "FP32", "shape": shape, "data": chunk});
        let body = json!({ "inputs": [input] });
        Request::post(&infer_path(SAMPLE), &body.to_string())
    };
    chunks.iter().map(request).collect()
}

fn overhead(
    binaries: &Binaries,
    server: &Server,
    requests: &[Request],
) -> Result<Vec<Figure>, Error> {
    let mut connection = Connection::open(server.address())?;
    let live = [Request::get("/v2/health/live")];
    one_by_one(&mut connection, requests, WARM_UP)?;
    one_by_one(&mut connection, &live, WARM_UP)?;
    let before = Forwards::of(server)?;
    let mut rounds: [Vec<f64>; 6] = Default::default();
    for _ in 0..ROUNDS {
        let bare = binaries.bare_forward(PER_ROUND)?;
        let served = one_by_one(&mut connection, requests, PER_ROUND)?;
        let floor = one_by_one(&mut connection, &live, PER_ROUND)?;
        let (p50, p99) = (served.at(0.5), served.at(0.99));
        let values = [
            bare.p50_ms,
            bare.p99_ms,
            p50,
            p99,
            p50 - bare.p50_ms,
            floor.median(),
        ];
        for (row, value) in rounds.iter_mut().zip(values) {
            row.push(value);
        }
    }
    let names = [
        ("bare forward, one process, p50", None),
        ("bare forward, one process, p99", None),
        ("over HTTP, 1 connection, p50", None),
        ("over HTTP, 1 connection, p99", None),
        ("overhead over a bare forward, p50", Some(0.3)),
        ("an HTTP request that does nothing, p50", None),
    ];
    let figures = rounds.into_iter().zip(names).map(|(row, (name, target))| {
        let figure = Figure::new(name, Samples::new(row).median(), "ms");
        match target {
            Some(target) => figure.at_most(target),
            None => figure,
        }
    });
    let mut figures: Vec<Figure> = figures.collect();
    let inside = Forwards::of(server)?.mean_since(&before);
    let name = "inside the served model's forward, mean";
    figures.push(Figure::new(name, inside, "ms"));
    Ok(figures)
}

/// The number of forwards that the server has counted, and their total time.
struct Forwards {
    count: f64,
    seconds: f64,
}

impl Forwards {
    fn of(server: &Server) -> Result<Self, Error> {
        let mut admin = Connection::open(server.admin_address())?;
        let text = String::from_utf8_lossy(admin.ask(&Request::get("/metrics"))?).into_owned();
        let sum = |name: &str| -> f64 {
            let samples = text.lines().filter(|line| line.starts_with(name));
            let values = samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
            values.sum()
        };
        Ok(Self {
            count: sum("headroom_model_forward_seconds_count"),
            seconds: sum("headroom_model_forward_seconds_sum"),
        })
    }

    /// The mean time since `before`, in milliseconds.
    fn mean_since(&self, before: &Self) -> f64 {
        (self.seconds - before.seconds) / (self.count - before.count) * 1e3
    }
}

fn one_by_one(
    connection: &mut Connection,
    requests: &[Request],
    count: usize,
) -> Result<Samples, Error> {
    let mut times = Vec::with_capacity(count);
    for request in requests.iter().cycle().take(count) {
        let begun = Instant::now();
        connection.ask(request)?;
        times.push(begun.elapsed());
    }
    Ok(Samples::of_times(times))
}

/// Answers per second of `clients` clients in closed loops.
fn throughput(address: SocketAddr, requests: &[Request], clients: usize) -> Result<f64, Error> {
    let begun = Instant::now();
    let answered = on_threads(clients, |index| {
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
    })?;
    let answered: u32 = answered.into_iter().sum();
    Ok(f64::from(answered) / begun.elapsed().as_secs_f64())
}

/// Latencies at a constant rate, each counted from when its request was due.
fn open_loop(address: SocketAddr, requests: &[Request], rate: f64) -> Result<Samples, Error> {
    let count = (rate * MEASURED.as_secs_f64()) as usize;
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let times = on_threads(OPEN_LOOP_CONNECTIONS, |_| {
        let mut connection = Connection::open(address)?;
        let mut times = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(request) = requests
                .get(index % requests.len())
                .filter(|_| index < count)
            else {
                return Ok(times);
            };
            let due = begun + Duration::from_secs_f64(index as f64 / rate);
            pause(due.saturating_duration_since(Instant::now()));
            connection.ask(request)?;
            times.push(due.elapsed());
        }
    })?;
    Ok(Samples::of_times(times.into_iter().flatten()))
}

/// Runs `work` on each of `threads` threads and collects the results.
fn on_threads<T: Send>(
    threads: usize,
    work: impl Fn(usize) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads)
            .map(|index| scope.spawn(move || work(index)))
            .collect();
        let joined = running.into_iter().map(|thread| {
            let died = |_| Err(Error::Program("a client's thread panicked".to_owned()));
            thread.join().unwrap_or_else(died)
        });
        joined.collect()
    })
}
