//! More requests than a model's queue holds.

use headroom_test_support::torchscript;

use crate::setup::{ServerWithModels, milliseconds};

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_counts_it() {
    let setup = ServerWithModels::start("models.queue_max = 4");
    setup.place("slow", torchscript::slow);
    setup.infer("slow", &milliseconds(1)).await.output();
    // Fills the queue for so long that all others find it full.
    let first: Vec<_> = (0..4)
        .map(|_| setup.begin("slow", &milliseconds(1000)))
        .collect();
    setup.wait_until_queued("slow", 3).await;
    let refused: Vec<_> = (0..30)
        .map(|_| setup.begin("slow", &milliseconds(5)))
        .collect();
    for answer in refused {
        let answer = answer.await.unwrap();
        answer.assert_refused(503, "too many requests");
        assert!(answer.took.as_secs() < 1, "{answer:?}");
    }
    for answer in first {
        assert_eq!(answer.await.unwrap().output(), [1000.0]);
    }
    let busy = [
        "actor=\"headroom/models/slow:1/owner\"",
        "outcome=\"refused_busy\"",
    ];
    let counted = setup
        .server
        .metric("headroom_actor_messages_total", &busy)
        .await;
    assert_eq!(counted, 30.0);
    let owner = setup.server.actor("headroom/models/slow:1/owner").await;
    assert_eq!(owner["stats"]["refused_busy"], 30);
    setup.infer("slow", &milliseconds(1)).await.output();
}
