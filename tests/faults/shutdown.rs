//! SIGTERM while there is work: it is finished, or given up within the deadline, and nothing is left behind.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use headroom_test_support::torchscript::{self, Script};
use headroom_test_support::wait::{wait_for, wait_for_async};
use nix::sys::signal::Signal;

use crate::processes::wait_until_all_gone;
use crate::setup::{DEADLINE, ServerWithModels, floats, milliseconds};

/// Beyond `server.shutdown_deadline`: what the actors may take to end what does not listen. The loader waits 5 s for
/// work in flight, the model's owner 1 s, its host 3 s; the rest is room for a busy machine.
const ACTORS_WITHIN: Duration = Duration::from_secs(12);

#[tokio::test]
async fn requests_in_flight_are_finished_before_the_end() {
    let mut setup = ServerWithModels::start("");
    setup.place("slow", torchscript::slow);
    setup.infer("slow", &milliseconds(1)).await.output();
    let begun: Vec<_> = (0..10)
        .map(|index| setup.begin("slow", &milliseconds(100 + index)))
        .collect();
    setup.wait_until_queued("slow", 5).await;
    let processes = setup.processes();
    setup.server.signal(Signal::SIGTERM);
    let address = setup.server.address();
    wait_for_async(DEADLINE, || async {
        TcpStream::connect(address)
            .is_err()
            .then_some(())
            .ok_or("it still takes connections")
    })
    .await;
    for (expected, answer) in (100..).zip(begun) {
        assert_eq!(answer.await.unwrap().output(), [f64::from(expected)]);
    }
    assert_eq!(setup.server.wait_for_end(DEADLINE).code(), Some(0));
    wait_until_all_gone(&processes);
}

#[tokio::test]
async fn a_load_under_way_does_not_hold_up_the_end() {
    let mut setup = ServerWithModels::start("server.shutdown_deadline = '1s'");
    setup.place("endless", loads_for_ever);
    let waiting = setup.begin("endless", &floats(&[1.0]));
    wait_for_async(DEADLINE, || async {
        let metric = setup
            .server
            .metric("headroom_lazy_loads_total", &["name=\"endless:1\""])
            .await;
        (metric == 1.0).then_some(()).ok_or(metric)
    })
    .await;
    setup.host("endless");
    let processes = setup.processes();
    let told = Instant::now();
    setup.server.signal(Signal::SIGTERM);
    let status = setup.server.wait_for_end(DEADLINE);
    assert_eq!(status.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(1) + ACTORS_WITHIN);
    wait_until_all_gone(&processes);
    waiting.abort();
}

#[tokio::test]
async fn a_model_that_hangs_does_not_hold_up_the_end() {
    let (mut setup, waiting) = hanging("server.shutdown_deadline = '1s'").await;
    let processes = setup.processes();
    let told = Instant::now();
    setup.server.signal(Signal::SIGTERM);
    assert_eq!(setup.server.wait_for_end(DEADLINE).code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(1) + ACTORS_WITHIN);
    wait_until_all_gone(&processes);
    waiting.abort();
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_leaves_nothing_behind() {
    let (mut setup, waiting) = hanging("server.shutdown_deadline = '60s'").await;
    let processes = setup.processes();
    setup.server.signal(Signal::SIGTERM);
    wait_for(DEADLINE, || {
        let stopping = setup.server.log().contains("finishing requests in flight");
        stopping.then_some(()).ok_or("not stopping yet")
    });
    let told = Instant::now();
    setup.server.signal(Signal::SIGTERM);
    assert_eq!(setup.server.wait_for_end(DEADLINE).code(), Some(143));
    assert!(told.elapsed() < Duration::from_secs(2));
    wait_until_all_gone(&processes);
    waiting.abort();
}

async fn hanging(
    settings: &str,
) -> (
    ServerWithModels,
    tokio::task::JoinHandle<crate::setup::Answer>,
) {
    let setup = ServerWithModels::start(settings);
    setup.place("hangs", torchscript::hangs);
    let waiting = setup.begin("hangs", &floats(&[1.0]));
    setup.wait_until_busy("hangs").await;
    (setup, waiting)
}

/// Never comes to the end of its load, and keeps one core busy.
fn loads_for_ever(path: &std::path::Path) -> std::io::Result<()> {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  return x\n\
        def __getstate__(self) -> Dict[str, bool]:\n  return annotate(Dict[str, bool], {})\n\
        def __setstate__(self, state: Dict[str, bool]) -> NoneType:\n  while True:\n    \
        self.training = False\n  return None\n";
    Script::new(code).write(path)
}
