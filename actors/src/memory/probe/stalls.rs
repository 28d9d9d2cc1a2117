//! The time that tasks stalled for memory (pressure stall information, PSI).
//!
//! With version 2 the kernel keeps it for the server's control group. Elsewhere it is kept for the
//! whole machine, which is only a hint. Two readings show how much time was lost between them; this
//! detects stalls where the kernel raises no events ([`super::StallTrigger`]).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use super::cgroups::find_v2;
use super::{ProbeError, Scope, System, read_text};

/// Share of stalled time from which memory counts as short, whatever is free.
const STALL_SHARE: f64 = 0.15;

/// A share is computed over at least this time.
const WINDOW_MIN: Duration = Duration::from_millis(500);

/// Stalled time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StallReading {
    /// The processes that it covers.
    pub scope: Scope,
    /// Percent of the last ten seconds in which some task stalled.
    #[serde(rename = "some_avg10_percent")]
    pub some_avg10: f64,
    /// Percent of the last ten seconds in which all tasks stalled.
    #[serde(rename = "full_avg10_percent")]
    pub full_avg10: f64,
    /// Microseconds in which some task stalled, since the group was created or the machine started.
    pub some_total_us: u64,
    /// Microseconds in which all tasks stalled.
    pub full_total_us: u64,
    /// Share of the last half second or more in which some task stalled; `null` at first.
    #[serde(rename = "lately", skip_serializing_if = "Option::is_none")]
    pub recent_share: Option<f64>,
}

impl StallReading {
    /// Whether tasks stalled so much recently that memory counts as short.
    pub fn is_stalling(&self) -> bool {
        self.recent_share.is_some_and(|share| share >= STALL_SHARE)
    }
}

/// Reads the stalled time.
#[derive(Debug)]
pub(in crate::memory) struct Stalls {
    files: Vec<(PathBuf, Scope)>,
    window: Option<Window>,
}

/// The time over which the next share is computed.
#[derive(Debug, Clone, Copy)]
struct Window {
    scope: Scope,
    began: Instant,
    /// [`StallReading::some_total_us`] at its beginning.
    total_us: u64,
    /// The share of the window before.
    last_share: Option<f64>,
}

impl Stalls {
    pub(in crate::memory) fn new(system: &System) -> Self {
        Self {
            files: pressure_files(system),
            window: None,
        }
    }

    /// The share of the window that ends now. While it is too short, the share of the window before.
    fn recent_share(&mut self, scope: Scope, total_us: u64, now: Instant) -> Option<f64> {
        let last = self.window.filter(|window| window.scope == scope);
        let mut last_share = None;
        if let Some(window) = last {
            let time = now.saturating_duration_since(window.began);
            if time < WINDOW_MIN {
                return window.last_share;
            }
            let lost = Duration::from_micros(total_us.saturating_sub(window.total_us));
            last_share = Some((lost.as_secs_f64() / time.as_secs_f64()).min(1.0));
        }
        self.window = Some(Window {
            scope,
            began: now,
            total_us,
            last_share,
        });
        last_share
    }

    pub(in crate::memory) fn read(&mut self) -> Result<StallReading, ProbeError> {
        let mut last_error = ProbeError::NotMounted;
        for (path, scope) in &self.files {
            match read_text(path).and_then(|text| parse(&text, path, *scope)) {
                Ok(mut reading) => {
                    let total_us = reading.some_total_us;
                    reading.recent_share = self.recent_share(*scope, total_us, Instant::now());
                    return Ok(reading);
                }
                Err(error) => last_error = error,
            }
        }
        Err(last_error)
    }
}

/// The kernel's files of stalled time, that of the server's control group first. The root group is
/// left out, since its file covers the machine; it alone has no `cgroup.events`.
pub(super) fn pressure_files(system: &System) -> Vec<(PathBuf, Scope)> {
    let group = find_v2(system).ok();
    let group = group.filter(|group| group.file("cgroup.events").exists());
    let group = group.map(|group| (group.file("memory.pressure"), Scope::Group));
    let machine = (system.proc("pressure/memory"), Scope::Machine);
    group.into_iter().chain([machine]).collect()
}

/// Parses `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn parse(text: &str, path: &Path, scope: Scope) -> Result<StallReading, ProbeError> {
    let some = line(text, "some").ok_or_else(|| ProbeError::Malformed(path.to_owned()))?;
    let full = line(text, "full").unwrap_or((0.0, 0));
    Ok(StallReading {
        scope,
        some_avg10: some.0,
        full_avg10: full.0,
        some_total_us: some.1,
        full_total_us: full.1,
        recent_share: None,
    })
}

/// The average over ten seconds, and the total, of one line.
fn line(text: &str, name: &str) -> Option<(f64, u64)> {
    let mut lines = text.lines();
    let fields = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    let value = |key: &str| {
        let mut fields = fields.split_ascii_whitespace();
        fields.find_map(|field| field.strip_prefix(key)?.strip_prefix('='))
    };
    let average: f64 = value("avg10")?.parse().ok()?;
    let total = value("total")?.parse().ok()?;
    average.is_finite().then_some((average, total))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "some avg10=1.50 avg60=0.00 avg300=0.00 total=7000\n\
                        full avg10=0.25 avg60=0.00 avg300=0.00 total=300\n";

    #[test]
    fn the_file_of_the_group_is_preferred_to_that_of_the_machine() {
        let fixture = Fixture::new().file("proc/pressure/memory", TEXT);
        let read = || Stalls::new(&fixture.system()).read();
        let reading = read().unwrap();
        assert_eq!(
            (reading.scope, reading.some_total_us),
            (Scope::Machine, 7000)
        );
        assert_eq!((reading.some_avg10, reading.full_avg10), (1.5, 0.25));
        assert_eq!((reading.full_total_us, reading.recent_share), (300, None));
        fixture.write("proc/self/cgroup", "0::/a\n");
        let mount = "29 23 0:26 / /v2 rw - cgroup2 cgroup2 rw\n";
        fixture.write("proc/self/mountinfo", mount);
        assert_eq!(read().unwrap().scope, Scope::Machine);
        fixture.write("v2/a/memory.pressure", "some avg10=0.00 total=4\n");
        assert_eq!(read().unwrap().scope, Scope::Machine, "the root group");
        fixture.write("v2/a/cgroup.events", "populated 1\n");
        let reading = read().unwrap();
        assert_eq!((reading.scope, reading.some_total_us), (Scope::Group, 4));
        fixture.write("v2/a/memory.pressure", "some avg10=NaN total=4\n");
        assert_eq!(read().unwrap().scope, Scope::Machine);
        fixture.write("proc/pressure/memory", "some avg10=none\n");
        assert!(matches!(read(), Err(ProbeError::Malformed(_))));
        fixture.remove("proc/pressure");
        assert!(read().is_err_and(|error| error.is_absence()));
    }

    #[test]
    fn the_share_of_the_last_window_shows_a_stall() {
        let fixture = Fixture::new();
        let mut stalls = Stalls::new(&fixture.system());
        let start = Instant::now();
        let mut at = |milliseconds, total_us| {
            let now = start + Duration::from_millis(milliseconds);
            stalls.recent_share(Scope::Machine, total_us, now)
        };
        assert_eq!(at(0, 1_000_000), None);
        assert_eq!(at(50, 1_050_000), None, "too short a window");
        assert_eq!(at(1000, 1_200_000), Some(0.2));
        assert_eq!(at(1050, 1_250_000), Some(0.2), "still the window before");
        assert_eq!(at(2000, 1_250_000), Some(0.05));
        assert_eq!(at(3000, 9_000_000), Some(1.0), "at most all of the time");
        assert_eq!(at(4000, 0), Some(0.0), "a counter that went back");
        let mut reading = parse(TEXT, Path::new("/"), Scope::Group).unwrap();
        assert!(!reading.is_stalling());
        reading.recent_share = Some(0.15);
        assert!(reading.is_stalling());
        // The totals of two files cannot be compared.
        let later = start + Duration::from_secs(9);
        assert_eq!(stalls.recent_share(Scope::Group, 99, later), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "(some |full |avg10=|total=|[ -~\\n]){0,20}") {
            parse(&text, Path::new("/"), Scope::Machine).ok();
        }
    }
}
