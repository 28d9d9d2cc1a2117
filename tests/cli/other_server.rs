//! A program that is no server of Headroom, or that fails as one can fail.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use headroom_test_support::wait::{DEADLINE, wait_until};

/// A program that gives one answer to each connection, and ends after the last one.
pub(crate) struct OtherServer {
    pub(crate) url: String,
    thread: JoinHandle<()>,
}

impl OtherServer {
    /// Starts it. An empty answer closes the connection.
    pub(crate) fn start(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            for answer in answers {
                let (mut client, _) = listener.accept().unwrap();
                assert!(client.read(&mut [0; 4096]).unwrap() > 0);
                client.write_all(answer.as_bytes()).unwrap();
            }
        });
        Self { url, thread }
    }

    /// Waits until all answers are given.
    #[track_caller]
    pub(crate) fn end(self) {
        let is_finished = || self.thread.is_finished();
        wait_until(DEADLINE, "all answers are asked for", is_finished);
        self.thread.join().unwrap();
    }
}

/// An answer with a body.
pub(crate) fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
}
