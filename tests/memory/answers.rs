//! Answers and the tensors of requests are part of the budget. Those that do not fit are refused, and other clients are
//! not disturbed, whether or not a client reads its answer.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use headroom_test_support::cgroup::Group;
use headroom_test_support::models::Models;
use headroom_test_support::process_tree::PeakSampler;
use headroom_test_support::protocol::{floats, infer_path, tensor};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{Fill, Script};
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::{Value, json};

use super::setup::{AddModels, BINARY, MIB, ask, loads};

const LIMIT: u64 = 1024 * MIB;

/// Longer than any answer here takes to be computed and read.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);

fn models() -> Models {
    let models = Models::new();
    let random = "def forward(self, x: Tensor) -> Tensor:\n  return torch.rand([int(x)])\n";
    let convolution = "def forward(self, x: Tensor) -> Tensor:\n  \
        y = torch.conv2d(x, self.w, None, [1, 1], [1, 1], [1, 1], 1)\n  \
        return torch.upsample_nearest2d(y, [512, 512])\n";
    let elements = "def forward(self, x: Tensor) -> Tensor:\n  return torch.sum(x)\n";
    models
        .add("random", 1, |path| Script::new(random).write(path))
        .add("convolution", 1, |path| {
            let script = Script::new(convolution);
            let script = script.tensor("w", &[21, 3, 3, 3], Fill::Random(1));
            script.write(path)
        })
        .add("sum", 1, |path| Script::new(elements).write(path))
        .add_adder("regular", 1, 2.0);
    models
}

/// A batch of images. The answer has 84 MiB.
fn images() -> Value {
    let zeros = vec![0; 4 * 3 * 64 * 64];
    json!({ "inputs": [tensor("x", "FP32", &[4, 3, 64, 64], json!(zeros))] })
}

/// The outcome of an inference with a large answer, which is not parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// A complete answer with this number of bytes.
    Answered(usize),
    Refused,
}

/// Sends a request, reads the answer without keeping it, and checks its end.
async fn infer_large(server: &Server, model: &str, request: &Value) -> Outcome {
    let url = server.url(&infer_path(model));
    let request = server
        .client()
        .post(url)
        .json(request)
        .timeout(ANSWER_DEADLINE);
    let mut response = request.send().await.expect("the server answers");
    let status = response.status().as_u16();
    let (mut bytes, mut last) = (0, Vec::new());
    while let Some(chunk) = response.chunk().await.expect("the answer is whole") {
        bytes += chunk.len();
        last.extend_from_slice(&chunk);
        last.drain(..last.len().saturating_sub(400));
    }
    let last = String::from_utf8_lossy(&last).into_owned();
    match status {
        200 => {
            assert!(last.ends_with("]}]}"), "{last}");
            Outcome::Answered(bytes)
        }
        503 => {
            assert!(last.contains("bytes are needed"), "{last}");
            Outcome::Refused
        }
        other => panic!("{other}: {last}"),
    }
}

/// Sends requests to a small model while `running` is set, and counts the answers.
async fn run_regular_client(server: &Server, running: &AtomicBool) -> u64 {
    let mut answered = 0;
    while running.load(Ordering::Relaxed) {
        let answer = ask(server, "regular", 1).await;
        assert_eq!(answer.output(), [3.0]);
        answered += 1;
    }
    answered
}

/// Waits until an account of buffers holds nothing.
async fn wait_until_released(server: &Server, account: &str) {
    wait_for_async(DEADLINE, || async {
        let bytes = server.buffer_bytes(account).await;
        (bytes == 0).then_some(()).ok_or(bytes)
    })
    .await;
}

/// The metric of connections that the server has cut off, and its label for clients that do not read.
const CUT: &str = "headroom_http_connections_cut_total";
const STALLED: [&str; 1] = ["reason=\"stalled\""];

#[tokio::test]
async fn answers_that_do_not_fit_are_refused_and_the_kernel_kills_no_process() {
    let Some(group) = Group::new("answers", LIMIT) else {
        return;
    };
    let models = models();
    let server = group.start_server(models.options(BINARY));
    let sampler = PeakSampler::start(server.pid());
    let running = AtomicBool::new(true);
    let clients = async {
        let requests = (0..4).map(|_| async {
            let random = floats("x", &[45_000_000.0]);
            let mut outcomes = Vec::new();
            for _ in 0..3 {
                outcomes.push(infer_large(&server, "convolution", &images()).await);
            }
            outcomes.push(infer_large(&server, "random", &random).await);
            outcomes
        });
        let outcomes = join_all(requests).await.concat();
        running.store(false, Ordering::Relaxed);
        outcomes
    };
    let (outcomes, answered) = tokio::join!(clients, run_regular_client(&server, &running));
    let peak = sampler.finish();
    println!(
        "{outcomes:?}; {answered} of the regular client; at most {} MiB",
        peak.bytes / MIB
    );
    assert_eq!(group.kills(), 0, "the kernel killed a process");
    assert!(peak.bytes < LIMIT, "{}", peak.bytes);
    assert!(answered > 0);
    let whole = outcomes
        .iter()
        .filter(|it| matches!(it, Outcome::Answered(_)));
    assert!(whole.count() >= 4, "{outcomes:?}");
    wait_until_released(&server, "answers").await;
}

#[tokio::test]
async fn one_large_answer_stays_within_a_limit_that_only_the_server_enforces() {
    let models = models();
    let server = models.start_server_with_limit(LIMIT, "");
    let sampler = PeakSampler::start(server.pid());
    // Once alone, and then several at once.
    let request = floats("x", &[45_000_000.0]);
    let one = infer_large(&server, "random", &request).await;
    let Outcome::Answered(bytes) = one else {
        panic!("an answer that fits was refused");
    };
    assert!(bytes > 400_000_000, "{bytes}");
    let requests = (0..3).map(|_| infer_large(&server, "random", &request));
    let outcomes = join_all(requests.collect::<Vec<_>>()).await;
    let peak = sampler.finish();
    println!("{outcomes:?}; at most {} MiB", peak.bytes / MIB);
    assert!(peak.bytes < LIMIT, "{}", peak.bytes);
}

#[tokio::test]
async fn an_answer_above_answers_in_flight_max_is_refused_with_the_bytes_needed() {
    let models = models();
    let server = models.start_server("server.answers_in_flight_max = '8MiB'");
    let answer = server.infer("random", &floats("x", &[3_000_000.0])).await;
    let error = answer.error(507);
    assert!(error.contains("need 12000000 bytes"), "{error}");
    let answer = server.infer("random", &floats("x", &[1_000_000.0])).await;
    assert_eq!(answer.output().len(), 1_000_000);
    // The process was not restarted: there was one load.
    assert_eq!(loads(&server).await, 1.0);
}

#[tokio::test]
async fn a_sequence_ends_when_one_of_its_answers_is_refused_for_memory() {
    let models = models();
    let counting = "def forward(self, x: Tensor) -> Tensor:\n  self.n = self.n + 1\n  \
        return torch.full([int(x)], self.n)\n\
        def reset_states(self) -> NoneType:\n  self.n = 0\n  return None\n";
    let settings = "stateful = true\n[[inputs]]\nname = 'x'\ndatatype = 'FP32'\nshape = [1]\n";
    models
        .add("counting", 1, |path| {
            Script::new(counting).int("n", 0).write(path)
        })
        .settings("counting", 1, settings);
    let server = models.start_server("server.answers_in_flight_max = '1MiB'");
    let step = |outputs: f32, parameters: Value| {
        let mut request = floats("x", &[outputs]);
        request["parameters"] = parameters;
        request
    };
    let first = step(1.0, json!({ "sequence_id": 7, "sequence_start": true }));
    assert_eq!(server.infer("counting", &first).await.output(), [1.0]);
    let second = step(1_000_000.0, json!({ "sequence_id": 7 }));
    let error = server.infer("counting", &second).await.error(507);
    assert!(error.contains("need 4000000 bytes"), "{error}");
    // The model has counted that request. A retry is refused, because its count would be wrong.
    let error = server.infer("counting", &second).await.error(400);
    assert!(error.contains("sequence_start"), "{error}");
    assert_eq!(server.infer("counting", &first).await.output(), [1.0]);
}

#[tokio::test]
async fn memory_for_tensors_of_requests_is_reserved_before_they_are_made() {
    // 16 MiB of text become 64 MiB of FP64, in the server and again on the way into the host.
    let models = models();
    let limit = 544 * MIB;
    let server = models.start_server_with_limit(limit, "");
    ask(&server, "regular", 1).await.ok();
    let count = 8 << 20;
    let zeros = vec!["0"; count].join(",");
    let body = format!(
        r#"{{"inputs":[{{"name":"x","shape":[{count}],"datatype":"FP64","data":[{zeros}]}}]}}"#
    );
    let sampler = PeakSampler::start(server.pid());
    let url = server.url(&infer_path("sum"));
    let requests = (0..8).map(|_| async {
        let request = server.client().post(&url).body(body.clone());
        request.send().await.unwrap().status().as_u16()
    });
    let statuses = join_all(requests.collect::<Vec<_>>()).await;
    let peak = sampler.finish();
    println!("{statuses:?}; at most {} MiB", peak.bytes / MIB);
    assert!(
        statuses.iter().all(|status| [200, 503].contains(status)),
        "{statuses:?}"
    );
    assert!(statuses.contains(&503), "{statuses:?}");
    assert!(statuses.contains(&200), "{statuses:?}");
    assert!(peak.bytes < limit, "{}", peak.bytes);
    wait_until_released(&server, "tensors").await;
}

/// Requests an answer of `count` floats and does not read it.
fn request_without_reading(server: &Server, count: u32) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let body = floats("x", &[count as f32]).to_string();
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        infer_path("random"),
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Whether the server has cut off an answer before its end. False for a complete answer and for a refusal.
fn is_cut_off(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut last = Vec::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match stream.read(&mut chunk) {
            Ok(_) if last.is_empty() && chunk.starts_with(b"HTTP/1.1 503 ") => return false,
            Ok(0) => return !last.ends_with(b"0\r\n\r\n"),
            Ok(read) => last = chunk[..read].to_vec(),
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[tokio::test]
async fn clients_that_never_read_are_cut_off_and_the_memory_of_their_answers_is_released() {
    let settings = "server.answer_idle_timeout = '3s'\nserver.answers_in_flight_max = '320MiB'";
    let models = models();
    let server = models.start_server_with_limit(LIMIT, settings);
    ask(&server, "regular", 1).await.ok();
    let sampler = PeakSampler::start(server.pid());
    let stalled: Vec<_> = (0..12)
        .map(|_| request_without_reading(&server, 8_000_000))
        .collect();
    ask(&server, "regular", 1).await.ok();
    server
        .wait_for_metric(CUT, &STALLED, |cut| cut >= 9.0)
        .await;
    wait_until_released(&server, "answers").await;
    let peak = sampler.finish();
    println!("at most {} MiB", peak.bytes / MIB);
    assert!(peak.bytes < LIMIT, "{}", peak.bytes);
    let cut_off = stalled.into_iter().map(is_cut_off);
    assert!(cut_off.filter(|it| *it).count() >= 9);
    ask(&server, "regular", 1).await.ok();
}

#[tokio::test]
async fn a_client_that_reads_steadily_but_for_too_long_is_cut_off() {
    let models = models();
    let settings = "server.answer_timeout = '2s'\nserver.client_rate_min = '0B'";
    let server = models.start_server(settings);
    let mut stream = request_without_reading(&server, 8_000_000);
    // Reads a little at a time, with a request for the metrics between two reads: there is always more to send.
    let mut chunk = vec![0; 16 << 10];
    let pause = Duration::from_millis(100);
    stream.set_read_timeout(Some(pause)).unwrap();
    wait_for_async(DEADLINE, || {
        let read = stream.read(&mut chunk).unwrap_or(0);
        let cut = server.metric(CUT, &STALLED);
        async move {
            let cut = cut.await;
            (cut == 1.0).then_some(()).ok_or((cut, read))
        }
    })
    .await;
    assert_eq!(server.buffer_bytes("answers").await, 0);
}

#[tokio::test]
async fn a_thousand_clients_that_never_read_do_not_disturb_regular_clients() {
    let models = models();
    let server = models.start_server_with_limit(LIMIT, "server.answer_idle_timeout = '3s'");
    ask(&server, "regular", 1).await.ok();
    let sampler = PeakSampler::start(server.pid());
    let stalled: Vec<_> = (0..1000)
        .map(|_| request_without_reading(&server, 400_000))
        .collect();
    let running = AtomicBool::new(true);
    let regular_clients = (0..50).map(|_| run_regular_client(&server, &running));
    let until_cut_off = async {
        server
            .wait_for_metric(CUT, &STALLED, |cut| cut > 50.0)
            .await;
        running.store(false, Ordering::Relaxed);
    };
    let (answered, ()) = tokio::join!(join_all(regular_clients.collect::<Vec<_>>()), until_cut_off);
    let peak = sampler.finish();
    println!(
        "{} answers to regular clients, at most {} MiB",
        answered.iter().sum::<u64>(),
        peak.bytes / MIB
    );
    assert!(answered.iter().all(|it| *it > 0), "{answered:?}");
    assert!(peak.bytes < LIMIT, "{}", peak.bytes);
    assert_eq!(server.metric("headroom_lazy_deaths_total", &[]).await, 0.0);
    drop(stalled);
}
