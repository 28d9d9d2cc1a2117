//! Receives signals on a thread of its own.
//!
//! SIGTERM and SIGINT request a graceful stop, SIGHUP a reload. A second signal to stop ends the process
//! at once from this thread, even if other threads are stuck.

use std::io;
use std::process;
use std::sync::mpsc as std_mpsc;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// A request of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Finish the requests in flight, then stop.
    Stop,
    /// Reload the settings.
    Reload,
}

/// The most signals that wait. Further reloads are dropped, since one reload reads all changes.
const WAITING_MAX: usize = 8;

/// Starts to receive signals. Signals that arrive after this returns are not lost.
///
/// The thread never waits for another part of the server: the channel has a permit reserved for the
/// stop, and the log is not written synchronously.
///
/// # Errors
/// The signal handlers or the thread cannot be made.
pub fn listen() -> io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(WAITING_MAX + 1);
    let (report, installed) = std_mpsc::sync_channel(1);
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            match tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
            {
                Ok(runtime) => runtime.block_on(forward(&sender, &report)),
                Err(error) => report_once(&report, Err(error)),
            }
        })?;
    installed.recv().map_err(io::Error::other)??;
    Ok(receiver)
}

async fn forward(sender: &mpsc::Sender<Signal>, report: &std_mpsc::SyncSender<io::Result<()>>) {
    let kinds = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ];
    let [terminate, interrupt, hangup] = kinds.map(signal);
    let (mut terminate, mut interrupt, mut hangup) = match (terminate, interrupt, hangup) {
        (Ok(terminate), Ok(interrupt), Ok(hangup)) => (terminate, interrupt, hangup),
        (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => {
            return report_once(report, Err(error));
        }
    };
    report_once(report, Ok(()));

    // This is the only sender, so the channel has space.
    let mut stop_permit = sender.try_reserve().ok();
    let mut stopping = false;
    loop {
        let stop = tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = hangup.recv() => {
                // A full channel holds a reload already; a closed one needs none.
                sender.try_send(Signal::Reload).ok();
                continue;
            }
        };
        if stopping {
            end_at_once(stop);
        }
        stopping = true;
        if let Some(place) = stop_permit.take() {
            place.send(Signal::Stop);
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the ordered stop is what the operator no longer wants to wait for"
)]
fn end_at_once(asked_by: SignalKind) -> ! {
    process::exit(128 + asked_by.as_raw_value())
}

fn report_once(report: &std_mpsc::SyncSender<io::Result<()>>, result: io::Result<()>) {
    // The receiver in `listen` waits for this message.
    report.send(result).ok();
}
