//! A server that has no descriptor left: it cannot accept connections, and goes on when it has one again.

use std::fs;
use std::time::Instant;

use headroom_test_support::child;
use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for};

use super::{Client, GET, start};

/// The log line of connections that are not accepted.
const NOT_ACCEPTED: &str = "connections cannot be accepted";

/// Sets the soft limit of the descriptors of a running server.
fn limit_descriptors(server: &Server, soft: &str) {
    let mut prlimit = child::command("prlimit");
    prlimit.args(["--pid", &server.pid().to_string()]);
    prlimit.arg(format!("--nofile={soft}:"));
    let output = child::output(&mut prlimit, DEADLINE).unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The soft limit of the descriptors of a running server.
fn descriptor_limit(server: &Server) -> String {
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let mut lines = limits.lines();
    let files = lines.find(|line| line.starts_with("Max open files"));
    let soft = files.unwrap().split_whitespace().nth(3);
    soft.unwrap().to_owned()
}

/// The number of errors that the server has counted, by a connection that is open.
fn counted(admin: &mut Client) -> u64 {
    admin.send("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let (_, body) = admin.read_whole_answer().expect("an answer");
    let text = String::from_utf8(body).unwrap();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("headroom_http_accept_errors_total "));
    line.expect("the metric").trim().parse().unwrap()
}

#[test]
fn connections_that_cannot_be_accepted_are_counted_and_accepted_later() {
    let server = start("");
    let mut open = Client::connect(&server);
    open.send(GET);
    open.assert_answer(200);
    let mut admin = Client::connect_to(server.admin_address());
    assert_eq!(counted(&mut admin), 0);
    let before = descriptor_limit(&server);

    let begun = Instant::now();
    limit_descriptors(&server, "1");
    let mut waiting = Client::connect(&server);
    waiting.send(GET);
    wait_for(DEADLINE, || match counted(&mut admin) {
        errors if errors < 3 => Err(errors),
        _ => Ok(()),
    });
    // What needs no descriptor works.
    open.send(GET);
    open.assert_answer(200);

    limit_descriptors(&server, &before);
    waiting.assert_answer(200);
    let mut new = Client::connect(&server);
    new.send(GET);
    new.assert_answer(200);
    // Many errors are one line of the log in ten seconds.
    let lines = server.log().matches(NOT_ACCEPTED).count() as u64;
    let lines_max = 1 + begun.elapsed().as_secs() / 10;
    assert!((1..=lines_max).contains(&lines), "{lines} lines");
}
