//! The reader of standard error stops reading: a full pipe stops the log and nothing else.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use headroom_test_support::child;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::DEADLINE;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::setup::BINARY;

/// Number of connections that send garbage.
const GARBAGE: usize = 900;

/// A named pipe for the server's standard error. It is read only by [`Self::read_until`].
struct LogPipe {
    _folder: TempDir,
    path: PathBuf,
    reader: File,
}

impl LogPipe {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stderr");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        // Opened for writing too, so that it does not wait for a writer and never reads an end of file.
        let reader = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&path)
            .unwrap();
        fcntl(reader.as_fd(), FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        Self {
            _folder: folder,
            path,
            reader,
        }
    }

    /// Starts a server whose standard error is the pipe.
    fn start_server(&self, settings: &str) -> Server {
        let redirect = format!("exec \"$@\" 2>'{}'", self.path.display());
        let options = Options::new(BINARY)
            .launched_by(&["sh", "-c", &redirect, "sh"])
            .settings(settings);
        Server::start(options)
    }

    /// Fills the pipe completely.
    fn fill(&mut self) {
        while self.reader.write(&[b' '; 4096]).is_ok() {}
    }

    /// Reads until `text` appears, and returns everything read.
    fn read_until(&mut self, text: &str) -> String {
        let (mut read, mut buffer) = (String::new(), [0; 65536]);
        let until = Instant::now() + DEADLINE;
        while !read.contains(text) {
            assert!(Instant::now() < until, "{text:?} is not in {read}");
            match self.reader.read(&mut buffer) {
                Ok(length) => read.push_str(&String::from_utf8_lossy(&buffer[..length])),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        read
    }
}

fn send_garbage(address: SocketAddr) {
    for n in 0..GARBAGE {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
            .write_all(format!("{n} \0 garbage\r\n\r\n").as_bytes())
            .unwrap();
        stream.shutdown(Shutdown::Write).ok();
        // Reads until the server closes the connection.
        stream.read_to_end(&mut Vec::new()).ok();
    }
}

/// Fills the pipe and the queue in front of it. Each request writes one line.
async fn log_until_lines_are_dropped(server: &Server) -> f64 {
    let path = format!("/{}", "long/".repeat(1000));
    let until = Instant::now() + DEADLINE;
    loop {
        assert!(Instant::now() < until, "no line was dropped");
        for _ in 0..100 {
            assert_eq!(server.get(&path).await.status(), 404);
        }
        let dropped = server.metric("headroom_log_dropped_lines_total", &[]).await;
        if dropped > 0.0 {
            return dropped;
        }
    }
}

#[tokio::test]
async fn a_reader_of_the_log_that_stops_reading_does_not_stop_the_server() {
    let mut pipe = LogPipe::new();
    let mut server = pipe.start_server("log.filter = 'info,headroom::access=debug'");
    let address = server.address();
    tokio::task::spawn_blocking(move || send_garbage(address))
        .await
        .unwrap();
    log_until_lines_are_dropped(&server).await;
    assert_eq!(
        server.get("/api/performance/memory/stats").await.status(),
        200
    );
    for health in ["live", "ready", "startup"] {
        let answer = server.admin(&format!("/health/{health}")).await;
        assert_eq!(answer.status(), 200, "{health}");
    }

    // The reader continues: it reads that lines were dropped, and all later lines.
    let read = pipe.read_until("log lines were dropped");
    assert!(read.contains("starting"), "{read}");
    server.signal(Signal::SIGHUP);
    pipe.read_until("settings reloaded");

    log_until_lines_are_dropped(&server).await;
    let signalled = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_exit().code(), Some(0));
    assert!(
        signalled.elapsed() < Duration::from_secs(10),
        "{:?}",
        signalled.elapsed()
    );
}

#[test]
fn wrong_settings_end_the_server_when_nobody_reads_the_log() {
    let mut pipe = LogPipe::new();
    pipe.fill();
    let stderr = OpenOptions::new().write(true).open(&pipe.path).unwrap();
    let mut command = child::command(BINARY);
    command
        .arg("serve")
        .env("HEADROOM__POSTGRES__URL", "nonsense")
        .stderr(stderr);
    let mut server = child::start(&mut command).unwrap();
    let status = server.wait_within(DEADLINE).unwrap();
    let status = status.expect("the server exits");
    assert_eq!(status.code(), Some(78));
}

#[tokio::test]
async fn a_second_signal_ends_the_server_at_once_when_nobody_reads_the_log() {
    let pipe = LogPipe::new();
    let mut server = pipe.start_server(
        "log.filter = 'info,headroom::access=debug'\nserver.shutdown_deadline = '60s'",
    );
    log_until_lines_are_dropped(&server).await;
    // A request in flight: it has sent a part of its body.
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream
        .write_all(
            b"POST /v2/models/none/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
        )
        .unwrap();
    // More reloads than the server can finish before the next signal.
    for _ in 0..20 {
        server.signal(Signal::SIGHUP);
    }
    server.signal(Signal::SIGTERM);
    server.wait_until_closed();
    let signalled = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_exit().code(), Some(143));
    assert!(
        signalled.elapsed() < Duration::from_secs(2),
        "{:?}",
        signalled.elapsed()
    );
}

#[tokio::test]
async fn malformed_requests_are_counted_and_logged_at_a_limited_rate() {
    let server = Server::start(Options::new(BINARY));
    let address = server.address();
    tokio::task::spawn_blocking(move || send_garbage(address))
        .await
        .unwrap();
    let counted = server
        .metric("headroom_http_client_errors_total", &[])
        .await;
    assert_eq!(counted, GARBAGE as f64);
    let log = server.log();
    let lines = log.matches("connections ended with client errors").count();
    assert!((1..=4).contains(&lines), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}
