//! A version 1 control group, as it also stands in hybrid set-ups: what it allows, and what it
//! counts.
//!
//! `memory.stat` tells the tightest limit on the way up, also of groups that we cannot see.

use std::path::PathBuf;

use super::cgroup::{self, Group};
use super::group_usage::counter;
use super::{
    GroupUsage, Limit, Probe, ProbeError, Source, System, read_number, read_text, stat_value,
};

/// The kernel says "unlimited" with the largest multiple of its page size that a long can hold,
/// older ones with other numbers as huge. Nothing real comes near.
const UNLIMITED: u64 = 1 << 62;

/// Our group in the memory controller's own hierarchy.
#[derive(Debug)]
pub(in crate::memory) struct CgroupV1(Group);

impl CgroupV1 {
    pub(in crate::memory) fn find(system: &System) -> Result<Self, ProbeError> {
        let has_memory = |list: &str| list.split(',').any(|name| name == "memory");
        cgroup::find(
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
}

impl Probe for CgroupV1 {
    type Value = GroupUsage;

    const SOURCE: Source = Source::CgroupV1;

    fn read(&mut self) -> Result<GroupUsage, ProbeError> {
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

    fn limit(&self) -> Result<Limit, ProbeError> {
        let own = self.file("memory.limit_in_bytes");
        let stat = self.file("memory.stat");
        let own_limit = read_number(&own);
        let above = read_text(&stat)
            .ok()
            .and_then(|text| stat_value(&text, "hierarchical_memory_limit"));
        let limit = match (own_limit, above) {
            (Ok(bytes), None) => Limit { bytes, set_by: own },
            (Ok(bytes), Some(above)) if bytes <= above => Limit { bytes, set_by: own },
            (_, Some(above)) => Limit {
                bytes: above,
                set_by: stat,
            },
            (Err(reason), None) => return Err(reason),
        };
        if limit.bytes >= UNLIMITED {
            return Err(ProbeError::Unlimited);
        }
        Ok(limit)
    }
}
