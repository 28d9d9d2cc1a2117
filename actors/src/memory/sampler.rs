//! One reading of everything. Blocks on files of the kernel, so it runs on a thread for that.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::allocator::{Allocator, AllocatorStats};
use super::budget::{BudgetReading, Groups, NoBudget};
use super::config::MemoryConfig;
use super::probe::{
    CgroupPeers, GroupUsage, KernelKills, KillCounter, MachineMemory, Peers, Physical, Probe,
    ProbeError, ProcessTree, SharedFiles, SourceStatus, StallReading, Stalls, System, TreeUsage,
};
use super::sources::{Found, Reporter};

/// A group's limit may change while we run, and rarely does.
const BUDGET_AGE_MAX: Duration = Duration::from_secs(5);

/// One reading.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) usage: TreeUsage,
    /// What is used by the word of our control group.
    pub(super) counted: Option<u64>,
    pub(super) budget: BudgetReading,
    /// Everything that the kernel counts for our control group, ours alone or not.
    pub(super) group: Option<GroupUsage>,
    pub(super) stalls: Option<StallReading>,
    pub(super) allocator: Option<AllocatorStats>,
    /// Processes that the kernel has killed for want of memory.
    pub(super) kernel_kills: Option<KernelKills>,
    /// What is to be known of every source.
    pub(super) sources: Vec<SourceStatus>,
    /// How long it took.
    pub(super) took: Duration,
}

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub(super) enum SampleError {
    #[error("the processes of the server cannot be read")]
    Processes(#[source] ProbeError),
    #[error(transparent)]
    Budget(#[from] NoBudget),
    #[error("reading memory panicked")]
    Panicked,
}

/// What a reading leaves for the next one.
pub(super) struct Sampler {
    system: System,
    tree: ProcessTree,
    shared_files: SharedFiles,
    stalls: Stalls,
    kills: KillCounter,
    allocator: Arc<Allocator>,
    cgroup_peers: CgroupPeers,
    reporter: Reporter,
    reserve: Reserve,
    last_budget: Option<LastBudget>,
}

/// Descriptors kept for the files that a reading opens, so that memory is still read when others have
/// taken all that the process may have.
#[derive(Debug, Default)]
struct Reserve(Vec<File>);

impl Reserve {
    /// Files that a reading has open at one time: a few nested folders, and a file in the last.
    const SIZE: usize = 8;

    fn release(&mut self) {
        self.0.clear();
    }

    /// Takes back as many as there are; the rest at the next reading.
    fn refill(&mut self) {
        while self.0.len() < Self::SIZE
            && let Ok(file) = File::open("/dev/null")
        {
            self.0.push(file);
        }
    }
}

struct LastBudget {
    groups: Groups,
    machine: Result<MachineMemory, ProbeError>,
    reading: BudgetReading,
    /// The settings it was taken with.
    config: MemoryConfig,
    at: Instant,
}

impl Sampler {
    pub(super) fn new(system: &System, allocator: Arc<Allocator>) -> Self {
        Self {
            system: system.clone(),
            tree: ProcessTree::new(system),
            shared_files: SharedFiles::new(system),
            stalls: Stalls::new(system),
            kills: KillCounter::find(system),
            allocator,
            cgroup_peers: CgroupPeers::default(),
            reporter: Reporter::default(),
            reserve: Reserve::default(),
            last_budget: None,
        }
    }

    pub(super) fn read(&mut self, config: &MemoryConfig) -> Result<Reading, SampleError> {
        self.reserve.release();
        let reading = self.read_all(config);
        self.reserve.refill();
        reading
    }

    fn read_all(&mut self, config: &MemoryConfig) -> Result<Reading, SampleError> {
        let began = Instant::now();
        let mut usage = self.tree.read().map_err(SampleError::Processes)?;
        usage.shared_files = self.shared_files.bytes(usage.processes.keys());
        let allocator = (&*self.allocator).read();
        let stalls = self.stalls.read();
        let kernel_kills = self.kills.read();
        let last = Self::budget(&mut self.last_budget, &self.system, config)?;
        let counts = last.groups.read();
        let charged = counts.charged().map(|(_, usage)| usage);
        let others = charged.map_or(Peers::Unknown, |group| {
            self.cgroup_peers.others(&group.directory, &usage.processes)
        });
        let found = Found {
            budget: &last.reading,
            usage: &usage,
            groups: &counts,
            others,
            machine: &last.machine,
            allocator: &allocator,
            stalls: &stalls,
            kills: kernel_kills,
        };
        let sources = self.reporter.report(&found, began);
        let counted = found.counted();
        Ok(Reading {
            counted,
            group: charged.cloned(),
            budget: last.reading.clone(),
            usage,
            stalls: stalls.ok(),
            allocator: allocator.ok(),
            kernel_kills,
            sources,
            took: began.elapsed(),
        })
    }

    fn budget<'last>(
        last: &'last mut Option<LastBudget>,
        system: &System,
        config: &MemoryConfig,
    ) -> Result<&'last mut LastBudget, NoBudget> {
        let fresh = last
            .take()
            .filter(|last| last.at.elapsed() < BUDGET_AGE_MAX && last.config == *config);
        let fresh = match fresh {
            Some(last) => last,
            None => {
                let groups = Groups::find(system);
                LastBudget {
                    reading: BudgetReading::take(config, &groups, system)?,
                    groups,
                    machine: Physical::new(system).read(),
                    config: *config,
                    at: Instant::now(),
                }
            }
        };
        Ok(last.insert(fresh))
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::fixture::Fixture;
    use super::super::probe::{Health, Scope, Source};
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    impl Reading {
        fn used(&self) -> u64 {
            self.usage.total().max(self.counted.unwrap_or(0))
        }
    }
    const GROUP: &str = "sys/fs/cgroup/a";

    /// A server of 300 MiB on a machine of 16 GiB, alone in a group of version 2.
    fn in_v2() -> Fixture {
        let fixture = Fixture::new()
            .file(
                "proc/meminfo",
                "MemTotal: 16777216 kB\nMemAvailable: 4096 kB\n",
            )
            .file(
                "proc/pressure/memory",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
            )
            .file("proc/vmstat", "oom_kill 4\n")
            .file("proc/self/cgroup", "0::/a\n")
            .file(
                "proc/self/mountinfo",
                "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            );
        // Written before, and now replaced by a link to the process.
        let own = ["cgroup", "mountinfo"].map(|name| {
            let path = format!("proc/self/{name}");
            let text = std::fs::read_to_string(fixture.path(&path)).unwrap();
            (name, text)
        });
        fixture.remove("proc/self");
        fixture.process(100, 1, "headroom", 300 << 10);
        for (name, text) in own {
            fixture.write(&format!("proc/100/{name}"), text);
        }
        for (name, text) in [
            ("memory.max", "1073741824\n"),
            ("memory.current", "419430400\n"),
            ("memory.events", "low 0\nhigh 3\nmax 7\noom 2\noom_kill 1\n"),
            ("cgroup.procs", "100\n"),
            (
                "memory.stat",
                "anon 300\nfile 9\ninactive_file 52428800\nactive_file 31457280\nmapped_file 10485760\n",
            ),
        ] {
            fixture.write(&format!("{GROUP}/{name}"), text);
        }
        fixture
    }

    fn sampler(fixture: &Fixture) -> Sampler {
        Sampler::new(&fixture.system(), Arc::new(Allocator::new()))
    }

    fn read(fixture: &Fixture) -> Reading {
        sampler(fixture).read(&MemoryConfig::default()).unwrap()
    }

    fn status(reading: &Reading, source: Source) -> &SourceStatus {
        let mut sources = reading.sources.iter();
        sources.find(|status| status.source == source).unwrap()
    }

    /// What is said of a source once every doubt has stood long enough.
    fn at_last(fixture: &Fixture, config: &MemoryConfig, source: Source) -> SourceStatus {
        let mut sampler = sampler(fixture);
        let first = sampler.read(config).unwrap();
        sampler.reporter.age(Duration::from_secs(1));
        let second = sampler.read(config).unwrap();
        let health = |reading| status(reading, source).health;
        assert!(health(&first) == health(&second) || health(&first) == Health::Healthy);
        status(&second, source).clone()
    }

    fn assert_status(status: &SourceStatus, in_use: bool, health: Health, detail: &str) {
        assert!(status.detail.contains(detail), "{status:?}");
        assert_eq!(
            (status.in_use, status.health),
            (in_use, health),
            "{status:?}"
        );
    }

    #[test]
    fn every_source_is_read_and_says_whether_it_is_in_use() {
        let fixture = in_v2();
        let reading = read(&fixture);
        assert_eq!(reading.budget.bytes, 1 << 30);
        // 400 MiB less what nobody maps of 80 MiB of cache, of which 10 MiB are mapped.
        assert_eq!(reading.counted, Some(330 * MIB));
        assert_eq!(reading.used(), 330 * MIB);
        let group = reading.group.as_ref().unwrap();
        assert_eq!((group.throttled, group.limit_hits), (Some(3), Some(7)));
        assert_eq!((group.oom_kills, group.anonymous), (Some(1), 300));
        let kills = reading.kernel_kills.unwrap();
        assert_eq!((kills.count, kills.scope), (1, Scope::Group));
        assert_eq!(reading.stalls.as_ref().unwrap().some_total_us, 5);
        assert!(reading.allocator.unwrap().allocated > 0);
        let said: Vec<_> = reading.sources.iter().collect();
        let brief = said.iter().map(|s| (s.source, s.in_use, s.health));
        use Health::{Absent, Healthy};
        assert_eq!(
            brief.collect::<Vec<_>>(),
            [
                (Source::Configured, false, Absent),
                (Source::CgroupV2, true, Healthy),
                (Source::CgroupV1, false, Absent),
                (Source::Processes, true, Healthy),
                (Source::Machine, false, Healthy),
                (Source::Allocator, true, Healthy),
                (Source::Stalls, true, Healthy),
                (Source::KernelKills, true, Healthy),
            ]
        );
        assert!(said[1].detail.contains("ours alone"), "{:?}", said[1]);
        // What the processes share counts where it is more.
        fixture.process(100, 1, "headroom", 380 << 10);
        assert_eq!(read(&fixture).used(), 380 * MIB);
    }

    #[test]
    fn a_group_of_version_1_is_read_by_its_own_names() {
        let fixture = in_v2();
        fixture.remove("sys");
        fixture.write("proc/100/cgroup", "4:memory:/docker/c\n");
        fixture.write(
            "proc/100/mountinfo",
            "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        );
        for (name, text) in [
            ("memory.limit_in_bytes", "1073741824\n"),
            ("memory.usage_in_bytes", "419430400\n"),
            ("memory.failcnt", "6\n"),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            ),
            ("cgroup.procs", "100\n"),
            (
                "memory.stat",
                "inactive_file 1\nactive_file 1\ntotal_rss 8\ntotal_cache 9\n\
                 total_inactive_file 52428800\ntotal_active_file 31457280\n\
                 total_mapped_file 10485760\n",
            ),
        ] {
            fixture.write(&format!("sys/fs/cgroup/memory/docker/c/{name}"), text);
        }
        let reading = read(&fixture);
        assert_eq!(reading.counted, Some(330 * MIB));
        let group = reading.group.as_ref().unwrap();
        assert_eq!((group.limit_hits, group.oom_kills), (Some(6), Some(2)));
        assert_eq!((group.anonymous, group.file, group.high), (8, 9, None));
        let v1 = status(&reading, Source::CgroupV1);
        assert_status(v1, true, Health::Healthy, "ours alone");
        fixture.write(
            "sys/fs/cgroup/memory/docker/c/memory.stat",
            "total_inactive_file x\n",
        );
        let reading = read(&fixture);
        assert_eq!((reading.counted, reading.used()), (None, 300 * MIB));
        let v1 = status(&reading, Source::CgroupV1);
        assert_status(v1, true, Health::Failing, "memory.stat is not understood");
    }

    #[test]
    fn a_missing_or_garbled_file_is_named_and_the_rest_goes_on() {
        let config = MemoryConfig::default();
        let said = |fixture: &Fixture, source| at_last(fixture, &config, source);
        let fixture = in_v2();
        fixture.write(&format!("{GROUP}/memory.current"), "-\n");
        let v2 = said(&fixture, Source::CgroupV2);
        assert_status(
            &v2,
            true,
            Health::Failing,
            "memory.current is not understood",
        );
        std::fs::remove_file(fixture.path(&format!("{GROUP}/memory.current"))).unwrap();
        let v2 = said(&fixture, Source::CgroupV2);
        assert_status(&v2, true, Health::Failing, "controller does not act");
        std::fs::remove_file(fixture.path(&format!("{GROUP}/memory.max"))).unwrap();
        let v2 = said(&fixture, Source::CgroupV2);
        assert_status(&v2, false, Health::Absent, "controller does not act");

        fixture.write("proc/pressure/memory", "some\n");
        let stalls = said(&fixture, Source::Stalls);
        assert_status(
            &stalls,
            false,
            Health::Failing,
            "pressure/memory is not understood",
        );
        fixture.remove("proc/pressure");
        let stalls = said(&fixture, Source::Stalls);
        assert_status(&stalls, false, Health::Absent, "cannot be read");
        fixture.write(&format!("{GROUP}/memory.events"), "");
        let kills = said(&fixture, Source::KernelKills);
        assert_status(&kills, true, Health::Healthy, "whole machine");
        fixture.write("proc/vmstat", "oom_kill many\n");
        let kills = said(&fixture, Source::KernelKills);
        assert_status(&kills, false, Health::Absent, "counts none");
        fixture.write("proc/meminfo", "MemTotal: none\n");
        let limited = MemoryConfig {
            limit: Some(1 << 40),
            ..config
        };
        let machine = at_last(&fixture, &limited, Source::Machine);
        assert_status(
            &machine,
            false,
            Health::Failing,
            "meminfo is not understood",
        );
        std::fs::remove_file(fixture.path("proc/100/smaps_rollup")).unwrap();
        fixture.write("proc/100/status", "VmRSS: 9 kB\nRssAnon: 5 kB\n");
        let processes = at_last(&fixture, &limited, Source::Processes);
        assert_status(&processes, true, Health::Misleading, "no process's share");
    }

    #[test]
    fn a_limit_that_cannot_be_meant_is_named() {
        let config = MemoryConfig::default();
        let fixture = in_v2();
        fixture.write(&format!("{GROUP}/memory.max"), "209715200\n");
        let v2 = at_last(&fixture, &config, Source::CgroupV2);
        assert_status(
            &v2,
            true,
            Health::Misleading,
            "allows 209715200 bytes while",
        );
        fixture.write(&format!("{GROUP}/memory.max"), "99999999999999\n");
        let v2 = at_last(&fixture, &config, Source::CgroupV2);
        // Its count is still good.
        assert_status(
            &v2,
            true,
            Health::Misleading,
            "no less than the machine has",
        );
        let small = MemoryConfig {
            limit: Some(MIB),
            ..config
        };
        let configured = at_last(&fixture, &small, Source::Configured);
        assert_status(&configured, true, Health::Misleading, "1048576 bytes while");
        let large = MemoryConfig {
            limit: Some(1 << 50),
            ..config
        };
        let configured = at_last(&fixture, &large, Source::Configured);
        assert_status(
            &configured,
            false,
            Health::Misleading,
            "more than the machine",
        );
    }

    #[test]
    fn in_a_group_that_is_not_ours_alone_what_others_leave_below_its_limit_counts() {
        let fixture = in_v2();
        fixture.write(&format!("{GROUP}/cgroup.procs"), "100\n4711\n");
        let reading = read(&fixture);
        assert_eq!(reading.counted, Some(330 * MIB));
        let tighter = MemoryConfig {
            limit: Some(512 * MIB),
            ..MemoryConfig::default()
        };
        let system = fixture.system();
        let mut sampler = Sampler::new(&system, Arc::new(Allocator::new()));
        let reading = sampler.read(&tighter).unwrap();
        // 694 MiB are left below the group's limit: more than our own leaves.
        assert_eq!((reading.counted, reading.used()), (Some(0), 300 * MIB));
        let reading = read(&fixture);
        assert_eq!(reading.budget.bytes, 1 << 30);
        assert!(reading.group.is_some());
        let v2 = status(&reading, Source::CgroupV2);
        assert_status(v2, true, Health::Misleading, "shared with process 4711");
        fixture.write(&format!("{GROUP}/cgroup.procs"), "everybody\n");
        let reading = read(&fixture);
        assert_eq!((reading.counted, reading.used()), (None, 300 * MIB));
        let v2 = status(&reading, Source::CgroupV2);
        assert_status(v2, true, Health::Failing, "does not tell its processes");
    }

    #[test]
    fn a_count_far_from_what_the_processes_share_is_doubted_once_that_lasts() {
        let config = MemoryConfig::default();
        let fixture = in_v2();
        for kilobytes in [100 << 10, 700 << 10] {
            fixture.process(100, 1, "headroom", kilobytes);
            let mut sampler = sampler(&fixture);
            let first = sampler.read(&config).unwrap();
            assert_eq!(status(&first, Source::CgroupV2).health, Health::Healthy);
            let v2 = at_last(&fixture, &config, Source::CgroupV2);
            assert_status(&v2, true, Health::Misleading, "its processes share");
        }
        // More than a quarter, or more than 64 MiB, but not both.
        for kilobytes in [270 << 10, 400 << 10] {
            fixture.process(100, 1, "headroom", kilobytes);
            let v2 = at_last(&fixture, &config, Source::CgroupV2);
            assert_eq!(v2.health, Health::Healthy, "{v2:?}");
        }
        // A doubt that passes begins anew.
        let mut reporter = sampler(&fixture);
        fixture.process(100, 1, "headroom", 100 << 10);
        reporter.read(&config).unwrap();
        reporter.reporter.age(Duration::from_secs(1));
        fixture.process(100, 1, "headroom", 300 << 10);
        reporter.read(&config).unwrap();
        fixture.process(100, 1, "headroom", 100 << 10);
        let reading = reporter.read(&config).unwrap();
        assert_eq!(status(&reading, Source::CgroupV2).health, Health::Healthy);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn whatever_stands_in_the_files_a_reading_comes_out(
            file in prop::sample::select(vec![
                "sys/fs/cgroup/a/memory.max", "sys/fs/cgroup/a/memory.high",
                "sys/fs/cgroup/a/memory.current", "sys/fs/cgroup/a/memory.stat",
                "sys/fs/cgroup/a/memory.events", "sys/fs/cgroup/a/cgroup.procs",
                "proc/pressure/memory", "proc/vmstat", "proc/100/smaps_rollup",
                "proc/100/cgroup", "proc/100/mountinfo",
            ]),
            garbage in prop::collection::vec(any::<u8>(), 0..60),
            lines in "((anon|inactive_file|active_file|mapped_file|oom_kill|max|some|Pss:|[0-9]{1,21}|[ :/\n-])){0,30}",
            is_bytes in any::<bool>(),
        ) {
            let fixture = in_v2();
            fixture.write("proc/100/status", "RssAnon: 5 kB\n");
            fixture.write(file, if is_bytes { garbage } else { lines.into_bytes() });
            let reading = read(&fixture);
            prop_assert_eq!(reading.sources.len(), 8);
            prop_assert!(reading.used() >= reading.usage.total());
        }
    }
}
