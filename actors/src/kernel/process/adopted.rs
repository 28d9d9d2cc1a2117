//! Children that this process has not started. The first process of a container (of a PID namespace) becomes the parent of
//! every process whose own parent has ended, and the kernel keeps each of them after its end until the parent waits for it.
//!
//! A wait for a child takes its exit status. So only children may be waited for here that [`Process`](super::Process) does
//! not wait for. The kernel has one list of children for the whole process, and so has this module.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::process::{Child, Command};
use tokio::time::sleep;

/// Time between two looks for adopted children that have ended.
const INTERVAL: Duration = Duration::from_secs(1);

/// The ids of the children that this process has started and has not given up, each with their number: a child that has
/// ended but is not given up yet may have had the id of a new one.
static STARTED: Mutex<BTreeMap<i32, usize>> = Mutex::new(BTreeMap::new());

/// Keeps a child that this process has started from being taken for an adopted one.
#[derive(Debug)]
pub(super) struct Started(i32);

impl Started {
    /// Starts a child.
    ///
    /// # Errors
    /// The system cannot start it.
    pub(super) fn spawn(command: &mut Command) -> io::Result<(Child, Self)> {
        // The lock covers the start: otherwise a child that ends at once could be taken for an adopted one.
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else {
            return Err(io::Error::other("the process ended before it had an id"));
        };
        Ok((child, Self::count(&mut started, pid)))
    }

    fn count(started: &mut BTreeMap<i32, usize>, pid: i32) -> Self {
        *started.entry(pid).or_default() += 1;
        Self(pid)
    }

    /// Its process id.
    pub(super) fn pid(&self) -> i32 {
        self.0
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = started.entry(self.0) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Reaps adopted children for ever. Only the first process of a PID namespace adopts any.
pub async fn reap_adopted() {
    loop {
        let reaped = reap_ended();
        if reaped > 0 {
            tracing::debug!(reaped, "processes that had lost their parents have ended");
        }
        sleep(INTERVAL).await;
    }
}

/// Reaps the adopted children that have ended. Returns their number.
pub fn reap_ended() -> usize {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| reap(*pid)).count()
}

/// Whether the process was an adopted child that had ended, and is reaped now.
fn reap(pid: i32) -> bool {
    let started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if started.contains_key(&pid) {
        return false;
    }
    // Fails for a process that is no child.
    let reaped = Pid::from_raw(pid).map(|pid| waitpid(Some(pid), WaitOptions::NOHANG));
    matches!(reaped, Some(Ok(Some(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No process has this id.
    const PID: i32 = i32::MAX;

    fn is_started() -> bool {
        let started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        started.contains_key(&PID)
    }

    #[test]
    fn a_child_with_the_id_of_an_ended_one_stays_known_when_that_is_given_up() {
        let count = || {
            let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
            Started::count(&mut started, PID)
        };
        let (ended, running) = (count(), count());
        drop(ended);
        assert!(is_started());
        drop(running);
        assert!(!is_started());
    }
}
