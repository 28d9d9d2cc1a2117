//! One reading of everything. Blocks on files of the kernel, so it runs on a thread for that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::allocator::{Allocator, AllocatorStats};
use super::budget::{BudgetReading, Groups, NoBudget};
use super::config::MemoryConfig;
use super::probe::{
    Company, GroupUsage, KernelKills, KillCounter, MachineMemory, Others, Physical, Probe,
    ProcessTree, SharedFiles, Silence, SourceStatus, StallReading, Stalls, System, TreeUsage,
};
use super::sources::{Found, Reporter};

/// A group's limit may change while we run, and rarely does.
const BUDGET_AGE_MAX: Duration = Duration::from_secs(5);

/// One reading.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) usage: TreeUsage,
    /// What the kernel counts for our control group and cannot easily reclaim, where the group is
    /// ours alone.
    pub(super) working_set: Option<u64>,
    pub(super) budget: BudgetReading,
    /// Everything that the kernel counts for our control group, ours alone or not.
    pub(super) group: Option<GroupUsage>,
    pub(super) stalls: Option<StallReading>,
    pub(super) allocator: Option<AllocatorStats>,
    /// Processes that the kernel has killed for want of memory.
    pub(super) kernel_kills: Option<KernelKills>,
    /// What is to be known of every source.
    pub(super) sources: Vec<SourceStatus>,
    /// How long it took.
    pub(super) took: Duration,
}

impl Reading {
    /// What is used: the larger of what the processes share and what the group counts.
    pub(super) fn used(&self) -> u64 {
        self.usage.total().max(self.working_set.unwrap_or(0))
    }
}

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub(super) enum SampleError {
    #[error("the processes of the server cannot be read")]
    Processes(#[source] Silence),
    #[error(transparent)]
    Budget(#[from] NoBudget),
    #[error("reading memory panicked")]
    Panicked,
}

/// What a reading leaves for the next one.
pub(super) struct Sampler {
    system: System,
    tree: ProcessTree,
    shared_files: SharedFiles,
    stalls: Stalls,
    kills: KillCounter,
    allocator: Arc<Allocator>,
    company: Company,
    reporter: Reporter,
    last_budget: Option<LastBudget>,
}

struct LastBudget {
    groups: Groups,
    machine: Result<MachineMemory, Silence>,
    reading: BudgetReading,
    /// The settings it was taken with.
    config: MemoryConfig,
    at: Instant,
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
            company: Company::default(),
            reporter: Reporter::default(),
            last_budget: None,
        }
    }

    pub(super) fn read(&mut self, config: &MemoryConfig) -> Result<Reading, SampleError> {
        let began = Instant::now();
        let mut usage = self.tree.read().map_err(SampleError::Processes)?;
        usage.shared_files = self.shared_files.bytes();
        let allocator = (&*self.allocator).read();
        let stalls = self.stalls.read();
        let kernel_kills = self.kills.read();
        let last = Self::budget(&mut self.last_budget, &self.system, config)?;
        let counts = last.groups.read();
        let charged = counts.charged().map(|(_, usage)| usage);
        let others = charged.map_or(Others::Unknown, |group| {
            self.company.others(&group.directory, &usage.processes)
        });
        let found = Found {
            budget: &last.reading,
            usage: &usage,
            groups: &counts,
            others,
            machine: &last.machine,
            allocator: &allocator,
            stalls: &stalls,
            kills: kernel_kills,
        };
        let sources = self.reporter.report(&found, began);
        let working_set = found.working_set();
        Ok(Reading {
            working_set,
            group: charged.cloned(),
            budget: last.reading.clone(),
            usage,
            stalls: stalls.ok(),
            allocator: allocator.ok(),
            kernel_kills,
            sources,
            took: began.elapsed(),
        })
    }

    fn budget<'last>(
        last: &'last mut Option<LastBudget>,
        system: &System,
        config: &MemoryConfig,
    ) -> Result<&'last mut LastBudget, NoBudget> {
        let fresh = last
            .take()
            .filter(|last| last.at.elapsed() < BUDGET_AGE_MAX && last.config == *config);
        let fresh = match fresh {
            Some(last) => last,
            None => {
                let groups = Groups::find(system);
                LastBudget {
                    reading: BudgetReading::take(config, &groups, system)?,
                    groups,
                    machine: Physical::new(system).read(),
                    config: *config,
                    at: Instant::now(),
                }
            }
        };
        Ok(last.insert(fresh))
    }
}
