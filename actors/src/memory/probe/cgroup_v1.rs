//! A control group of version 1, which hybrid systems use as well: its limit and its usage.

use std::path::PathBuf;

use super::cgroup_path::{self, CgroupPath};
use super::cgroup_usage::counter;
use super::{GroupUsage, Limit, ProbeError, System, read_number, read_text, stat_value};

/// The kernel writes a huge number, which depends on its version, where there is no limit.
const UNLIMITED: u64 = 1 << 62;

/// The group in the memory controller's own hierarchy.
#[derive(Debug)]
pub(super) struct CgroupV1(CgroupPath);

impl CgroupV1 {
    pub(super) fn find(system: &System) -> Result<Self, ProbeError> {
        let has_memory = |list: &str| list.split(',').any(|name| name == "memory");
        cgroup_path::find(
            system,
            |_, controllers| has_memory(controllers),
            |kind, options| kind == "cgroup" && has_memory(options),
        )
        .map(Self)
    }

    /// A file of the group.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.directory.join(name)
    }

    pub(super) fn read(&self) -> Result<GroupUsage, ProbeError> {
        let current = read_number(&self.file("memory.usage_in_bytes"))?;
        let stat = read_text(&self.file("memory.stat"))?;
        let directory = &self.0.directory;
        let usage = GroupUsage::parse(directory, current, &stat, "total_", "rss", "cache")?;
        let control = read_text(&self.file("memory.oom_control"));
        Ok(GroupUsage {
            limit_hits: read_number(&self.file("memory.failcnt")).ok(),
            oom_kills: counter(&control, "oom_kill"),
            ..usage
        })
    }

    /// The tightest limit on the path to the root. `memory.stat` includes groups that this process
    /// cannot see.
    pub(super) fn limit(&self) -> Result<Limit, ProbeError> {
        let own = self.file("memory.limit_in_bytes");
        let stat = self.file("memory.stat");
        let own_limit = read_number(&own);
        let above = read_text(&stat)
            .ok()
            .and_then(|text| stat_value(&text, "hierarchical_memory_limit"));
        let limit = match (own_limit, above) {
            (Ok(bytes), None) => Limit { bytes, set_by: own },
            (Ok(bytes), Some(above)) if bytes <= above => Limit { bytes, set_by: own },
            (_, Some(bytes)) => Limit {
                bytes,
                set_by: stat,
            },
            (Err(error), None) => return Err(error),
        };
        if limit.bytes >= UNLIMITED {
            return Err(ProbeError::Unlimited);
        }
        Ok(limit)
    }
}
