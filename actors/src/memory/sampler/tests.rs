use super::super::probe::fixture::Fixture;
use super::super::probe::{Health, Scope, Source};
use super::*;
use crate::kernel::testing::counters::Counters;
use crate::memory::metrics::{self as record, METRICS};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

impl Reading {
    fn used(&self) -> u64 {
        self.usage.total().max(self.group_usage.unwrap_or(0))
    }
}

const GROUP: &str = "sys/fs/cgroup/a";

/// A server of 300 MiB on a machine of 16 GiB, in a control group of version 2 of its own.
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
    // `proc/self` becomes a link to the process, with these files in it.
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
    let mut sources = reading.report.sources.iter();
    sources.find(|status| status.source == source).unwrap()
}

/// The status of a source after every contradiction has lasted long enough.
fn lasting_status(fixture: &Fixture, config: &MemoryConfig, source: Source) -> SourceStatus {
    let mut sampler = sampler(fixture);
    let first = sampler.read(config).unwrap();
    sampler.checker.age(Duration::from_secs(1));
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
fn every_source_is_read_and_its_status_says_whether_it_is_in_use() {
    let fixture = in_v2();
    let reading = read(&fixture);
    assert_eq!(reading.report.budget.bytes, 1 << 30);
    // 400 MiB less the 70 MiB of file pages that no process maps.
    assert_eq!(reading.group_usage, Some(330 * MIB));
    assert_eq!(reading.used(), 330 * MIB);
    let group = reading.report.group.as_ref().unwrap();
    assert_eq!((group.throttled, group.limit_hits), (Some(3), Some(7)));
    assert_eq!((group.oom_kills, group.anonymous), (Some(1), 300));
    let kills = reading.report.kernel_kills.unwrap();
    assert_eq!((kills.count, kills.scope), (1, Scope::Group));
    assert_eq!(reading.report.stalls.as_ref().unwrap().some_total_us, 5);
    assert!(reading.report.allocator.unwrap().allocated > 0);
    let statuses: Vec<_> = reading.report.sources.iter().collect();
    let brief = statuses.iter().map(|s| (s.source, s.in_use, s.health));
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
    assert!(
        statuses[1].detail.contains("no other processes"),
        "{:?}",
        statuses[1]
    );
    // The PSS counts where it is more.
    fixture.process(100, 1, "headroom", 380 << 10);
    assert_eq!(read(&fixture).used(), 380 * MIB);
}

#[test]
fn a_control_group_of_version_1_is_read() {
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
    assert_eq!(reading.group_usage, Some(330 * MIB));
    let group = reading.report.group.as_ref().unwrap();
    assert_eq!((group.limit_hits, group.oom_kills), (Some(6), Some(2)));
    assert_eq!((group.anonymous, group.file, group.high), (8, 9, None));
    let v1 = status(&reading, Source::CgroupV1);
    assert_status(v1, true, Health::Healthy, "no other processes");
    fixture.write(
        "sys/fs/cgroup/memory/docker/c/memory.stat",
        "total_inactive_file x\n",
    );
    let reading = read(&fixture);
    assert_eq!((reading.group_usage, reading.used()), (None, 300 * MIB));
    let v1 = status(&reading, Source::CgroupV1);
    assert_status(
        v1,
        true,
        Health::Failing,
        "memory.stat has an unexpected format",
    );
}

#[test]
fn a_missing_or_malformed_file_is_named_and_the_other_sources_are_read() {
    let config = MemoryConfig::default();
    let lasting = |fixture: &Fixture, source| lasting_status(fixture, &config, source);
    let fixture = in_v2();
    fixture.write(&format!("{GROUP}/memory.current"), "-\n");
    let v2 = lasting(&fixture, Source::CgroupV2);
    assert_status(
        &v2,
        true,
        Health::Failing,
        "memory.current has an unexpected format",
    );
    std::fs::remove_file(fixture.path(&format!("{GROUP}/memory.current"))).unwrap();
    let v2 = lasting(&fixture, Source::CgroupV2);
    assert_status(&v2, true, Health::Failing, "controller is not enabled");
    std::fs::remove_file(fixture.path(&format!("{GROUP}/memory.max"))).unwrap();
    let v2 = lasting(&fixture, Source::CgroupV2);
    assert_status(&v2, false, Health::Absent, "controller is not enabled");

    fixture.write("proc/pressure/memory", "some\n");
    let stalls = lasting(&fixture, Source::Stalls);
    assert_status(
        &stalls,
        false,
        Health::Failing,
        "pressure/memory has an unexpected format",
    );
    fixture.remove("proc/pressure");
    let stalls = lasting(&fixture, Source::Stalls);
    assert_status(&stalls, false, Health::Absent, "cannot be read");
    fixture.write(&format!("{GROUP}/memory.events"), "");
    let kills = lasting(&fixture, Source::KernelKills);
    assert_status(&kills, true, Health::Healthy, "whole machine");
    fixture.write("proc/vmstat", "oom_kill many\n");
    let kills = lasting(&fixture, Source::KernelKills);
    assert_status(&kills, false, Health::Absent, "no counter");
    fixture.write("proc/meminfo", "MemTotal: none\n");
    let limited = MemoryConfig {
        limit: Some(1 << 40),
        ..config
    };
    let machine = lasting_status(&fixture, &limited, Source::Machine);
    assert_status(
        &machine,
        false,
        Health::Failing,
        "meminfo has an unexpected format",
    );
    std::fs::remove_file(fixture.path("proc/100/smaps_rollup")).unwrap();
    fixture.write("proc/100/status", "VmRSS: 9 kB\nRssAnon: 5 kB\n");
    let processes = lasting_status(&fixture, &limited, Source::Processes);
    assert_status(
        &processes,
        true,
        Health::Misleading,
        "the PSS of no process",
    );
}

#[test]
fn an_implausible_limit_is_reported() {
    let config = MemoryConfig::default();
    let fixture = in_v2();
    fixture.write(&format!("{GROUP}/memory.max"), "209715200\n");
    let v2 = lasting_status(&fixture, &config, Source::CgroupV2);
    assert_status(
        &v2,
        true,
        Health::Misleading,
        "allows 209715200 bytes while",
    );
    fixture.write(&format!("{GROUP}/memory.max"), "99999999999999\n");
    let v2 = lasting_status(&fixture, &config, Source::CgroupV2);
    // Its usage still counts.
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
    let configured = lasting_status(&fixture, &small, Source::Configured);
    assert_status(&configured, true, Health::Misleading, "1048576 bytes while");
    let large = MemoryConfig {
        limit: Some(1 << 50),
        ..config
    };
    let configured = lasting_status(&fixture, &large, Source::Configured);
    assert_status(
        &configured,
        false,
        Health::Misleading,
        "more than the machine",
    );
}

#[test]
fn in_a_shared_group_the_rest_below_its_limit_counts() {
    let fixture = in_v2();
    fixture.write(&format!("{GROUP}/cgroup.procs"), "100\n4711\n");
    let reading = read(&fixture);
    assert_eq!(reading.group_usage, Some(330 * MIB));
    let tighter = MemoryConfig {
        limit: Some(512 * MIB),
        ..MemoryConfig::default()
    };
    let system = fixture.system();
    let mut sampler = Sampler::new(&system, Arc::new(Allocator::new()));
    let reading = sampler.read(&tighter).unwrap();
    // 694 MiB are left below the group's limit: more than below memory.limit.
    assert_eq!((reading.group_usage, reading.used()), (Some(0), 300 * MIB));
    let reading = read(&fixture);
    assert_eq!(reading.report.budget.bytes, 1 << 30);
    assert!(reading.report.group.is_some());
    let v2 = status(&reading, Source::CgroupV2);
    assert_status(v2, true, Health::Misleading, "shared with process 4711");
    fixture.write(&format!("{GROUP}/cgroup.procs"), "everybody\n");
    let reading = read(&fixture);
    assert_eq!((reading.group_usage, reading.used()), (None, 300 * MIB));
    let v2 = status(&reading, Source::CgroupV2);
    assert_status(v2, true, Health::Failing, "cannot be listed");
}

#[test]
fn a_lasting_difference_between_the_group_and_its_processes_is_reported() {
    let config = MemoryConfig::default();
    let fixture = in_v2();
    for kilobytes in [100 << 10, 700 << 10] {
        fixture.process(100, 1, "headroom", kilobytes);
        let mut sampler = sampler(&fixture);
        let first = sampler.read(&config).unwrap();
        assert_eq!(status(&first, Source::CgroupV2).health, Health::Healthy);
        let v2 = lasting_status(&fixture, &config, Source::CgroupV2);
        assert_status(&v2, true, Health::Misleading, "the PSS of its processes");
    }
    // The difference is more than a quarter, or more than 64 MiB, but not both.
    for kilobytes in [270 << 10, 400 << 10] {
        fixture.process(100, 1, "headroom", kilobytes);
        let v2 = lasting_status(&fixture, &config, Source::CgroupV2);
        assert_eq!(v2.health, Health::Healthy, "{v2:?}");
    }
    // After an interruption the time starts again.
    let mut sampler = sampler(&fixture);
    fixture.process(100, 1, "headroom", 100 << 10);
    sampler.read(&config).unwrap();
    sampler.checker.age(Duration::from_secs(1));
    fixture.process(100, 1, "headroom", 300 << 10);
    sampler.read(&config).unwrap();
    fixture.process(100, 1, "headroom", 100 << 10);
    let reading = sampler.read(&config).unwrap();
    assert_eq!(status(&reading, Source::CgroupV2).health, Health::Healthy);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_content_of_the_files_yields_a_reading(
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
        prop_assert_eq!(reading.report.sources.len(), 8);
        prop_assert!(reading.used() >= reading.usage.total());
    }
}

#[test]
fn what_the_sources_report_is_recorded_as_declared() {
    let reading = read(&in_v2());
    let counters = Counters::of(METRICS);
    metrics::with_local_recorder(&counters, || record::sources(&reading.report));
    let names = counters.names();
    for name in ["group_bytes", "stall_ratio", "kernel_kills_total"] {
        let name = format!("headroom_memory_{name}");
        assert!(names.contains(&name), "{name}: {names:?}");
    }
}
