//! What one process uses.

use super::{System, kilobytes, read_text};

/// What one process uses, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// The process that made it.
    pub parent: i32,
    /// Its name, at most 15 bytes of it.
    pub name: String,
    /// Its proportional share: pages that several processes map count in parts. 0 for a process
    /// that has ended and not been reaped.
    pub pss: u64,
    /// All pages that it maps.
    pub rss: u64,
    /// What it alone has written: what its end gives back for certain.
    pub private_dirty: u64,
    /// Pages without a file behind them.
    pub anonymous: u64,
    /// The kernel did not tell the proportional share; `pss` is the anonymous part, which counts
    /// pages shared since a fork more than once.
    pub estimated: bool,
}

/// Which process a number stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) parent: i32,
    pub(super) name: String,
    /// When it was made, in ticks of the kernel: tells it from a later process of the same number.
    started: u64,
}

/// What the kernel tells of a process without walking over its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vitals {
    pub(super) identity: Identity,
    pub(super) threads: u64,
    /// Page faults since it was made. A page cannot become its own without one.
    pub(super) faults: u64,
    /// Its resident pages; the kernel counts them per processor and tells the sum only roughly.
    pub(super) pages: Option<u64>,
}

/// Reads the vitals of `pid`; `None` when it is gone.
pub(super) fn vitals(system: &System, pid: i32) -> Option<Vitals> {
    parse_stat(&read_text(&system.proc(&format!("{pid}/stat"))).ok()?)
}

/// `42 (na (me)) S 1 ...`: the name may hold anything, closing brackets included. Counted from
/// there, the state is field 0, the parent 1, the faults 7, the threads 17, the start 19 and the
/// resident pages 21.
fn parse_stat(text: &str) -> Option<Vitals> {
    let (head, rest) = text.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let faults = fields.nth(5)?.parse().ok()?;
    let threads = fields.nth(9)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    let pages = fields.nth(1).and_then(|pages| pages.parse().ok());
    Some(Vitals {
        identity: Identity {
            parent,
            name: name.to_owned(),
            started,
        },
        threads,
        faults,
        pages,
    })
}

/// What `pid` uses as far as that is told without walking over its pages; `None` when it is gone.
/// `before` is what was measured of it last: its share has changed by about as much as its
/// anonymous part has.
pub(super) fn estimate(
    system: &System,
    pid: i32,
    identity: &Identity,
    before: Option<&ProcessUsage>,
) -> Option<ProcessUsage> {
    let status = read_text(&system.proc(&format!("{pid}/status"))).ok()?;
    let now = from_status(&status);
    let (pss, private_dirty) = match before {
        Some(before) => {
            let pss = before.pss.saturating_add(now.anonymous);
            let pss = pss.saturating_sub(before.anonymous);
            (pss, before.private_dirty)
        }
        None => (now.pss, now.private_dirty),
    };
    Some(ProcessUsage {
        parent: identity.parent,
        name: identity.name.clone(),
        pss,
        private_dirty,
        ..now
    })
}

/// Measures a process; `None` when it is gone.
///
/// The kernel walks over all its pages for this: about 15 ms for each GiB.
pub(super) fn measure(system: &System, pid: i32, identity: &Identity) -> Option<ProcessUsage> {
    let rollup = read_text(&system.proc(&format!("{pid}/smaps_rollup"))).ok();
    // No permission, an old kernel, or ended a moment ago: the process's status tells which.
    let usage = rollup.and_then(|text| from_rollup(&text)).or_else(|| {
        let status = read_text(&system.proc(&format!("{pid}/status"))).ok()?;
        Some(from_status(&status))
    })?;
    Some(ProcessUsage {
        parent: identity.parent,
        name: identity.name.clone(),
        ..usage
    })
}

fn from_rollup(text: &str) -> Option<ProcessUsage> {
    let value = |key| kilobytes(text, key).unwrap_or(0);
    Some(ProcessUsage {
        parent: 0,
        name: String::new(),
        pss: kilobytes(text, "Pss")?,
        rss: value("Rss"),
        private_dirty: value("Private_Dirty"),
        anonymous: value("Anonymous"),
        estimated: false,
    })
}

/// What is left where the rollup is not to be had: resident minus shared, which is what the kernel
/// calls the anonymous part. A process that has ended has no such lines and counts as nothing.
fn from_status(text: &str) -> ProcessUsage {
    let anonymous = kilobytes(text, "RssAnon").unwrap_or(0);
    ProcessUsage {
        parent: 0,
        name: String::new(),
        pss: anonymous,
        rss: kilobytes(text, "VmRSS").unwrap_or(0),
        private_dirty: 0,
        anonymous,
        estimated: true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;
    use proptest::prelude::*;

    const SOMEBODY: &str =
        "42 (a) R 7 (b)) S 13 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 4711 21 22 23";

    fn somebody() -> Identity {
        parse_stat(SOMEBODY).unwrap().identity
    }

    #[test]
    fn a_name_may_hold_anything() {
        let parsed = somebody();
        assert_eq!((parsed.parent, &*parsed.name), (13, "a) R 7 (b)"));
        assert_eq!(parsed.started, 4711);
        let vitals = parse_stat(SOMEBODY).unwrap();
        assert_eq!((vitals.faults, vitals.threads), (8, 18));
        assert_eq!(vitals.pages, Some(22));
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
    fn without_the_rollup_the_anonymous_part_counts() {
        let status = "Name: x\nVmRSS:   900 kB\nRssAnon:   500 kB\nRssFile: 400 kB\n";
        let fixture = Fixture::new()
            .file("proc/8/status", status)
            .file("proc/9/status", "Name: zombie\nState: Z\n");
        let system = fixture.system();
        let usage = measure(&system, 8, &somebody()).unwrap();
        assert_eq!((usage.pss, usage.rss), (500 << 10, 900 << 10));
        assert!(usage.estimated);
        assert_eq!(measure(&system, 9, &somebody()).unwrap().pss, 0);
        assert_eq!(measure(&system, 10, &somebody()), None);
    }

    #[test]
    fn an_estimate_moves_a_measured_share_by_what_the_anonymous_part_grew() {
        let fixture = Fixture::new().file("proc/8/status", "VmRSS:   900 kB\nRssAnon:   500 kB\n");
        let system = fixture.system();
        let estimate = |before: Option<&ProcessUsage>| {
            estimate(&system, 8, &somebody(), before).unwrap().pss >> 10
        };
        assert_eq!(estimate(None), 500);
        let text = "Pss: 300 kB\nAnonymous: 450 kB\nPrivate_Dirty: 7 kB\n";
        let mut before = from_rollup(text).unwrap();
        assert_eq!(estimate(Some(&before)), 350);
        before.anonymous = 2000 << 10;
        assert_eq!(estimate(Some(&before)), 0);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "[ -~\\n]{0,200}") {
            parse_stat(&text);
            from_rollup(&text);
            from_status(&text);
        }
    }
}
