//! The time that tasks lost waiting for memory ("pressure stall information").
//!
//! Our own group tells it where the kernel keeps it per group (version 2); otherwise the machine
//! tells it for everybody, which is a hint at best. Read at each sample, the sum shows what was lost
//! since the last one; that is the fall-back where the kernel does not call by itself
//! ([`super::StallWatch`]).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{CgroupV2, Probe, ProbeError, Scope, Source, System, read_text};

/// A share of the time lost at which memory is short, whatever is free.
const STALL_SHARE: f64 = 0.15;

/// Shorter spans say nothing about a share of the time.
const SPAN_MIN: Duration = Duration::from_millis(500);

/// How much time was lost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StallReading {
    /// Whose time.
    pub scope: Scope,
    /// Percent of the last ten seconds in which some task waited for memory.
    pub some_avg10: f64,
    /// The same in which all tasks did.
    pub full_avg10: f64,
    /// Microseconds in which some task waited, since the group or the machine began.
    pub some_total_us: u64,
    /// Microseconds in which all did.
    pub full_total_us: u64,
    /// Share of the time since half a second ago or more in which some task waited; `None` at
    /// first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lately: Option<f64>,
}

impl StallReading {
    /// Whether so much was lost lately that memory is short.
    pub fn is_stalling(&self) -> bool {
        self.lately.is_some_and(|share| share >= STALL_SHARE)
    }
}

/// Reads the lost time.
#[derive(Debug)]
pub(in crate::memory) struct Stalls {
    candidates: Vec<(PathBuf, Scope)>,
    /// The sum at the beginning of the span, and the share of the span before.
    before: Option<Span>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    scope: Scope,
    began: Instant,
    total_us: u64,
    last_share: Option<f64>,
}

impl Stalls {
    pub(in crate::memory) fn new(system: &System) -> Self {
        Self {
            candidates: candidates(system),
            before: None,
        }
    }

    /// The share of the time lost in the span that ends now; that of the one before while it is
    /// too short.
    fn lately(&mut self, scope: Scope, total_us: u64, now: Instant) -> Option<f64> {
        let fresh = Span {
            scope,
            began: now,
            total_us,
            last_share: None,
        };
        let Some(before) = self.before.filter(|before| before.scope == scope) else {
            self.before = Some(fresh);
            return None;
        };
        let span = now.saturating_duration_since(before.began);
        if span < SPAN_MIN {
            return before.last_share;
        }
        let lost = Duration::from_micros(total_us.saturating_sub(before.total_us));
        let share = (lost.as_secs_f64() / span.as_secs_f64()).min(1.0);
        self.before = Some(Span {
            last_share: Some(share),
            ..fresh
        });
        Some(share)
    }
}

/// The files that tell lost time, our own group's first. The root of all groups, which alone has no
/// `cgroup.events`, is no group of ours: its file tells what the machine's does.
pub(super) fn candidates(system: &System) -> Vec<(PathBuf, Scope)> {
    let group = CgroupV2::find(system).ok();
    let group = group.filter(|group| group.file("cgroup.events").exists());
    let group = group.map(|group| (group.file("memory.pressure"), Scope::Group));
    let machine = (system.proc("pressure/memory"), Scope::Machine);
    group.into_iter().chain([machine]).collect()
}

impl Probe for Stalls {
    type Value = StallReading;

    const SOURCE: Source = Source::Stalls;

    fn read(&mut self) -> Result<StallReading, ProbeError> {
        let mut silence = ProbeError::NotMounted;
        for (path, scope) in &self.candidates {
            match read_text(path).and_then(|text| parse(&text, path, *scope)) {
                Ok(mut reading) => {
                    reading.lately = self.lately(*scope, reading.some_total_us, Instant::now());
                    return Ok(reading);
                }
                Err(reason) => silence = reason,
            }
        }
        Err(silence)
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn parse(text: &str, path: &Path, scope: Scope) -> Result<StallReading, ProbeError> {
    let some = line(text, "some").ok_or_else(|| ProbeError::Garbled(path.to_owned()))?;
    let full = line(text, "full").unwrap_or((0.0, 0));
    Ok(StallReading {
        scope,
        some_avg10: some.0,
        full_avg10: full.0,
        some_total_us: some.1,
        full_total_us: full.1,
        lately: None,
    })
}

/// The average over ten seconds, and the sum, of one line.
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
    fn our_own_group_is_asked_before_the_machine() {
        let fixture = Fixture::new().file("proc/pressure/memory", TEXT);
        let read = || Stalls::new(&fixture.system()).read();
        let reading = read().unwrap();
        assert_eq!(
            (reading.scope, reading.some_total_us),
            (Scope::Machine, 7000)
        );
        assert_eq!((reading.some_avg10, reading.full_avg10), (1.5, 0.25));
        assert_eq!((reading.full_total_us, reading.lately), (300, None));
        fixture.write("proc/self/cgroup", "0::/a\n");
        let mount = "29 23 0:26 / /v2 rw - cgroup2 cgroup2 rw\n";
        fixture.write("proc/self/mountinfo", mount);
        assert_eq!(read().unwrap().scope, Scope::Machine);
        fixture.write("v2/a/memory.pressure", "some avg10=0.00 total=4\n");
        assert_eq!(read().unwrap().scope, Scope::Machine, "the root of all");
        fixture.write("v2/a/cgroup.events", "populated 1\n");
        let reading = read().unwrap();
        assert_eq!((reading.scope, reading.some_total_us), (Scope::Group, 4));
        fixture.write("v2/a/memory.pressure", "some avg10=NaN total=4\n");
        assert_eq!(read().unwrap().scope, Scope::Machine);
        fixture.write("proc/pressure/memory", "some avg10=none\n");
        assert!(matches!(read(), Err(ProbeError::Garbled(_))));
        fixture.remove("proc/pressure");
        assert!(read().is_err_and(|reason| reason.is_absence()));
    }

    #[test]
    fn what_was_lost_since_the_last_span_tells_a_stall() {
        let fixture = Fixture::new();
        let mut stalls = Stalls::new(&fixture.system());
        let start = Instant::now();
        let mut at = |milliseconds, total_us| {
            let now = start + Duration::from_millis(milliseconds);
            stalls.lately(Scope::Machine, total_us, now)
        };
        assert_eq!(at(0, 1_000_000), None);
        assert_eq!(at(50, 1_050_000), None, "too short a span");
        assert_eq!(at(1000, 1_200_000), Some(0.2));
        assert_eq!(at(1050, 1_250_000), Some(0.2), "still the one before");
        assert_eq!(at(2000, 1_250_000), Some(0.05));
        assert_eq!(at(3000, 9_000_000), Some(1.0), "never more than all");
        assert_eq!(at(4000, 0), Some(0.0), "a counter that went back");
        let mut reading = parse(TEXT, Path::new("/"), Scope::Group).unwrap();
        assert!(!reading.is_stalling());
        reading.lately = Some(0.15);
        assert!(reading.is_stalling());
        // Another file tells another sum.
        let later = start + Duration::from_secs(9);
        assert_eq!(stalls.lately(Scope::Group, 99, later), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "(some |full |avg10=|total=|[ -~\\n]){0,20}") {
            parse(&text, Path::new("/"), Scope::Machine).ok();
        }
    }
}
