//! What an earlier run of the server left behind, when it was killed and could not end it.
//!
//! A process of ours is known by its name and by the folder that it works in, which nobody else's
//! process has: a process id that was written down may belong to anybody by now. Whoever calls this
//! holds the lock of the data folder, so that what is found belongs to nobody who lives.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::PrivateServerError;
use crate::kernel::ProcessRef;

/// How long an orphan has for each of the ways in which it is asked to end. An orderly end writes
/// what is in memory to the disk.
const ENDS_WITHIN: Duration = Duration::from_secs(8);

/// How often it is looked whether they are gone.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What to look for, and how to end it.
#[derive(Debug, Clone)]
pub(crate) struct Orphans {
    /// The server's name.
    pub(crate) what: &'static str,
    /// The names of its programs.
    pub(crate) programs: &'static [&'static str],
    /// The folders they work in.
    pub(crate) folders: Vec<PathBuf>,
    /// The signals that end them, gentlest first. The last resort comes after them by itself.
    pub(crate) signals: &'static [Signal],
}

impl Orphans {
    /// Ends them, and waits until they are gone.
    pub(crate) async fn end(&self) -> Result<(), PrivateServerError> {
        for signal in self.signals.iter().chain([&Signal::SIGKILL]) {
            let found = self.find();
            if found.is_empty() {
                return Ok(());
            }
            let server = self.what;
            tracing::warn!(server, processes = ?found, %signal, "ending what an earlier run left");
            for pid in found {
                self.signal(pid, *signal);
            }
            let deadline = Instant::now() + ENDS_WITHIN;
            while !self.find().is_empty() && Instant::now() < deadline {
                sleep(LOOK_EVERY).await;
            }
        }
        match self.find().first() {
            Some(&pid) => Err(PrivateServerError::Orphan {
                what: self.what,
                pid,
            }),
            None => Ok(()),
        }
    }

    /// Signals the process that was found as `pid`, unless the number is another one's by now.
    fn signal(&self, pid: i32, signal: Signal) {
        let Ok(process) = ProcessRef::open(pid) else {
            return;
        };
        // Only now that the process is held is it worth while to look who it is.
        if self.is_one(Path::new(&format!("/proc/{pid}")), &self.existing_folders()) {
            // It may be gone by now, or be told by another one of them.
            process.signal(signal).ok();
        }
    }

    /// Their folders, as the kernel names them.
    fn existing_folders(&self) -> Vec<PathBuf> {
        let folders = self.folders.iter();
        folders
            .filter_map(|folder| folder.canonicalize().ok())
            .collect()
    }

    /// Their process ids.
    fn find(&self) -> Vec<i32> {
        let folders = self.existing_folders();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                self.is_one(&entry.path(), &folders).then_some(pid)
            })
            .collect()
    }

    fn is_one(&self, process: &Path, folders: &[PathBuf]) -> bool {
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        if !self.programs.contains(&name.trim_end()) {
            return false;
        }
        // Empty for a process that has ended and is not reaped yet.
        std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| folders.contains(&cwd))
    }
}
