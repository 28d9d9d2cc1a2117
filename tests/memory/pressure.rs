//! Memory levels: at a high level idle models are evicted, and the level falls.

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::{PeakSampler, tree_pss};
use headroom_test_support::wait::{DEADLINE, wait_for_async};

use super::setup::{AddModels, ask, evictions, limit_for};

#[tokio::test]
async fn idle_models_are_evicted_at_the_high_level_and_the_level_falls() {
    const EACH: u64 = 120;
    let models = Models::new();
    models
        .add_slow_adder("one", EACH, 1.0)
        .add_adder("two", EACH, 2.0);
    // The high level is between the memory of one model and of two. The limit is far above: a load may use it while no
    // model can be evicted.
    let limit = limit_for(4, EACH);
    let high = limit_for(1, EACH) as f64 / limit as f64;
    let elevated = high - 0.02;
    let server = models.start_server_with_limit(
        limit,
        &format!(
            "memory.levels = {{ elevated = {elevated:.4}, high = {high:.4}, critical = 0.9, exhausted = 0.95 }}\n\
             memory.hysteresis = 0.01\nmemory.dwell = '200ms'\nmemory.sample_interval = '100ms'"
        ),
    );
    let sampler = PeakSampler::start(server.pid());
    assert_eq!(ask(&server, "one", 1).await.number(), 2.0);
    assert_eq!(server.metric("headroom_memory_level", &[]).await, 0.0);
    let (busy, answer) = tokio::join!(ask(&server, "one", 3000), ask(&server, "two", 1));
    assert_eq!((busy.number(), answer.number()), (3001.0, 3.0));
    assert_eq!(evictions(&server, "room").await, 0.0);

    wait_for_async(DEADLINE, || async {
        let evicted = evictions(&server, "pressure").await;
        (evicted >= 1.0).then_some(()).ok_or(evicted)
    })
    .await;
    let normal = |level| level == 0.0;
    server
        .wait_for_metric("headroom_memory_level", &[], normal)
        .await;
    assert!(sampler.finish().bytes > (high * limit as f64) as u64);
    assert!(tree_pss(server.pid()) < (high * limit as f64) as u64);
    // No more than needed was evicted.
    assert_eq!(evictions(&server, "pressure").await, 1.0);
    let changes = "headroom_memory_level_changes_total";
    assert!(server.metric(changes, &["to=\"high\""]).await >= 1.0);
    assert!(server.metric(changes, &["to=\"normal\""]).await >= 1.0);
    // The model that stayed answers, and the other is loaded again.
    assert_eq!(ask(&server, "two", 2).await.number(), 4.0);
    assert_eq!(ask(&server, "one", 2).await.number(), 3.0);
}
