//! This process: its CPU time, descriptors, threads and age. Its memory is the memory module's to read.

use std::fs;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headroom_actors::kernel::{Merge, Rolling, Timestamp};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{Windows, recent};
use crate::version::VERSION;

/// Measures this process.
#[derive(Debug)]
pub struct ProcessFigures {
    started_at: Timestamp,
    collected: Mutex<Collected>,
}

#[derive(Debug)]
struct Collected {
    began: Instant,
    /// When CPU time was read last, and how much there was.
    last: (Instant, CpuTime),
    recent: Rolling<CpuUse>,
}

/// CPU time of this process since its start. Its child processes are not part of it.
#[derive(Debug, Clone, Copy, Default)]
struct CpuTime {
    user: Duration,
    system: Duration,
}

impl CpuTime {
    /// Read without a descriptor. Zero if the kernel refuses, which it has no reason to.
    fn read() -> Self {
        getrusage(UsageWho::RUSAGE_SELF).map_or_else(
            |_| Self::default(),
            |usage| Self {
                user: duration(usage.user_time()),
                system: duration(usage.system_time()),
            },
        )
    }

    fn total(self) -> Duration {
        self.user + self.system
    }
}

fn duration(time: TimeVal) -> Duration {
    Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or(0))
}

/// CPU time that was used in some time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct CpuUse {
    used: Duration,
    elapsed: Duration,
}

impl CpuUse {
    fn percent(self) -> CpuPercent {
        let elapsed = self.elapsed.as_secs_f64();
        CpuPercent((elapsed > 0.0).then(|| 100.0 * self.used.as_secs_f64() / elapsed))
    }
}

impl Merge for CpuUse {
    fn merge(&mut self, other: &Self) {
        self.used += other.used;
        self.elapsed += other.elapsed;
    }
}

impl Collected {
    /// Takes note that `time` was used until now.
    fn record(&mut self, time: CpuTime) {
        let now = Instant::now();
        let (then, before) = std::mem::replace(&mut self.last, (now, time));
        self.recent.add(&CpuUse {
            used: time.total().saturating_sub(before.total()),
            elapsed: now.duration_since(then),
        });
    }

    fn percent(&self) -> Windows<CpuPercent> {
        Windows::of(|window| self.recent.last(window).sum.percent())
    }
}

/// This process at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ProcessStatus {
    /// The version of the program.
    pub version: &'static str,
    /// Its process id.
    pub pid: u32,
    /// When it was started.
    pub started_at: Timestamp,
    /// How long it has run.
    pub uptime_seconds: f64,
    /// CPU time since the start, without child processes.
    pub cpu_seconds_total: CpuSeconds,
    /// CPU time in the last minutes, in percent of one processor.
    pub cpu_percent: Windows<CpuPercent>,
    /// Open descriptors. Null if they cannot be read.
    pub open_descriptors: Option<u64>,
    /// The most descriptors that it may open. Null if there is no limit.
    pub descriptors_max: Option<u64>,
    /// Threads. Null if they cannot be read.
    pub threads: Option<u64>,
}

/// CPU time in percent of one processor; null if no time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct CpuPercent(Option<f64>);

/// CPU time since the start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct CpuSeconds {
    /// In the program's own code.
    pub user: f64,
    /// In the kernel, on behalf of the program.
    pub system: f64,
}

impl ProcessFigures {
    /// Starts to measure. Call it early: it takes this moment for the start of the process.
    #[allow(clippy::new_without_default, reason = "the moment of the call matters")]
    pub fn new() -> Self {
        let began = Instant::now();
        Self {
            started_at: Timestamp::now(),
            collected: Mutex::new(Collected {
                began,
                last: (began, CpuTime::read()),
                recent: recent(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.collected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the CPU time since the last call into the windows.
    pub fn collect(&self) {
        self.lock().record(CpuTime::read());
    }

    /// The figures now. Blocks on files of the kernel, for a long time if there are many descriptors.
    pub fn status(&self) -> ProcessStatus {
        let cpu = CpuTime::read();
        let (uptime, cpu_percent) = {
            let mut collected = self.lock();
            collected.record(cpu);
            (collected.began.elapsed(), collected.percent())
        };
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| soft);
        ProcessStatus {
            version: VERSION,
            pid: std::process::id(),
            started_at: self.started_at,
            uptime_seconds: uptime.as_secs_f64(),
            cpu_seconds_total: CpuSeconds {
                user: cpu.user.as_secs_f64(),
                system: cpu.system.as_secs_f64(),
            },
            cpu_percent,
            open_descriptors: open_descriptors().ok(),
            descriptors_max: limit.ok().filter(|limit| *limit != u64::MAX),
            threads: own_status("Threads"),
        }
    }
}

/// The number of open descriptors. Since Linux 6.2, the kernel gives it as the size of their folder.
fn open_descriptors() -> io::Result<u64> {
    let folder = "/proc/self/fd";
    let size = fs::metadata(folder)?.len();
    if size > 0 {
        return Ok(size);
    }
    // The descriptor that reads the folder is one of them.
    let count = fs::read_dir(folder)?.count().saturating_sub(1);
    Ok(u64::try_from(count).unwrap_or(u64::MAX))
}

/// A number that the kernel tells of this process: the one in the line that begins with `name`.
pub(crate) fn own_status(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn used(seconds: u64) -> CpuTime {
        CpuTime {
            user: Duration::from_millis(seconds * 500),
            system: Duration::from_millis(seconds * 500),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_percentage_is_the_share_of_one_processor_in_each_window() {
        let now = Instant::now();
        let mut collected = Collected {
            began: now,
            last: (now, CpuTime::default()),
            recent: recent(),
        };
        let is = |percent: CpuPercent, expected: f64| (percent.0.unwrap() - expected).abs() < 1e-9;
        assert_eq!(collected.percent().last_1_minute, CpuPercent(None));
        // Two processors for two minutes, then none for two minutes.
        for seconds in (0..240).step_by(5) {
            advance(5 * SECOND).await;
            collected.record(used(2 * (seconds + 5).min(120)));
        }
        let percent = collected.percent();
        assert!(is(percent.last_1_minute, 0.0), "{percent:?}");
        assert!(is(percent.last_5_minutes, 100.0), "{percent:?}");
        assert!(is(percent.last_15_minutes, 100.0), "{percent:?}");
        // Nobody measured for a while: the time counts with what was used in it.
        advance(240 * SECOND).await;
        collected.record(used(2 * 120 + 60));
        assert!(is(collected.percent().last_1_minute, 25.0));
    }

    #[test]
    fn this_process_is_measured() {
        let status = ProcessFigures::new().status();
        assert_eq!(status.pid, std::process::id());
        assert!(status.threads >= Some(1));
        let open = status.open_descriptors;
        assert!(open >= Some(1), "{open:?}");
        assert!(status.descriptors_max.is_none_or(|max| Some(max) >= open));
        assert!(status.cpu_seconds_total.user + status.cpu_seconds_total.system >= 0.0);
    }
}
