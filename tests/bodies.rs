//! Request bodies over real sockets. Every limit refuses with an answer that the client can read, and a request whose
//! body began before a stop is answered after it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;

use actix_web::rt::System;
use actix_web::{HttpRequest, HttpResponse, web};
use headroom::body::{BodyBudget, read_body};
use headroom::problem::Problem;
use headroom::settings::{Environment, Reloader, Sources, load};
use headroom::signals::Signal;
use headroom::startup::{Application, StartupError};
use headroom_test_support::wait::{DEADLINE, wait_for, wait_until};
use tokio::sync::mpsc;

/// A running application with one route, which answers with the length of the body.
struct TestApplication {
    address: SocketAddr,
    admin: SocketAddr,
    signals: mpsc::Sender<Signal>,
    thread: Option<JoinHandle<Result<(), StartupError>>>,
}

async fn measure(
    request: HttpRequest,
    payload: web::Payload,
    budget: web::Data<BodyBudget>,
) -> Result<HttpResponse, Problem> {
    let body = read_body(&request, payload, &budget).await?;
    Ok(HttpResponse::Ok().body(body.len().to_string()))
}

fn start(settings: &[(&str, &str)]) -> TestApplication {
    let fixed = [
        ("HEADROOM__SERVER__LISTEN", "127.0.0.1:0"),
        ("HEADROOM__SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
        ("HEADROOM__SERVER__DRAIN_DELAY", "0s"),
        ("HEADROOM__SERVER__WORKERS", "1"),
    ];
    let environment: Environment = fixed
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .chain(settings.iter().map(|(key, value)| {
            let name = format!("HEADROOM__SERVER__{}", key.to_uppercase());
            (name.into(), (*value).into())
        }))
        .collect();
    let sources = Sources::default();
    let loaded = load(&sources, &environment).unwrap();
    let reloader = Reloader::new(sources, environment, loaded.settings);
    let mut application = Application::build(reloader).unwrap();
    application.routes = |config| {
        config.route("/measure", web::post().to(measure));
    };
    let (address, admin) = (application.address, application.admin_address);
    let (signals, receiver) = mpsc::channel(1);
    let thread = std::thread::spawn(move || System::new().block_on(application.run(receiver)));
    TestApplication {
        address,
        admin,
        signals,
        thread: Some(thread),
    }
}

impl TestApplication {
    /// Sends the head of a request with these headers, and the beginning of its body.
    fn begin(&self, head: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let head = format!("POST /measure HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        stream
    }

    /// Sends a request that announces `length` bytes, and the beginning of its body.
    fn begin_announced(&self, length: usize, body: &[u8]) -> TcpStream {
        self.begin(&format!("content-length: {length}"), body)
    }

    /// Sends a request with a body of `length` bytes, and returns the answer.
    fn send(&self, length: usize) -> String {
        answer(self.begin_announced(length, &vec![b'x'; length]))
    }

    fn is_draining(&self) -> bool {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream
            .write_all(b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.starts_with("HTTP/1.1 503")
    }

    fn stop(&mut self) -> Result<(), StartupError> {
        self.signals.blocking_send(Signal::Stop).ok();
        self.thread
            .take()
            .map_or(Ok(()), |thread| thread.join().unwrap())
    }
}

impl Drop for TestApplication {
    fn drop(&mut self) {
        let stopped = self.stop();
        match stopped {
            Err(error) if std::thread::panicking() => println!("the server failed: {error}"),
            stopped => stopped.unwrap(),
        }
    }
}

/// Reads one answer, whose length is announced.
fn answer(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    loop {
        let read = stream.read(&mut part).unwrap();
        text.extend_from_slice(&part[..read]);
        let all = String::from_utf8_lossy(&text).to_string();
        if let Some((head, body)) = all.split_once("\r\n\r\n") {
            let length: usize = head
                .lines()
                .find_map(|line| {
                    line.to_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse()
                        .ok()
                })
                .unwrap();
            if body.len() >= length {
                return all;
            }
        }
        assert_ne!(
            read, 0,
            "the connection was closed in the middle of {all:?}"
        );
    }
}

#[track_caller]
fn assert_status(answer: &str, status: u16) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")),
        "{answer}"
    );
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

#[test]
fn a_body_within_the_limits_arrives_completely() {
    let app = start(&[
        ("request_body_max", "1MiB"),
        ("bodies_in_flight_max", "1MiB"),
    ]);
    for length in [0, 1, 1023, 1024, 1025, 65_537, 1 << 20] {
        let text = app.send(length);
        assert_status(&text, 200);
        assert!(text.ends_with(&format!("\r\n\r\n{length}")), "{text}");
    }
}

#[test]
fn a_chunked_body_arrives_completely() {
    let app = start(&[
        ("request_body_max", "1MiB"),
        ("bodies_in_flight_max", "1MiB"),
    ]);
    let mut body: Vec<u8> = (0..16).flat_map(|_| chunk(&[b'x'; 65_536])).collect();
    body.extend_from_slice(b"0\r\n\r\n");
    let text = answer(app.begin("transfer-encoding: chunked", &body));
    assert_status(&text, 200);
    assert!(text.ends_with("\r\n\r\n1048576"), "{text}");
}

#[test]
fn an_announced_length_above_the_limit_is_refused_before_the_body_is_sent() {
    let app = start(&[("request_body_max", "1KiB")]);
    let text = answer(app.begin_announced(1025, b""));
    assert_status(&text, 413);
    assert!(text.contains("\"limit_bytes\":1024"), "{text}");
}

#[test]
fn a_chunked_body_is_refused_once_it_exceeds_the_limit() {
    let app = start(&[("request_body_max", "1KiB")]);
    let text = answer(app.begin("transfer-encoding: chunked", &chunk(&[b'x'; 1025])));
    assert_status(&text, 413);
}

#[tokio::test]
async fn a_client_that_keeps_sending_can_read_why_it_was_refused() {
    let app = start(&[("request_body_max", "1MiB")]);
    let url = format!("http://{}/measure", app.address);
    let client = reqwest::Client::new();
    for _ in 0..5 {
        let body = vec![b'['; 100 << 20];
        let response = client.post(&url).body(body).send().await.unwrap();
        assert_eq!(response.status(), 413);
        let text = response.text().await.unwrap();
        assert!(text.contains("/problems/payload-too-large"), "{text}");
    }
    // Dropping it blocks, which is not allowed on a thread of the runtime.
    tokio::task::spawn_blocking(move || drop(app))
        .await
        .unwrap();
}

#[test]
fn a_body_is_refused_while_others_use_the_memory_for_bodies() {
    let app = start(&[
        ("request_body_max", "64KiB"),
        ("bodies_in_flight_max", "64KiB"),
        ("body_admission_wait", "20ms"),
    ]);
    let mut first = app.begin_announced(60_000, &[b'x'; 100]);
    let refused = wait_for(DEADLINE, || {
        let text = app.send(60_000);
        text.starts_with("HTTP/1.1 503 ")
            .then_some(text)
            .ok_or("not refused yet")
    });
    assert!(
        refused.to_lowercase().contains("\r\nretry-after: 1\r\n"),
        "{refused}"
    );
    assert!(refused.contains("/problems/overloaded"), "{refused}");
    // A small one still fits.
    assert_status(&app.send(1000), 200);

    first.write_all(&[b'x'; 59_900]).unwrap();
    assert_status(&answer(first), 200);
    assert_status(&app.send(60_000), 200);
}

#[test]
fn the_memory_of_a_body_is_released_when_its_client_disconnects() {
    let app = start(&[
        ("request_body_max", "64KiB"),
        ("bodies_in_flight_max", "64KiB"),
    ]);
    for _ in 0..10 {
        drop(app.begin_announced(65_536, &[b'x'; 100]));
    }
    wait_for(DEADLINE, || {
        let text = app.send(65_536);
        text.starts_with("HTTP/1.1 200 ").then_some(()).ok_or(text)
    });
}

#[test]
fn a_slow_client_is_timed_out() {
    let idle = start(&[("body_idle_timeout", "50ms")]);
    assert_status(&answer(idle.begin_announced(100, b"x")), 408);
    let total = start(&[("body_timeout", "50ms")]);
    assert_status(&answer(total.begin_announced(100, b"x")), 408);
}

/// Five letters, compressed with gzip.
const HELLO: &[u8] =
    b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\x48\xcd\xc9\xc9\x07\0\x86\xa6\x10\x36\x05\0\0\0";

#[test]
fn a_compressed_body_is_decoded_however_it_arrives() {
    let app = start(&[]);
    let head = format!("content-encoding: gzip\r\ncontent-length: {}", HELLO.len());
    let mut stream = app.begin(&head, &HELLO[..3]);
    for byte in &HELLO[3..] {
        stream.write_all(&[*byte]).unwrap();
    }
    let text = answer(stream);
    assert_status(&text, 200);
    assert!(text.ends_with("\r\n\r\n5"), "{text}");
}

#[test]
fn a_compressed_body_in_chunks_is_bounded_whatever_comes_out_of_it() {
    let app = start(&[("request_body_max", "1KiB")]);
    let head = "content-encoding: gzip\r\ntransfer-encoding: chunked";
    let (first, second) = HELLO.split_at(12);
    let body = [&chunk(first)[..], &chunk(second), b"0\r\n\r\n"].concat();
    let text = answer(app.begin(head, &body));
    assert_status(&text, 200);
    assert!(text.ends_with("\r\n\r\n5"), "{text}");
    // The head, and then empty blocks that are not compressed.
    let empty = b"\x00\x00\x00\xff\xff".repeat(300);
    let body = [&chunk(&HELLO[..10])[..], &chunk(&empty), b"0\r\n\r\n"].concat();
    assert_status(&answer(app.begin(head, &body)), 413);
}

#[test]
fn a_body_that_cannot_be_decoded_is_refused() {
    let app = start(&[]);
    for (coding, body, status) in [
        ("gzip", &b"\x1f\x8b\0\0"[..], 400),
        ("gzip", &HELLO[..HELLO.len() - 1], 400),
        ("gzip", b"hello", 400),
        ("deflate", HELLO, 400),
        ("br", b"hello", 415),
        ("gzip, gzip", HELLO, 415),
    ] {
        let head = format!(
            "content-encoding: {coding}\r\ncontent-length: {}",
            body.len()
        );
        let text = answer(app.begin(&head, body));
        assert_status(&text, status);
        let names_codings = text
            .to_lowercase()
            .contains("\r\naccept-encoding: gzip, deflate\r\n");
        assert_eq!(names_codings, status == 415, "{text}");
    }
}

#[test]
fn a_request_that_exceeds_its_deadline_is_answered_with_504() {
    let app = start(&[("request_deadline", "50ms")]);
    let text = answer(app.begin_announced(100, b"x"));
    assert_status(&text, 504);
    assert!(text.to_lowercase().contains("\r\nx-request-id: "), "{text}");
}

#[test]
fn a_request_in_flight_is_answered_before_the_server_exits() {
    let mut app = start(&[]);
    let mut stream = app.begin_announced(10, b"12345");
    // The only worker has received the request once it has answered a later one.
    assert_status(&app.send(1), 200);
    app.signals.blocking_send(Signal::Stop).unwrap();
    wait_until(DEADLINE, "the server is draining", || app.is_draining());
    stream.write_all(b"67890").unwrap();
    let text = answer(stream);
    assert_status(&text, 200);
    assert!(
        text.to_lowercase().contains("\r\nconnection: close\r\n"),
        "{text}"
    );
    app.stop().unwrap();
}
