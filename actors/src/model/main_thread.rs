//! Ends a process whose main thread has ended while other threads of it run.
//!
//! The host ends as a whole. Native code of a model can end the main thread alone, and `/proc` then shows no memory of the
//! process: the readings of memory, on which the budget stands, would miss it.

use std::fs::read_to_string;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::kernel::ProcessRef;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Kills `process` when its main thread has ended. Returns when the process has ended or is killed.
pub(super) async fn end_with_main_thread(process: Arc<ProcessRef>, host: String) {
    let pid = process.pid();
    let pages = format!("/proc/{pid}/statm");
    let mut had_ended = false;
    loop {
        let has_ended = match read_to_string(&pages) {
            // A main thread that has ended has given back its address space.
            Ok(pages) => pages.starts_with("0 "),
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            // The next look may succeed.
            Err(_) => false,
        };
        // A process that ends as a whole looks like this for a moment.
        if has_ended && had_ended {
            tracing::warn!(host, pid, "the main thread of a model's process has ended");
            process.signal(Signal::SIGKILL).ok();
            return;
        }
        had_ended = has_ended;
        sleep(LOOK_INTERVAL).await;
    }
}
