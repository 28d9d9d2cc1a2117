//! How much memory there is to give, and who says so.
//!
//! The budget is the smallest of what the settings and the control groups allow, and never more than
//! the machine has; where none of them says anything, a share of the machine's memory. Every source is reported with what it
//! said, so that a surprising budget explains itself.

use serde::Serialize;

use super::config::MemoryConfig;
use super::levels::share_of;
use super::probe::{
    CgroupV1, CgroupV2, GroupUsage, Health, Limit, Physical, Probe, ProbeError, Source, System,
};

/// Who set the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetSource {
    /// The settings: `memory.limit`.
    Configured,
    /// A version 2 control group, ours or one above it.
    CgroupV2,
    /// A version 1 control group, ours or one above it.
    CgroupV1,
    /// The machine's memory: a share of it, or all where `memory.limit` is more.
    Physical,
}

impl BudgetSource {
    /// A fixed word for logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::CgroupV2 => "cgroup_v2",
            Self::CgroupV1 => "cgroup_v1",
            Self::Physical => "physical",
        }
    }

    /// The source of numbers that sets this limit.
    pub(super) fn probe(self) -> Source {
        match self {
            Self::Configured => Source::Configured,
            Self::CgroupV2 => Source::CgroupV2,
            Self::CgroupV1 => Source::CgroupV1,
            Self::Physical => Source::Machine,
        }
    }
}

/// What one source said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// Which source.
    pub source: BudgetSource,
    /// The bytes that it allows; `None` when it sets no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Where that is set, or why it sets no limit.
    pub detail: String,
    /// Whether that is to be believed; shown with everything else about the source.
    #[serde(skip)]
    pub(super) health: Health,
}

/// The budget, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BudgetReading {
    /// The budget.
    pub bytes: u64,
    /// The source whose word it is.
    pub source: BudgetSource,
    /// What every source said.
    pub considered: Vec<Considered>,
}

/// No source could say how much memory there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no source tells how much memory there is: {0}")]
pub struct NoBudget(String);

/// The control groups that we are in, found once per reading of the budget.
pub(super) struct Groups {
    v2: Result<CgroupV2, ProbeError>,
    v1: Result<CgroupV1, ProbeError>,
}

impl Groups {
    pub(super) fn find(system: &System) -> Self {
        Self {
            v2: CgroupV2::find(system),
            v1: CgroupV1::find(system),
        }
    }

    /// What each of them counts.
    pub(super) fn read(&mut self) -> GroupCounts {
        GroupCounts {
            v2: read(&mut self.v2),
            v1: read(&mut self.v1),
        }
    }
}

/// What our control groups count.
pub(super) struct GroupCounts {
    pub(super) v2: Result<GroupUsage, ProbeError>,
    pub(super) v1: Result<GroupUsage, ProbeError>,
}

impl GroupCounts {
    /// The count of the group that the memory controller acts on.
    pub(super) fn charged(&self) -> Option<(Source, &GroupUsage)> {
        let v2 = self.v2.as_ref().ok().map(|usage| (CgroupV2::SOURCE, usage));
        let v1 = self.v1.as_ref().ok();
        v2.or_else(|| v1.map(|usage| (CgroupV1::SOURCE, usage)))
    }
}

fn read<P: Probe<Value = GroupUsage>>(
    group: &mut Result<P, ProbeError>,
) -> Result<GroupUsage, ProbeError> {
    group.as_mut().map_err(|reason| reason.clone())?.read()
}

impl BudgetReading {
    /// Asks every source.
    pub(super) fn take(
        config: &MemoryConfig,
        groups: &Groups,
        system: &System,
    ) -> Result<Self, NoBudget> {
        let physical = Physical::new(system).limit();
        let machine = physical.as_ref().ok().map(|limit| limit.bytes);
        let mut considered = vec![
            configured(config.limit, machine),
            considered(BudgetSource::CgroupV2, limit(&groups.v2), machine),
            considered(BudgetSource::CgroupV1, limit(&groups.v1), machine),
        ];
        let named = considered.iter();
        let smallest = named
            .filter_map(|said| Some((said.bytes?, said.source)))
            .min_by_key(|(bytes, _)| *bytes);
        // Of the machine's memory a share is for us, unless somebody asked for more than all of it.
        let is_too_much = smallest
            .zip(machine)
            .is_some_and(|((bytes, _), all)| bytes > all);
        let share = if is_too_much {
            1.0
        } else {
            config.physical_share
        };
        let physical = physical_share(physical, share);
        let share = physical.bytes.map(|bytes| (bytes, BudgetSource::Physical));
        considered.push(physical);
        match smallest.filter(|_| !is_too_much).or(share) {
            Some((bytes, source)) => Ok(Self {
                bytes,
                source,
                considered,
            }),
            None => Err(NoBudget(describe(&considered))),
        }
    }

    /// What the settings allow, where that is more than there is.
    pub fn too_much(&self) -> Option<u64> {
        let mut said = self.considered.iter();
        let configured = said.find(|said| said.source == BudgetSource::Configured)?;
        configured.bytes.filter(|bytes| *bytes > self.bytes)
    }

    /// What every source said, in one line for the log.
    pub(super) fn describe(&self) -> String {
        describe(&self.considered)
    }
}

fn describe(considered: &[Considered]) -> String {
    let said = considered.iter().map(|said| match said.bytes {
        Some(bytes) => format!("{}: {bytes} ({})", said.source.label(), said.detail),
        None => format!("{}: none ({})", said.source.label(), said.detail),
    });
    said.collect::<Vec<_>>().join("; ")
}

fn configured(limit: Option<u64>, machine: Option<u64>) -> Considered {
    let (health, detail) = match (limit, machine) {
        (None, _) => (Health::Absent, "memory.limit is not set"),
        (Some(limit), Some(machine)) if limit > machine => (
            Health::Misleading,
            "memory.limit; more than the machine has, which counts instead",
        ),
        (Some(_), _) => (Health::Healthy, "memory.limit"),
    };
    Considered {
        source: BudgetSource::Configured,
        bytes: limit,
        detail: detail.to_owned(),
        health,
    }
}

fn limit<P: Probe>(group: &Result<P, ProbeError>) -> Result<Limit, ProbeError> {
    group.as_ref().map_err(Clone::clone)?.limit()
}

fn considered(
    source: BudgetSource,
    limit: Result<Limit, ProbeError>,
    machine: Option<u64>,
) -> Considered {
    let (bytes, health, detail) = match limit {
        // Some tools write a huge number where they mean none.
        Ok(Limit { bytes, set_by }) if machine.is_some_and(|machine| bytes >= machine) => {
            let path = set_by.display();
            let detail = format!("{path} allows {bytes} bytes, no less than the machine has");
            (None, Health::Misleading, detail)
        }
        Ok(Limit { bytes, set_by }) => (Some(bytes), Health::Healthy, set_by.display().to_string()),
        Err(reason) => (None, reason.health(), reason.to_string()),
    };
    Considered {
        source,
        bytes,
        detail,
        health,
    }
}

fn physical_share(physical: Result<Limit, ProbeError>, share: f64) -> Considered {
    let (bytes, health, detail) = match physical {
        Ok(Limit { bytes, set_by }) => (
            Some(share_of(bytes, share)),
            Health::Healthy,
            format!("{share} of {bytes} ({})", set_by.display()),
        ),
        Err(reason) => (None, reason.health(), reason.to_string()),
    };
    Considered {
        source: BudgetSource::Physical,
        bytes,
        detail,
        health,
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::fixture::Fixture;
    use super::*;
    use BudgetSource::{CgroupV1 as V1, CgroupV2 as V2, Configured, Physical as Machine};
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;
    const UNIFIED: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
    const LEGACY: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    const UNLIMITED_V1: &str = "9223372036854771712\n";

    /// A machine with 16 GiB.
    fn machine() -> Fixture {
        Fixture::new().file(
            "proc/meminfo",
            "MemTotal:       16777216 kB\nMemFree: 1 kB\n",
        )
    }

    fn take_with(fixture: &Fixture, limit: Option<u64>) -> Result<BudgetReading, NoBudget> {
        let config = MemoryConfig {
            limit,
            physical_share: 0.5,
            ..MemoryConfig::default()
        };
        let system = fixture.system();
        BudgetReading::take(&config, &Groups::find(&system), &system)
    }

    fn take(fixture: &Fixture) -> (u64, BudgetSource) {
        let reading = take_with(fixture, None).unwrap();
        (reading.bytes, reading.source)
    }

    fn said(fixture: &Fixture, source: BudgetSource) -> String {
        let reading = take_with(fixture, None).unwrap();
        let mut considered = reading.considered.into_iter();
        considered
            .find(|said| said.source == source)
            .unwrap()
            .detail
    }

    #[test]
    fn without_any_group_a_share_of_the_machine_counts() {
        let bare = machine();
        assert_eq!(take(&bare), (8 * GIB, Machine));
        let limited = take_with(&bare, Some(GIB)).unwrap();
        assert_eq!((limited.bytes, limited.source), (GIB, Configured));
        assert_eq!(limited.too_much(), None);
        // More than the machine has: what it has counts, and that is told.
        for absurd in [16 * GIB + 1, 64 * GIB, u64::MAX] {
            let capped = take_with(&bare, Some(absurd)).unwrap();
            assert_eq!((capped.bytes, capped.source), (16 * GIB, Machine));
            assert_eq!(capped.too_much(), Some(absurd));
            assert!(capped.describe().contains("more than the machine has"));
        }
        // Nobody knows anything.
        let error = take_with(&Fixture::new(), None).unwrap_err().to_string();
        assert!(error.contains("physical: none"), "{error}");
        assert!(take_with(&Fixture::new(), Some(GIB)).is_ok());
    }

    fn v2(group: &str) -> Fixture {
        machine()
            .file("proc/self/cgroup", format!("0::{group}\n"))
            .file("proc/self/mountinfo", UNIFIED)
            .file("sys/fs/cgroup/cgroup.procs", "")
    }

    #[test]
    fn of_nested_groups_the_tightest_counts() {
        let fixture = v2("/a.slice/b.service")
            .file("sys/fs/cgroup/a.slice/memory.max", "1073741824\n")
            .file("sys/fs/cgroup/a.slice/b.service/memory.max", "2147483648\n");
        assert_eq!(take(&fixture), (GIB, V2));
        assert!(said(&fixture, V2).ends_with("/a.slice/memory.max"));
        fixture.write("sys/fs/cgroup/a.slice/b.service/memory.max", "4096\n");
        assert_eq!(take(&fixture), (4096, V2));
        // The settings may be tighter still, or not.
        assert_eq!(take_with(&fixture, Some(100)).unwrap().source, Configured);
        let above = take_with(&fixture, Some(GIB)).unwrap();
        assert_eq!((above.source, above.too_much()), (V2, Some(GIB)));
    }

    #[test]
    fn no_limit_is_told_from_no_controller_from_garbage() {
        let unlimited = v2("/a").file("sys/fs/cgroup/a/memory.max", "max\n");
        assert_eq!(take(&unlimited), (8 * GIB, Machine));
        assert_eq!(said(&unlimited, V2), "it sets no limit");
        let none = v2("/a");
        assert!(said(&none, V2).contains("controller"));
        let garbled = v2("/a").file("sys/fs/cgroup/a/memory.max", "-1\u{0}");
        assert!(said(&garbled, V2).ends_with("is not understood"));
        assert_eq!(take(&garbled).1, Machine);
        // A leaf without the controller stands under what limits its parent.
        let leaf = v2("/a/b").file("sys/fs/cgroup/a/memory.max", "7\n");
        assert_eq!(take(&leaf), (7, V2));
        let absurd = v2("/a").file("sys/fs/cgroup/a/memory.max", "99999999999999\n");
        assert_eq!(take(&absurd), (8 * GIB, Machine));
        assert!(said(&absurd, V2).contains("no less than the machine has"));
        let unmounted = machine()
            .file("proc/self/cgroup", "0::/a\n")
            .file("proc/self/mountinfo", "");
        assert!(said(&unmounted, V2).contains("mounted"));
        assert!(said(&unmounted, V1).contains("no such group"));
    }

    #[test]
    fn a_container_is_limited_with_and_without_a_namespace_of_its_own() {
        let own = v2("/").file("sys/fs/cgroup/memory.max", "5000\n");
        assert_eq!(take(&own), (5000, V2));
        let hosts_name = machine()
            .file("proc/self/cgroup", "0::/kube/pod1/c1\n")
            .file(
                "proc/self/mountinfo",
                "29 23 0:26 /kube/pod1/c1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
            )
            .file("sys/fs/cgroup/memory.max", "6000\n");
        assert_eq!(take(&hosts_name), (6000, V2));
    }

    fn v1(limit: &str, stat: &str) -> Fixture {
        machine()
            .file(
                "proc/self/cgroup",
                "5:cpu,cpuacct:/x\n4:memory:/docker/c\n1:name=systemd:/x\n",
            )
            .file("proc/self/mountinfo", LEGACY)
            .file("sys/fs/cgroup/memory/docker/c/memory.limit_in_bytes", limit)
            .file("sys/fs/cgroup/memory/docker/c/memory.stat", stat)
    }

    #[test]
    fn version_1_counts_the_limits_above_too() {
        let below = v1(
            "2000\n",
            "cache 1\nhierarchical_memory_limit 9223372036854771712\n",
        );
        assert_eq!(take(&below), (2000, V1));
        let above = v1(UNLIMITED_V1, "cache 1\nhierarchical_memory_limit 3000\n");
        assert_eq!(take(&above), (3000, V1));
        assert!(said(&above, V1).ends_with("memory.stat"));
        let none = v1(
            UNLIMITED_V1,
            "hierarchical_memory_limit 9223372036854771712\n",
        );
        assert_eq!(
            (take(&none).1, &*said(&none, V1)),
            (Machine, "it sets no limit")
        );
        let older = v1("18446744073709551615\n", "");
        assert_eq!(take(&older).1, Machine);
        let garbled = v1("much", "hierarchical_memory_limit 4000\n");
        assert_eq!(take(&garbled), (4000, V1));
        let broken = v1("much", "");
        assert!(said(&broken, V1).ends_with("is not understood"));
        let container = machine()
            .file("proc/self/cgroup", "4:memory:/docker/c\n")
            .file(
                "proc/self/mountinfo",
                "35 31 0:32 /docker/c /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
            )
            .file("sys/fs/cgroup/memory/memory.limit_in_bytes", "8000\n");
        assert_eq!(take(&container), (8000, V1));
    }

    #[test]
    fn in_a_hybrid_the_version_that_has_the_controller_counts() {
        let hybrid = v1("2000\n", "")
            .file("proc/self/cgroup", "4:memory:/docker/c\n0::/docker/c\n")
            .file(
                "proc/self/mountinfo",
                format!("{LEGACY}38 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"),
            )
            .file("sys/fs/cgroup/unified/docker/c/cgroup.procs", "1\n");
        assert_eq!(take(&hybrid), (2000, V1));
        assert!(said(&hybrid, V2).contains("controller"));
    }

    #[test]
    fn the_point_at_which_the_kernel_slows_us_down_is_a_limit_too() {
        let fixture = v2("/a/b")
            .file("sys/fs/cgroup/a/b/memory.max", "9000\n")
            .file("sys/fs/cgroup/a/b/memory.high", "7000\n");
        assert_eq!(take(&fixture), (7000, V2));
        assert!(said(&fixture, V2).ends_with("/a/b/memory.high"));
        fixture.write("sys/fs/cgroup/a/memory.high", "6000\n");
        assert_eq!(take(&fixture), (6000, V2));
        fixture.write("sys/fs/cgroup/a/memory.high", "max\n");
        fixture.write("sys/fs/cgroup/a/b/memory.high", "max\n");
        assert_eq!(take(&fixture), (9000, V2));
        fixture.write("sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(said(&fixture, V2), "it sets no limit");
        fixture.write("sys/fs/cgroup/a/b/memory.high", "some\n");
        assert!(said(&fixture, V2).ends_with("memory.high is not understood"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_stands_in_the_files_a_budget_comes_out(
            cgroup in "([0-9]{0,2}:[a-z,=]{0,9}:/?[a-z./]{0,9}\n){0,3}",
            mountinfo in "([0-9/a-z -]{0,40}\n){0,3}",
            max in "[0-9a-z\n-]{0,25}",
            stat in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let fixture = machine()
                .file("proc/self/cgroup", format!("{cgroup}4:memory:/docker/c\n0::/a\n"))
                .file("proc/self/mountinfo", format!("{mountinfo}{LEGACY}{UNIFIED}"))
                .file("sys/fs/cgroup/a/memory.max", &max)
                .file("sys/fs/cgroup/memory/docker/c/memory.limit_in_bytes", &max)
                .file("sys/fs/cgroup/memory/docker/c/memory.stat", stat);
            let reading = take_with(&fixture, None).unwrap();
            prop_assert!(reading.bytes <= 8 * GIB || reading.source != Machine);
        }
    }
}
