//! The status of every source of one reading: whether it is in use, whether it is plausible, and why.
//!
//! The kernel's figures can be wrong without an error: a limit below the usage, a limit above the
//! machine's memory, a group that counts other processes, two sources that contradict each other. A
//! contradiction is reported after it has lasted for a second, since figures that are read one after
//! another can disagree for a moment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::allocator::AllocatorStats;
use super::budget::{BudgetReading, BudgetSource};
use super::probe::{
    GroupUsage, GroupUsages, Health, KernelKills, Peers, ProbeError, Scope, Source, SourceStatus,
    StallReading, TreeUsage,
};

/// A contradiction is reported after this time.
const REPORT_AFTER: Duration = Duration::from_secs(1);

/// The processes' PSS and the group's usage contradict each other if they differ by more than this,
/// and by more than this part (one in so many) of the larger one. Pages that another group touched
/// first, and the kernel's own structures, account for less.
const DIFFERENCE_BYTES: u64 = 64 << 20;
const DIFFERENCE_PART: u64 = 4;

/// The figures of all sources in one reading.
pub(super) struct SourceFigures<'a> {
    pub(super) budget: &'a BudgetReading,
    pub(super) usage: &'a TreeUsage,
    pub(super) groups: &'a GroupUsages,
    /// The other processes in the group that is charged.
    pub(super) peers: Peers,
    pub(super) allocator: &'a Result<AllocatorStats, ProbeError>,
    pub(super) stalls: &'a Result<StallReading, ProbeError>,
    pub(super) kills: &'a Result<KernelKills, ProbeError>,
}

/// Checks the sources of each reading, and remembers since when contradictions last.
#[derive(Debug, Default)]
pub(super) struct SourceChecker {
    since: BTreeMap<Contradiction, Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Contradiction {
    /// The limit is below the usage.
    LimitBelowUsage(Source),
    /// The group's usage differs from that of its processes.
    GroupDiffers(Source),
    /// The PSS of every process is an estimate.
    OnlyEstimates,
}

impl SourceChecker {
    /// The status of every source.
    pub(super) fn check(&mut self, figures: &SourceFigures<'_>) -> Vec<SourceStatus> {
        let groups = figures.groups;
        vec![
            self.limit(figures, BudgetSource::Configured),
            self.group(figures, BudgetSource::CgroupV2, &groups.v2),
            self.group(figures, BudgetSource::CgroupV1, &groups.v1),
            self.processes(figures.usage),
            limit_status(figures.budget, BudgetSource::Physical),
            source_status(Source::Allocator, figures.allocator, |_| {
                "jemalloc".to_owned()
            }),
            source_status(Source::Stalls, figures.stalls, |reading| {
                format!("stalls {}", scope_text(reading.scope))
            }),
            source_status(Source::KernelKills, figures.kills, |kills| {
                format!("kills {}", scope_text(kills.scope))
            }),
        ]
    }

    /// Makes every contradiction this much older.
    #[cfg(test)]
    pub(super) fn age(&mut self, by: Duration) {
        for since in self.since.values_mut() {
            *since -= by;
        }
    }

    /// Whether a contradiction exists and has lasted long enough to be reported.
    fn lasts(&mut self, contradiction: Contradiction, exists: bool) -> bool {
        if !exists {
            self.since.remove(&contradiction);
            return false;
        }
        let since = self.since.entry(contradiction);
        since.or_insert_with(Instant::now).elapsed() >= REPORT_AFTER
    }

    /// A source that sets a limit.
    fn limit(&mut self, figures: &SourceFigures<'_>, source: BudgetSource) -> SourceStatus {
        let (budget, used) = (figures.budget.bytes, figures.used());
        let mut status = limit_status(figures.budget, source);
        let is_below = status.in_use && budget < used;
        let contradiction = Contradiction::LimitBelowUsage(status.source);
        if self.lasts(contradiction, is_below) {
            status.mark_misleading(format!("it allows {budget} bytes while {used} are used"));
        }
        status
    }

    /// A control group: its limit and its usage.
    fn group(
        &mut self,
        figures: &SourceFigures<'_>,
        source: BudgetSource,
        usage: &Result<GroupUsage, ProbeError>,
    ) -> SourceStatus {
        let mut status = self.limit(figures, source);
        let charged = figures.groups.charged();
        let is_charged = charged.is_some_and(|(charged, _)| charged == status.source);
        let differs = is_charged && figures.group_differs();
        let contradiction = Contradiction::GroupDiffers(status.source);
        let is_contradicted = self.lasts(contradiction, differs);
        let usage = match usage {
            Ok(usage) if is_charged => usage,
            Ok(_) => {
                status.add("usage: not used");
                return status;
            }
            Err(error) => {
                if !error.is_absence() || status.health != Health::Absent {
                    status.health = Health::Failing;
                    status.add(format!("usage: {error}"));
                }
                return status;
            }
        };
        let directory = usage.directory.display();
        match figures.peers {
            Peers::None => {
                status.in_use = true;
                status.add(format!("usage: {directory}, which has no other processes"));
                if is_contradicted {
                    let (counted, pss) = (usage.working_set(), figures.usage.total());
                    status.mark_misleading(format!(
                        "it counts {counted} bytes while the PSS of its processes is {pss}"
                    ));
                }
            }
            Peers::Stranger(pid) => {
                let shared = format!("usage: {directory} is shared with process {pid}");
                status.in_use = figures.group_usage().is_some();
                if status.in_use {
                    status.mark_misleading(format!("{shared}; the rest below its limit counts"));
                } else {
                    // Without a limit, the other processes take nothing from the budget.
                    status.add(format!("{shared}, so it is not used"));
                }
            }
            Peers::Unknown => {
                status.health = Health::Failing;
                status.add(format!(
                    "usage: not used, since the processes of {directory} cannot be listed"
                ));
            }
        }
        status
    }

    fn processes(&mut self, usage: &TreeUsage) -> SourceStatus {
        let (all, estimated) = (usage.processes.len(), usage.estimated());
        let mut status = SourceStatus {
            source: Source::Processes,
            in_use: true,
            health: Health::Healthy,
            detail: format!("{estimated} of {all} estimated"),
        };
        if self.lasts(Contradiction::OnlyEstimates, all == estimated) {
            status.mark_misleading("the kernel reports the PSS of no process".to_owned());
        }
        status
    }
}

impl SourceFigures<'_> {
    /// The usage that the control group shows. If the group has no other processes, that is its
    /// working set. If it has, it is all of the budget but what is left below the group's limit,
    /// whichever process uses the rest.
    pub(super) fn group_usage(&self) -> Option<u64> {
        let (source, usage) = self.groups.charged()?;
        match self.peers {
            Peers::None => Some(usage.working_set()),
            Peers::Stranger(_) => {
                let mut candidates = self.budget.candidates.iter();
                let limit = candidates.find(|candidate| candidate.source.source() == source)?;
                let limit = limit.bytes?;
                let left = limit.saturating_sub(usage.working_set());
                Some(self.budget.bytes.saturating_sub(left))
            }
            Peers::Unknown => None,
        }
    }

    fn used(&self) -> u64 {
        self.usage.total().max(self.group_usage().unwrap_or(0))
    }

    /// Whether the group's usage differs from that of its processes. Estimates prove nothing.
    fn group_differs(&self) -> bool {
        let Some((_, group)) = self.groups.charged() else {
            return false;
        };
        let (counted, pss) = (group.working_set(), self.usage.total());
        let difference = counted.abs_diff(pss);
        self.peers == Peers::None
            && self.usage.estimated() == 0
            && difference > DIFFERENCE_BYTES
            && difference > counted.max(pss) / DIFFERENCE_PART
    }
}

impl SourceStatus {
    fn add(&mut self, detail: impl AsRef<str>) {
        self.detail.push_str("; ");
        self.detail.push_str(detail.as_ref());
    }

    /// Adds why its figures are not plausible.
    fn mark_misleading(&mut self, reason: String) {
        self.add(reason);
        if self.health != Health::Failing {
            self.health = Health::Misleading;
        }
    }
}

fn limit_status(budget: &BudgetReading, source: BudgetSource) -> SourceStatus {
    let (health, detail) = match budget.candidate(source) {
        Some(candidate) => (candidate.health, format!("limit: {}", candidate.detail)),
        None => (Health::Absent, "limit: not read".to_owned()),
    };
    SourceStatus {
        source: source.source(),
        in_use: budget.source == source,
        health,
        detail,
    }
}

fn source_status<T>(
    source: Source,
    figures: &Result<T, ProbeError>,
    detail: impl FnOnce(&T) -> String,
) -> SourceStatus {
    let (health, detail) = match figures {
        Ok(figures) => (Health::Healthy, detail(figures)),
        Err(error) => (error.health(), error.to_string()),
    };
    SourceStatus {
        source,
        in_use: figures.is_ok(),
        health,
        detail,
    }
}

fn scope_text(scope: Scope) -> &'static str {
    match scope {
        Scope::Group => "in the server's control group",
        Scope::Machine => "on the whole machine",
    }
}
