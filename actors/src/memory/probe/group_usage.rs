//! What the kernel counts for a control group, and how much of it cannot be had back.
//!
//! A group is charged for every page that its processes were the first to touch: their own memory,
//! the kernel's structures for them, and the page cache of what they read and wrote. The cache is
//! why `memory.current` alone says little: a server that has read a large file once stands at its
//! limit for ever, without any harm.
//!
//! What the kernel takes back before it ends anybody does not count as used:
//! - pages of files on the inactive list;
//! - pages of files on the active list that nobody maps: a model file that is read twice gets
//!   there, and still nothing is lost but the next read.
//!
//! Pages of files that are mapped do count. They are the code that runs and the weights that are
//! in use: without them every second instruction is a fault, and a group that lives at that point
//! stalls long before it is killed.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{ProbeError, stat_value};

/// What the kernel counts for our control group. All sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GroupUsage {
    /// The group's folder.
    pub directory: PathBuf,
    /// All that is charged to the group.
    pub current: u64,
    /// Memory without a file behind it.
    pub anonymous: u64,
    /// Pages of files, tmpfs and shared memory included.
    pub file: u64,
    /// Pages of files that were not used lately.
    pub inactive_file: u64,
    /// Pages of files that were.
    pub active_file: u64,
    /// Pages of files that some process maps.
    pub mapped_file: u64,
    /// Where the kernel begins to slow the group down (version 2), if anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<u64>,
    /// How often the group was slowed down for passing that (version 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled: Option<u64>,
    /// How often the group stood at its limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_hits: Option<u64>,
    /// Processes of the group that the kernel has killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
}

impl GroupUsage {
    /// Reads the sizes of `stat`, the text of the group's `memory.stat`, whose names for the sums
    /// over the groups below begin with `prefix`.
    pub(super) fn parse(
        directory: &Path,
        current: u64,
        stat: &str,
        prefix: &str,
        anonymous: &str,
        file: &str,
    ) -> Result<Self, ProbeError> {
        let mut usage = Self {
            directory: directory.to_owned(),
            current,
            ..Self::default()
        };
        let mut active_and_mapped = (None, None);
        let mut inactive = None;
        for (name, value) in stat.lines().filter_map(|line| line.split_once(' ')) {
            let Some(name) = name.strip_prefix(prefix) else {
                continue;
            };
            let value = || value.trim().parse().ok();
            match name {
                "inactive_file" => inactive = value(),
                "active_file" => active_and_mapped.0 = value(),
                "mapped_file" => active_and_mapped.1 = value(),
                name if name == anonymous => usage.anonymous = value().unwrap_or(0),
                name if name == file => usage.file = value().unwrap_or(0),
                _ => {}
            }
        }
        usage.inactive_file =
            inactive.ok_or_else(|| ProbeError::Garbled(directory.join("memory.stat")))?;
        // How much of the active part is mapped is known from both or not at all.
        if let (Some(active), Some(mapped)) = active_and_mapped {
            usage.active_file = active;
            usage.mapped_file = mapped;
        }
        Ok(usage)
    }

    /// What is used and not easily reclaimed. See the module.
    pub fn working_set(&self) -> u64 {
        let cache = self.inactive_file.saturating_add(self.active_file);
        let reclaimable = cache.saturating_sub(self.mapped_file);
        self.current.saturating_sub(reclaimable)
    }
}

/// A counter of a file such as `memory.events`.
pub(super) fn counter(text: &Result<String, ProbeError>, key: &str) -> Option<u64> {
    stat_value(text.as_ref().ok()?, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn working_set(current: u64, stat: &str) -> Option<u64> {
        let usage = GroupUsage::parse(Path::new("/"), current, stat, "", "anon", "file");
        usage.ok().map(|usage| usage.working_set())
    }

    #[test]
    fn cache_that_nobody_maps_does_not_count() {
        let stat = "anon 5\nfile 9\ninactive_file 300\nactive_file 200\nmapped_file 0\n";
        assert_eq!(working_set(1000, stat), Some(500));
        let mapped = "inactive_file 300\nactive_file 200\nmapped_file 150\n";
        assert_eq!(working_set(1000, mapped), Some(650));
        // More is mapped than is in the lists: mapped shared memory counts among it.
        let shared = "inactive_file 300\nactive_file 200\nmapped_file 800\n";
        assert_eq!(working_set(1000, shared), Some(1000));
        // Not told how much of the active part is mapped: all of it may be.
        assert_eq!(working_set(1000, "inactive_file 300\n"), Some(700));
        let unknown = "inactive_file 300\nactive_file 200\nmapped_file many\n";
        assert_eq!(working_set(1000, unknown), Some(700));
        // Counts are taken one after another.
        assert_eq!(working_set(100, stat), Some(0));
        assert_eq!(working_set(1000, "anon 1\ninactive_file x\n"), None);
    }
}
