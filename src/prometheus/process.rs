//! The metrics of the server's own process, under the names that Prometheus' client libraries use, and
//! of the build. Hosts and private servers are processes of their own: their memory is in the memory
//! metrics.

use headroom_actors::kernel::{Label, Metric};

use super::exposition::Exposition;
use crate::figures::ProcessFigures;
use crate::figures::process::own_status;
use crate::version::{COMMIT, PROFILE, VERSION};

const BUILD_INFO: Metric = Metric::gauge(
    "headroom_build_info",
    "Always 1. The labels tell the build.",
)
.labels(&[
    Label::described("version", "the version of the package"),
    Label::described("commit", "the commit, or `unknown`"),
    Label::one_of("profile", &["debug", "release"]),
]);
const RESIDENT: Metric = Metric::gauge(
    "process_resident_memory_bytes",
    "Resident memory of the server process.",
);
const VIRTUAL: Metric = Metric::gauge(
    "process_virtual_memory_bytes",
    "Size of the address space of the server process.",
);
const CPU: Metric = Metric::counter(
    "process_cpu_seconds_total",
    "CPU time of the server process, in its own code and in the kernel.",
);
const START_TIME: Metric = Metric::gauge(
    "process_start_time_seconds",
    "When the server process started, in seconds since 1970.",
)
.alert("3 or more changes within an hour: the server restarts (`HeadroomRestarts`)");
const OPEN_FDS: Metric = Metric::gauge(
    "process_open_fds",
    "Open file descriptors of the server process.",
)
.alert("above 80 % of process_max_fds for 5 minutes: raise the limit (`HeadroomFileDescriptors`)");
const MAX_FDS: Metric = Metric::gauge(
    "process_max_fds",
    "The most file descriptors that it may open; absent without a limit.",
);
const THREADS: Metric = Metric::gauge("process_threads", "Threads of the server process.");

/// The metrics of this module.
pub const METRICS: &[Metric] = &[
    BUILD_INFO, RESIDENT, VIRTUAL, CPU, START_TIME, OPEN_FDS, MAX_FDS, THREADS,
];

/// Writes the metrics. What the kernel does not tell is left out. Blocks on files of the kernel.
pub(super) fn write(exposition: &mut Exposition, process: &ProcessFigures) {
    let build = [
        ("version", VERSION),
        ("commit", COMMIT),
        ("profile", PROFILE),
    ];
    exposition.family(&BUILD_INFO).sample(&build, 1.0);
    let status = process.status();
    let cpu = status.cpu_seconds_total;
    for (metric, value) in [
        (RESIDENT, memory("VmRSS")),
        (VIRTUAL, memory("VmSize")),
        (CPU, Some(cpu.user + cpu.system)),
        (START_TIME, Some(status.started_at.unix_seconds())),
        (OPEN_FDS, status.open_descriptors.map(|open| open as f64)),
        (MAX_FDS, status.descriptors_max.map(|max| max as f64)),
        (THREADS, status.threads.map(|threads| threads as f64)),
    ] {
        if let Some(value) = value {
            exposition.family(&metric).sample(&[], value);
        }
    }
}

/// Bytes that the kernel tells in KiB.
fn memory(name: &str) -> Option<f64> {
    own_status(name).map(|kib| kib as f64 * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_every_metric() {
        let mut exposition = Exposition::default();
        write(&mut exposition, &ProcessFigures::new());
        let text = exposition.into_text();
        let has = |metric: &Metric| {
            let mut lines = text.lines();
            lines.any(|line| line.starts_with(metric.name))
        };
        let missing = METRICS.iter().filter(|metric| !has(metric));
        let missing: Vec<_> = missing.filter(|metric| **metric != MAX_FDS).collect();
        assert!(missing.is_empty(), "{missing:?}: {text}");
        let (size, resident) = (memory("VmSize").unwrap(), memory("VmRSS").unwrap());
        assert!(size >= resident && resident > 1e6);
    }
}
