//! What a command says when no server answers, or something that is none.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use crate::{command, run};

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
    let error = list("http://no-such-host.invalid", &[]);
    assert!(
        error.contains("cannot reach http://no-such-host.invalid"),
        "{error}"
    );
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
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            assert!(client.read(&mut [0; 4096]).unwrap() > 0);
            client.write_all(answer.as_bytes()).unwrap();
        });
        list(&url, &[]);
        server.join().unwrap();
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
