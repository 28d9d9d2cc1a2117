//! SIGTERM during work: the work is finished, or cancelled within the deadline, and nothing is left behind.

use std::time::{Duration, Instant};

use headroom_test_support::process_tree::wait_until_gone;
use headroom_test_support::protocol::{Answer, milliseconds};
use headroom_test_support::torchscript::{self, Script};
use nix::sys::signal::Signal;
use tokio::task::JoinHandle;

use crate::setup::{ServerWithModels, floats};

/// Longest time that the actors may need after `server.shutdown_deadline`. The loader waits 5 s for work in flight, the
/// model's owner 1 s, its host 3 s. The rest is a margin for a busy machine.
const ACTORS_DEADLINE: Duration = Duration::from_secs(12);

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
    let mut server = ServerWithModels::start("server.shutdown_deadline = '1s'");
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
    assert!(signalled.elapsed() < Duration::from_secs(1) + ACTORS_DEADLINE);
    wait_until_gone(&processes);
    waiting.abort();
}

#[tokio::test]
async fn a_model_that_hangs_does_not_delay_the_exit() {
    let (mut server, waiting) = start_hanging("server.shutdown_deadline = '1s'").await;
    let processes = server.processes();
    let signalled = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_exit().code(), Some(0));
    assert!(signalled.elapsed() < Duration::from_secs(1) + ACTORS_DEADLINE);
    wait_until_gone(&processes);
    waiting.abort();
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
