//! `GET /api/status/events`: one stream for each client.

use std::time::{Duration, Instant};

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{Answer, floats};
use headroom_test_support::server::{Options, Server};
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::Signal;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::BINARY;

const EVENTS: &str = "/api/status/events";

const PRELOAD: &str = "/api/performance/lazy-loader/preload";

/// The events of one client.
struct Events {
    response: Response,
    text: String,
}

impl Events {
    async fn open(server: &Server) -> Self {
        let response = server.get(EVENTS).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self {
            response,
            text: String::new(),
        }
    }

    /// The next event as it is sent. `None` at the end of the stream.
    async fn text(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(event);
            }
            let chunk = timeout(DEADLINE, self.response.chunk()).await.unwrap();
            // A server that stops may cut the connection.
            self.text += std::str::from_utf8(&chunk.ok()??).unwrap();
        }
    }

    /// The id and the status of the next event.
    async fn event(&mut self) -> Option<(u64, Value)> {
        let text = self.text().await?;
        let field = |name: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.unwrap_or_else(|| panic!("no {name} in {text}"))
        };
        let status = serde_json::from_str(field("data")).unwrap();
        Some((field("id").parse().unwrap(), status))
    }

    /// Waits for an event whose status shows a resource in this phase. Returns how long that took.
    async fn phase(&mut self, name: &str, phase: &str) -> Duration {
        let began = Instant::now();
        loop {
            let (_, status) = self.event().await.unwrap();
            let resources = status["resources"]["resources"].as_array();
            let mut resources = resources.into_iter().flatten();
            if resources.any(|it| it["name"] == name && it["phase"] == phase) {
                return began.elapsed();
            }
            assert!(began.elapsed() < DEADLINE, "{name} is not {phase}");
        }
    }
}

#[tokio::test]
async fn the_first_event_is_complete_and_further_ones_follow_each_second() {
    let server = Server::start(Options::new(BINARY));
    let mut events = Events::open(&server).await;
    let first = events.text().await.unwrap();
    assert!(first.starts_with("retry: 1000\n"), "{first}");
    events.text = format!("{first}\n\n{}", events.text);
    let (id, status) = events.event().await.unwrap();
    assert_eq!(status["timeline"]["complete"], true);
    let began = Instant::now();
    let mut last = id;
    for _ in 0..3 {
        let (id, status) = events.event().await.unwrap();
        assert!(id > last, "{id} follows {last}");
        last = id;
        assert_eq!(status["timeline"]["complete"], false);
        assert!(status["timeline"]["slots"].as_array().unwrap().len() <= 6);
    }
    assert!(began.elapsed() < Duration::from_secs(6));
    // Another client gets the whole, from what is made anyway.
    let (id, status) = Events::open(&server).await.event().await.unwrap();
    assert!(id >= last);
    assert_eq!(status["timeline"]["complete"], true);
}

#[tokio::test]
async fn a_load_and_an_unload_are_sent_at_once() {
    let models = Models::new();
    models.add("echo", 1, torchscript::echo);
    let server = Server::start(models.options(BINARY));
    let mut events = Events::open(&server).await;
    // The first load also starts the zygote.
    server.infer("echo", &floats("x", &[1.0])).await.ok();
    events.phase("echo:1", "ready").await;
    let cache = server.url("/api/performance/lazy-loader/cache?name=echo:1");
    let mut delays = Vec::new();
    for _ in 0..5 {
        Answer::to(server.client().delete(&cache)).await.ok();
        delays.push(events.phase("echo:1", "cold").await);
        server.infer("echo", &floats("x", &[1.0])).await.ok();
        delays.push(events.phase("echo:1", "ready").await);
    }
    delays.sort();
    // An event each second alone would take half a second at the median.
    assert!(delays[5] < Duration::from_millis(400), "{delays:?}");
}

#[tokio::test]
async fn the_number_of_clients_is_bounded() {
    let server = Server::start(Options::new(BINARY));
    let mut clients = Vec::new();
    let refused = loop {
        let response = server.get(EVENTS).await;
        if response.status() != 200 {
            break response;
        }
        clients.push(response);
        assert!(clients.len() <= 64);
    };
    assert_eq!(clients.len(), 64);
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["type"], "/problems/overloaded");
    let metrics = server.get("/api/performance/metrics").await;
    let metrics: Value = metrics.json().await.unwrap();
    let outcomes = &metrics["http"]["since_start"]["classes"]["status"]["outcomes_total"];
    assert_eq!(outcomes["5xx"], 1, "{outcomes}");
    clients.pop();
    wait_for_async(DEADLINE, || async {
        let status = server.get(EVENTS).await.status();
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn a_page_of_another_origin_gets_no_stream() {
    let models = Models::new();
    models.add("echo", 1, torchscript::echo);
    let server = Server::start(models.options(BINARY));
    let preload = json!({ "names": ["echo"] });
    let preload = server.post_json(PRELOAD, &preload).await;
    let job = preload.headers["location"].to_str().unwrap().to_owned();
    for path in [EVENTS.to_owned(), format!("{job}/events")] {
        for (name, value, status) in [
            ("sec-fetch-site", "cross-site", 403),
            ("sec-fetch-site", "same-site", 403),
            ("origin", "https://example.org", 403),
            ("sec-fetch-site", "same-origin", 200),
            ("sec-fetch-site", "none", 200),
        ] {
            let request = server.client().get(server.url(&path)).header(name, value);
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), status, "{path} {value}");
        }
    }
}

#[tokio::test]
async fn clients_do_not_hold_up_the_stop() {
    let mut server = Server::start(Options::new(BINARY));
    let mut events = Events::open(&server).await;
    events.event().await.unwrap();
    let began = Instant::now();
    server.signal(Signal::SIGTERM);
    while events.event().await.is_some() {}
    assert!(server.wait_for_exit().success());
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}
