//! Processes that run and do not respond: stopped by SIGSTOP, or in an endless loop.

use std::time::{Duration, Instant};

use headroom_test_support::protocol::{host_path, milliseconds};
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_until};
use nix::sys::signal::Signal;

use crate::setup::{BackgroundClient, FAST_HEARTBEAT, ServerWithModels, floats};

#[tokio::test]
async fn a_stopped_host_is_detected_by_its_heartbeat_and_restarted() {
    let server = ServerWithModels::start(FAST_HEARTBEAT);
    server.add_model("slow", torchscript::slow);
    server.infer("slow", &milliseconds(1)).await.output();
    let background = BackgroundClient::start(&server).await;

    // The host is idle.
    let host = server.only_host("slow");
    host.stop();
    host.wait_until_gone();
    server
        .wait_until_served("slow", &milliseconds(1), &[1.0])
        .await;

    // The host works on a request, which is repeated.
    let host = server.only_host("slow");
    let answer = server.begin_infer("slow", milliseconds(300).to_string());
    server.wait_until_busy("slow").await;
    host.stop();
    assert!(answer.await.unwrap().is_output(&[300.0]));
    host.wait_until_gone();

    server.wait_for_restarts(&host_path("slow"), 2).await;
    let stuck = [
        "actor=\"headroom/models/slow:1/host-0\"",
        "reason=\"stuck\"",
    ];
    assert_eq!(
        server.metric("headroom_actor_exits_total", &stuck).await,
        2.0
    );
    background.assert_undisturbed().await;
}

#[tokio::test]
async fn a_server_that_was_stopped_for_long_keeps_its_hosts() {
    let server = ServerWithModels::start(FAST_HEARTBEAT);
    server.add_model("slow", torchscript::slow);
    server.add_model("affine", torchscript::affine);
    server.set_model_settings("slow", "deadline = '2s'\n");
    server.infer("slow", &milliseconds(1)).await.output();
    server.infer("affine", &floats(&[2.0])).await.output();
    let (zygote, slow, affine) = (
        server.zygote(),
        server.only_host("slow"),
        server.only_host("affine"),
    );

    for pause in [Duration::from_secs(3), Duration::from_secs(5)] {
        // The host finishes its work while the server is stopped.
        let answer = server.begin_infer("slow", milliseconds(1500).to_string());
        server.wait_until_busy("slow").await;
        let process = server.process();
        process.stop();
        let stopped = Instant::now();
        wait_until(DEADLINE, "the pause is over", || stopped.elapsed() >= pause);
        process.signal(Signal::SIGCONT);
        assert_eq!(answer.await.unwrap().output(), [1500.0]);
        server.infer("affine", &floats(&[2.0])).await.output();
    }

    let now = (
        server.zygote(),
        server.only_host("slow"),
        server.only_host("affine"),
    );
    assert_eq!(now, (zygote, slow, affine));
    server.wait_for_restarts(&host_path("slow"), 0).await;
    server.wait_for_restarts(&host_path("affine"), 0).await;
}

#[tokio::test]
async fn a_stopped_zygote_is_restarted_when_it_is_needed() {
    let server = ServerWithModels::start(FAST_HEARTBEAT);
    server.add_model("slow", torchscript::slow);
    server.add_model("affine", torchscript::affine);
    server.infer("slow", &milliseconds(1)).await.output();

    let zygote = server.zygote();
    zygote.stop();
    // A loaded model answers.
    server.infer("slow", &milliseconds(1)).await.output();
    // Another model is loaded.
    server
        .wait_until_served("affine", &floats(&[2.0]), &[6.5])
        .await;
    zygote.wait_until_gone();
    server
        .wait_until_served("slow", &milliseconds(1), &[1.0])
        .await;
    server.wait_for_restarts("headroom/models/zygote", 1).await;
}

#[tokio::test]
async fn a_host_that_is_killed_under_a_stopped_zygote_is_restarted() {
    let server = ServerWithModels::start(FAST_HEARTBEAT);
    server.add_model("slow", torchscript::slow);
    server.infer("slow", &milliseconds(1)).await.output();
    let zygote = server.zygote();
    zygote.stop();
    server.only_host("slow").kill();
    server
        .wait_until_served("slow", &milliseconds(1), &[1.0])
        .await;
    zygote.wait_until_gone();
}

#[tokio::test]
async fn a_forward_that_never_ends_is_ended_by_its_deadline() {
    let server = ServerWithModels::start("");
    server.add_model("hangs", torchscript::hangs);
    server.set_model_settings("hangs", "deadline = '1s'\n");
    let background = BackgroundClient::start(&server).await;

    for round in 1..=2 {
        let answer = server.infer("hangs", &floats(&[1.0])).await;
        answer.assert_refused(504, "deadline of 1s");
        // The answer comes before the end of the old process and the start of the new one.
        server.wait_for_restarts(&host_path("hangs"), round).await;
    }
    let first = server.begin_infer("hangs", floats(&[1.0]).to_string());
    let second = server.begin_infer("hangs", floats(&[1.0]).to_string());
    // Each request has its own deadline.
    first.await.unwrap().assert_refused(504, "deadline of 1s");
    second.await.unwrap().assert_refused(504, "deadline of 1s");
    background.assert_undisturbed().await;
}
