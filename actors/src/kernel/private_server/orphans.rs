//! The processes that an earlier run of a private server left behind when it was killed.
//!
//! An orphan is recognised by its program's name and by its working folder, which is a data folder of
//! Headroom. A process id from a file would not do: it may belong to another process by now. The
//! caller holds the lock of the data folder, so no process found in it belongs to a running server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::error::PrivateServerError;
use super::kind::ServerKind;
use crate::kernel::ProcessRef;

/// How long orphans may take to end after each signal. An orderly end writes memory to the disk.
const END_TIMEOUT: Duration = Duration::from_secs(8);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The orphans of one server in one data folder.
pub(crate) struct Orphans {
    kind: &'static ServerKind,
    /// The working folders as the kernel names them.
    folders: Vec<PathBuf>,
}

impl Orphans {
    /// The orphans in `data_folder`, which must exist.
    pub(crate) fn new(kind: &'static ServerKind, data_folder: &Path) -> Self {
        let resolved = |folder: PathBuf| folder.canonicalize().unwrap_or(folder);
        let data_folder = resolved(data_folder.to_owned());
        // An orphan may still create a working folder that does not exist yet.
        let folders = kind.working_folders.iter();
        let folders = folders.map(|name| resolved(data_folder.join(name)));
        let mut folders: Vec<_> = folders.collect();
        folders.push(data_folder);
        Self { kind, folders }
    }

    /// Ends the orphans: sends each signal in turn, until none is left.
    pub(crate) async fn end(&self) -> Result<(), PrivateServerError> {
        for signal in self.kind.end_signals.iter().chain([&Signal::SIGKILL]) {
            let found = self.find();
            if found.is_empty() {
                return Ok(());
            }
            let server = self.kind.name;
            tracing::warn!(
                server,
                processes = ?found,
                %signal,
                "ending processes that an earlier run left behind"
            );
            for pid in found {
                self.signal(pid, *signal);
            }
            let deadline = Instant::now() + END_TIMEOUT;
            loop {
                let left = self.find();
                if left.is_empty() || Instant::now() >= deadline {
                    break;
                }
                // One of them may have started another one since they were found.
                for pid in left.into_iter().filter(|_| *signal == Signal::SIGKILL) {
                    self.signal(pid, Signal::SIGKILL);
                }
                sleep(POLL_INTERVAL).await;
            }
        }
        match self.find().first() {
            Some(&pid) => Err(PrivateServerError::Orphan {
                server: self.kind.name,
                pid,
            }),
            None => Ok(()),
        }
    }

    /// Signals the process that was found as `pid`, if it still is an orphan.
    fn signal(&self, pid: i32, signal: Signal) {
        let Ok(process) = ProcessRef::open(pid) else {
            return;
        };
        // `process` keeps referring to the same process, so the signal goes to the process that is
        // checked here.
        if self.is_orphan(Path::new(&format!("/proc/{pid}"))) {
            // It fails only if the process has ended.
            process.signal(signal).ok();
        }
    }

    /// The process ids of the orphans.
    fn find(&self) -> Vec<i32> {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                self.is_orphan(&entry.path()).then_some(pid)
            })
            .collect()
    }

    fn is_orphan(&self, process: &Path) -> bool {
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        if !self.kind.programs.contains(&name.trim_end()) {
            return false;
        }
        // A process that has ended and is not reaped yet has no working folder.
        std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| self.folders.contains(&cwd))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use headroom_test_support::child;
    use headroom_test_support::wait::{DEADLINE, wait_until};

    use super::*;

    static SLEEP: ServerKind = ServerKind {
        name: "sleep",
        child: "server",
        user: "sleep",
        product: "Sleep",
        programs: &["sleep"],
        packages: ["coreutils", "coreutils"],
        estimated_bytes: 0,
        working_folders: &["work"],
        end_signals: &[],
        find: |_, _| unreachable!("nothing is started"),
        prepare: |_, _| unreachable!("nothing is started"),
    };

    #[tokio::test]
    async fn an_orphan_in_a_folder_that_it_has_just_created_is_ended() {
        let data = tempfile::tempdir().unwrap();
        let orphans = Orphans::new(&SLEEP, data.path());
        let work = data.path().join("work");
        std::fs::create_dir(&work).unwrap();
        let mut sleep = child::command("sleep");
        let mut sleep = child::start(sleep.arg("100").current_dir(&work)).unwrap();
        wait_until(DEADLINE, "the orphan is found", || {
            !orphans.find().is_empty()
        });
        orphans.end().await.unwrap();
        let exit = sleep.wait_within(END_TIMEOUT).unwrap().unwrap();
        assert_eq!(exit.signal(), Some(Signal::SIGKILL as i32));
    }
}
