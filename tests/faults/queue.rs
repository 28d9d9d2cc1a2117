//! More requests than a model's queue holds.

use headroom_test_support::protocol::milliseconds;
use headroom_test_support::torchscript;

use crate::setup::ServerWithModels;

#[tokio::test]
async fn a_full_queue_refuses_requests_at_once_and_counts_them() {
    let server = ServerWithModels::start("models.queue_max = 4");
    server.add_model("slow", torchscript::slow);
    server.infer("slow", &milliseconds(1)).await.output();
    // These fill the queue until all others are refused.
    let first: Vec<_> = (0..4)
        .map(|_| server.begin_infer("slow", milliseconds(1000).to_string()))
        .collect();
    server.wait_until_queued("slow", 3).await;
    let refused: Vec<_> = (0..30)
        .map(|_| server.begin_infer("slow", milliseconds(5).to_string()))
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
    let counted = server.metric("headroom_actor_messages_total", &busy).await;
    assert_eq!(counted, 30.0);
    let owner = server.actor("headroom/models/slow:1/owner").await;
    assert_eq!(owner["stats"]["refused_busy"], 30);
    server.infer("slow", &milliseconds(1)).await.output();
}
