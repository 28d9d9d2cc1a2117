//! The limit of a version 1 control group, as it also stands in hybrid set-ups.
//!
//! `memory.stat` tells the tightest limit on the way up, also of groups that we cannot see.

use std::collections::BTreeSet;

use super::cgroup::{self, Group};
use super::{Limit, NoLimit, Probe, System, is_alone, read_text, stat_value};

/// The kernel says "unlimited" with the largest multiple of its page size that a long can hold,
/// older ones with other numbers as huge. Nothing real comes near.
const UNLIMITED: u64 = 1 << 62;

/// Our group in the memory controller's own hierarchy.
#[derive(Debug)]
pub(in crate::memory) struct CgroupV1(Group);

impl CgroupV1 {
    pub(in crate::memory) fn find(system: &System) -> Result<Self, NoLimit> {
        let has_memory = |list: &str| list.split(',').any(|name| name == "memory");
        cgroup::find(
            system,
            |_, controllers| has_memory(controllers),
            |kind, options| kind == "cgroup" && has_memory(options),
        )
        .map(Self)
    }
}

impl Probe for CgroupV1 {
    fn limit(&self) -> Result<Limit, NoLimit> {
        let own = self.0.directory.join("memory.limit_in_bytes");
        let stat = self.0.directory.join("memory.stat");
        let own_limit = read_text(&own).and_then(|text| {
            let parsed = text.trim().parse::<u64>();
            parsed.map_err(|_| NoLimit::Garbled(own.clone()))
        });
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
            return Err(NoLimit::Unlimited);
        }
        Ok(limit)
    }

    fn working_set(&self, tree: &BTreeSet<i32>) -> Option<u64> {
        let directory = &self.0.directory;
        let usage = read_text(&directory.join("memory.usage_in_bytes")).ok()?;
        let usage: u64 = usage.trim().parse().ok()?;
        let stat = read_text(&directory.join("memory.stat")).ok()?;
        let inactive = stat_value(&stat, "total_inactive_file")?;
        is_alone(directory, tree).then(|| usage.saturating_sub(inactive))
    }
}
