//! SIGTERM during work: the work is finished, or cancelled within the deadline, and nothing is left behind.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use headroom_test_support::capability::skip;
use headroom_test_support::frozen_thread::FrozenThread;
use headroom_test_support::process_tree::wait_until_gone;
use headroom_test_support::protocol::{Answer, milliseconds};
use headroom_test_support::torchscript::{self, Script};
use headroom_test_support::wait::{DEADLINE, wait_until};
use nix::sys::signal::Signal;
use tokio::task::JoinHandle;

use crate::setup::{ServerWithModels, floats};

/// A deadline that is shorter than the stops of a model's owner and its host together.
const SHORT_DEADLINE: &str = "server.shutdown_deadline = '2s'";

/// The same, with a margin for a busy machine.
const ENDED_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn requests_in_flight_are_answered_before_the_server_exits() {
    let mut server = ServerWithModels::start("");
    server.add_model("slow", torchscript::slow);
    server.infer("slow", &milliseconds(1)).await.output();
    let begun: Vec<_> = (0..10)
        .map(|index| server.begin_infer("slow", milliseconds(100 + index).to_string()))
        .collect();
    server.wait_until_queued("slow", 5).await;
    let processes = server.processes();
    server.signal(Signal::SIGTERM);
    server.wait_until_closed();
    for (expected, answer) in (100..).zip(begun) {
        assert_eq!(answer.await.unwrap().output(), [f64::from(expected)]);
    }
    assert_eq!(server.wait_for_exit().code(), Some(0));
    wait_until_gone(&processes);
}

#[tokio::test]
async fn a_load_in_progress_does_not_delay_the_exit() {
    let mut server = ServerWithModels::start(SHORT_DEADLINE);
    server.add_model("endless", never_loads);
    let waiting = server.begin_infer("endless", floats(&[1.0]).to_string());
    let label = ["name=\"endless:1\""];
    let started = |loads| loads == 1.0;
    server
        .wait_for_metric("headroom_lazy_loads_total", &label, started)
        .await;
    server.only_host("endless");
    let processes = server.processes();
    let signalled = Instant::now();
    server.signal(Signal::SIGTERM);
    let status = server.wait_for_exit();
    assert_eq!(status.code(), Some(0));
    assert_ended_in_time(signalled);
    wait_until_gone(&processes);
    waiting.abort();
}

#[tokio::test]
async fn a_model_that_hangs_does_not_delay_the_exit() {
    let (mut server, waiting) = start_hanging(SHORT_DEADLINE).await;
    let processes = server.processes();
    let signalled = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_exit().code(), Some(0));
    assert_ended_in_time(signalled);
    wait_until_gone(&processes);
    waiting.abort();
}

#[tokio::test]
async fn a_request_whose_body_does_not_end_does_not_delay_the_exit() {
    let mut server = ServerWithModels::start(&format!(
        "{SHORT_DEADLINE}\nserver.body_idle_timeout = '60s'\nserver.client_rate_min = '0B'"
    ));
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream
        .write_all(
            b"POST /v2/models/none/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
        )
        .unwrap();
    let signalled = Instant::now();
    server.signal(Signal::SIGTERM);
    let log = server.wait_for_log("not all requests ended in time");
    assert!(log.contains("requests=1 connections=1"), "{log}");
    assert_eq!(server.wait_for_exit().code(), Some(0));
    assert_ended_in_time(signalled);
}

#[tokio::test]
async fn a_second_signal_ends_the_server_at_once_and_leaves_nothing_behind() {
    let (mut server, waiting) = start_hanging("server.shutdown_deadline = '60s'").await;
    let processes = server.processes();
    server.signal(Signal::SIGTERM);
    server.wait_for_log("finishing requests in flight");
    let signalled = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_exit().code(), Some(143));
    assert!(signalled.elapsed() < Duration::from_secs(2));
    wait_until_gone(&processes);
    waiting.abort();
}

/// The first two signals are requests to the main thread, which hangs.
#[test]
fn a_third_signal_ends_a_server_that_hangs() {
    let mut server = ServerWithModels::start("");
    let process = server.process();
    let frozen = match FrozenThread::main_of(server.pid()) {
        Ok(frozen) => frozen,
        Err(error) => return skip(&format!("the system refuses ptrace: {error}")),
    };
    for count in 1..3 {
        server.signal(Signal::SIGTERM);
        // Requests to stop that wait together count as one. Signals are received one after another, in any order if
        // several wait, so the request has been received when both of the others are.
        for (signal, name) in [(Signal::SIGUSR1, "SIGUSR1"), (Signal::SIGUSR2, "SIGUSR2")] {
            server.signal(signal);
            wait_until(DEADLINE, "the signal is in the log", || {
                server.log().matches(name).count() == count
            });
        }
        assert!(process.is_running(), "ended by signal {count}");
    }
    server.signal(Signal::SIGTERM);
    wait_until(DEADLINE, "the server has ended", || !process.is_running());
    drop(frozen);
    assert_eq!(server.wait_for_exit().code(), Some(143));
}

#[track_caller]
fn assert_ended_in_time(signalled: Instant) {
    let took = signalled.elapsed();
    assert!(took < ENDED_WITHIN, "{took:?}");
}

/// A server with a request that never ends.
async fn start_hanging(settings: &str) -> (ServerWithModels, JoinHandle<Answer>) {
    let server = ServerWithModels::start(settings);
    server.add_model("hangs", torchscript::hangs);
    let waiting = server.begin_infer("hangs", floats(&[1.0]).to_string());
    server.wait_until_busy("hangs").await;
    (server, waiting)
}

/// Never finishes loading, and keeps one core busy.
fn never_loads(path: &std::path::Path) -> std::io::Result<()> {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  return x\n\
        def __getstate__(self) -> Dict[str, bool]:\n  return annotate(Dict[str, bool], {})\n\
        def __setstate__(self, state: Dict[str, bool]) -> NoneType:\n  while True:\n    \
        self.training = False\n  return None\n";
    Script::new(code).write(path)
}
