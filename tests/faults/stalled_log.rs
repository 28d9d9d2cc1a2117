//! Nobody reads the log any more: a full pipe at standard error stops nothing but the log.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use headroom_test_support::child;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::wait_for;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::setup::{BINARY, DEADLINE};

/// Connections that send garbage.
const GARBAGE: usize = 900;

/// A pipe with a name, whose reader does not read.
struct Pipe {
    _folder: TempDir,
    path: PathBuf,
    reader: File,
}

impl Pipe {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stderr");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        // Open for writing too, so that it does not wait for a writer, and never sees an end.
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

    /// A server whose standard error is the pipe.
    fn server(&self, settings: &str) -> Server {
        let redirect = format!("exec \"$@\" 2>'{}'", self.path.display());
        let options = Options::new(BINARY)
            .launched_by(&["sh", "-c", &redirect, "sh"])
            .settings(settings);
        Server::start(options)
    }

    /// Leaves no room in it.
    fn fill(&mut self) {
        while self.reader.write(&[b' '; 4096]).is_ok() {}
    }

    /// Reads until `text` has come.
    fn read_until(&mut self, text: &str) -> String {
        let (mut read, mut buffer) = (String::new(), [0; 65536]);
        let until = Instant::now() + DEADLINE;
        while !read.contains(text) {
            assert!(Instant::now() < until, "never read: {text}, but {read}");
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
        // Until it is refused.
        stream.read_to_end(&mut Vec::new()).ok();
    }
}

/// Fills the pipe and then the queue in front of it: each request is a line.
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
async fn a_reader_of_the_log_that_stopped_stops_nothing_else() {
    let mut pipe = Pipe::new();
    let mut server = pipe.server("log.filter = 'info,headroom::access=debug'");
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

    // The reader goes on: it hears what it missed, and all that follows.
    let read = pipe.read_until("log lines were dropped");
    assert!(read.contains("starting"), "{read}");
    server.signal(Signal::SIGHUP);
    pipe.read_until("settings reloaded");

    log_until_lines_are_dropped(&server).await;
    let told = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_end(DEADLINE).code(), Some(0));
    assert!(
        told.elapsed() < Duration::from_secs(10),
        "{:?}",
        told.elapsed()
    );
}

#[test]
fn wrong_settings_end_it_although_nobody_reads_why() {
    let mut pipe = Pipe::new();
    pipe.fill();
    let stderr = OpenOptions::new().write(true).open(&pipe.path).unwrap();
    let mut command = child::command(BINARY);
    command
        .arg("serve")
        .env("HEADROOM__POSTGRES__URL", "nonsense")
        .stderr(stderr);
    let mut server = child::start(&mut command).unwrap();
    let status = server.wait_within(DEADLINE).unwrap();
    let status = status.expect("it ends");
    assert_eq!(status.code(), Some(78));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_whoever_reads_the_log() {
    let pipe = Pipe::new();
    let mut server =
        pipe.server("log.filter = 'info,headroom::access=debug'\nserver.shutdown_deadline = '60s'");
    log_until_lines_are_dropped(&server).await;
    // A request that is under way for long: half of its body.
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream
        .write_all(
            b"POST /v2/models/none/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
        )
        .unwrap();
    // As many reloads as nobody waits for.
    for _ in 0..20 {
        server.signal(Signal::SIGHUP);
    }
    server.signal(Signal::SIGTERM);
    let address = server.address();
    wait_for(DEADLINE, || {
        let is_stopping = TcpStream::connect(address).is_err();
        is_stopping
            .then_some(())
            .ok_or("it still takes connections")
    });
    let told = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_end(DEADLINE).code(), Some(143));
    assert!(
        told.elapsed() < Duration::from_secs(2),
        "{:?}",
        told.elapsed()
    );
}

#[tokio::test]
async fn malformed_requests_are_counted_and_one_line_now_and_then() {
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
