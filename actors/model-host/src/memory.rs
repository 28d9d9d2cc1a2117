//! This process's memory: measuring it, bounding it and giving it back.

use std::{fs, io};

use headroom_model_protocol::Memory;

use crate::process;

/// malloc's arenas: one for the thread that computes, one for the others. More only keep freed memory apart.
const ARENAS_MAX: i32 = 2;

/// What a thread's stack takes of the data that the kernel counts, used or not.
const STACK: u64 = 8 << 20;

/// What a bound always leaves for the small things of a process that may not grow any more, so that its answers and
/// signs of life do not fail.
const GROWTH_MIN: u64 = 8 << 20;

/// Bounds what this process takes of memory of its own.
///
/// The kernel's limit counts what is mapped, wanted is a bound of what is used. The difference is what has been mapped
/// and not been touched when nothing is loaded yet, and the stacks of threads to come.
#[derive(Debug)]
pub(crate) struct GrowthBound {
    /// Bytes of data that the kernel counts beyond those in use. Less than none where pages are in use that count as
    /// no data: those that were written once, at relocation.
    unused: i128,
}

impl GrowthBound {
    /// To be called before anything is loaded, with the number of threads that will compute.
    pub(crate) fn new(threads: u32) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let data = kilobytes(&status, "VmData:");
        let stacks = STACK.saturating_mul(u64::from(threads));
        Self {
            unused: i128::from(data) - i128::from(anonymous_in(&status)) + i128::from(stacks),
        }
    }

    /// From now on this process may take `growth_max` bytes more than it uses.
    pub(crate) fn set(&self, growth_max: u64) -> io::Result<()> {
        let used = i128::from(anonymous());
        let limit = self.unused + used + i128::from(growth_max.max(GROWTH_MIN));
        process::limit_data(u64::try_from(limit).unwrap_or(u64::MAX))
    }
}

/// Limits malloc's arenas. Called once, before a second thread exists.
pub(crate) fn limit_arenas() {
    // SAFETY: mallopt takes two integers and changes only malloc's own parameters.
    unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, ARENAS_MAX) };
}

/// Gives freed memory back to the system.
pub(crate) fn trim() {
    // SAFETY: malloc_trim may be called at any time from any thread; it touches only memory that is free.
    unsafe { nix::libc::malloc_trim(0) };
}

/// Measures this process. What the system does not tell is 0.
pub(crate) fn measure() -> Memory {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Memory {
        pss: kilobytes(&rollup, "Pss:"),
        private_dirty: kilobytes(&rollup, "Private_Dirty:"),
        anonymous: anonymous_in(&status),
        rss: kilobytes(&rollup, "Rss:"),
        peak_rss: kilobytes(&status, "VmHWM:"),
    }
}

/// Pages that belong to no file, in bytes. Much cheaper than [`measure`], for which the kernel walks all page tables.
pub(crate) fn anonymous() -> u64 {
    anonymous_in(&fs::read_to_string("/proc/self/status").unwrap_or_default())
}

fn anonymous_in(status: &str) -> u64 {
    kilobytes(status, "RssAnon:").saturating_add(kilobytes(status, "VmSwap:"))
}

/// The value of a line such as `Pss:   123 kB`, in bytes.
fn kilobytes(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    let number =
        value.and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    number.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_lines() {
        let text = "Rss:  12 kB\nPss:                3 kB\nPss_Dirty: 9 kB\nVmHWM:\t 7 kB\n";
        assert_eq!(kilobytes(text, "Pss:"), 3 * 1024);
        assert_eq!(kilobytes(text, "VmHWM:"), 7 * 1024);
        assert_eq!(kilobytes(text, "Swap:"), 0);
    }

    #[test]
    fn measures_this_process() {
        let memory = measure();
        assert!(
            memory.pss > 0 && memory.pss <= memory.rss && memory.rss <= memory.peak_rss + (1 << 20)
        );
    }
}
