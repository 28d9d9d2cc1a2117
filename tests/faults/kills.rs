//! SIGKILL for model processes and for the zygote while requests are in flight.

use headroom_test_support::torchscript;

use crate::processes::zombies_below;
use crate::setup::{Answer, ServerWithModels, host_path, is_speech, milliseconds, speech};

/// Kills within one run. A model's supervisor allows as many within half a minute.
const ROUNDS: u64 = 5;

/// Requests in flight at each kill, half of them to each of the two models.
const REQUESTS: u64 = 50;

/// Longest time that a request may take here. The server itself gives up after 30 s.
const REQUEST_DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

async fn setup() -> ServerWithModels {
    let setup = ServerWithModels::start("");
    setup.place("slow", torchscript::slow);
    setup.models.add_sample();
    all_work(&setup).await;
    setup
}

async fn all_work(setup: &ServerWithModels) {
    assert_eq!(setup.infer("slow", &milliseconds(1)).await.output(), [1.0]);
    assert!(is_speech(&setup.infer("silero-vad", &speech()).await));
}

/// Sends half of the requests to each model, does `harm` while they are in flight and queued, and hears every answer:
/// right, or a 503 that tells when to come back. Gives the number of right ones.
async fn harm_in_flight(
    setup: &ServerWithModels,
    harm: impl AsyncFnOnce(&ServerWithModels),
) -> u64 {
    // Each asks for another number, so that a mixed-up answer would show.
    let slow: Vec<_> = (0..REQUESTS / 2)
        .map(|index| setup.begin("slow", &milliseconds(20 + index)))
        .collect();
    let chunks: Vec<_> = (0..REQUESTS / 2)
        .map(|_| setup.begin("silero-vad", &speech()))
        .collect();
    // One in the process, all others of its kind behind it.
    setup.wait_until_queued("slow", 10).await;
    harm(setup).await;
    let mut right = 0;
    for (expected, answer) in (20..).zip(slow) {
        let answer: Answer = answer.await.unwrap();
        assert!(answer.took < REQUEST_DEADLINE, "{answer:?}");
        right += u64::from(answer.is_right(&[expected as f64]));
    }
    for answer in chunks {
        let answer = answer.await.unwrap();
        assert!(answer.took < REQUEST_DEADLINE, "{answer:?}");
        right += u64::from(is_speech(&answer));
    }
    right
}

#[tokio::test]
async fn a_killed_model_process_costs_no_request_its_answer() {
    let setup = setup().await;
    for round in 1..=ROUNDS {
        let before = setup.host("slow");
        let right = harm_in_flight(&setup, async |setup| setup.host("slow").kill()).await;
        // The request inside the process is repeated, those behind it never left the queue.
        assert_eq!(right, REQUESTS);
        assert_ne!(setup.host("slow").pid, before.pid);
        setup.wait_for_restarts(&host_path("slow"), round).await;
    }
    setup.wait_for_restarts(&host_path("silero-vad"), 0).await;
    let killed = [
        "actor=\"headroom/models/slow:1/host-0\"",
        "reason=\"process\"",
    ];
    assert_eq!(
        setup
            .server
            .metric("headroom_actor_exits_total", &killed)
            .await,
        ROUNDS as f64
    );
    assert_eq!(zombies_below(setup.server.pid()), []);
    all_work(&setup).await;
}

#[tokio::test]
async fn a_killed_zygote_takes_its_hosts_along_and_all_models_come_back() {
    let setup = setup().await;
    for round in 1..=ROUNDS {
        let hosts = [setup.host("slow"), setup.host("silero-vad")];
        let zygote = setup.zygote();
        harm_in_flight(&setup, async |_| {
            zygote.kill();
            for host in &hosts {
                host.wait_until_gone();
            }
        })
        .await;
        setup
            .wait_until_served("slow", &milliseconds(1), &[1.0])
            .await;
        all_work(&setup).await;
        assert_ne!(setup.zygote().pid, zygote.pid);
        setup
            .wait_for_restarts("headroom/models/zygote", round)
            .await;
    }
    let zombies = zombies_below(setup.server.pid());
    assert_eq!(zombies, []);
}
