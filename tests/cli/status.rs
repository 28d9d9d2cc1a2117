//! `headroom status`: what an operator sees first.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};

use headroom_test_support::child;
use headroom_test_support::models::Models;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_until};
use serde_json::json;

use crate::other_server::{OtherServer, answer};
use crate::{BINARY, ask, command, json as json_of, row};

#[test]
fn a_server_that_is_well_is_shown_with_what_is_loaded() {
    let models = Models::new();
    models.add("one", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    ask(&server, &["models", "load", "one"]).ok();
    let status = ask(&server, &["status"]).ok();
    let mut lines = status.lines();
    assert_eq!(
        lines.next(),
        Some("OK  nothing needs attention"),
        "{status}"
    );
    let process = format!(", process {}, up ", server.pid());
    assert!(lines.next().unwrap().contains(&process), "{status}");
    let memory = row(&status, "memory").join(" ");
    assert!(memory.ends_with(", level normal"), "{status}");
    assert!(
        row(&status, "resources").join(" ").contains("2 ready"),
        "{status}"
    );
    assert!(
        row(&status, "pools").join(" ").contains("redis-cache cold"),
        "{status}"
    );
    assert_eq!(row(&status, "one:1")[1..3], ["model", "ready"], "{status}");
    assert!(!status.contains('\u{1b}'), "{status}");
    let status = json_of(&ask(&server, &["status", "--json"]).ok());
    assert_eq!(status["verdict"], "ok");
}

#[tokio::test]
async fn what_needs_attention_is_shown_first() {
    let models = Models::new();
    models.add("broken", 1, |path| fs::write(path, "no model"));
    let server = Server::start(models.options(BINARY));
    server.load("broken").await;
    let status = ask(&server, &["status"]).ok();
    assert!(
        status.starts_with("DEGRADED  1 thing needs attention\n"),
        "{status}"
    );
    let alert = row(&status, "warning");
    assert_eq!(alert[1], "broken:1", "{status}");
}

/// The lines of `status --watch --json`, one for each look.
#[test]
fn a_watch_goes_on_until_its_reader_leaves() {
    let server = Server::start(Options::new(BINARY));
    let folder = tempfile::tempdir().unwrap();
    let errors = folder.path().join("errors");
    let (reader, writer) = std::io::pipe().unwrap();
    let mut watch = command(&["status", "--watch", "--interval", "100ms", "--json"]);
    watch
        .args(["--url", &server.url("")])
        .stdout(writer)
        .stderr(File::create(&errors).unwrap());
    let mut child = child::start(&mut watch).unwrap();
    drop(watch);
    let mut lines = BufReader::new(reader).lines();
    for _ in 0..3 {
        let line = lines.next().unwrap().unwrap();
        assert_eq!(json_of(&line)["verdict"], "ok");
    }
    drop(lines);
    let status = child.wait_within(DEADLINE).unwrap().expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert_eq!(fs::read_to_string(&errors).unwrap(), "");
}

/// Scripts learn of each change, and of nothing else.
#[test]
fn a_watch_in_json_says_once_why_there_is_no_status() {
    let server = Server::start(Options::new(BINARY));
    let status = ask(&server, &["status", "--json"]).ok();
    drop(server);
    let refused =
        json!({ "type": "/problems/not-ready", "title": "Not ready", "detail": "it starts" });
    let refused = answer("503 Service Unavailable", &refused.to_string());
    let other = OtherServer::start(vec![
        answer("200 OK", &status),
        refused.clone(),
        refused.clone(),
        answer("200 OK", &status),
        refused,
        answer("200 OK", "hello"),
        answer("200 OK", "hello"),
    ]);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut watch = command(&["status", "--watch", "--interval", "100ms", "--json"]);
    watch.args(["--url", &other.url]).stdout(writer);
    let mut child = child::start(&mut watch).unwrap();
    drop(watch);
    let lines = BufReader::new(reader).lines();
    let lines: Vec<_> = lines.take(6).map(|line| json_of(&line.unwrap())).collect();
    other.end();
    for (line, expected) in lines.iter().zip([
        None,
        Some("Not ready (503): it starts"),
        None,
        Some("Not ready (503): it starts"),
        Some("is not one of this version of Headroom"),
        Some("cannot reach"),
    ]) {
        match expected {
            None => assert_eq!(line["verdict"], "ok", "{lines:?}"),
            Some(error) => {
                let found = line["error"].as_str().unwrap();
                assert!(found.contains(error), "{lines:?}");
                assert!(line["at"].is_string(), "{lines:?}");
            }
        }
    }
    assert!(child.try_wait().unwrap().is_none(), "it has ended");
}

#[test]
fn a_watch_survives_the_server() {
    let server = Server::start(Options::new(BINARY));
    let folder = tempfile::tempdir().unwrap();
    let shown = folder.path().join("shown");
    let mut watch = command(&["status", "--watch", "--interval", "100ms"]);
    watch
        .args(["--url", &server.url("")])
        .stdout(File::create(&shown).unwrap());
    let mut child = child::start(&mut watch).unwrap();
    let contains = |text: &str| {
        fs::read_to_string(&shown)
            .unwrap_or_default()
            .contains(text)
    };
    wait_until(DEADLINE, "the status is shown", || {
        contains("nothing needs attention")
    });
    drop(server);
    wait_until(DEADLINE, "the end of the server is shown", || {
        contains("cannot reach")
    });
    assert!(child.try_wait().unwrap().is_none(), "it has ended");
}
