//! One reading of everything. Blocks on files of the kernel, so it runs on a thread for that.

use std::io;
use std::time::{Duration, Instant};

use super::budget::{BudgetReading, Groups, NoBudget};
use super::config::MemoryConfig;
use super::probe::{ProcessTree, SharedFiles, System, TreeUsage};

/// A group's limit may change while we run, and rarely does.
const BUDGET_AGE_MAX: Duration = Duration::from_secs(5);

/// One reading.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) usage: TreeUsage,
    /// What the kernel counts for our control group, where that is ours alone.
    pub(super) working_set: Option<u64>,
    pub(super) budget: BudgetReading,
    /// How long it took.
    pub(super) took: Duration,
}

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub(super) enum SampleError {
    #[error("the processes of the server cannot be read")]
    Processes(#[source] io::Error),
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
    last_budget: Option<LastBudget>,
}

struct LastBudget {
    groups: Groups,
    reading: BudgetReading,
    /// The settings it was taken with.
    config: MemoryConfig,
    at: Instant,
}

impl Sampler {
    pub(super) fn new(system: &System) -> Self {
        Self {
            system: system.clone(),
            tree: ProcessTree::new(system),
            shared_files: SharedFiles::new(system),
            last_budget: None,
        }
    }

    pub(super) fn read(&mut self, config: &MemoryConfig) -> Result<Reading, SampleError> {
        let began = Instant::now();
        let mut usage = self.tree.measure().map_err(SampleError::Processes)?;
        usage.shared_files = self.shared_files.bytes();
        let budget = self.budget(config)?;
        let processes = usage.processes.keys().copied().collect();
        let working_set = budget.groups.working_set(&processes);
        let budget = budget.reading.clone();
        Ok(Reading {
            usage,
            working_set,
            budget,
            took: began.elapsed(),
        })
    }

    fn budget(&mut self, config: &MemoryConfig) -> Result<&LastBudget, NoBudget> {
        let fresh = self
            .last_budget
            .take()
            .filter(|last| last.at.elapsed() < BUDGET_AGE_MAX && last.config == *config);
        let last = match fresh {
            Some(last) => last,
            None => {
                let groups = Groups::find(&self.system);
                LastBudget {
                    reading: BudgetReading::take(config, &groups, &self.system)?,
                    groups,
                    config: *config,
                    at: Instant::now(),
                }
            }
        };
        Ok(self.last_budget.insert(last))
    }
}
