//! A version 2 control group: what it allows, and what it counts.
//!
//! A group can never use more than any group above it, so the whole path up to the top counts.
//! Where `memory.high` is set it counts as a limit like `memory.max`: above it the kernel kills
//! nobody, but makes every allocation wait until as much was reclaimed, so that a server that lives
//! there answers late or never.

use std::path::PathBuf;

use super::cgroup::{self, Group};
use super::group_usage::counter;
use super::{GroupUsage, Limit, Probe, ProbeError, Source, System, read_number, read_text};

/// Our group in the unified hierarchy.
#[derive(Debug)]
pub(in crate::memory) struct CgroupV2(Group);

impl CgroupV2 {
    pub(in crate::memory) fn find(system: &System) -> Result<Self, ProbeError> {
        let is_unified = |number: &str, controllers: &str| number == "0" && controllers.is_empty();
        cgroup::find(system, is_unified, |kind, _| kind == "cgroup2").map(Self)
    }

    /// A file of the group.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.directory.join(name)
    }
}

impl Probe for CgroupV2 {
    type Value = GroupUsage;

    const SOURCE: Source = Source::CgroupV2;

    fn read(&mut self) -> Result<GroupUsage, ProbeError> {
        let current = match read_number(&self.file("memory.current")) {
            Err(reason) if reason.is_absence() => return Err(ProbeError::NoController),
            current => current?,
        };
        let stat = read_text(&self.file("memory.stat"))?;
        let usage = GroupUsage::parse(&self.0.directory, current, &stat, "", "anon", "file")?;
        let events = read_text(&self.file("memory.events"));
        Ok(GroupUsage {
            high: read_number(&self.file("memory.high")).ok(),
            throttled: counter(&events, "high"),
            limit_hits: counter(&events, "max"),
            oom_kills: counter(&events, "oom_kill"),
            ..usage
        })
    }

    fn limit(&self) -> Result<Limit, ProbeError> {
        let mut tightest: Option<Limit> = None;
        let mut none = ProbeError::NoController;
        for directory in self.0.directory.ancestors() {
            for name in ["memory.max", "memory.high"] {
                match limit(directory.join(name)) {
                    Ok(limit) => {
                        if tightest
                            .as_ref()
                            .is_none_or(|least| limit.bytes < least.bytes)
                        {
                            tightest = Some(limit);
                        }
                    }
                    // The root has no such file, nor has a group that the controller does not act
                    // on; a group above it may.
                    Err(ProbeError::Unreadable { .. }) => {}
                    // What is broken is worth more telling than what is not set.
                    Err(reason) if !matches!(none, ProbeError::Garbled(_)) => none = reason,
                    Err(_) => {}
                }
            }
            if directory == self.0.top {
                break;
            }
        }
        tightest.ok_or(none)
    }
}

fn limit(path: PathBuf) -> Result<Limit, ProbeError> {
    let text = read_text(&path)?;
    match text.trim() {
        "max" => Err(ProbeError::Unlimited),
        number => match number.parse() {
            Ok(bytes) => Ok(Limit {
                bytes,
                set_by: path,
            }),
            Err(_) => Err(ProbeError::Garbled(path)),
        },
    }
}
