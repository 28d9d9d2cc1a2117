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
    /// Without the kernel's events it is not in use, and readings detect stalls. The detail is the
    /// threshold and its file, or why there is none.
    pub(in crate::memory) status: SourceStatus,
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
            match open(&path, thresholds) {
                Ok((file, threshold)) => {
                    let threshold = threshold.trim_end_matches('\0');
                    let mut detail = format!("\"{threshold}\" on {}", path.display());
                    if !refusals.is_empty() {
                        detail = format!("{detail}, since {}", refusals.join("; "));
                    }
                    let file = PressureFile { file, path, scope };
                    return Self::new(Some(file), Health::Healthy, detail);
                }
                Err(error) => {
                    refusals.push(format!("{} refuses a threshold: {error}", path.display()));
                }
            }
        }
        Self::new(None, Health::Absent, by_readings(&refusals.join("; ")))
    }

    fn new(file: Option<PressureFile>, health: Health, detail: String) -> Self {
        let status = SourceStatus {
            source: Source::StallTrigger,
            in_use: file.is_some(),
            health,
            detail,
        };
        Self { file, status }
    }

    /// Waits for the next stall and returns the processes that it concerns. Without a threshold it
    /// waits for ever; its status then says why. The future can be dropped without losing an event.
    pub(in crate::memory) async fn stalled(&mut self) -> Scope {
        if let Some(file) = &self.file {
            match event(&file.file).await {
                Ok(()) => return file.scope,
                Err(error) => {
                    let reason = format!("{} raises no more events: {error}", file.path.display());
                    *self = Self::new(None, Health::Failing, by_readings(&reason));
                }
            }
        }
        std::future::pending().await
    }
}

fn by_readings(reason: &str) -> String {
    format!("readings detect stalls instead: {reason}")
}

/// Writes the first of `thresholds` that the kernel accepts, and returns that one.
fn open<'a>(path: &Path, thresholds: &[&'a str]) -> io::Result<(AsyncFd<File>, &'a str)> {
    let mut refusal = io::Error::from(io::ErrorKind::InvalidInput);
    for threshold in thresholds {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(path)?;
        match file.write_all(threshold.as_bytes()) {
            Ok(()) => return Ok((async_file(file)?, threshold)),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

/// Waits for one event.
async fn event(file: &AsyncFd<File>) -> io::Result<()> {
    let mut guard = file.ready(Interest::PRIORITY | Interest::ERROR).await?;
    let ready = guard.ready();
    // The kernel clears an event when it reports it.
    guard.clear_ready();
    if ready.is_error() {
        return Err(io::Error::other("the kernel has removed the threshold"));
    }
    Ok(())
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
            let status = trigger.status.clone();
            assert!(!trigger.status.in_use && status.health == Health::Absent);
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
            assert!(!trigger.status.in_use, "{:?}", trigger.status);
        });
    }

    #[test]
    fn the_real_kernel_accepts_a_threshold_or_the_status_says_why_not() {
        run(async {
            let mut trigger = StallTrigger::open(&System::default());
            let status = trigger.status.clone();
            let writable = OpenOptions::new()
                .read(true)
                .write(true)
                .open("/proc/pressure/memory");
            assert_eq!(trigger.status.in_use, writable.is_ok(), "{status:?}");
            if trigger.status.in_use {
                assert!(status.detail.contains("some "), "{}", status.detail);
                // Waiting must neither spin nor fail, whether or not something stalls.
                let quick = Duration::from_millis(20);
                tokio::time::timeout(quick, trigger.stalled()).await.ok();
                assert!(trigger.status.in_use);
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
            if !trigger.status.in_use {
                return skip(&format!(
                    "the kernel accepts no threshold: {:?}",
                    trigger.status
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
