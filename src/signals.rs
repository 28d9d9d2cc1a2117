//! Receives signals on a thread of its own.
//!
//! SIGTERM, SIGINT and SIGQUIT request a graceful stop, SIGHUP a reload. SIGUSR1 and SIGUSR2, which many programs take as a
//! request to open their log files again, change nothing: the log goes to standard error. A second signal to stop ends the
//! drain delay. Once the server no longer receives signals, and with a third one, the process ends at once from this thread, even
//! if other threads are stuck.

use std::io;
use std::process;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal as OsSignal};
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::mpsc;

use crate::connection::Drain;
use crate::telemetry::{ALWAYS_KEPT, stderr};

/// A request of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Finish the requests in flight, then stop. The second one asks not to wait before that.
    Stop,
    /// Reload the settings.
    Reload,
}

/// The most signals that wait. Further reloads are dropped, since one reload reads all changes.
const WAITING_MAX: usize = 8;

/// The requests to stop that are passed on.
const STOPS_MAX: usize = 2;

/// How long the last line of the log may take if nobody reads standard error.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);

/// The signals that the server or its libraries wait for.
const RECEIVED: [OsSignal; 7] = [
    OsSignal::SIGTERM,
    OsSignal::SIGINT,
    OsSignal::SIGQUIT,
    OsSignal::SIGHUP,
    OsSignal::SIGUSR1,
    OsSignal::SIGUSR2,
    OsSignal::SIGCHLD,
];

/// Starts to receive signals, also if the parent process has blocked them. Signals that arrive after this returns are not
/// lost. An end at once says how many requests of `drain`'s server it cuts. Called from the main thread, before it makes the
/// threads that start processes: these inherit what is blocked.
///
/// The thread never waits for another part of the server: the channel has permits reserved for the
/// stops, and the log is not written synchronously.
///
/// # Errors
/// The signal handlers or the thread cannot be made.
pub fn listen(drain: Drain) -> io::Result<mpsc::Receiver<Signal>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let installed = {
        let _context = runtime.enter();
        [
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::quit())?,
            signal(SignalKind::hangup())?,
            signal(SignalKind::user_defined1())?,
            signal(SignalKind::user_defined2())?,
        ]
    };
    // Only now: without its handler, a signal that waits would end the process.
    SigSet::from_iter(RECEIVED).thread_unblock()?;
    let (sender, receiver) = mpsc::channel(WAITING_MAX + STOPS_MAX);
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || runtime.block_on(forward(installed, &sender, &drain)))?;
    Ok(receiver)
}

async fn forward(
    [
        mut terminate,
        mut interrupt,
        mut quit,
        mut hangup,
        mut user_1,
        mut user_2,
    ]: [unix::Signal; 6],
    sender: &mpsc::Sender<Signal>,
    drain: &Drain,
) {
    // This is the only sender, so the channel has space.
    let mut stop_permits = sender.try_reserve_many(STOPS_MAX).ok();
    loop {
        let stop = tokio::select! {
            _ = terminate.recv() => (SignalKind::terminate(), "SIGTERM"),
            _ = interrupt.recv() => (SignalKind::interrupt(), "SIGINT"),
            _ = quit.recv() => (SignalKind::quit(), "SIGQUIT"),
            _ = hangup.recv() => {
                // A full channel holds a reload already; a closed one needs none.
                sender.try_send(Signal::Reload).ok();
                continue;
            }
            // Without a handler, they would end the process.
            _ = user_1.recv() => {
                ignored("SIGUSR1");
                continue;
            }
            _ = user_2.recv() => {
                ignored("SIGUSR2");
                continue;
            }
        };
        let permit = stop_permits.as_mut().and_then(Iterator::next);
        match permit {
            Some(permit) if !sender.is_closed() => permit.send(Signal::Stop),
            _ => end_at_once(stop, drain),
        }
    }
}

fn ignored(signal: &'static str) {
    tracing::info!(
        signal,
        "this signal changes nothing; SIGHUP reloads the settings, and the log goes to standard error"
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "the ordered stop is what the operator no longer wants to wait for"
)]
fn end_at_once((asked_by, signal): (SignalKind, &'static str), drain: &Drain) -> ! {
    tracing::warn!(
        target: ALWAYS_KEPT,
        signal,
        requests = drain.busy(),
        connections = drain.open(),
        "asked to stop again: ending at once"
    );
    stderr::flush(FLUSH_WITHIN);
    process::exit(128 + asked_by.as_raw_value())
}
