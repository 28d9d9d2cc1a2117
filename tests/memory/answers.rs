//! Answers and the tensors of requests are part of the budget: what does not fit is refused, and
//! nobody else notices, whether or not clients read what they asked for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use headroom_test_support::cgroup::Group;
use headroom_test_support::models::Models;
use headroom_test_support::process_tree::Watch;
use headroom_test_support::protocol::{floats, infer_path, tensor};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{Fill, Script};
use headroom_test_support::wait::wait_for_async;
use serde_json::{Value, json};

use super::stage::{BINARY, DEADLINE, MIB, ModelsExt, ask};

const LIMIT: u64 = 1024 * MIB;

/// Longer than any answer here takes to be made and read.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

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
        .adds("honest", 1, 2.0);
    models
}

/// A batch of images, whose answer has 84 MiB.
fn images() -> Value {
    let zeros = vec![0; 4 * 3 * 64 * 64];
    json!({ "inputs": [tensor("x", "FP32", &[4, 3, 64, 64], json!(zeros))] })
}

/// How an inference ended, whose answer may be too large to parse for a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// A whole answer of so many bytes.
    Answered(usize),
    Refused,
}

/// Asks for an answer, reads it without keeping it, and checks where it ends.
async fn ask_large(server: &Server, model: &str, request: &Value) -> Ending {
    let url = server.url(&infer_path(model));
    let request = server
        .client()
        .post(url)
        .json(request)
        .timeout(ANSWER_WITHIN);
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
            Ending::Answered(bytes)
        }
        503 => {
            assert!(last.contains("bytes are needed"), "{last}");
            Ending::Refused
        }
        other => panic!("{other}: {last}"),
    }
}

/// Asks a small model for as long as `going` holds, and counts the answers.
async fn honest(server: &Server, going: &AtomicBool) -> u64 {
    let mut answered = 0;
    while going.load(Ordering::Relaxed) {
        let answer = ask(server, "honest", 1).await;
        assert_eq!(answer.numbers("output"), [3.0]);
        answered += 1;
    }
    answered
}

async fn held(server: &Server, sort: &str) -> u64 {
    let stats = server.read("/api/performance/memory/stats").await.ok();
    let buffers = stats["buffers"].as_array().unwrap();
    let found = buffers.iter().find(|buffer| buffer["name"] == sort);
    found.map_or(0, |buffer| buffer["held_bytes"].as_u64().unwrap())
}

#[tokio::test]
async fn answers_that_do_not_fit_are_refused_and_the_kernel_kills_nobody() {
    let Some(group) = Group::new("answers", LIMIT) else {
        return;
    };
    let models = models();
    let server = group.serve(models.options(BINARY));
    let watch = Watch::start(server.pid());
    let going = AtomicBool::new(true);
    let clients = async {
        let requests = (0..4).map(|_| async {
            let random = floats("x", &[45_000_000.0]);
            let mut endings = Vec::new();
            for _ in 0..3 {
                endings.push(ask_large(&server, "convolution", &images()).await);
            }
            endings.push(ask_large(&server, "random", &random).await);
            endings
        });
        let endings = join_all(requests).await.concat();
        going.store(false, Ordering::Relaxed);
        endings
    };
    let (endings, answered) = tokio::join!(clients, honest(&server, &going));
    let peak = watch.finish();
    println!(
        "{endings:?}; {answered} honest; at most {} MiB",
        peak.bytes / MIB
    );
    assert_eq!(group.kills(), 0, "the kernel had to step in");
    assert!(peak.bytes < LIMIT, "{}", peak.bytes);
    assert!(answered > 0);
    let whole = endings
        .iter()
        .filter(|it| matches!(it, Ending::Answered(_)));
    assert!(whole.count() >= 4, "{endings:?}");
    wait_for_async(DEADLINE, || async {
        let held = held(&server, "answers").await;
        (held == 0).then_some(()).ok_or(held)
    })
    .await;
}

#[tokio::test]
async fn one_large_answer_stays_within_a_limit_that_only_we_keep() {
    let models = models();
    let server = models.serve_within(LIMIT, "");
    let watch = Watch::start(server.pid());
    // Once alone, and then several at once.
    let request = floats("x", &[45_000_000.0]);
    let one = ask_large(&server, "random", &request).await;
    let Ending::Answered(bytes) = one else {
        panic!("it fits, and was refused");
    };
    assert!(bytes > 400_000_000, "{bytes}");
    let requests = (0..3).map(|_| ask_large(&server, "random", &request));
    let endings = join_all(requests.collect::<Vec<_>>()).await;
    let peak = watch.finish();
    println!("{endings:?}; at most {} MiB", peak.bytes / MIB);
    assert!(peak.bytes < LIMIT, "{}", peak.bytes);
}

#[tokio::test]
async fn an_answer_beyond_the_bound_of_all_answers_is_refused_with_the_bytes() {
    let models = models();
    let server = models.serve("server.answers_in_flight_max = '8MiB'");
    let answer = server.infer("random", &floats("x", &[3_000_000.0])).await;
    let error = answer.error(503);
    assert!(error.contains("12000000 bytes are needed"), "{error}");
    let answer = server.infer("random", &floats("x", &[1_000_000.0])).await;
    assert_eq!(answer.numbers("output").len(), 1_000_000);
    // The process lives on: there was one load of it.
    assert_eq!(super::stage::loads(&server).await, 1.0);
}

#[tokio::test]
async fn a_sequence_ends_with_an_answer_that_there_is_no_memory_for() {
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
    let server = models.serve("server.answers_in_flight_max = '1MiB'");
    let step = |floats_out: f32, parameters: Value| {
        let mut request = floats("x", &[floats_out]);
        request["parameters"] = parameters;
        request
    };
    let first = step(1.0, json!({ "sequence_id": 7, "sequence_start": true }));
    assert_eq!(
        server.infer("counting", &first).await.numbers("output"),
        [1.0]
    );
    let second = step(1_000_000.0, json!({ "sequence_id": 7 }));
    let error = server.infer("counting", &second).await.error(503);
    assert!(error.contains("bytes are needed"), "{error}");
    // The model has counted it. A client that tries again is told to begin anew, not given a wrong count.
    let error = server.infer("counting", &second).await.error(400);
    assert!(error.contains("sequence_start"), "{error}");
    assert_eq!(
        server.infer("counting", &first).await.numbers("output"),
        [1.0]
    );
}

#[tokio::test]
async fn tensors_of_requests_are_set_aside_before_they_are_made() {
    // 16 MiB of text are 64 MiB of FP64, here and on their way into the process.
    let models = models();
    let server = models.serve_within(512 * MIB, "");
    ask(&server, "honest", 1).await.ok();
    let count = 8 << 20;
    let zeros = vec!["0"; count].join(",");
    let body = format!(
        r#"{{"inputs":[{{"name":"x","shape":[{count}],"datatype":"FP64","data":[{zeros}]}}]}}"#
    );
    let watch = Watch::start(server.pid());
    let url = server.url(&infer_path("sum"));
    let requests = (0..8).map(|_| async {
        let request = server.client().post(&url).body(body.clone());
        request.send().await.unwrap().status().as_u16()
    });
    let statuses = join_all(requests.collect::<Vec<_>>()).await;
    let peak = watch.finish();
    println!("{statuses:?}; at most {} MiB", peak.bytes / MIB);
    assert!(
        statuses.iter().all(|status| [200, 503].contains(status)),
        "{statuses:?}"
    );
    assert!(statuses.contains(&503), "{statuses:?}");
    assert!(statuses.contains(&200), "{statuses:?}");
    assert!(peak.bytes < 512 * MIB, "{}", peak.bytes);
    wait_for_async(DEADLINE, || async {
        let held = held(&server, "tensors").await;
        (held == 0).then_some(()).ok_or(held)
    })
    .await;
}

/// Asks for an answer of `count` floats and does not read it.
fn ask_and_stall(server: &Server, count: u32) -> TcpStream {
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

/// Whether the server has ended an answer: as much as it could send, and then no more. Not where it
/// was refused.
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
async fn clients_that_never_read_are_cut_off_and_their_answers_given_back() {
    let settings = "server.answer_idle_timeout = '3s'\nserver.answers_in_flight_max = '320MiB'";
    let models = models();
    let server = models.serve_within(LIMIT, settings);
    ask(&server, "honest", 1).await.ok();
    let watch = Watch::start(server.pid());
    let stalled: Vec<_> = (0..12).map(|_| ask_and_stall(&server, 8_000_000)).collect();
    ask(&server, "honest", 1).await.ok();
    let label = ["reason=\"stalled\""];
    wait_for_async(ANSWER_WITHIN, || async {
        let cut = server
            .metric("headroom_http_connections_cut_total", &label)
            .await;
        (cut >= 9.0).then_some(()).ok_or(cut)
    })
    .await;
    wait_for_async(DEADLINE, || async {
        let held = held(&server, "answers").await;
        (held == 0).then_some(()).ok_or(held)
    })
    .await;
    let peak = watch.finish();
    println!("at most {} MiB", peak.bytes / MIB);
    assert!(peak.bytes < LIMIT, "{}", peak.bytes);
    let cut_off = stalled.into_iter().map(is_cut_off);
    assert!(cut_off.filter(|it| *it).count() >= 9);
    ask(&server, "honest", 1).await.ok();
}

#[tokio::test]
async fn a_client_that_reads_for_too_long_is_cut_off_however_steadily() {
    let models = models();
    let settings = "server.answer_timeout = '2s'\nserver.client_rate_min = '0B'";
    let server = models.serve(settings);
    let mut stream = ask_and_stall(&server, 8_000_000);
    // A little at a time, and a question to the server between two reads: it always has more to send.
    let mut chunk = vec![0; 16 << 10];
    let pause = Duration::from_millis(100);
    stream.set_read_timeout(Some(pause)).unwrap();
    let cut = || async {
        let label = ["reason=\"stalled\""];
        server
            .metric("headroom_http_connections_cut_total", &label)
            .await
    };
    wait_for_async(DEADLINE, || {
        let read = stream.read(&mut chunk).unwrap_or(0);
        let cut = cut();
        async move {
            let cut = cut.await;
            (cut == 1.0).then_some(()).ok_or((cut, read))
        }
    })
    .await;
    assert_eq!(held(&server, "answers").await, 0);
}

#[tokio::test]
async fn a_thousand_clients_that_never_read_disturb_no_honest_one() {
    let models = models();
    let server = models.serve_within(LIMIT, "server.answer_idle_timeout = '3s'");
    ask(&server, "honest", 1).await.ok();
    let watch = Watch::start(server.pid());
    let stalled: Vec<_> = (0..1000).map(|_| ask_and_stall(&server, 400_000)).collect();
    let going = AtomicBool::new(true);
    let honest_ones = (0..50).map(|_| honest(&server, &going));
    let until_cut_off = async {
        wait_for_async(ANSWER_WITHIN, || async {
            let label = ["reason=\"stalled\""];
            let cut = server
                .metric("headroom_http_connections_cut_total", &label)
                .await;
            (cut > 50.0).then_some(()).ok_or(cut)
        })
        .await;
        going.store(false, Ordering::Relaxed);
    };
    let (answered, ()) = tokio::join!(join_all(honest_ones.collect::<Vec<_>>()), until_cut_off);
    let peak = watch.finish();
    println!(
        "{} honest answers, at most {} MiB",
        answered.iter().sum::<u64>(),
        peak.bytes / MIB
    );
    assert!(answered.iter().all(|it| *it > 0), "{answered:?}");
    assert!(peak.bytes < LIMIT, "{}", peak.bytes);
    assert_eq!(server.metric("headroom_lazy_deaths_total", &[]).await, 0.0);
    drop(stalled);
}
