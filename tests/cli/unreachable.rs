//! What a command says when no server answers, or something that is none.

use std::net::TcpListener;

use serde_json::json;

use crate::other_server::{OtherServer, answer};
use crate::{command, json as json_of, run};

/// The error of a command that asks for something at `url`.
fn list(url: &str, more: &[&str]) -> String {
    let mut list = command(&["models", "list", "--url", url]);
    list.args(more);
    let (stdout, stderr) = run(list).failed(69);
    assert_eq!(stdout, "");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

#[test]
fn a_server_that_does_not_run_is_unreachable() {
    let error = list("http://127.0.0.1:1", &[]);
    assert!(
        error.contains("cannot reach http://127.0.0.1:1: Connection refused"),
        "{error}"
    );
    assert!(error.contains("HEADROOM_URL"), "{error}");
    // The label is too long for any name server to be asked for it.
    let url = format!("http://{}", "x".repeat(64));
    let error = list(&url, &[]);
    assert!(error.contains(&format!("cannot reach {url}")), "{error}");
}

#[test]
fn a_server_that_hangs_is_given_up() {
    // The kernel accepts the connection, and nobody answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let error = list(&url, &["--timeout", "200ms"]);
    assert!(error.contains("has not answered within 200ms"), "{error}");
}

#[test]
fn something_else_at_the_address_is_no_server() {
    for answer in [
        answer("200 OK", "hello"),
        answer("200 OK", "{}"),
        answer("404 Not Found", "hello"),
        answer("404 Not Found", "{\"detail\": \"Not Found\"}"),
        answer("302 Found\r\nlocation: /login", ""),
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
    ] {
        for form in [&[][..], &["--json"]] {
            let server = OtherServer::start(vec![answer.clone()]);
            list(&server.url, form);
            server.end();
        }
    }
}

#[test]
fn a_field_that_a_part_lacks_is_named() {
    let body = json!({ "state": "answered", "at": "2026-01-01T00:00:00Z", "resources": [{}] });
    let server = OtherServer::start(vec![answer("200 OK", &body.to_string())]);
    let error = list(&server.url, &[]);
    server.end();
    assert!(error.contains("missing field `name`"), "{error}");
}

/// A page of a captive portal, or another service on that port: its body is not passed on as JSON of Headroom.
#[test]
fn no_command_prints_the_json_of_something_else() {
    for arguments in [
        &["status"][..],
        &["gc"],
        &["optimize"],
        &["optimize", "--no-wait"],
        &["optimize", "--history"],
        &["models", "list"],
        &["models", "load", "one"],
        &["models", "load", "one", "--no-wait"],
        &["models", "unload", "one:1"],
        &["models", "pin", "one"],
        &["models", "unpin", "one"],
    ] {
        for body in ["<html>Log in</html>", "{\"ok\": true}", "[]"] {
            let server = OtherServer::start(vec![answer("200 OK", body)]);
            let mut command = command(arguments);
            command.args(["--json", "--url", &server.url]);
            let (stdout, stderr) = run(command).failed(69);
            server.end();
            assert_eq!(stdout, "", "{arguments:?}");
            assert!(stderr.contains("is not one of"), "{arguments:?}: {stderr}");
        }
    }
}

/// The exit code does not depend on the form of the output.
#[test]
fn a_part_without_an_answer_fails_the_command_in_json_too() {
    let body = "{\"state\": \"no_answer\", \"waited_ms\": 40.0, \"reason\": \"it is busy\"}";
    for arguments in [&["gc"][..], &["optimize", "--history"], &["models", "list"]] {
        let server = OtherServer::start(vec![answer("200 OK", body)]);
        let mut command = command(arguments);
        command.args(["--json", "--url", &server.url]);
        let (stdout, stderr) = run(command).failed(1);
        server.end();
        assert_eq!(json_of(&stdout)["state"], "no_answer", "{arguments:?}");
        assert!(stderr.contains("it is busy"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_url_that_cannot_be_one_is_a_wrong_command_line() {
    for url in [
        "127.0.0.1:8080",
        "ftp://host",
        "http://user:hunter2@host",
        "",
    ] {
        let ended = run(command(&["models", "list", "--url", url]));
        assert_eq!(ended.code, Some(64), "{ended:?}");
    }
}
