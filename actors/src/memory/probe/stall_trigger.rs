//! The kernel's event when tasks stall for memory for too long.
//!
//! A threshold that is written into the pressure file makes the kernel raise a priority event on it
//! whenever stalls pass the threshold, at most once per window. That costs nothing while nothing
//! stalls, and comes before the next reading. Where the kernel refuses the threshold, readings detect
//! stalls instead: [`super::StallReading::is_stalling`].

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::stalls::pressure_files;
use super::{Health, Scope, Source, SourceStatus, System};

/// 15 % of the time, in microseconds. A process without privileges must use windows that are
/// multiples of two seconds. The kernel overwrites the last byte with a zero, so each text ends with
/// one.
const THRESHOLDS: [&str; 2] = ["some 150000 1000000\0", "some 300000 2000000\0"];

/// Waits for stalls, where the kernel accepts a threshold. Dropping it removes the threshold.
#[derive(Debug)]
pub(in crate::memory) struct StallTrigger {
    file: Option<PressureFile>,
    health: Health,
    /// The threshold and its file, or why there is none.
    detail: String,
}

/// A pressure file with a threshold.
#[derive(Debug)]
struct PressureFile {
    file: AsyncFd<File>,
    path: PathBuf,
    scope: Scope,
}

impl StallTrigger {
    /// Sets the threshold, if possible for the server's control group. Needs a tokio runtime.
    pub(in crate::memory) fn open(system: &System) -> Self {
        Self::with_thresholds(system, &THRESHOLDS)
    }

    fn with_thresholds(system: &System, thresholds: &[&str]) -> Self {
        let mut refusals = Vec::new();
        for (path, scope) in pressure_files(system) {
            match PressureFile::open(&path, scope, thresholds) {
                Ok((file, threshold)) => {
                    let threshold = threshold.trim_end_matches('\0');
                    let mut detail = format!("\"{threshold}\" on {}", path.display());
                    if !refusals.is_empty() {
                        detail = format!("{detail}, since {}", refusals.join("; "));
                    }
                    return Self {
                        file: Some(file),
                        health: Health::Healthy,
                        detail,
                    };
                }
                Err(error) => {
                    refusals.push(format!("{} refuses a threshold: {error}", path.display()));
                }
            }
        }
        Self {
            file: None,
            health: Health::Absent,
            detail: format!("readings detect stalls instead: {}", refusals.join("; ")),
        }
    }

    /// Whether the kernel raises events. If not, readings detect stalls.
    pub(in crate::memory) fn is_in_use(&self) -> bool {
        self.file.is_some()
    }

    /// Waits for the next stall and returns the processes that it concerns. Without a threshold it
    /// waits for ever; [`StallTrigger::status`] then says why. The future can be dropped without
    /// losing an event.
    pub(in crate::memory) async fn stalled(&mut self) -> Scope {
        if let Some(file) = &self.file {
            match file.event().await {
                Ok(()) => return file.scope,
                Err(error) => {
                    let path = file.path.display();
                    self.detail = format!(
                        "readings detect stalls instead: {path} raises no more events: {error}"
                    );
                    self.health = Health::Failing;
                    self.file = None;
                }
            }
        }
        std::future::pending().await
    }

    pub(in crate::memory) fn status(&self) -> SourceStatus {
        SourceStatus {
            source: Source::StallTrigger,
            in_use: self.is_in_use(),
            health: self.health,
            detail: self.detail.clone(),
        }
    }
}

impl PressureFile {
    /// Writes the first of `thresholds` that the kernel accepts, and returns that one.
    fn open<'a>(path: &Path, scope: Scope, thresholds: &[&'a str]) -> io::Result<(Self, &'a str)> {
        let mut refusal = io::Error::from(io::ErrorKind::InvalidInput);
        for threshold in thresholds {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(nix::libc::O_NONBLOCK)
                .open(path)?;
            match file.write_all(threshold.as_bytes()) {
                Ok(()) => {
                    let file = async_file(file)?;
                    let path = path.to_owned();
                    return Ok((Self { file, path, scope }, threshold));
                }
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// Waits for one event.
    async fn event(&self) -> io::Result<()> {
        let mut guard = self
            .file
            .ready(Interest::PRIORITY | Interest::ERROR)
            .await?;
        let ready = guard.ready();
        // The kernel clears an event when it reports it.
        guard.clear_ready();
        if ready.is_error() {
            return Err(io::Error::other("the kernel has removed the threshold"));
        }
        Ok(())
    }
}

/// A file on which tokio can wait for priority events.
#[expect(
    deprecated,
    reason = "its replacement is unsafe: the caller promises that the descriptor stays open; a \
              `File` that has one owner keeps that promise by itself"
)]
fn async_file(file: File) -> io::Result<AsyncFd<File>> {
    AsyncFd::with_interest(file, Interest::PRIORITY)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;
    use headroom_test_support::capability::skip;
    use headroom_test_support::cgroup::Group;
    use headroom_test_support::child;
    use std::time::Duration;

    /// Runs a test in a runtime like that of the server.
    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test)
    }

    #[test]
    fn where_the_kernel_refuses_a_threshold_the_status_says_why() {
        run(async {
            let fixture = Fixture::new();
            let mut trigger = StallTrigger::open(&fixture.system());
            let status = trigger.status();
            assert!(!trigger.is_in_use() && status.health == Health::Absent);
            assert!(
                status.detail.contains("pressure/memory"),
                "{}",
                status.detail
            );
            let quick = Duration::from_millis(10);
            assert!(
                tokio::time::timeout(quick, trigger.stalled())
                    .await
                    .is_err()
            );
            // An ordinary file accepts the threshold, but tokio cannot wait on it.
            fixture.write("proc/pressure/memory", "some avg10=0.00 total=0\n");
            let trigger = StallTrigger::open(&fixture.system());
            assert!(!trigger.is_in_use(), "{:?}", trigger.status());
        });
    }

    #[test]
    fn the_real_kernel_accepts_a_threshold_or_the_status_says_why_not() {
        run(async {
            let mut trigger = StallTrigger::open(&System::default());
            let status = trigger.status();
            let writable = OpenOptions::new()
                .read(true)
                .write(true)
                .open("/proc/pressure/memory");
            assert_eq!(trigger.is_in_use(), writable.is_ok(), "{status:?}");
            if trigger.is_in_use() {
                assert!(status.detail.contains("some "), "{}", status.detail);
                // Waiting must neither spin nor fail, whether or not something stalls.
                let quick = Duration::from_millis(20);
                tokio::time::timeout(quick, trigger.stalled()).await.ok();
                assert!(trigger.is_in_use());
            }
        });
    }

    #[test]
    fn a_real_stall_raises_an_event() {
        let Some(group) = Group::new("stall", 8 << 20) else {
            return;
        };
        run(async {
            // One millisecond in each window.
            let thresholds = ["some 1000 500000\0", "some 1000 2000000\0"];
            let mut trigger = StallTrigger::with_thresholds(&System::default(), &thresholds);
            if !trigger.is_in_use() {
                return skip(&format!(
                    "the kernel accepts no threshold: {:?}",
                    trigger.status()
                ));
            }
            let folder = tempfile::tempdir().unwrap();
            let script = format!(
                "{} && while :; do head -c 200M /dev/zero > {}/file; done",
                group.enter(),
                folder.path().display()
            );
            let churn = child::start(child::command("sh").args(["-c", &script])).unwrap();
            let stalled = tokio::time::timeout(Duration::from_secs(30), trigger.stalled()).await;
            drop(churn);
            assert_eq!(stalled.unwrap(), Scope::Machine);
        });
    }
}
