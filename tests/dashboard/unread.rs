//! Clients of event streams that stop reading: what the server holds for them is bounded, and they are cut off.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use headroom_test_support::models::Models;
use headroom_test_support::protocol::Answer;
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
    let stats = server.memory_stats().await;
    let buffers = stats["buffers"].as_array().unwrap();
    let found = buffers.iter().find(|it| it["name"] == "unread_answers");
    found.map_or(0, |account| account["held_bytes"].as_u64().unwrap())
}

/// Waits until this number of clients is cut off, and checks what the server holds for them meanwhile and afterwards.
async fn wait_until_cut_off(server: &Server, clients: u64, change: impl AsyncFn()) {
    let mut most = 0;
    let end = Instant::now() + DEADLINE;
    while server.metric(CUT, &STALLED).await < clients as f64 {
        assert!(Instant::now() < end, "not all are cut off");
        change().await;
        most = most.max(unread_bytes(server).await);
    }
    assert!(most > 0 && most <= clients * HELD_MAX, "{most}");
    wait_for_async(DEADLINE, || async {
        let bytes = unread_bytes(server).await;
        (bytes == 0).then_some(()).ok_or(bytes)
    })
    .await;
}

#[tokio::test]
async fn followers_of_the_status_that_stop_reading_are_cut_off_and_free_their_places() {
    let server = Server::start(Options::new(BINARY).settings(SETTINGS));
    let events = "/api/status/events";
    let clients: Vec<_> = (0..64).map(|_| stop_reading(&server, events)).collect();
    assert_eq!(server.get(events).await.status(), 503);
    wait_until_cut_off(&server, 64, async || {
        // A job is a change, and a change is an event.
        let preload = json!({ "names": ["nothing"] });
        server.post(PRELOAD, &preload).await;
    })
    .await;
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
    let preload = server.post_json(PRELOAD, &json!({ "names": names })).await;
    assert_eq!(preload.status, 202, "{preload:?}");
    let job = preload.headers["location"].to_str().unwrap().to_owned();
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
