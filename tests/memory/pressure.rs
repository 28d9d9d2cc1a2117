//! Memory levels: what is idle goes when one is reached, and the level falls again.

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::{Watch, tree_pss};
use headroom_test_support::wait::wait_for_async;

use super::stage::{DEADLINE, ModelsExt, ask, evictions, number, room_for};

#[tokio::test]
async fn idle_models_go_when_the_level_is_high_and_then_it_falls() {
    const EACH: u64 = 120;
    let models = Models::new();
    models.works("one", EACH, 1.0).adds("two", EACH, 2.0);
    // High begins where there is room for one and not for two. Far more is free: a load takes of it
    // while nothing can leave instead.
    let limit = room_for(4, EACH);
    let high = room_for(1, EACH) as f64 / limit as f64;
    let elevated = high - 0.02;
    let server = models.serve_within(
        limit,
        &format!(
            "memory.levels = {{ elevated = {elevated:.4}, high = {high:.4}, critical = 0.9, exhausted = 0.95 }}\n\
             memory.hysteresis = 0.01\nmemory.dwell = '200ms'\nmemory.sample_interval = '100ms'"
        ),
    );
    let watch = Watch::start(server.pid());
    assert_eq!(number(ask(&server, "one", 1).await), 2.0);
    assert_eq!(server.metric("headroom_memory_level", &[]).await, 0.0);
    let (busy, answer) = tokio::join!(ask(&server, "one", 3000), ask(&server, "two", 1));
    assert_eq!((number(busy), number(answer)), (3001.0, 3.0));
    assert_eq!(evictions(&server, "room").await, 0.0);

    wait_for_async(DEADLINE, || async {
        let gone = evictions(&server, "pressure").await;
        if gone >= 1.0 { Ok(()) } else { Err(gone) }
    })
    .await;
    wait_for_async(DEADLINE, || async {
        let level = server.metric("headroom_memory_level", &[]).await;
        if level == 0.0 { Ok(()) } else { Err(level) }
    })
    .await;
    assert!(watch.finish().bytes > (high * limit as f64) as u64);
    assert!(tree_pss(server.pid()) < (high * limit as f64) as u64);
    // Only as much as was wanted.
    assert_eq!(evictions(&server, "pressure").await, 1.0);
    let changes = "headroom_memory_level_changes_total";
    assert!(server.metric(changes, &["to=\"high\""]).await >= 1.0);
    assert!(server.metric(changes, &["to=\"normal\""]).await >= 1.0);
    // The one that stayed still answers, and the other comes back.
    assert_eq!(number(ask(&server, "two", 2).await), 4.0);
    assert_eq!(number(ask(&server, "one", 2).await), 3.0);
}
