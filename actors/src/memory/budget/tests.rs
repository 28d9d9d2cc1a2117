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
    BudgetReading::take(&config, &Cgroups::find(&system), &system)
}

fn take(fixture: &Fixture) -> (u64, BudgetSource) {
    let reading = take_with(fixture, None).unwrap();
    (reading.bytes, reading.source)
}

fn detail(fixture: &Fixture, source: BudgetSource) -> String {
    let reading = take_with(fixture, None).unwrap();
    reading.candidate(source).unwrap().detail.clone()
}

#[test]
fn without_a_limit_the_budget_is_a_share_of_the_machine() {
    let bare = machine();
    assert_eq!(take(&bare), (8 * GIB, Machine));
    let limited = take_with(&bare, Some(GIB)).unwrap();
    assert_eq!((limited.bytes, limited.source), (GIB, Configured));
    assert_eq!(limited.ineffective_limit(), None);
    // A limit above the machine's memory is capped and reported.
    for absurd in [16 * GIB + 1, 64 * GIB, u64::MAX] {
        let capped = take_with(&bare, Some(absurd)).unwrap();
        assert_eq!((capped.bytes, capped.source), (16 * GIB, Machine));
        assert_eq!(capped.ineffective_limit(), Some(absurd));
        assert!(describe(&capped.candidates).contains("more than the machine has"));
    }
    // No source has a figure.
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
fn the_tightest_limit_of_nested_groups_is_the_budget() {
    let fixture = v2("/a.slice/b.service")
        .file("sys/fs/cgroup/a.slice/memory.max", "1073741824\n")
        .file("sys/fs/cgroup/a.slice/b.service/memory.max", "2147483648\n");
    assert_eq!(take(&fixture), (GIB, V2));
    assert!(detail(&fixture, V2).ends_with("/a.slice/memory.max"));
    fixture.write("sys/fs/cgroup/a.slice/b.service/memory.max", "4096\n");
    assert_eq!(take(&fixture), (4096, V2));
    // memory.limit wins only if it is tighter.
    assert_eq!(take_with(&fixture, Some(100)).unwrap().source, Configured);
    let above = take_with(&fixture, Some(GIB)).unwrap();
    assert_eq!((above.source, above.ineffective_limit()), (V2, Some(GIB)));
}

#[test]
fn no_limit_and_no_controller_and_a_malformed_file_have_different_details() {
    let unlimited = v2("/a").file("sys/fs/cgroup/a/memory.max", "max\n");
    assert_eq!(take(&unlimited), (8 * GIB, Machine));
    assert_eq!(detail(&unlimited, V2), "it sets no limit");
    let none = v2("/a");
    assert!(detail(&none, V2).contains("controller"));
    let malformed = v2("/a").file("sys/fs/cgroup/a/memory.max", "-1\u{0}");
    assert!(detail(&malformed, V2).ends_with("has an unexpected format"));
    assert_eq!(take(&malformed).1, Machine);
    // The limit of the parent applies to a group without the controller.
    let leaf = v2("/a/b").file("sys/fs/cgroup/a/memory.max", "7\n");
    assert_eq!(take(&leaf), (7, V2));
    let absurd = v2("/a").file("sys/fs/cgroup/a/memory.max", "99999999999999\n");
    assert_eq!(take(&absurd), (8 * GIB, Machine));
    assert!(detail(&absurd, V2).contains("no less than the machine has"));
    let unmounted = machine()
        .file("proc/self/cgroup", "0::/a\n")
        .file("proc/self/mountinfo", "");
    assert!(detail(&unmounted, V2).contains("mounted"));
    assert!(detail(&unmounted, V1).contains("no control group of this version"));
}

#[test]
fn the_limit_of_a_container_is_found_with_and_without_a_cgroup_namespace() {
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
fn with_version_1_the_limits_of_groups_above_apply_too() {
    let below = v1(
        "2000\n",
        "cache 1\nhierarchical_memory_limit 9223372036854771712\n",
    );
    assert_eq!(take(&below), (2000, V1));
    let above = v1(UNLIMITED_V1, "cache 1\nhierarchical_memory_limit 3000\n");
    assert_eq!(take(&above), (3000, V1));
    assert!(detail(&above, V1).ends_with("memory.stat"));
    let none = v1(
        UNLIMITED_V1,
        "hierarchical_memory_limit 9223372036854771712\n",
    );
    assert_eq!(
        (take(&none).1, &*detail(&none, V1)),
        (Machine, "it sets no limit")
    );
    let older = v1("18446744073709551615\n", "");
    assert_eq!(take(&older).1, Machine);
    let malformed = v1("much", "hierarchical_memory_limit 4000\n");
    assert_eq!(take(&malformed), (4000, V1));
    let broken = v1("much", "");
    assert!(detail(&broken, V1).ends_with("has an unexpected format"));
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
fn on_a_hybrid_system_the_version_with_the_controller_sets_the_limit() {
    let hybrid = v1("2000\n", "")
        .file("proc/self/cgroup", "4:memory:/docker/c\n0::/docker/c\n")
        .file(
            "proc/self/mountinfo",
            format!("{LEGACY}38 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"),
        )
        .file("sys/fs/cgroup/unified/docker/c/cgroup.procs", "1\n");
    assert_eq!(take(&hybrid), (2000, V1));
    assert!(detail(&hybrid, V2).contains("controller"));
}

#[test]
fn memory_high_is_a_limit_too() {
    let fixture = v2("/a/b")
        .file("sys/fs/cgroup/a/b/memory.max", "9000\n")
        .file("sys/fs/cgroup/a/b/memory.high", "7000\n");
    assert_eq!(take(&fixture), (7000, V2));
    assert!(detail(&fixture, V2).ends_with("/a/b/memory.high"));
    fixture.write("sys/fs/cgroup/a/memory.high", "6000\n");
    assert_eq!(take(&fixture), (6000, V2));
    fixture.write("sys/fs/cgroup/a/memory.high", "max\n");
    fixture.write("sys/fs/cgroup/a/b/memory.high", "max\n");
    assert_eq!(take(&fixture), (9000, V2));
    fixture.write("sys/fs/cgroup/a/b/memory.max", "max\n");
    assert_eq!(detail(&fixture, V2), "it sets no limit");
    fixture.write("sys/fs/cgroup/a/b/memory.high", "some\n");
    assert!(detail(&fixture, V2).ends_with("memory.high has an unexpected format"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_content_of_the_files_yields_a_budget(
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
