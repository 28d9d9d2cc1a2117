//! The control groups of this process, one for each version.

use super::cgroup_v1::CgroupV1;
use super::cgroup_v2::CgroupV2;
use super::{GroupUsage, Limit, ProbeError, Source, System};

/// The control groups of this process.
pub(in crate::memory) struct Cgroups {
    v2: Result<CgroupV2, ProbeError>,
    v1: Result<CgroupV1, ProbeError>,
}

impl Cgroups {
    pub(in crate::memory) fn find(system: &System) -> Self {
        Self {
            v2: CgroupV2::find(system),
            v1: CgroupV1::find(system),
        }
    }

    /// The tightest limit of version 2.
    pub(in crate::memory) fn v2_limit(&self) -> Result<Limit, ProbeError> {
        self.v2.as_ref().map_err(Clone::clone)?.limit()
    }

    /// The tightest limit of version 1.
    pub(in crate::memory) fn v1_limit(&self) -> Result<Limit, ProbeError> {
        self.v1.as_ref().map_err(Clone::clone)?.limit()
    }

    pub(in crate::memory) fn usages(&self) -> GroupUsages {
        GroupUsages {
            v2: self
                .v2
                .as_ref()
                .map_err(Clone::clone)
                .and_then(CgroupV2::read),
            v1: self
                .v1
                .as_ref()
                .map_err(Clone::clone)
                .and_then(CgroupV1::read),
        }
    }
}

/// What the kernel counts for the control groups of this process.
pub(in crate::memory) struct GroupUsages {
    pub(in crate::memory) v2: Result<GroupUsage, ProbeError>,
    pub(in crate::memory) v1: Result<GroupUsage, ProbeError>,
}

impl GroupUsages {
    /// The usage of the group whose memory controller is enabled.
    pub(in crate::memory) fn charged(&self) -> Option<(Source, &GroupUsage)> {
        let v2 = self.v2.as_ref().ok().map(|usage| (Source::CgroupV2, usage));
        let v1 = self.v1.as_ref().ok();
        v2.or_else(|| v1.map(|usage| (Source::CgroupV1, usage)))
    }
}
