//! SIGTERM while there is work: it is finished, or given up within the deadline, and nothing is left behind.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use headroom_test_support::torchscript::{self, Script};
use headroom_test_support::wait::{wait_for, wait_for_async};
use nix::sys::signal::Signal;

use crate::house::{DEADLINE, House, floats, milliseconds};
use crate::processes::wait_until_all_gone;

/// Beyond `server.shutdown_deadline`: what the actors may take to end what does not listen. The loader waits 5 s for
/// work in flight, the model's owner 1 s, its host 3 s; the rest is room for a busy machine.
const ACTORS_WITHIN: Duration = Duration::from_secs(12);

#[tokio::test]
async fn requests_in_flight_are_finished_before_the_end() {
    let mut house = House::start("");
    house.place("slow", torchscript::slow);
    house.infer("slow", &milliseconds(1)).await.output();
    let begun: Vec<_> = (0..10)
        .map(|index| house.begin("slow", &milliseconds(100 + index)))
        .collect();
    house.wait_until_queued("slow", 5).await;
    let processes = house.processes();
    house.server.signal(Signal::SIGTERM);
    let address = house.server.address();
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
    assert_eq!(house.server.wait_for_end(DEADLINE).code(), Some(0));
    wait_until_all_gone(&processes);
}

#[tokio::test]
async fn a_load_under_way_does_not_hold_up_the_end() {
    let mut house = House::start("server.shutdown_deadline = '1s'");
    house.place("endless", loads_for_ever);
    let waiting = house.begin("endless", &floats(&[1.0]));
    wait_for_async(DEADLINE, || async {
        let metric = house
            .server
            .metric("headroom_lazy_loads_total", &["name=\"endless:1\""])
            .await;
        (metric == 1.0).then_some(()).ok_or(metric)
    })
    .await;
    house.host("endless");
    let processes = house.processes();
    let told = Instant::now();
    house.server.signal(Signal::SIGTERM);
    let status = house.server.wait_for_end(DEADLINE);
    assert_eq!(status.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(1) + ACTORS_WITHIN);
    wait_until_all_gone(&processes);
    waiting.abort();
}

#[tokio::test]
async fn a_model_that_hangs_does_not_hold_up_the_end() {
    let (mut house, waiting) = hanging("server.shutdown_deadline = '1s'").await;
    let processes = house.processes();
    let told = Instant::now();
    house.server.signal(Signal::SIGTERM);
    assert_eq!(house.server.wait_for_end(DEADLINE).code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(1) + ACTORS_WITHIN);
    wait_until_all_gone(&processes);
    waiting.abort();
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_leaves_nothing_behind() {
    let (mut house, waiting) = hanging("server.shutdown_deadline = '60s'").await;
    let processes = house.processes();
    house.server.signal(Signal::SIGTERM);
    wait_for(DEADLINE, || {
        let stopping = house.server.log().contains("finishing requests in flight");
        stopping.then_some(()).ok_or("not stopping yet")
    });
    let told = Instant::now();
    house.server.signal(Signal::SIGTERM);
    assert_eq!(house.server.wait_for_end(DEADLINE).code(), Some(143));
    assert!(told.elapsed() < Duration::from_secs(2));
    wait_until_all_gone(&processes);
    waiting.abort();
}

async fn hanging(settings: &str) -> (House, tokio::task::JoinHandle<crate::house::Answer>) {
    let house = House::start(settings);
    house.place("hangs", torchscript::hangs);
    let waiting = house.begin("hangs", &floats(&[1.0]));
    house.wait_until_busy("hangs").await;
    (house, waiting)
}

/// Never comes to the end of its load, and keeps one core busy.
fn loads_for_ever(path: &std::path::Path) -> std::io::Result<()> {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  return x\n\
        def __getstate__(self) -> Dict[str, bool]:\n  return annotate(Dict[str, bool], {})\n\
        def __setstate__(self, state: Dict[str, bool]) -> NoneType:\n  while True:\n    \
        self.training = False\n  return None\n";
    Script::new(code).write(path)
}
