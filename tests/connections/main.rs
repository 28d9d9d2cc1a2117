//! Deadlines, upgrades and ends of single connections: late request heads, idle connections, offers of HTTP/2, half-closed
//! connections, a server without descriptors or without places for connections, and the stop of the server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod descriptors;
mod drain;
mod half_closed;
mod linger;
mod places;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::private_dirty;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::DEADLINE;
use socket2::SockRef;

const BINARY: &str = env!("CARGO_BIN_EXE_headroom");

/// A complete request without a body.
const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

fn start(settings: &str) -> Server {
    Server::start(Options::new(BINARY).settings(settings))
}

/// A connection that reads answers one after another.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(server: &Server) -> Self {
        Self::connect_to(server.address())
    }

    fn connect_to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Reads the next answer and returns its head in lower case; `None` when the connection is closed.
    fn read_answer(&mut self) -> Option<String> {
        self.read_whole_answer().map(|(head, _)| head)
    }

    /// Reads the next answer and returns its head in lower case and its body.
    fn read_whole_answer(&mut self) -> Option<(String, Vec<u8>)> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head).unwrap() == 0 {
                assert_eq!(head, "", "the answer was cut off");
                return None;
            }
        }
        let head = head.to_lowercase();
        if head.starts_with("http/1.1 100 ") {
            return Some((head, Vec::new()));
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .expect("a length")
            .parse()
            .unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        Some((head, body))
    }

    #[track_caller]
    fn assert_answer(&mut self, status: u16) -> String {
        let head = self.read_answer().expect("an answer");
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
        head
    }
}

/// The number of connections that the server has cut off for this reason.
async fn cut_count(server: &Server, reason: &str) -> f64 {
    let label = format!("reason=\"{reason}\"");
    server
        .metric("headroom_http_connections_cut_total", &[&label])
        .await
}

#[tokio::test]
async fn the_head_of_every_request_has_a_deadline() {
    let server = start("server.client_request_timeout = '300ms'");
    // The head of the first request, of a later one, and of one that begins in the same packet as its predecessor.
    let openings = [
        ("GET / HT", 0, "TP/1.1\r\n"),
        (&*format!("{GET}{GET}"), 2, "GE"),
        (&*format!("{GET}GET / HTTP/1.1\r\nhost"), 1, ": "),
    ];
    for (opening, answers, rest) in openings {
        let mut client = Client::connect(&server);
        client.send(opening);
        for _ in 0..answers {
            client.assert_answer(200);
        }
        client.send(rest);
        let begun = Instant::now();
        client.assert_answer(408);
        assert_eq!(client.read_answer(), None);
        assert!(
            begun.elapsed() < Duration::from_secs(8),
            "{:?}",
            begun.elapsed()
        );
    }
    assert_eq!(cut_count(&server, "head").await, 3.0);
}

#[tokio::test]
async fn a_head_that_arrives_byte_by_byte_has_the_same_deadline() {
    let server = start("server.client_request_timeout = '300ms'");
    let mut client = Client::connect(&server);
    client.send(GET);
    client.assert_answer(200);
    client
        .0
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let begun = Instant::now();
    let mut answer = Vec::new();
    // Each read that times out is the pause before the next byte.
    while !answer.starts_with(b"HTTP/1.1 408 ") {
        assert!(begun.elapsed() < DEADLINE, "the connection was not cut off");
        client.0.get_mut().write_all(b"G").ok();
        let mut chunk = [0; 1024];
        if let Ok(read) = client.0.read(&mut chunk) {
            assert!(read > 0, "the connection was closed without an answer");
            answer.extend_from_slice(&chunk[..read]);
        }
    }
}

#[tokio::test]
async fn an_unused_connection_is_closed_and_a_used_one_is_not() {
    let server = start("server.keep_alive = '300ms'\nserver.client_request_timeout = '300ms'");
    let mut silent = Client::connect(&server);
    let mut used = Client::connect(&server);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        used.send(GET);
        used.assert_answer(200);
    }
    // No request was sent on it, so no answer is sent either.
    assert_eq!(silent.read_answer(), None);
    used.send(GET);
    used.assert_answer(200);
    assert_eq!(used.read_answer(), None);
}

#[tokio::test]
async fn clients_that_send_nothing_do_not_keep_others_from_health_and_metrics() {
    let server = start("");
    let connect = || Client::connect_to(server.admin_address());
    let mut waits_longest = connect();
    waits_longest.send("GET /health/live HT");
    let mut used = Vec::new();
    for _ in 0..60 {
        let mut client = connect();
        client.send(&GET.replace("GET /", "GET /health/live"));
        client.assert_answer(200);
        used.push(client);
    }
    let silent: Vec<_> = (0..60).map(|_| connect()).collect();
    assert_eq!(server.admin("/health/live").await.status(), 200);
    // It left for the others. At the end of its time, it would get a 408.
    assert_eq!(waits_longest.read_answer(), None);
    assert!(cut_count(&server, "crowded").await >= 1.0);
    drop((used, silent));
}

#[tokio::test]
async fn resets_are_counted_and_no_part_of_a_request_is_refused_after_one() {
    const RESETS: usize = 100;
    let server = start("");
    let part = "POST /v2/repository/index HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{";
    for n in 0..RESETS {
        let mut client = Client::connect(&server);
        client.send([GET, part][n % 2]);
        // Closing it resets the connection.
        SockRef::from(client.0.get_ref())
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
    let errors = "headroom_http_client_errors_total";
    let all = |count: f64| count == RESETS as f64;
    server.wait_for_metric(errors, &["cause=\"io\""], all).await;
    let requests = "headroom_http_requests_total";
    let refused = server.metric(requests, &["outcome=\"4xx\""]).await;
    assert_eq!(refused, 0.0);
    assert_eq!(server.get("/").await.status(), 200);
}

#[tokio::test]
async fn an_offer_to_upgrade_is_ignored_and_the_connection_stays_open() {
    let server = start("");
    let mut client = Client::connect(&server);
    let body = r#"{"ready":true}"#;
    let offer = "connection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\nupgrade: h2c\r\n";
    let post = format!(
        "POST /v2/repository/index HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n{offer}\r\n{body}",
        body.len()
    );
    for _ in 0..200 {
        client.send(&post);
        let head = client.assert_answer(200);
        assert!(!head.contains("upgrade"), "{head}");
        assert!(!head.contains("connection: close"), "{head}");
    }
}

#[test]
fn an_offer_of_websocket_in_a_request_that_is_no_handshake_changes_nothing() {
    let server = start("");
    let post =
        "POST /v2/repository/index HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let offer = "upgrade: websocket\r\n";
    let with_option = "connection: upgrade\r\nupgrade: websocket\r\n";
    for (head, body, status) in [
        (format!("{post}content-length: 2\r\n{offer}"), "{}", 200),
        (
            format!("{post}{with_option}content-length: 2\r\n"),
            "{}",
            200,
        ),
        (format!("{post}{offer}content-length: 0\r\n"), "", 200),
        (format!("GET / HTTP/1.1\r\nhost: x\r\n{offer}"), "", 200),
    ] {
        let mut client = Client::connect(&server);
        let (first, rest) = body.split_at(body.len() / 2);
        client.send(&format!("{head}\r\n{first}"));
        client.send(&format!("{rest}{GET}"));
        client.assert_answer(status);
        client.assert_answer(200);
        client.send(GET);
        client.assert_answer(200);
    }
}

#[test]
fn a_request_for_another_protocol_is_the_last_of_its_connection() {
    let server = start("server.client_request_timeout = '60s'");
    for head in [
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let mut client = Client::connect(&server);
        client.send(head);
        let answer = client.read_answer().expect("an answer");
        assert!(answer.contains("connection: close"), "{answer}");
        assert_eq!(client.read_answer(), None);
    }
}

/// Waits until the server has read what a client has sent: it has answered later requests.
async fn wait_until_read(server: &Server) {
    for _ in 0..20 {
        assert_eq!(server.get("/").await.status(), 200);
    }
}

#[tokio::test]
async fn an_offer_to_upgrade_in_a_second_packet_closes_the_connection_after_the_answer() {
    let server = start("");
    let mut client = Client::connect(&server);
    client.send("GET / HTTP/1.1\r\nhost: x\r\n");
    wait_until_read(&server).await;
    client.send("connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\r\n");
    let head = client.assert_answer(200);
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(client.read_answer(), None);
}

#[tokio::test]
async fn an_offer_of_websocket_in_a_second_packet_is_refused_unless_it_is_a_handshake() {
    let server = start("");
    let mut client = Client::connect(&server);
    client.send("POST /v2/repository/index HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n");
    wait_until_read(&server).await;
    client.send(&format!("upgrade: websocket\r\n\r\n{{}}{GET}"));
    let head = client.assert_answer(400);
    assert!(head.contains("connection: close"), "{head}");
    // What follows is no request.
    assert_eq!(client.read_answer(), None);
}

#[tokio::test]
async fn the_rest_of_a_refused_body_is_not_parsed_as_a_request() {
    let server = start("server.client_request_timeout = '300ms'");
    let mut client = Client::connect(&server);
    client.send(
        "POST /v2/repository/index HTTP/1.1\r\nhost: x\r\ncontent-encoding: br\r\n\
         transfer-encoding: chunked\r\n\r\n",
    );
    let head = client.assert_answer(415);
    assert!(head.contains("connection: close"), "{head}");
    client.send("5\r\nhello\r\n");
    // The connection is closed without a second answer.
    assert_eq!(client.read_answer(), None);
}

/// A request with a body for a route that reads it, and another header.
fn index(body: &str, header: &str) -> (String, String) {
    let head = format!(
        "POST /v2/repository/index HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n{header}\r\n\r\n",
        body.len()
    );
    (head, body.to_owned())
}

#[tokio::test]
async fn a_client_that_waits_is_told_when_its_body_is_wanted() {
    let server = start("");
    let (head, body) = index(r#"{"ready":true}"#, "expect: , 100-Continue");
    let mut client = Client::connect(&server);
    for _ in 0..3 {
        client.send(&head);
        client.assert_answer(100);
        client.send(&body);
        let answer = client.assert_answer(200);
        assert!(!answer.contains("connection: close"), "{answer}");
    }
    // Clients need not wait, and the connection serves what follows.
    client.send(&format!("{head}{body}{GET}"));
    let answer = client.read_answer().unwrap();
    if answer.starts_with("http/1.1 100 ") {
        client.assert_answer(200);
    }
    client.assert_answer(200);
    // Nobody knows what such a client sends after an answer without being asked.
    let chunked = "POST /api/performance/memory/gc HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\
                   expect: 100-continue\r\n\r\n";
    let mut unasked = Client::connect(&server);
    unasked.send(chunked);
    let answer = unasked.assert_answer(200);
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(unasked.read_answer(), None);
    // A request without a body wants none, and neither does a route that reads none.
    client.send(&GET.replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n"));
    client.assert_answer(200);
    client.send(&head.replace("/v2/repository/index", "/none"));
    let answer = client.assert_answer(404);
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(client.read_answer(), None);
}

#[tokio::test]
async fn a_client_that_waits_is_refused_at_once_if_its_body_is_of_no_use() {
    let models = Models::new();
    let settings = "server.request_body_max = '1MiB'";
    let server = Server::start(models.options(BINARY).settings(settings));
    let infer = "/v2/models/none/infer";
    let index = "/v2/repository/index";
    for (path, headers, status) in [
        (infer, "content-length: 1000", 404),
        (infer, "transfer-encoding: chunked", 404),
        (
            "/v2/models/none/versions/3/infer",
            "content-length: 1000",
            404,
        ),
        ("/rpc/none", "content-length: 1000", 404),
        (index, "content-length: 2000000", 413),
        (index, "content-length: 1000\r\ncontent-encoding: br", 415),
    ] {
        let mut client = Client::connect(&server);
        client.send(&format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             expect: 100-continue\r\n{headers}\r\n\r\n"
        ));
        let answer = client.assert_answer(status);
        assert!(answer.contains("connection: close"), "{answer}");
        assert_eq!(client.read_answer(), None);
    }
}

#[tokio::test]
async fn an_unknown_expectation_fails_and_http_1_0_has_none() {
    let server = start("");
    for header in [
        "expect: 200-ok",
        "expect: 100-continue, other",
        "expect: 100-continue\r\nexpect: \"a,100-continue\"",
    ] {
        let (head, _) = index(r#"{"ready":true}"#, header);
        let mut client = Client::connect(&server);
        client.send(&head);
        client.assert_answer(417);
        assert_eq!(client.read_answer(), None);
    }
    let (head, body) = index(r#"{"ready":true}"#, "expect: 100-continue");
    let mut client = Client::connect(&server);
    client.send(&head.replace("HTTP/1.1", "HTTP/1.0"));
    client.send(&body);
    let answer = client.read_answer().unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
}

#[tokio::test]
async fn pipelined_requests_use_little_memory_and_are_answered_in_order() {
    let server = start("");
    let before = private_dirty(server.pid());
    let chunked = "POST /none HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let bursts = [GET.repeat(2000), format!("{chunked}{}", GET.repeat(2000))];
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(&server)).collect();
    for (client, burst) in clients.iter_mut().zip(bursts.iter().cycle()) {
        client.send(burst);
    }
    for client in &mut clients {
        client.read_answer().expect("an answer");
    }
    let grown = private_dirty(server.pid()).saturating_sub(before);
    assert!(grown < 40 << 20, "{grown} bytes for pipelined requests");
    for _ in 1..2000 {
        clients[0].assert_answer(200);
    }
    clients[0].send(GET);
    clients[0].assert_answer(200);
}

#[tokio::test]
async fn pipelined_bodies_are_separated_from_the_requests_after_them() {
    let server = start("");
    let mut client = Client::connect(&server);
    let body = "x".repeat(10_000);
    let length = format!(
        "POST /api/performance/memory/gc HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n\r\n{body}"
    );
    let chunks = "2710\r\n".to_owned() + &body + "\r\n0\r\n\r\n";
    let chunked = format!(
        "POST /api/performance/memory/gc HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"
    );
    client.send(&format!("{length}{GET}{chunked}{GET}"));
    for _ in 0..4 {
        client.assert_answer(200);
    }
}
