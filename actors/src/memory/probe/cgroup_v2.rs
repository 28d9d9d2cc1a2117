//! The limit of a version 2 control group.
//!
//! A group can never use more than any group above it, so the whole path up to the top counts.

use std::collections::BTreeSet;

use super::cgroup::{self, Group};
use super::{Limit, NoLimit, Probe, System, is_alone, read_text, stat_value};

/// Our group in the unified hierarchy.
#[derive(Debug)]
pub(in crate::memory) struct CgroupV2(Group);

impl CgroupV2 {
    pub(in crate::memory) fn find(system: &System) -> Result<Self, NoLimit> {
        let is_unified = |number: &str, controllers: &str| number == "0" && controllers.is_empty();
        cgroup::find(system, is_unified, |kind, _| kind == "cgroup2").map(Self)
    }
}

impl Probe for CgroupV2 {
    fn limit(&self) -> Result<Limit, NoLimit> {
        let mut tightest: Option<Limit> = None;
        let mut none = NoLimit::NoController;
        for directory in self.0.directory.ancestors() {
            let path = directory.join("memory.max");
            // The root has no such file, nor has a group that the controller does not act on; a
            // group above it may.
            if let Ok(text) = read_text(&path) {
                match text.trim().parse::<u64>() {
                    Ok(bytes) if tightest.as_ref().is_none_or(|limit| bytes < limit.bytes) => {
                        tightest = Some(Limit {
                            bytes,
                            set_by: path,
                        });
                    }
                    Ok(_) => {}
                    Err(_) if text.trim() == "max" => none = NoLimit::Unlimited,
                    Err(_) => none = NoLimit::Garbled(path),
                }
            }
            if directory == self.0.top {
                break;
            }
        }
        tightest.ok_or(none)
    }

    fn working_set(&self, tree: &BTreeSet<i32>) -> Option<u64> {
        let directory = &self.0.directory;
        let current = read_text(&directory.join("memory.current")).ok()?;
        let current: u64 = current.trim().parse().ok()?;
        let stat = read_text(&directory.join("memory.stat")).ok()?;
        let inactive = stat_value(&stat, "inactive_file")?;
        is_alone(directory, tree).then(|| current.saturating_sub(inactive))
    }
}
