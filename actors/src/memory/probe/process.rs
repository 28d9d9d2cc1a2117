//! The memory of one process.

use super::{System, kilobytes, read_text};

/// The memory of one process, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// The parent process.
    pub parent: i32,
    /// Its name, of which the kernel keeps 15 bytes.
    pub name: String,
    /// Its proportional share (PSS): a page that several processes map counts in equal parts. 0 for
    /// a process that has ended and was not reaped.
    pub pss: u64,
    /// All resident pages.
    pub rss: u64,
    /// Pages that only this process has written. Its end frees them for certain.
    pub private_dirty: u64,
    /// Pages that no file backs.
    pub anonymous: u64,
    /// Whether `pss` is an estimate: the anonymous pages, which count pages shared since a fork more
    /// than once.
    pub estimated: bool,
}

/// Tells a process from a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) parent: i32,
    name: String,
    /// When it started, in clock ticks since the machine started.
    started: u64,
}

impl Identity {
    /// The usage of this process, without its figures.
    fn usage(&self) -> ProcessUsage {
        ProcessUsage {
            parent: self.parent,
            name: self.name.clone(),
            ..ProcessUsage::default()
        }
    }
}

/// The figures of `/proc/<pid>/stat`, which the kernel has without walking over the pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcStat {
    pub(super) identity: Identity,
    /// Page faults since it started. It gets no new page without one.
    pub(super) faults: u64,
    /// Resident pages. The kernel counts them per processor, so the sum is only approximate.
    pub(super) pages: Option<u64>,
}

/// Reads the figures of `pid`; `None` if it has ended.
pub(super) fn read_stat(system: &System, pid: i32) -> Option<ProcStat> {
    parse_stat(&read_text(&system.proc(&format!("{pid}/stat"))).ok()?)
}

/// Parses `42 (na (me)) S 1 ...`. The name can contain anything, also closing brackets. After it, the
/// state is field 0, the parent 1, the faults 7, the start 19 and the resident pages 21.
fn parse_stat(text: &str) -> Option<ProcStat> {
    let (head, rest) = text.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let faults = fields.nth(5)?.parse().ok()?;
    let started = fields.nth(11)?.parse().ok()?;
    let pages = fields.nth(1).and_then(|pages| pages.parse().ok());
    Some(ProcStat {
        identity: Identity {
            parent,
            name: name.to_owned(),
            started,
        },
        faults,
        pages,
    })
}

/// Estimates the memory of `pid` without walking over its pages; `None` if it has ended. `before` is
/// its last measurement: its PSS changed by about as much as its anonymous pages.
pub(super) fn estimate(
    system: &System,
    pid: i32,
    identity: &Identity,
    before: Option<&ProcessUsage>,
) -> Option<ProcessUsage> {
    let status = read_text(&system.proc(&format!("{pid}/status"))).ok()?;
    let mut now = from_status(&status, identity);
    if let Some(before) = before {
        let pss = before.pss.saturating_add(now.anonymous);
        now.pss = pss.saturating_sub(before.anonymous);
        now.private_dirty = before.private_dirty;
    }
    Some(now)
}

/// Measures a process; `None` if it has ended. The kernel walks over all its pages: about 15 ms per
/// GiB.
pub(super) fn measure(system: &System, pid: i32, identity: &Identity) -> Option<ProcessUsage> {
    let rollup = read_text(&system.proc(&format!("{pid}/smaps_rollup"))).ok();
    // The rollup is missing without permission, on an old kernel, and if the process has ended.
    let usage = rollup.and_then(|text| from_rollup(&text, identity));
    usage.or_else(|| estimate(system, pid, identity, None))
}

fn from_rollup(text: &str, identity: &Identity) -> Option<ProcessUsage> {
    let value = |key| kilobytes(text, key).unwrap_or(0);
    Some(ProcessUsage {
        pss: kilobytes(text, "Pss")?,
        rss: value("Rss"),
        private_dirty: value("Private_Dirty"),
        anonymous: value("Anonymous"),
        ..identity.usage()
    })
}

/// The memory by `/proc/<pid>/status`, where there is no rollup: the anonymous pages. A process that
/// has ended has no such lines and counts as nothing.
fn from_status(text: &str, identity: &Identity) -> ProcessUsage {
    let anonymous = kilobytes(text, "RssAnon").unwrap_or(0);
    ProcessUsage {
        pss: anonymous,
        rss: kilobytes(text, "VmRSS").unwrap_or(0),
        anonymous,
        estimated: true,
        ..identity.usage()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;
    use proptest::prelude::*;

    const STAT: &str =
        "42 (a) R 7 (b)) S 13 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 4711 21 22 23";

    fn identity() -> Identity {
        parse_stat(STAT).unwrap().identity
    }

    #[test]
    fn a_name_can_contain_anything() {
        let parsed = identity();
        assert_eq!((parsed.parent, &*parsed.name), (13, "a) R 7 (b)"));
        assert_eq!(parsed.started, 4711);
        let stat = parse_stat(STAT).unwrap();
        assert_eq!((stat.faults, stat.pages), (8, Some(22)));
        for broken in [
            "",
            "42",
            "42 (x",
            "42 (x)",
            "42 (x) S",
            "42 (x) S y",
            "42 (x) S 1 2",
            ")(",
        ] {
            assert_eq!(parse_stat(broken), None, "{broken}");
        }
    }

    #[test]
    fn without_the_rollup_the_anonymous_pages_count() {
        let status = "Name: x\nVmRSS:   900 kB\nRssAnon:   500 kB\nRssFile: 400 kB\n";
        let fixture = Fixture::new()
            .file("proc/8/status", status)
            .file("proc/9/status", "Name: zombie\nState: Z\n");
        let system = fixture.system();
        let usage = measure(&system, 8, &identity()).unwrap();
        assert_eq!((usage.pss, usage.rss), (500 << 10, 900 << 10));
        assert!(usage.estimated);
        assert_eq!(measure(&system, 9, &identity()).unwrap().pss, 0);
        assert_eq!(measure(&system, 10, &identity()), None);
    }

    #[test]
    fn an_estimate_changes_the_measured_pss_by_the_growth_of_the_anonymous_pages() {
        let fixture = Fixture::new().file("proc/8/status", "VmRSS:   900 kB\nRssAnon:   500 kB\n");
        let system = fixture.system();
        let estimate = |before: Option<&ProcessUsage>| {
            estimate(&system, 8, &identity(), before).unwrap().pss >> 10
        };
        assert_eq!(estimate(None), 500);
        let text = "Pss: 300 kB\nAnonymous: 450 kB\nPrivate_Dirty: 7 kB\n";
        let mut before = from_rollup(text, &identity()).unwrap();
        assert_eq!(estimate(Some(&before)), 350);
        before.anonymous = 2000 << 10;
        assert_eq!(estimate(Some(&before)), 0);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "[ -~\\n]{0,200}") {
            parse_stat(&text);
            from_rollup(&text, &identity());
            from_status(&text, &identity());
        }
    }
}
