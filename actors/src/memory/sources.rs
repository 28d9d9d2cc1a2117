//! What is to be known of every source of one reading: in use or not, to be believed or not, and
//! why.
//!
//! Numbers that the kernel gives can be wrong without any error: a limit that is already passed, a
//! limit larger than the machine, a group that counts strangers, two sources that contradict each
//! other. Such a doubt is told once it has stood for a second, since numbers that are read one after
//! another may disagree for a moment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::allocator::{Allocator, AllocatorStats};
use super::budget::{BudgetReading, BudgetSource, GroupCounts};
use super::probe::{
    GroupUsage, Health, KernelKills, MachineMemory, Peers, Physical, Probe, ProbeError,
    ProcessTree, Scope, Source, SourceStatus, StallReading, Stalls, TreeUsage,
};

/// How long a doubt must stand.
const STANDS_AFTER: Duration = Duration::from_secs(1);

/// The processes' shares and the group's count contradict each other when they are further apart
/// than this many bytes, and than this part (one in so many) of the larger one. Pages that were
/// first touched from another group, and the kernel's own structures, account for less.
const APART_BYTES: u64 = 64 << 20;
const APART_PART: u64 = 4;

/// Everything that one reading found.
pub(super) struct Found<'a> {
    pub(super) budget: &'a BudgetReading,
    pub(super) usage: &'a TreeUsage,
    pub(super) groups: &'a GroupCounts,
    /// Who else is in the group that is charged.
    pub(super) others: Peers,
    pub(super) machine: &'a Result<MachineMemory, ProbeError>,
    pub(super) allocator: &'a Result<AllocatorStats, ProbeError>,
    pub(super) stalls: &'a Result<StallReading, ProbeError>,
    pub(super) kills: Option<KernelKills>,
}

/// Tells of every source, and remembers which doubts stand since when.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    doubts: BTreeMap<Doubt, Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    /// More is used than it allows.
    BelowUsage(Source),
    /// The group counts something else than its processes use.
    Apart(Source),
    /// The kernel tells no process's share.
    Estimates,
}

impl Reporter {
    /// What is to be known of every source now.
    pub(super) fn report(&mut self, found: &Found<'_>, now: Instant) -> Vec<SourceStatus> {
        let groups = found.groups;
        vec![
            self.limit(found, BudgetSource::Configured, now),
            self.group(found, BudgetSource::CgroupV2, &groups.v2, now),
            self.group(found, BudgetSource::CgroupV1, &groups.v1, now),
            self.processes(found.usage, now),
            machine(found),
            allocator(found.allocator),
            stalls(found.stalls),
            kills(found.kills),
        ]
    }

    /// Makes every doubt this much older.
    #[cfg(test)]
    pub(super) fn age(&mut self, by: Duration) {
        for since in self.doubts.values_mut() {
            *since -= by;
        }
    }

    /// Whether a doubt has stood long enough to be told.
    fn stands(&mut self, doubt: Doubt, is_so: bool, now: Instant) -> bool {
        if !is_so {
            self.doubts.remove(&doubt);
            return false;
        }
        let since = *self.doubts.entry(doubt).or_insert(now);
        now.saturating_duration_since(since) >= STANDS_AFTER
    }

    /// A source as far as it sets a limit.
    fn limit(&mut self, found: &Found<'_>, source: BudgetSource, now: Instant) -> SourceStatus {
        let budget = found.budget;
        let in_use = budget.source == source;
        let mut said = budget.considered.iter();
        let said = said.find(|said| said.source == source);
        let (health, detail) = match said {
            Some(said) => (said.health, format!("limit: {}", said.detail)),
            None => (Health::Absent, "was not asked".to_owned()),
        };
        let mut status = SourceStatus {
            source: source.probe(),
            in_use,
            health,
            detail,
        };
        let used = found.used();
        let is_below = in_use && budget.bytes < used;
        if self.stands(Doubt::BelowUsage(status.source), is_below, now) {
            let bytes = budget.bytes;
            status.doubt(format!("it allows {bytes} bytes while {used} are used"));
        }
        status
    }

    /// A control group: its limit, and its count.
    fn group(
        &mut self,
        found: &Found<'_>,
        source: BudgetSource,
        count: &Result<GroupUsage, ProbeError>,
        now: Instant,
    ) -> SourceStatus {
        let mut status = self.limit(found, source, now);
        let charged = found.groups.charged();
        let is_charged = charged.is_some_and(|(charged, _)| charged == status.source);
        let is_apart = is_charged && found.is_apart();
        let stands = self.stands(Doubt::Apart(status.source), is_apart, now);
        match (count, &found.others) {
            (Err(reason), _) if reason.is_absence() && status.health == Health::Absent => {}
            (Err(reason), _) => {
                status.health = Health::Failing;
                status.add(format!("count: {reason}"));
            }
            (Ok(_), _) if !is_charged => status.add("count: not asked"),
            (Ok(usage), Peers::None) => {
                status.in_use = true;
                let directory = usage.directory.display();
                status.add(format!("count: {directory}, which is ours alone"));
                if stands {
                    let (counted, shares) = (usage.working_set(), found.usage.total());
                    status.doubt(format!(
                        "it counts {counted} bytes while its processes share {shares}"
                    ));
                }
            }
            (Ok(usage), Peers::Stranger(pid)) => {
                let directory = usage.directory.display();
                let shared = format!("count: {directory} is shared with process {pid}");
                status.in_use = found.counted().is_some();
                if status.in_use {
                    status.doubt(format!("{shared}; what is left below its limit counts"));
                } else {
                    // Without a limit, what others do there is none of our business.
                    status.add(format!("{shared}, not used"));
                }
            }
            (Ok(usage), Peers::Unknown) => {
                status.health = Health::Failing;
                let directory = usage.directory.display();
                status.add(format!(
                    "count: not used, since {directory} does not tell its processes"
                ));
            }
        }
        status
    }

    fn processes(&mut self, usage: &TreeUsage, now: Instant) -> SourceStatus {
        let (all, estimated) = (usage.processes.len(), usage.estimated());
        let mut status = SourceStatus {
            source: ProcessTree::SOURCE,
            in_use: true,
            health: Health::Healthy,
            detail: format!("{all} processes, {estimated} of them estimated"),
        };
        if self.stands(Doubt::Estimates, all == estimated, now) {
            status.doubt("the kernel tells no process's share".to_owned());
        }
        status
    }
}

impl Found<'_> {
    /// What the group counts, where it is ours alone.
    pub(super) fn working_set(&self) -> Option<u64> {
        let (_, usage) = self.groups.charged()?;
        (self.others == Peers::None).then(|| usage.working_set())
    }

    /// What the group's count says of the budget: all of it is ours where the group is; where it is
    /// shared, what others leave below its limit is all that there is, whoever took the rest.
    pub(super) fn counted(&self) -> Option<u64> {
        let (source, usage) = self.groups.charged()?;
        match self.others {
            Peers::None => Some(usage.working_set()),
            Peers::Stranger(_) => {
                let said = self.budget.considered.iter();
                let limit = said
                    .filter(|said| said.source.probe() == source)
                    .find_map(|said| said.bytes)?;
                let left = limit.saturating_sub(usage.working_set());
                Some(self.budget.bytes.saturating_sub(left))
            }
            Peers::Unknown => None,
        }
    }

    fn used(&self) -> u64 {
        self.usage.total().max(self.counted().unwrap_or(0))
    }

    /// Whether the processes' shares and the group's count contradict each other. Estimates prove
    /// nothing.
    fn is_apart(&self) -> bool {
        self.working_set().is_some_and(|counted| {
            let shares = self.usage.total();
            let apart = counted.abs_diff(shares);
            self.usage.estimated() == 0
                && apart > APART_BYTES
                && apart > counted.max(shares) / APART_PART
        })
    }
}

impl SourceStatus {
    fn add(&mut self, detail: impl AsRef<str>) {
        self.detail.push_str("; ");
        self.detail.push_str(detail.as_ref());
    }

    /// Adds a reason not to believe it.
    fn doubt(&mut self, reason: String) {
        self.add(reason);
        if self.health != Health::Failing {
            self.health = Health::Misleading;
        }
    }
}

/// A source that tells or is silent.
fn simple<T>(
    source: Source,
    told: &Result<T, ProbeError>,
    detail: impl FnOnce(&T) -> String,
) -> SourceStatus {
    let (health, detail) = match told {
        Ok(told) => (Health::Healthy, detail(told)),
        Err(reason) => (reason.health(), reason.to_string()),
    };
    SourceStatus {
        source,
        in_use: told.is_ok(),
        health,
        detail,
    }
}

fn machine(found: &Found<'_>) -> SourceStatus {
    let status = simple(Physical::SOURCE, found.machine, |memory| {
        format!("{} bytes in all", memory.total)
    });
    SourceStatus {
        in_use: found.budget.source == BudgetSource::Physical,
        ..status
    }
}

fn allocator(told: &Result<AllocatorStats, ProbeError>) -> SourceStatus {
    simple(<&Allocator as Probe>::SOURCE, told, |_| {
        "jemalloc".to_owned()
    })
}

fn whose(scope: Scope) -> &'static str {
    match scope {
        Scope::Group => "of our own group",
        Scope::Machine => "of the whole machine",
    }
}

fn stalls(told: &Result<StallReading, ProbeError>) -> SourceStatus {
    simple(Stalls::SOURCE, told, |reading| {
        format!("lost time {}", whose(reading.scope))
    })
}

fn kills(told: Option<KernelKills>) -> SourceStatus {
    let told = told.ok_or(ProbeError::NoGroup);
    let status = simple(Source::KernelKills, &told, |kills| {
        format!("the counter {}", whose(kills.scope))
    });
    match told {
        Ok(_) => status,
        Err(_) => SourceStatus {
            detail: "the kernel counts none".to_owned(),
            ..status
        },
    }
}
