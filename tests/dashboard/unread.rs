//! Clients of event streams that stop reading: what the server holds for them is bounded, and they are cut off.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{Answer, metric_in};
use headroom_test_support::server::{Options, Server};
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::BINARY;

const SETTINGS: &str = "server.answer_idle_timeout = '2s'";

const PRELOAD: &str = "/api/performance/lazy-loader/preload";

/// The metric of connections that the server has cut off, and its label for clients that do not read.
const CUT: &str = "headroom_http_connections_cut_total";
const STALLED: [&str; 1] = ["reason=\"stalled\""];

/// What the server may hold for one client: a few pieces of text.
const HELD_MAX: u64 = 256 << 10;

/// A client that asks for a stream of events, and reads only that it gets one. Its window is small.
fn stop_reading(server: &Server, path: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.address().into()).unwrap();
    let mut stream = TcpStream::from(socket);
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    stream
}

/// The bytes of the budget that wait for clients to read.
async fn unread_bytes(server: &Server) -> u64 {
    server.buffer_bytes("unread_answers").await
}

/// Waits until this number of clients is cut off, and checks what the server holds for them meanwhile and afterwards.
async fn wait_until_cut_off(server: &Server, clients: u64, change: impl AsyncFn()) {
    let mut held_most = 0;
    let mut metrics_longest = 0;
    let end = Instant::now() + DEADLINE;
    loop {
        let metrics = server.metrics().await;
        if metric_in(&metrics, CUT, &STALLED) >= clients as f64 {
            break;
        }
        assert!(Instant::now() < end, "not all are cut off");
        change().await;
        held_most = held_most.max(unread_bytes(server).await);
        metrics_longest = metrics_longest.max(metrics.len() as u64);
    }
    // The server may not yet have released the answer with the metrics when it is read.
    let held_max = clients * HELD_MAX + metrics_longest;
    assert!(held_most > 0 && held_most <= held_max, "{held_most}");
    wait_for_async(DEADLINE, || async {
        let bytes = unread_bytes(server).await;
        (bytes == 0).then_some(()).ok_or(bytes)
    })
    .await;
}

/// Starts a job, which is a change, and a change is an event.
async fn change_status(server: &Server) {
    server.post(PRELOAD, &json!({ "names": ["nothing"] })).await;
}

/// Starts a preload of these names. Returns the path of its job.
async fn preload(server: &Server, names: &[String]) -> String {
    let preload = server.post_json(PRELOAD, &json!({ "names": names })).await;
    assert!([200, 202].contains(&preload.status), "{preload:?}");
    preload.headers["location"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn followers_of_the_status_that_stop_reading_are_cut_off_and_free_their_places() {
    let server = Server::start(Options::new(BINARY).settings(SETTINGS));
    let events = "/api/status/events";
    let clients: Vec<_> = (0..64).map(|_| stop_reading(&server, events)).collect();
    assert_eq!(server.get(events).await.status(), 503);
    wait_until_cut_off(&server, 64, async || change_status(&server).await).await;
    wait_for_async(DEADLINE, || async {
        let status = server.get(events).await.status();
        (status == 200).then_some(()).ok_or(status)
    })
    .await;
    drop(clients);
}

#[tokio::test]
async fn a_follower_of_a_job_that_stops_reading_is_cut_off() {
    // Each load is a change of the job, and a step in the text of each later event.
    let models = Models::new();
    let name = |number: u32| format!("{}-{number}", "echo".repeat(30));
    let names: Vec<_> = (0..80).map(name).collect();
    for name in &names {
        models.add(name, 1, torchscript::echo);
    }
    let server = Server::start(models.options(BINARY).settings(SETTINGS));
    let job = preload(&server, &names).await;
    let client = stop_reading(&server, &format!("{job}/events"));
    wait_until_cut_off(&server, 1, async || {}).await;
    wait_for_async(DEADLINE, || async {
        let jobs = server.actor("headroom/jobs").await["observed"].take();
        (jobs["followers"] == 0).then_some(()).ok_or(jobs)
    })
    .await;
    // It has no effect on the job.
    Answer::to(server.client().delete(server.url(&job))).await;
    drop(client);
}

/// What a stream of events may outlive, since its client reads all of it again and again.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// A server with models that cannot be loaded, and whose states are long: each load is a change soon.
fn server_with_broken_models(count: u32) -> (Server, Models, Vec<String>) {
    let models = Models::new();
    let name = |number: u32| format!("{}-{number}", "broken".repeat(20));
    let names: Vec<_> = (0..count).map(name).collect();
    for name in &names {
        models.add(name, 1, |path| std::fs::write(path, "no model"));
    }
    let settings = format!("server.answer_timeout = '{ANSWER_TIMEOUT:?}'");
    let server = Server::start(models.options(BINARY).settings(&settings));
    (server, models, names)
}

/// Has the server wait for a client again and again, each time until it has read everything, for longer than one
/// response may take to be read.
async fn read_now_and_then(server: &Server, mut client: TcpStream, change: impl AsyncFn()) {
    client
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let mut text = vec![0; 64 << 10];
    let mut first_wait = None;
    let is_longer = |first: Option<Instant>| {
        first.is_some_and(|first| first.elapsed() > ANSWER_TIMEOUT * 3 / 2)
    };
    let end = Instant::now() + DEADLINE;
    loop {
        let was_longer = is_longer(first_wait);
        while unread_bytes(server).await == 0 {
            let cut = server.metric(CUT, &STALLED).await;
            let waits = first_wait.map(|first| first.elapsed());
            assert_eq!(cut, 0.0, "cut off after {waits:?}");
            assert!(Instant::now() < end, "the server does not wait");
            change().await;
        }
        first_wait.get_or_insert_with(Instant::now);
        while unread_bytes(server).await > 0 {
            let all = loop {
                match client.read(&mut text) {
                    Ok(0) => panic!("the stream has ended"),
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(all.kind(), ErrorKind::WouldBlock);
        }
        if was_longer {
            return;
        }
    }
}

#[tokio::test]
async fn a_follower_of_the_status_that_reads_outlives_the_timeout_of_an_answer() {
    let (server, _models, _) = server_with_broken_models(60);
    let client = stop_reading(&server, "/api/status/events");
    read_now_and_then(&server, client, async || change_status(&server).await).await;
}

#[tokio::test]
async fn a_follower_of_a_job_that_reads_outlives_the_timeout_of_an_answer() {
    let (server, _models, names) = server_with_broken_models(500);
    let job = preload(&server, &names).await;
    let client = stop_reading(&server, &format!("{job}/events"));
    read_now_and_then(&server, client, async || {}).await;
}
