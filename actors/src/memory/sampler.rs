//! Takes one reading of all sources. It blocks on files of the kernel, so it runs on a thread for
//! blocking work.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use super::allocator::{Allocator, AllocatorStats};
use super::budget::{BudgetReading, NoBudget};
use super::config::MemoryConfig;
use super::probe::{
    CgroupPeers, Cgroups, GroupUsage, KernelKills, KillCounter, Peers, ProbeError, ProcessTree,
    SharedFiles, SourceStatus, StallReading, Stalls, System, TreeUsage,
};
use super::sources::{SourceChecker, SourceFigures};

/// The budget is read again after this time. A group's limit can change, but rarely does.
const BUDGET_AGE_MAX: Duration = Duration::from_secs(5);

/// Files that a reading has open at one time: nested folders, and a file in the last.
const OPEN_FILES_MAX: usize = 8;

/// One reading.
#[derive(Debug)]
pub(super) struct Reading {
    /// The usage of the processes.
    pub(super) usage: TreeUsage,
    /// The usage that the control group shows.
    pub(super) group_usage: Option<u64>,
    pub(super) report: SourceReport,
}

/// What the sources of one reading report besides the usage.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = MemorySourceReport)]
pub struct SourceReport {
    /// The budget, and the source that sets it.
    pub budget: BudgetReading,
    /// The usage of the whole control group, with other processes in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupUsage>,
    /// Stalled time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalls: Option<StallReading>,
    /// The server's own allocator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocator: Option<AllocatorStats>,
    /// Processes that the kernel has killed because memory ran out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_kills: Option<KernelKills>,
    /// The status of every source.
    pub sources: Vec<SourceStatus>,
    /// How long the reading took.
    pub reading_seconds: f64,
}

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadingError {
    #[error("the server's processes cannot be read from /proc")]
    Processes(#[source] ProbeError),
    #[error(transparent)]
    Budget(#[from] NoBudget),
    #[error("the thread that reads memory panicked")]
    Panicked,
}

/// Takes readings, and keeps what the next one needs of the last.
pub(super) struct Sampler {
    system: System,
    tree: ProcessTree,
    shared_files: SharedFiles,
    stalls: Stalls,
    kills: KillCounter,
    allocator: Arc<Allocator>,
    cgroup_peers: CgroupPeers,
    checker: SourceChecker,
    /// Descriptors for the files that a reading opens, so that memory can be read when the process has
    /// used up all its descriptors.
    spare_descriptors: Vec<File>,
    last_budget: Option<LastBudget>,
}

struct LastBudget {
    groups: Cgroups,
    reading: BudgetReading,
    /// The settings at that time.
    config: MemoryConfig,
    at: Instant,
}

impl LastBudget {
    fn read(config: &MemoryConfig, system: &System) -> Result<Self, NoBudget> {
        let groups = Cgroups::find(system);
        Ok(Self {
            reading: BudgetReading::take(config, &groups, system)?,
            groups,
            config: *config,
            at: Instant::now(),
        })
    }

    fn is_valid(&self, config: &MemoryConfig) -> bool {
        self.at.elapsed() < BUDGET_AGE_MAX && self.config == *config
    }
}

impl Sampler {
    pub(super) fn new(system: &System, allocator: Arc<Allocator>) -> Self {
        Self {
            system: system.clone(),
            tree: ProcessTree::new(system),
            shared_files: SharedFiles::new(system),
            stalls: Stalls::new(system),
            kills: KillCounter::find(system),
            allocator,
            cgroup_peers: CgroupPeers::default(),
            checker: SourceChecker::default(),
            spare_descriptors: Vec::new(),
            last_budget: None,
        }
    }

    pub(super) fn read(&mut self, config: &MemoryConfig) -> Result<Reading, ReadingError> {
        self.spare_descriptors.clear();
        let reading = self.read_sources(config);
        // As many as possible are opened. The rest follows after the next reading.
        let spare = (0..OPEN_FILES_MAX).map_while(|_| File::open("/dev/null").ok());
        self.spare_descriptors.extend(spare);
        reading
    }

    fn read_sources(&mut self, config: &MemoryConfig) -> Result<Reading, ReadingError> {
        let began = Instant::now();
        let mut usage = self.tree.read().map_err(ReadingError::Processes)?;
        usage.shared_files = self.shared_files.bytes(usage.processes.keys());
        let allocator = self.allocator.stats();
        let stalls = self.stalls.read();
        let kernel_kills = self.kills.read();
        let last = self.last_budget.take().filter(|last| last.is_valid(config));
        let budget = match last {
            Some(budget) => budget,
            None => LastBudget::read(config, &self.system)?,
        };
        let budget = self.last_budget.insert(budget);
        let groups = budget.groups.usages();
        let charged = groups.charged().map(|(_, usage)| usage);
        let peers = charged.map_or(Peers::Unknown, |group| {
            self.cgroup_peers.find(&group.directory, &usage.processes)
        });
        let figures = SourceFigures {
            budget: &budget.reading,
            usage: &usage,
            groups: &groups,
            peers,
            allocator: &allocator,
            stalls: &stalls,
            kills: &kernel_kills,
        };
        let sources = self.checker.check(&figures);
        Ok(Reading {
            group_usage: figures.group_usage(),
            report: SourceReport {
                budget: budget.reading.clone(),
                group: charged.cloned(),
                stalls: stalls.ok(),
                allocator: allocator.ok(),
                kernel_kills: kernel_kills.ok(),
                sources,
                reading_seconds: began.elapsed().as_secs_f64(),
            },
            usage,
        })
    }
}
