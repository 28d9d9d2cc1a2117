//! SIGTERM and connections: none that a client has opened goes without its answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use headroom_test_support::restarts::replace_under_load;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::{DEADLINE, wait_for_async, wait_until};
use nix::sys::signal::Signal;

use super::{BINARY, Client, GET, start};

/// The head of a request for the index of the models. The server says when its handler waits for the body.
const UNFINISHED: &str = "POST /v2/repository/index HTTP/1.1\r\nhost: x\r\n\
    expect: 100-continue\r\ncontent-length: 10\r\n\r\n";

/// Its body, which is no object.
const REST: &str = "[        ]";

/// Clients that connect at the same time, and how often the server stops meanwhile.
const CLIENTS: usize = 8;
const ROUNDS: usize = 3;

/// Settings with which the server drains until it is asked to stop a second time.
const LONG_DELAY: &str = "server.drain_delay = '10m'\nserver.shutdown_deadline = '20m'";

#[tokio::test]
async fn no_request_fails_while_servers_replace_each_other_under_load() {
    let options = Options::new(BINARY).settings("server.drain_delay = '3s'");
    let figures = replace_under_load(&options, 3).await;
    assert_eq!(figures.failed, 0, "{figures:?}");
    assert!(figures.succeeded > 0, "{figures:?}");
}

#[tokio::test]
async fn a_server_that_drains_accepts_connections_and_ends_each_with_its_next_answer() {
    let mut server = start(LONG_DELAY);
    let (mut kept, mut idle) = (Client::connect(&server), Client::connect(&server));
    for client in [&mut kept, &mut idle] {
        client.send(GET);
        assert!(!is_last(&client.assert_answer(200)));
    }
    server.signal(Signal::SIGTERM);
    wait_until_not_ready(&server).await;
    let mut new = Client::connect(&server);
    for client in [&mut kept, &mut new] {
        client.send(GET);
        assert!(is_last(&client.assert_answer(200)));
        assert_eq!(client.read_answer(), None);
    }
    // A refusal is an answer too.
    let mut refused = Client::connect(&server);
    refused.send("GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(is_last(&refused.assert_answer(404)));

    // The second signal ends the delay, and the idle connection.
    server.signal(Signal::SIGTERM);
    assert_eq!(idle.read_answer(), None);
    server.wait_for_log("the drain delay ends");
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

#[tokio::test]
async fn after_the_drain_delay_a_further_signal_ends_the_server_at_once() {
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        // The delay ends by itself, so the further signal is only the second one.
        let mut server = start("server.drain_delay = '100ms'");
        let _unfinished = unfinished_request(&server).await;
        server.signal(Signal::SIGTERM);
        server.wait_for_log("finishing requests in flight");
        server.signal(signal);
        assert_eq!(server.wait_for_exit().code(), Some(code));
    }
}

#[tokio::test]
async fn requests_that_are_cut_off_at_the_deadline_are_in_the_log_and_idle_connections_are_none() {
    let mut server = start("server.shutdown_deadline = '2s'");
    let mut idle = Client::connect(&server);
    idle.send(GET);
    idle.assert_answer(200);
    let _unfinished = unfinished_request(&server).await;
    server.signal(Signal::SIGTERM);
    let log = server.wait_for_log("not all requests ended in time");
    assert!(log.contains("requests=1 connections=2"), "{log}");
    assert_eq!(server.wait_for_exit().code(), Some(0));
    let log = server.log();
    let cut_off: Vec<_> = log
        .lines()
        .filter(|line| line.contains("request cut off"))
        .collect();
    let [line] = cut_off[..] else {
        panic!("{log}");
    };
    let path = "path=\"/v2/repository/index\"";
    for part in [" WARN ", "request_id=", "method=\"POST\"", path, "peer="] {
        assert!(line.contains(part), "{line}");
    }
}

#[tokio::test]
async fn the_checks_of_a_balancer_while_the_server_drains_are_no_warnings() {
    let mut server = start(LONG_DELAY);
    server.signal(Signal::SIGTERM);
    wait_until_not_ready(&server).await;
    let mut balancer = Client::connect(&server);
    balancer.send("GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n");
    balancer.assert_answer(503);
    let log = server.wait_for_log("path=\"/v2/health/ready\"");
    let line = log.lines().find(|line| line.contains("/v2/health/ready"));
    assert!(line.unwrap().contains(" INFO "), "{log}");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

/// New clients come without a break. If the kernel did not ignore them, one would always wait in the queue of the listener,
/// and the server could close it only by resetting that one.
#[test]
fn clients_that_connect_while_the_listener_closes_are_answered_or_refused() {
    for _ in 0..ROUNDS {
        let mut server = start("server.shutdown_deadline = '15s'");
        let address = server.address();
        let is_over = Arc::<AtomicBool>::default();
        let answers: [Arc<AtomicUsize>; CLIENTS] = Default::default();
        let clients: Vec<_> = answers
            .iter()
            .map(|answers| {
                let (answers, is_over) = (Arc::clone(answers), Arc::clone(&is_over));
                thread::spawn(move || -> io::Result<()> {
                    while !is_over.load(Relaxed) && is_answered(address)? {
                        answers.fetch_add(1, Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        wait_until(DEADLINE, "all clients connect again and again", || {
            answers.iter().all(|answers| answers.load(Relaxed) > 10)
        });
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait_for_exit().code(), Some(0));
        is_over.store(true, Relaxed);
        for client in clients {
            client.join().unwrap().unwrap();
        }
        let log = server.log();
        assert!(!log.contains("not all requests ended in time"), "{log}");
    }
}

#[tokio::test]
async fn a_connection_that_waits_to_be_accepted_is_answered_before_the_server_exits() {
    let mut server = start("server.workers = 1\nserver.connections_max = 1");
    let mut first = unfinished_request(&server).await;
    // The only place is taken, so this connection waits in the queue of the listener.
    let mut waiting = Client::connect(&server);
    waiting.send(GET);
    server.signal(Signal::SIGTERM);
    server.wait_for_log("finishing requests in flight");
    first.send(REST);
    assert!(is_last(&first.assert_answer(400)));
    assert!(is_last(&waiting.assert_answer(200)));
    assert_eq!(waiting.read_answer(), None);
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

#[tokio::test]
async fn an_idle_connection_gives_its_place_to_one_that_waits_to_be_accepted() {
    let mut server = start("server.workers = 1\nserver.connections_max = 1");
    stop_with_one_idle_and_one_waiting(&server);
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

#[tokio::test]
async fn an_idle_connection_gives_its_place_away_also_while_another_has_a_slow_request() {
    let mut server = start("server.workers = 1\nserver.connections_max = 2");
    let mut slow = unfinished_request(&server).await;
    stop_with_one_idle_and_one_waiting(&server);
    slow.send(REST);
    assert!(is_last(&slow.assert_answer(400)));
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

#[tokio::test]
async fn idle_connections_are_closed_after_the_last_request_in_flight() {
    let mut server = start("");
    let mut in_flight = unfinished_request(&server).await;
    let (mut used, mut idle) = (Client::connect(&server), Client::connect(&server));
    for client in [&mut used, &mut idle] {
        client.send(GET);
        client.assert_answer(200);
    }
    server.signal(Signal::SIGTERM);
    server.wait_until_closed();
    // The listener is closed, and idle connections still take a request.
    used.send(GET);
    assert!(is_last(&used.assert_answer(200)));
    in_flight.send(REST);
    assert!(is_last(&in_flight.assert_answer(400)));
    assert_eq!(idle.read_answer(), None);
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

/// Stops a server that has one place left, and asserts that the connection that has taken it makes way for the next one.
fn stop_with_one_idle_and_one_waiting(server: &Server) {
    let mut idle = Client::connect(server);
    idle.send(GET);
    idle.assert_answer(200);
    let mut waiting = Client::connect(server);
    waiting.send(GET);
    server.signal(Signal::SIGTERM);
    assert_eq!(idle.read_answer(), None);
    assert!(is_last(&waiting.assert_answer(200)));
}

/// Opens a connection, and sends a request over it. Returns whether that is answered; otherwise the connection was refused.
///
/// # Errors
/// The connection was opened, and there is no answer.
fn is_answered(address: SocketAddr) -> io::Result<bool> {
    let mut stream = match TcpStream::connect_timeout(&address, DEADLINE) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(false),
        opened => opened?,
    };
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200 ") {
        true => Ok(true),
        false => Err(io::Error::other(format!("no answer: {answer:?}"))),
    }
}

/// A request whose handler waits for the body.
async fn unfinished_request(server: &Server) -> Client {
    let mut client = Client::connect(server);
    client.send(UNFINISHED);
    let head = client.read_answer().expect("an answer");
    assert!(head.starts_with("http/1.1 100 "), "{head}");
    client
}

/// Whether an answer, in lower case, announces the end of its connection.
fn is_last(head: &str) -> bool {
    head.contains("\r\nconnection: close\r\n")
}

async fn wait_until_not_ready(server: &Server) {
    wait_for_async(DEADLINE, || async {
        let status = server.admin("/health/ready").await.status().as_u16();
        (status == 503).then_some(()).ok_or(status)
    })
    .await;
}
