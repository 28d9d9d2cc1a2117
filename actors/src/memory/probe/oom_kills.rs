//! The number of processes that the kernel has killed because memory ran out.
//!
//! Reading it is cheap enough to be done for every process that ends by SIGKILL unexpectedly.

use std::path::PathBuf;

use serde::Serialize;
use utoipa::ToSchema;

use super::cgroups::{find_v1, find_v2};
use super::{ProbeError, Scope, System, read_text, stat_value};
use crate::kernel::OomCounter;

/// A number of processes that the kernel has killed because memory ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct KernelKills {
    /// Kills since the group was created or the machine was started.
    pub count: u64,
    /// The processes that are counted.
    pub scope: Scope,
}

/// Reads the kernel's most specific counter.
#[derive(Debug, Clone)]
pub(in crate::memory) struct KillCounter {
    /// The most specific first.
    files: Vec<(PathBuf, Scope)>,
}

impl KillCounter {
    pub(in crate::memory) fn find(system: &System) -> Self {
        let v2 = find_v2(system).map(|group| group.file("memory.events"));
        let v1 = find_v1(system).map(|group| group.file("memory.oom_control"));
        let groups = v2.into_iter().chain(v1).map(|path| (path, Scope::Group));
        let machine = (system.proc("vmstat"), Scope::Machine);
        Self {
            files: groups.chain([machine]).collect(),
        }
    }

    /// The count now.
    pub(in crate::memory) fn read(&self) -> Result<KernelKills, ProbeError> {
        let mut counts = self.files.iter().filter_map(|(path, scope)| {
            // The counter has the same name in all three files.
            let count = stat_value(&read_text(path).ok()?, "oom_kill")?;
            let scope = *scope;
            Some(KernelKills { count, scope })
        });
        counts.next().ok_or(ProbeError::NoKillCounter)
    }
}

impl OomCounter for KillCounter {
    fn oom_kills(&self) -> Option<u64> {
        self.read().ok().map(|kills| kills.count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn the_counter_of_the_group_is_preferred_to_that_of_the_machine() {
        let fixture = Fixture::new();
        let read = || KillCounter::find(&fixture.system()).read();
        assert_eq!(read(), Err(ProbeError::NoKillCounter));
        let machine = |count| {
            let scope = Scope::Machine;
            Ok(KernelKills { count, scope })
        };
        let group = |count| {
            let scope = Scope::Group;
            Ok(KernelKills { count, scope })
        };
        fixture.write("proc/vmstat", "nr_free_pages 1\noom_kill 3\n");
        assert_eq!(read(), machine(3));
        fixture.write("proc/self/cgroup", "4:memory:/c\n0::/c\n");
        fixture.write(
            "proc/self/mountinfo",
            "35 31 0:32 / /v1 rw - cgroup cgroup rw,memory\n29 23 0:26 / /v2 rw - cgroup2 c rw\n",
        );
        assert_eq!(read(), machine(3));
        let control = "oom_kill_disable 0\nunder_oom 0\n";
        fixture.write("v1/c/memory.oom_control", control);
        assert_eq!(read(), machine(3), "an old kernel has no counter there");
        fixture.write("v1/c/memory.oom_control", format!("{control}oom_kill 2\n"));
        assert_eq!(read(), group(2));
        fixture.write(
            "v2/c/memory.events",
            "oom 9\noom_kill 1\noom_group_kill 8\n",
        );
        assert_eq!(read(), group(1));
    }
}
