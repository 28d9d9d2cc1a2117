//! The kernel's call when tasks lose too much time waiting for memory.
//!
//! A threshold written into the file that tells the lost time makes the kernel wake whoever polls
//! that file for priority events, at most once per window. That costs nothing while there is no
//! stall, and comes sooner than the next sample. Where the kernel refuses, the samples must do:
//! [`super::StallReading::is_stalling`].

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::stalls::candidates;
use super::{Health, Scope, Source, SourceStatus, System};

/// 15 % of the time, in microseconds: for whoever may ask for any window, and for everybody, for
/// whom windows must be whole multiples of two seconds. The kernel overwrites the last byte that it
/// is given with a zero, so there must be one to spare.
const THRESHOLDS: [&str; 2] = ["some 150000 1000000\0", "some 300000 2000000\0"];

/// Tasks lost more time than the threshold allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::memory) struct Stalled {
    /// Whose tasks.
    pub(in crate::memory) scope: Scope,
}

/// Waits for stalls, where the kernel tells them. Dropping it takes the threshold back.
#[derive(Debug)]
pub(in crate::memory) struct StallWatch {
    trigger: Option<Trigger>,
    /// What was set, or every refusal.
    detail: String,
    /// The trigger was there and is no more.
    is_lost: bool,
}

#[derive(Debug)]
struct Trigger {
    file: AsyncFd<File>,
    path: PathBuf,
    scope: Scope,
}

impl StallWatch {
    /// Sets the threshold, on our own group where possible. Must be called inside a tokio runtime.
    pub(in crate::memory) fn open(system: &System) -> Self {
        Self::with_thresholds(system, &THRESHOLDS)
    }

    fn with_thresholds(system: &System, thresholds: &[&str]) -> Self {
        let mut refusals = Vec::new();
        for (path, scope) in candidates(system) {
            match Trigger::open(&path, scope, thresholds) {
                Ok((trigger, threshold)) => {
                    let threshold = threshold.trim_end_matches('\0');
                    let mut detail = format!("\"{threshold}\" on {}", path.display());
                    if !refusals.is_empty() {
                        detail = format!("{detail}, since {}", refusals.join("; "));
                    }
                    return Self {
                        trigger: Some(trigger),
                        detail,
                        is_lost: false,
                    };
                }
                Err(error) => refusals.push(format!("{} refuses: {error}", path.display())),
            }
        }
        Self {
            trigger: None,
            detail: format!("the samples do instead: {}", refusals.join("; ")),
            is_lost: false,
        }
    }

    /// Whether the kernel calls. If not, the samples must do.
    pub(in crate::memory) fn is_in_use(&self) -> bool {
        self.trigger.is_some()
    }

    /// Waits for the next stall; for ever when the kernel does not call. When it stops calling
    /// (the group is gone), that shows in [`StallWatch::status`], and this waits for ever. Nothing
    /// is lost when the future is dropped.
    pub(in crate::memory) async fn stalled(&mut self) -> Stalled {
        if let Some(trigger) = &self.trigger {
            match trigger.wait().await {
                Ok(()) => {
                    return Stalled {
                        scope: trigger.scope,
                    };
                }
                Err(error) => {
                    let path = trigger.path.display();
                    self.detail =
                        format!("the samples do instead: {path} no longer calls: {error}");
                    self.is_lost = true;
                    self.trigger = None;
                }
            }
        }
        std::future::pending().await
    }

    /// Which file calls and at what, or why none does.
    pub(in crate::memory) fn status(&self) -> SourceStatus {
        SourceStatus {
            source: Source::StallTrigger,
            in_use: self.is_in_use(),
            health: match (&self.trigger, self.is_lost) {
                (Some(_), _) => Health::Healthy,
                (None, false) => Health::Absent,
                (None, true) => Health::Failing,
            },
            detail: self.detail.clone(),
        }
    }
}

impl Trigger {
    /// Writes the first of `thresholds` that the kernel accepts, and tells which.
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
                    let file = watched(file)?;
                    let path = path.to_owned();
                    return Ok((Self { file, path, scope }, threshold));
                }
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// Waits for one event.
    async fn wait(&self) -> io::Result<()> {
        let awaited = Interest::PRIORITY | Interest::ERROR;
        let mut ready = self.file.ready(awaited).await?;
        let what = ready.ready();
        // The kernel took the event back when it told it.
        ready.clear_ready();
        if what.is_error() {
            return Err(io::Error::other("the kernel has dropped the threshold"));
        }
        Ok(())
    }
}

/// A file that can be waited on for the kernel's events.
#[expect(
    deprecated,
    reason = "what replaces it is unsafe, to promise that the descriptor stays the same and open; \
              a `File` that nobody else holds keeps that promise by itself"
)]
fn watched(file: File) -> io::Result<AsyncFd<File>> {
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

    /// Runs in a runtime like that of the server.
    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test)
    }

    #[test]
    fn where_the_kernel_refuses_the_samples_do_and_it_is_said_why() {
        run(async {
            let fixture = Fixture::new();
            let mut watch = StallWatch::open(&fixture.system());
            let status = watch.status();
            assert!(!watch.is_in_use() && status.health == Health::Absent);
            assert!(
                status.detail.contains("pressure/memory"),
                "{}",
                status.detail
            );
            let quick = Duration::from_millis(10);
            assert!(tokio::time::timeout(quick, watch.stalled()).await.is_err());
            // A file that is none of the kernel's cannot be waited on.
            fixture.write("proc/pressure/memory", "some avg10=0.00 total=0\n");
            let watch = StallWatch::open(&fixture.system());
            assert!(!watch.is_in_use(), "{:?}", watch.status());
        });
    }

    #[test]
    fn the_real_kernel_takes_a_threshold_or_says_why_not() {
        run(async {
            let mut watch = StallWatch::open(&System::default());
            let status = watch.status();
            let writable = OpenOptions::new()
                .read(true)
                .write(true)
                .open("/proc/pressure/memory");
            assert_eq!(watch.is_in_use(), writable.is_ok(), "{status:?}");
            if watch.is_in_use() {
                assert!(status.detail.contains("some "), "{}", status.detail);
                // Nothing stalls here, or only now and then; waiting must not spin or fail.
                let quick = Duration::from_millis(20);
                tokio::time::timeout(quick, watch.stalled()).await.ok();
                assert!(watch.is_in_use());
            }
        });
    }

    #[test]
    fn a_real_stall_is_called() {
        let Some(group) = Group::new("stall", 8 << 20) else {
            return;
        };
        run(async {
            // A millisecond is lost in any span of this.
            let thresholds = ["some 1000 500000\0", "some 1000 2000000\0"];
            let mut watch = StallWatch::with_thresholds(&System::default(), &thresholds);
            if !watch.is_in_use() {
                return skip(&format!("no stalls are told: {:?}", watch.status()));
            }
            let folder = tempfile::tempdir().unwrap();
            let script = format!(
                "{} && while :; do head -c 200M /dev/zero > {}/file; done",
                group.enter(),
                folder.path().display()
            );
            let churn = child::start(child::command("sh").args(["-c", &script])).unwrap();
            let called = tokio::time::timeout(Duration::from_secs(30), watch.stalled()).await;
            drop(churn);
            assert_eq!(called.unwrap().scope, Scope::Machine);
        });
    }
}
