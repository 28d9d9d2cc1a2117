//! A control group of version 2: its limit and its usage.
//!
//! A group can never use more than any group above it, so all groups up to the root count.
//! `memory.high` counts as a limit like `memory.max`: above it the kernel kills nothing, but it delays
//! every allocation until it has reclaimed as much, so that a server there answers late or never.

use std::path::PathBuf;

use super::cgroup_path::{self, CgroupPath};
use super::cgroup_usage::counter;
use super::{GroupUsage, Limit, ProbeError, System, read_number, read_text};

/// The group in the unified hierarchy.
#[derive(Debug)]
pub(super) struct CgroupV2(CgroupPath);

impl CgroupV2 {
    pub(super) fn find(system: &System) -> Result<Self, ProbeError> {
        let is_unified = |number: &str, controllers: &str| number == "0" && controllers.is_empty();
        cgroup_path::find(system, is_unified, |kind, _| kind == "cgroup2").map(Self)
    }

    /// A file of the group.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.directory.join(name)
    }

    pub(super) fn read(&self) -> Result<GroupUsage, ProbeError> {
        let current = match read_number(&self.file("memory.current")) {
            Err(error) if error.is_absence() => return Err(ProbeError::NoController),
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

    /// The tightest limit on the path to the root.
    pub(super) fn limit(&self) -> Result<Limit, ProbeError> {
        let mut tightest: Option<Limit> = None;
        let mut error = ProbeError::NoController;
        for directory in self.0.directory.ancestors() {
            for name in ["memory.max", "memory.high"] {
                match limit(directory.join(name)) {
                    Ok(limit) if tightest.as_ref().is_some_and(|it| it.bytes <= limit.bytes) => {}
                    Ok(limit) => tightest = Some(limit),
                    // The root has no such file, nor has a group without the controller.
                    Err(ProbeError::Unreadable { .. }) => {}
                    // A malformed file is reported before a limit that is not set.
                    Err(_) if matches!(error, ProbeError::Malformed(_)) => {}
                    Err(other) => error = other,
                }
            }
            if directory == self.0.mount_point {
                break;
            }
        }
        tightest.ok_or(error)
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
            Err(_) => Err(ProbeError::Malformed(path)),
        },
    }
}
