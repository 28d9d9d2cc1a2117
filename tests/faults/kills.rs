//! SIGKILL for model processes and for the zygote while requests are in flight.

use headroom_test_support::process_tree::wait_until_gone;
use headroom_test_support::protocol::{Answer, host_path, milliseconds};
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for};

use crate::setup::{ServerWithModels, is_speech, speech};

/// Kills in one test. A model's supervisor allows this many restarts within half a minute.
const ROUNDS: u64 = 5;

/// Requests in flight at each kill, half of them to each of the two models.
const REQUESTS: u64 = 50;

/// Longest time that a request may take here. The server itself gives up after 30 s.
const REQUEST_DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

async fn start() -> ServerWithModels {
    let server = ServerWithModels::start("");
    server.add_model("slow", torchscript::slow);
    server.models.add_sample();
    assert_both_served(&server).await;
    server
}

async fn assert_both_served(server: &ServerWithModels) {
    assert_eq!(server.infer("slow", &milliseconds(1)).await.output(), [1.0]);
    assert!(is_speech(&server.infer("silero-vad", &speech()).await));
}

/// Sends half of the requests to each model and injects `fault` while they are in flight and queued. Asserts that every
/// answer is right or a 503 with Retry-After, and returns the number of right ones.
async fn inject_during_requests(
    server: &ServerWithModels,
    fault: impl AsyncFnOnce(&ServerWithModels),
) -> u64 {
    // The numbers differ, so that a mixed-up answer is noticed.
    let slow: Vec<_> = (0..REQUESTS / 2)
        .map(|index| server.begin_infer("slow", milliseconds(20 + index).to_string()))
        .collect();
    let chunks: Vec<_> = (0..REQUESTS / 2)
        .map(|_| server.begin_infer("silero-vad", speech().to_string()))
        .collect();
    // One request is in the process and the others wait in the queue.
    server.wait_until_queued("slow", 10).await;
    fault(server).await;
    let mut right = 0;
    for (expected, answer) in (20..).zip(slow) {
        let answer: Answer = answer.await.unwrap();
        assert!(answer.took < REQUEST_DEADLINE, "{answer:?}");
        right += u64::from(answer.is_output(&[expected as f64]));
    }
    for answer in chunks {
        let answer = answer.await.unwrap();
        assert!(answer.took < REQUEST_DEADLINE, "{answer:?}");
        right += u64::from(is_speech(&answer));
    }
    right
}

#[tokio::test]
async fn a_killed_model_process_fails_no_request() {
    let server = start().await;
    for round in 1..=ROUNDS {
        let before = server.only_host("slow");
        let right =
            inject_during_requests(&server, async |server| server.only_host("slow").kill()).await;
        // The request in the process is repeated; the others are still in the queue.
        assert_eq!(right, REQUESTS);
        assert_ne!(server.only_host("slow").pid, before.pid);
        server.wait_for_restarts(&host_path("slow"), round).await;
        server.wait_for_log(&format!("process {} ended: SIGKILL", before.pid));
        let restarted = |line: &&str| {
            line.contains("child restarted") && line.contains("headroom/models/slow:1/host-0")
        };
        wait_for(DEADLINE, || match server.log() {
            log if log.lines().filter(restarted).count() as u64 == round => Ok(()),
            log => Err(log),
        });
    }
    server.wait_for_restarts(&host_path("silero-vad"), 0).await;
    let killed = [
        "actor=\"headroom/models/slow:1/host-0\"",
        "reason=\"process\"",
    ];
    assert_eq!(
        server.metric("headroom_actor_exits_total", &killed).await,
        ROUNDS as f64
    );
    assert_eq!(server.zombies(), []);
    assert_both_served(&server).await;
}

/// The series of the model's actors begin again with each load, so an alert about kills cannot use them.
#[tokio::test]
async fn kills_stay_counted_when_the_model_is_loaded_again() {
    let server = start().await;
    let (crashes, of_slow) = ("headroom_model_crashes_total", ["name=\"slow:1\""]);
    assert_eq!(server.metric(crashes, &of_slow).await, 0.0);
    for kills in 1..=2_u32 {
        server.only_host("slow").kill();
        server
            .wait_for_metric(crashes, &of_slow, |count| count == f64::from(kills))
            .await;
        server
            .wait_until_served("slow", &milliseconds(1), &[1.0])
            .await;
        // The end of its process is no crash.
        server.unload("slow").await.ok();
        server
            .wait_until_served("slow", &milliseconds(1), &[1.0])
            .await;
    }
    assert_eq!(server.metric(crashes, &of_slow).await, 2.0);
    let others = ["name=\"silero-vad:1\""];
    assert_eq!(server.metric(crashes, &others).await, 0.0);
}

#[tokio::test]
async fn the_hosts_of_a_killed_zygote_end_too_and_all_models_are_loaded_again() {
    let server = start().await;
    for round in 1..=ROUNDS {
        let hosts = [server.only_host("slow"), server.only_host("silero-vad")];
        let zygote = server.zygote();
        inject_during_requests(&server, async |_| {
            zygote.kill();
            wait_until_gone(&hosts);
        })
        .await;
        server
            .wait_until_served("slow", &milliseconds(1), &[1.0])
            .await;
        assert_both_served(&server).await;
        assert_ne!(server.zygote().pid, zygote.pid);
        server
            .wait_for_restarts("headroom/models/zygote", round)
            .await;
    }
    assert_eq!(server.zombies(), []);
}
