//! The control groups of this process, one for each version: their limits and their usage. Hybrid
//! systems use both versions.

use super::cgroup_path::{self, CgroupPath};
use super::{GroupUsage, Limit, ProbeError, Source, System, read_number, read_text, stat_value};

/// The kernel writes a huge number, which depends on its version, where a group of version 1 has no
/// limit.
const UNLIMITED_V1: u64 = 1 << 62;

/// The control groups of this process.
pub(in crate::memory) struct Cgroups {
    v2: Result<CgroupPath, ProbeError>,
    v1: Result<CgroupPath, ProbeError>,
}

/// What the kernel counts for the control groups of this process.
pub(in crate::memory) struct GroupUsages {
    pub(in crate::memory) v2: Result<GroupUsage, ProbeError>,
    pub(in crate::memory) v1: Result<GroupUsage, ProbeError>,
}

impl Cgroups {
    pub(in crate::memory) fn find(system: &System) -> Self {
        Self {
            v2: find_v2(system),
            v1: find_v1(system),
        }
    }

    /// The tightest limit of version 2.
    pub(in crate::memory) fn v2_limit(&self) -> Result<Limit, ProbeError> {
        v2_limit(self.v2.as_ref().map_err(Clone::clone)?)
    }

    /// The tightest limit of version 1.
    pub(in crate::memory) fn v1_limit(&self) -> Result<Limit, ProbeError> {
        v1_limit(self.v1.as_ref().map_err(Clone::clone)?)
    }

    pub(in crate::memory) fn usages(&self) -> GroupUsages {
        GroupUsages {
            v2: self.v2.clone().and_then(|group| v2_usage(&group)),
            v1: self.v1.clone().and_then(|group| v1_usage(&group)),
        }
    }
}

impl GroupUsages {
    /// The usage of the group whose memory controller is enabled.
    pub(in crate::memory) fn charged(&self) -> Option<(Source, &GroupUsage)> {
        let v2 = self.v2.as_ref().ok().map(|usage| (Source::CgroupV2, usage));
        let v1 = self.v1.as_ref().ok();
        v2.or_else(|| v1.map(|usage| (Source::CgroupV1, usage)))
    }
}

/// The group in the unified hierarchy.
pub(super) fn find_v2(system: &System) -> Result<CgroupPath, ProbeError> {
    let is_unified = |number: &str, controllers: &str| number == "0" && controllers.is_empty();
    cgroup_path::find(system, is_unified, |kind, _| kind == "cgroup2")
}

/// The group in the hierarchy of the memory controller of version 1.
pub(super) fn find_v1(system: &System) -> Result<CgroupPath, ProbeError> {
    let has_memory = |list: &str| list.split(',').any(|name| name == "memory");
    cgroup_path::find(
        system,
        |_, controllers| has_memory(controllers),
        |kind, options| kind == "cgroup" && has_memory(options),
    )
}

fn v2_usage(group: &CgroupPath) -> Result<GroupUsage, ProbeError> {
    let current = match read_number(&group.file("memory.current")) {
        Err(error) if error.is_absence() => return Err(ProbeError::NoController),
        current => current?,
    };
    let stat = read_text(&group.file("memory.stat"))?;
    let events = read_text(&group.file("memory.events")).unwrap_or_default();
    Ok(GroupUsage {
        high: read_number(&group.file("memory.high")).ok(),
        throttled: stat_value(&events, "high"),
        limit_hits: stat_value(&events, "max"),
        oom_kills: stat_value(&events, "oom_kill"),
        ..GroupUsage::parse(&group.directory, current, &stat, "", "anon", "file")?
    })
}

fn v1_usage(group: &CgroupPath) -> Result<GroupUsage, ProbeError> {
    let current = read_number(&group.file("memory.usage_in_bytes"))?;
    let stat = read_text(&group.file("memory.stat"))?;
    let control = read_text(&group.file("memory.oom_control")).unwrap_or_default();
    Ok(GroupUsage {
        limit_hits: read_number(&group.file("memory.failcnt")).ok(),
        oom_kills: stat_value(&control, "oom_kill"),
        ..GroupUsage::parse(&group.directory, current, &stat, "total_", "rss", "cache")?
    })
}

/// The tightest limit on the path to the root, since a group can never use more than any group above
/// it. `memory.high` counts as a limit like `memory.max`: above it the kernel kills nothing, but it
/// delays every allocation until it has reclaimed as much, so that a server there answers late or
/// never.
fn v2_limit(group: &CgroupPath) -> Result<Limit, ProbeError> {
    let mut tightest: Option<Limit> = None;
    let mut error = ProbeError::NoController;
    for directory in group.directory.ancestors() {
        for name in ["memory.max", "memory.high"] {
            let path = directory.join(name);
            let limit = read_text(&path).and_then(|text| match text.trim() {
                "max" => Err(ProbeError::Unlimited),
                number => Limit::parse(number, path),
            });
            match limit {
                Ok(limit) if tightest.as_ref().is_some_and(|it| it.bytes <= limit.bytes) => {}
                Ok(limit) => tightest = Some(limit),
                // The root has no such file, nor has a group without the controller.
                Err(ProbeError::Unreadable { .. }) => {}
                // A malformed file is reported before a limit that is not set.
                Err(_) if matches!(error, ProbeError::Malformed(_)) => {}
                Err(other) => error = other,
            }
        }
        if directory == group.mount_point {
            break;
        }
    }
    tightest.ok_or(error)
}

/// The tightest limit on the path to the root. `memory.stat` includes groups that this process
/// cannot see.
fn v1_limit(group: &CgroupPath) -> Result<Limit, ProbeError> {
    let (own, stat) = (
        group.file("memory.limit_in_bytes"),
        group.file("memory.stat"),
    );
    let own = read_text(&own).and_then(|text| Limit::parse(&text, own));
    let above = stat_value(
        &read_text(&stat).unwrap_or_default(),
        "hierarchical_memory_limit",
    );
    let limit = match above {
        Some(bytes) if !own.as_ref().is_ok_and(|own| own.bytes <= bytes) => Limit {
            bytes,
            set_by: stat,
        },
        _ => own?,
    };
    if limit.bytes >= UNLIMITED_V1 {
        return Err(ProbeError::Unlimited);
    }
    Ok(limit)
}
