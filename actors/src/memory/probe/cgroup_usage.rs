//! The memory usage that the kernel counts for a control group, and the working set in it.
//!
//! A group is charged for every page that its processes touch first: their own memory, the kernel's
//! structures for them, and the page cache of the files that they read and write. Because of the
//! cache, `memory.current` alone says little: after a server has read one large file, its group can
//! stay at the limit without harm.
//!
//! The working set leaves out the pages that the kernel reclaims before it kills a process:
//! - file pages on the inactive list;
//! - file pages on the active list that no process maps. A model file that is read twice gets there;
//!   dropping its pages costs only the next read.
//!
//! Mapped file pages count as used. They are running code and weights in use: without them most
//! instructions fault, and the group stalls long before the kernel kills a process.

use std::path::{Path, PathBuf};

use serde::Serialize;
use utoipa::ToSchema;

use super::{ProbeError, stat_value};

/// The memory usage of the server's control group. All sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct GroupUsage {
    /// The group's folder.
    #[schema(value_type = String)]
    pub directory: PathBuf,
    /// All memory that is charged to the group.
    #[serde(rename = "current_bytes")]
    pub current: u64,
    /// Memory that no file backs.
    #[serde(rename = "anonymous_bytes")]
    pub anonymous: u64,
    /// File pages, with tmpfs and shared memory.
    #[serde(rename = "file_bytes")]
    pub file: u64,
    /// File pages on the inactive list.
    #[serde(rename = "inactive_file_bytes")]
    pub inactive_file: u64,
    /// File pages on the active list.
    #[serde(rename = "active_file_bytes")]
    pub active_file: u64,
    /// File pages that some process maps.
    #[serde(rename = "mapped_file_bytes")]
    pub mapped_file: u64,
    /// Usage from which the kernel delays the group's allocations (version 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<u64>,
    /// How often the kernel delayed allocations for that (version 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled: Option<u64>,
    /// How often the group's usage reached its limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_hits: Option<u64>,
    /// Processes of the group that the kernel killed because memory ran out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
}

impl GroupUsage {
    /// Parses `stat`, the text of the group's `memory.stat`. The names of the sums over the groups
    /// below begin with `prefix`; `anonymous` and `file` are the names of those two sums.
    pub(super) fn parse(
        directory: &Path,
        current: u64,
        stat: &str,
        prefix: &str,
        anonymous: &str,
        file: &str,
    ) -> Result<Self, ProbeError> {
        let value = |name: &str| stat_value(stat, &format!("{prefix}{name}"));
        let inactive_file = value("inactive_file")
            .ok_or_else(|| ProbeError::Malformed(directory.join("memory.stat")))?;
        // Without both, the mapped part of the active list is not known.
        let active_and_mapped = value("active_file").zip(value("mapped_file"));
        let (active_file, mapped_file) = active_and_mapped.unwrap_or_default();
        Ok(Self {
            directory: directory.to_owned(),
            current,
            anonymous: value(anonymous).unwrap_or(0),
            file: value(file).unwrap_or(0),
            inactive_file,
            active_file,
            mapped_file,
            ..Self::default()
        })
    }

    /// Usage without the pages that the kernel can reclaim. See the module.
    pub fn working_set(&self) -> u64 {
        let cache = self.inactive_file.saturating_add(self.active_file);
        let reclaimable = cache.saturating_sub(self.mapped_file);
        self.current.saturating_sub(reclaimable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn working_set(current: u64, stat: &str) -> Option<u64> {
        let usage = GroupUsage::parse(Path::new("/"), current, stat, "", "anon", "file");
        usage.ok().map(|usage| usage.working_set())
    }

    #[test]
    fn file_pages_that_no_process_maps_do_not_count() {
        let stat = "anon 5\nfile 9\ninactive_file 300\nactive_file 200\nmapped_file 0\n";
        assert_eq!(working_set(1000, stat), Some(500));
        let mapped = "inactive_file 300\nactive_file 200\nmapped_file 150\n";
        assert_eq!(working_set(1000, mapped), Some(650));
        // Mapped shared memory is in none of the lists, so more can be mapped than they hold.
        let shared = "inactive_file 300\nactive_file 200\nmapped_file 800\n";
        assert_eq!(working_set(1000, shared), Some(1000));
        // If the mapped part of the active list is not known, all of the list counts.
        assert_eq!(working_set(1000, "inactive_file 300\n"), Some(700));
        let unknown = "inactive_file 300\nactive_file 200\nmapped_file many\n";
        assert_eq!(working_set(1000, unknown), Some(700));
        // The figures are read one after another and can disagree.
        assert_eq!(working_set(100, stat), Some(0));
        assert_eq!(working_set(1000, "anon 1\ninactive_file x\n"), None);
    }
}
