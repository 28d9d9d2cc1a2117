//! A server whose places for connections are all taken: an operator sees it.

use std::time::Instant;

use super::{Client, GET, start};

/// The log line of a server that accepts no further connection.
const FULL: &str = "the most connections are open";

#[tokio::test]
async fn a_server_that_accepts_no_further_connection_shows_it_in_its_metrics_and_its_log() {
    let server = start("server.workers = 1\nserver.connections_max = 2");
    assert_eq!(
        server.metric("headroom_http_connections_max", &[]).await,
        2.0
    );
    let open_are = async |count: f64| {
        let is_count = |open: f64| open == count;
        server
            .wait_for_metric("headroom_http_connections", &[], is_count)
            .await;
    };
    open_are(0.0).await;
    let begun = Instant::now();
    let mut first = Client::connect(&server);
    first.send(GET);
    first.assert_answer(200);
    open_are(1.0).await;
    assert!(!server.log().contains(FULL), "{}", server.log());

    let mut second = Client::connect(&server);
    second.send(GET);
    second.assert_answer(200);
    let log = server.wait_for_log(FULL);
    assert!(log.contains("connections=2"), "{log}");
    open_are(2.0).await;

    // The one that waits is not open. It gets the place of the one that ends.
    let mut waiting = Client::connect(&server);
    waiting.send(GET);
    open_are(2.0).await;
    drop(first);
    waiting.assert_answer(200);
    open_are(2.0).await;
    let lines = server.log().matches(FULL).count() as u64;
    let lines_max = 1 + begun.elapsed().as_secs() / 10;
    assert!((1..=lines_max).contains(&lines), "{lines} lines");
}
