//! SIGKILL for model processes and for the zygote while requests are in flight.

use headroom_test_support::torchscript;

use crate::house::{Answer, House, host_path, is_speech, milliseconds, speech};
use crate::processes::zombies_below;

/// Kills within one run. A model's supervisor allows as many within half a minute.
const ROUNDS: u64 = 5;

/// Requests in flight at each kill, half of them to each of the two models.
const REQUESTS: u64 = 50;

/// Longest time that a request may take here. The server itself gives up after 30 s.
const REQUEST_DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

async fn house() -> House {
    let house = House::start("");
    house.place("slow", torchscript::slow);
    house.models.add_sample();
    all_work(&house).await;
    house
}

async fn all_work(house: &House) {
    assert_eq!(house.infer("slow", &milliseconds(1)).await.output(), [1.0]);
    assert!(is_speech(&house.infer("silero-vad", &speech()).await));
}

/// Sends half of the requests to each model, does `harm` while they are in flight and queued, and hears every answer:
/// right, or a 503 that tells when to come back. Gives the number of right ones.
async fn harm_in_flight(house: &House, harm: impl AsyncFnOnce(&House)) -> u64 {
    // Each asks for another number, so that a mixed-up answer would show.
    let slow: Vec<_> = (0..REQUESTS / 2)
        .map(|index| house.begin("slow", &milliseconds(20 + index)))
        .collect();
    let chunks: Vec<_> = (0..REQUESTS / 2)
        .map(|_| house.begin("silero-vad", &speech()))
        .collect();
    // One in the process, all others of its kind behind it.
    house.wait_until_queued("slow", 10).await;
    harm(house).await;
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
    let house = house().await;
    for round in 1..=ROUNDS {
        let before = house.host("slow");
        let right = harm_in_flight(&house, async |house| house.host("slow").kill()).await;
        // The request inside the process is repeated, those behind it never left the queue.
        assert_eq!(right, REQUESTS);
        assert_ne!(house.host("slow").pid, before.pid);
        house.wait_for_restarts(&host_path("slow"), round).await;
    }
    house.wait_for_restarts(&host_path("silero-vad"), 0).await;
    let killed = [
        "actor=\"headroom/models/slow:1/host-0\"",
        "reason=\"process\"",
    ];
    assert_eq!(
        house
            .server
            .metric("headroom_actor_exits_total", &killed)
            .await,
        ROUNDS as f64
    );
    assert_eq!(zombies_below(house.server.pid()), []);
    all_work(&house).await;
}

#[tokio::test]
async fn a_killed_zygote_takes_its_hosts_along_and_all_models_come_back() {
    let house = house().await;
    for round in 1..=ROUNDS {
        let hosts = [house.host("slow"), house.host("silero-vad")];
        let zygote = house.zygote();
        harm_in_flight(&house, async |_| {
            zygote.kill();
            for host in &hosts {
                host.wait_until_gone();
            }
        })
        .await;
        house
            .wait_until_served("slow", &milliseconds(1), &[1.0])
            .await;
        all_work(&house).await;
        assert_ne!(house.zygote().pid, zygote.pid);
        house
            .wait_for_restarts("headroom/models/zygote", round)
            .await;
    }
    let zombies = zombies_below(house.server.pid());
    assert_eq!(zombies, []);
}
