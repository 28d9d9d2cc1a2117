//! Processes that are there and do nothing: stopped by SIGSTOP, or lost in an endless loop.

use std::time::{Duration, Instant};

use headroom_test_support::torchscript;
use headroom_test_support::wait::wait_for;
use nix::sys::signal::Signal;

use crate::setup::{
    Bystander, DEADLINE, IMPATIENT, ServerWithModels, floats, host_path, milliseconds,
};

#[tokio::test]
async fn a_stopped_host_is_found_by_its_heartbeat_and_replaced() {
    let setup = ServerWithModels::start(IMPATIENT);
    setup.place("slow", torchscript::slow);
    setup.infer("slow", &milliseconds(1)).await.output();
    let bystander = Bystander::start(&setup).await;

    // Idle: nobody asks it anything, and it is found all the same.
    let host = setup.host("slow");
    host.hold();
    host.wait_until_gone();
    setup
        .wait_until_served("slow", &milliseconds(1), &[1.0])
        .await;

    // At work: its request is repeated.
    let host = setup.host("slow");
    let answer = setup.begin("slow", &milliseconds(300));
    setup.wait_until_busy("slow").await;
    host.hold();
    assert!(answer.await.unwrap().is_right(&[300.0]));
    host.wait_until_gone();

    setup.wait_for_restarts(&host_path("slow"), 2).await;
    let stuck = [
        "actor=\"headroom/models/slow:1/host-0\"",
        "reason=\"stuck\"",
    ];
    assert_eq!(
        setup
            .server
            .metric("headroom_actor_exits_total", &stuck)
            .await,
        2.0
    );
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn a_server_that_was_stopped_for_long_finds_its_hosts_as_they_were() {
    let setup = ServerWithModels::start(IMPATIENT);
    setup.place("slow", torchscript::slow);
    setup.place("affine", torchscript::affine);
    setup.settings("slow", "deadline = '2s'\n");
    setup.infer("slow", &milliseconds(1)).await.output();
    setup.infer("affine", &floats(&[2.0])).await.output();
    let (zygote, slow, affine) = (setup.zygote(), setup.host("slow"), setup.host("affine"));

    for pause in [Duration::from_secs(3), Duration::from_secs(5)] {
        // It is at work, and has long answered when the server runs again.
        let answer = setup.begin("slow", &milliseconds(1500));
        setup.wait_until_busy("slow").await;
        let server = setup.process();
        server.hold();
        let held = Instant::now();
        wait_for(DEADLINE, || {
            (held.elapsed() >= pause).then_some(()).ok_or("it pauses")
        });
        server.signal(Signal::SIGCONT);
        assert_eq!(answer.await.unwrap().output(), [1500.0]);
        setup.infer("affine", &floats(&[2.0])).await.output();
    }

    let now = (setup.zygote(), setup.host("slow"), setup.host("affine"));
    assert_eq!(now, (zygote, slow, affine));
    setup.wait_for_restarts(&host_path("slow"), 0).await;
    setup.wait_for_restarts(&host_path("affine"), 0).await;
}

#[tokio::test]
async fn a_stopped_zygote_is_replaced_when_it_is_needed() {
    let setup = ServerWithModels::start(IMPATIENT);
    setup.place("slow", torchscript::slow);
    setup.place("affine", torchscript::affine);
    setup.infer("slow", &milliseconds(1)).await.output();

    let zygote = setup.zygote();
    zygote.hold();
    // What is loaded goes on.
    setup.infer("slow", &milliseconds(1)).await.output();
    // What is not gets loaded.
    setup
        .wait_until_served("affine", &floats(&[2.0]), &[6.5])
        .await;
    zygote.wait_until_gone();
    setup
        .wait_until_served("slow", &milliseconds(1), &[1.0])
        .await;
    setup.wait_for_restarts("headroom/models/zygote", 1).await;
}

#[tokio::test]
async fn a_host_that_is_killed_under_a_stopped_zygote_comes_back() {
    let setup = ServerWithModels::start(IMPATIENT);
    setup.place("slow", torchscript::slow);
    setup.infer("slow", &milliseconds(1)).await.output();
    let zygote = setup.zygote();
    zygote.hold();
    setup.host("slow").kill();
    setup
        .wait_until_served("slow", &milliseconds(1), &[1.0])
        .await;
    zygote.wait_until_gone();
}

#[tokio::test]
async fn a_forward_that_never_ends_is_ended_by_its_deadline_alone() {
    let setup = ServerWithModels::start("");
    setup.place("hangs", torchscript::hangs);
    setup.settings("hangs", "deadline = '1s'\n");
    let bystander = Bystander::start(&setup).await;

    for round in 1..=2 {
        let answer = setup.infer("hangs", &floats(&[1.0])).await;
        answer.assert_refused(504, "deadline of 1s");
        // The answer comes first, then the old process's end and the new one.
        setup.wait_for_restarts(&host_path("hangs"), round).await;
    }
    let first = setup.begin("hangs", &floats(&[1.0]));
    let second = setup.begin("hangs", &floats(&[1.0]));
    // Each gets its own second.
    first.await.unwrap().assert_refused(504, "deadline of 1s");
    second.await.unwrap().assert_refused(504, "deadline of 1s");
    bystander.assert_undisturbed().await;
}
