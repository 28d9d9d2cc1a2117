//! What the operating system asks for, heard on a thread of its own.
//!
//! SIGTERM and SIGINT ask for a graceful stop, SIGHUP for a reload. A second request to stop ends
//! the process at once, from this thread, whatever the others are doing: an operator who asks twice
//! does not want to wait for what may be stuck.

use std::io;
use std::process;
use std::sync::mpsc as std_mpsc;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What the server is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Finish what is under way, then end.
    Stop,
    /// Read the settings again.
    Reload,
}

/// More reloads than this waiting are as good as one.
const WAITING_MAX: usize = 8;

/// Begins listening; signals that arrive once this returned are not lost.
///
/// Nothing on this thread waits for another part of the server: neither for room in the channel,
/// where a place is kept for the stop, nor for the log.
///
/// # Errors
/// When the handlers or the thread cannot be made.
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

    // Nobody else sends, so there is a place.
    let mut place_for_stop = sender.try_reserve().ok();
    let mut stopping = false;
    loop {
        let stop = tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = hangup.recv() => {
                // A full queue holds a reload already; a closed one has no more use for it.
                sender.try_send(Signal::Reload).ok();
                continue;
            }
        };
        if stopping {
            end_at_once(stop);
        }
        stopping = true;
        if let Some(place) = place_for_stop.take() {
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
    // The receiver waits for exactly this; if it is gone, so is the server.
    report.send(result).ok();
}
