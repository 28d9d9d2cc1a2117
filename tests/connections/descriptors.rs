//! A server that has no descriptor left: it cannot accept connections, and goes on when it has one again.

use std::fs;
use std::time::{Duration, Instant};

use headroom_test_support::child;
use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for, wait_for_async};

use super::{Client, GET, start};

/// How the log line of a connection that is not accepted begins.
const NOT_ACCEPTED: &str = "Error accepting connection";

/// The pause after an error, which actix-server makes.
const PAUSE: Duration = Duration::from_millis(500);

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

fn errors_in_log(server: &Server) -> usize {
    server.log().matches(NOT_ACCEPTED).count()
}

#[tokio::test]
async fn connections_that_cannot_be_accepted_are_counted_and_accepted_later() {
    let server = start("");
    let mut open = Client::connect(&server);
    open.send(GET);
    open.assert_answer(200);
    let before = descriptor_limit(&server);

    let begun = Instant::now();
    limit_descriptors(&server, "1");
    let mut waiting = Client::connect(&server);
    waiting.send(GET);
    wait_for(DEADLINE, || match errors_in_log(&server) {
        errors if errors < 3 => Err(errors),
        _ => Ok(()),
    });
    // What needs no descriptor works.
    open.send(GET);
    open.assert_answer(200);

    limit_descriptors(&server, &before);
    waiting.assert_answer(200);
    // An error is one line, and the next one comes after a pause.
    let errors_max = 1.0 + begun.elapsed().as_secs_f64() / PAUSE.as_secs_f64();
    wait_for_async(DEADLINE, async || {
        let counted = server
            .metric("headroom_http_accept_errors_total", &[])
            .await;
        let logged = errors_in_log(&server) as f64;
        (counted == logged).then_some(()).ok_or((counted, logged))
    })
    .await;
    let errors = errors_in_log(&server) as f64;
    assert!(
        errors <= errors_max,
        "{errors} errors, at most {errors_max}"
    );
    let mut new = Client::connect(&server);
    new.send(GET);
    new.assert_answer(200);
}
