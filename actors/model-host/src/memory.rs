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
/// and not been touched when nothing is loaded yet, and the stacks of threads to come. The bound does not depend on
/// what is in use when it is set: whoever sets it knows that only from before.
#[derive(Debug)]
pub(crate) struct MemoryBound {
    /// Bytes of data that the kernel counts when nothing is loaded, and of the stacks to come.
    at_start: u64,
    /// Bytes in use then that belong to no file: those of the process that this one was forked from.
    anonymous_at_start: u64,
}

impl MemoryBound {
    /// To be called before anything is loaded, with the number of threads that will compute.
    pub(crate) fn new(threads: u32) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stacks = STACK.saturating_mul(u64::from(threads));
        Self {
            at_start: kilobytes(&status, "VmData:").saturating_add(stacks),
            anonymous_at_start: anonymous_in(&status),
        }
    }

    /// From now on this process may have `own_max` bytes of its own.
    pub(crate) fn set(&self, own_max: u64) -> io::Result<()> {
        let own = anonymous().saturating_sub(self.anonymous_at_start);
        let own_max = own_max.max(own.saturating_add(GROWTH_MIN));
        process::limit_data(self.at_start.saturating_add(own_max))
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
