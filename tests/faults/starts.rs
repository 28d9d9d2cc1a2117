//! Signals to a server that starts: from its first log line on, none of them ends it out of order.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Instant;

use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::DEADLINE;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::setup::BINARY;

/// The first log line, which follows the signal handlers.
const BEGUN: &str = "starting";

/// Moments of a start, most of them early.
const MOMENTS: usize = 16;

/// Servers that start one after another on the same data, which only one server has at a time.
struct Starts {
    options: Options,
    _data: TempDir,
    /// The bytes in the log of a whole start.
    log_bytes: usize,
}

impl Starts {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        fs::set_permissions(data.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let settings = format!(
            "log.filter = 'debug'\ndata.dir = '{}'",
            data.path().display()
        );
        let options = Options::new(BINARY).settings(&settings);
        let whole = Server::start(options.clone());
        let log_bytes = whole.wait_for_log("serving").len();
        drop(whole);
        Self {
            options,
            _data: data,
            log_bytes,
        }
    }

    /// A server whose start has come to the moment of this number.
    fn begin(&self, moment: usize) -> Server {
        let server = Server::begin(self.options.clone());
        let bytes = self.log_bytes * moment.pow(2) / MOMENTS.pow(2);
        let end = Instant::now() + DEADLINE;
        // A start takes milliseconds, so there is no pause between two looks.
        loop {
            let log = server.log();
            if log.contains(BEGUN) && log.len() >= bytes {
                return server;
            }
            assert!(Instant::now() < end, "it does not start: {log}");
            thread::yield_now();
        }
    }
}

#[test]
fn a_signal_to_stop_ends_a_server_in_order_at_each_moment_of_its_start() {
    let starts = Starts::new();
    for moment in 0..MOMENTS {
        let mut server = starts.begin(moment);
        server.signal([Signal::SIGTERM, Signal::SIGINT][moment % 2]);
        assert_eq!(server.wait_for_exit().code(), Some(0), "{moment}");
        let log = server.log();
        assert!(log.contains("headroom::startup: stopped"), "{log}");
        assert!(!server.ready_file().exists());
    }
}

#[test]
fn other_signals_do_not_end_a_server_that_starts() {
    let starts = Starts::new();
    for moment in [0, 4, 8] {
        let mut server = starts.begin(moment);
        for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGHUP] {
            server.signal(signal);
        }
        for expected in ["SIGUSR1", "SIGUSR2", "settings reloaded", "serving"] {
            server.wait_for_log(expected);
        }
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait_for_exit().code(), Some(0), "{moment}");
    }
}
