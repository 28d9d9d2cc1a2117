//! This process's memory: measuring it, limiting it, and returning free memory to the system.

use std::{fs::File, io, os::unix::fs::FileExt, sync::OnceLock};

use headroom_model_protocol::Memory;

use crate::process;

/// malloc's arenas: one for the thread that computes, one for the others. More arenas only keep more freed memory.
const ARENAS_MAX: i32 = 2;

/// Bytes of a thread's stack. The kernel counts them as data, used or not.
const STACK: u64 = 8 << 20;

/// Bytes that every bound leaves for growth, so that a process at its bound can still read requests and send replies.
const GROWTH_MIN: u64 = 8 << 20;

/// The kernel's figures of this process.
static STATUS: Figures = Figures::new("/proc/self/status");

/// As [`STATUS`], with shared pages counted in parts.
static ROLLUP: Figures = Figures::new("/proc/self/smaps_rollup");

/// A file of the kernel that is read again and again. It stays open, because a confined process cannot open it.
struct Figures {
    path: &'static str,
    file: OnceLock<Option<File>>,
}

impl Figures {
    const fn new(path: &'static str) -> Self {
        Self {
            path,
            file: OnceLock::new(),
        }
    }

    fn file(&self) -> Option<&File> {
        let open = || File::open(self.path).ok();
        self.file.get_or_init(open).as_ref()
    }

    /// Its text now; empty where the system does not have it.
    fn read(&self) -> String {
        let read = self.file().map(read_from_start).transpose();
        let bytes = read.ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn read_from_start(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = file.read_at(&mut chunk, bytes.len() as u64)?;
        if read == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&chunk[..read]);
    }
}

/// Opens what later measurements read. To be called in the process that they measure, which may then give up the right
/// to open files.
pub(crate) fn open_figures() {
    STATUS.file();
    ROLLUP.file();
}

/// Bounds the memory that this process allocates for itself.
///
/// The kernel's limit counts mapped memory, the bound counts used memory. The difference is the memory that is mapped
/// and unused before a model is loaded, and the stacks of later threads. The limit does not depend on the use at the
/// time when the bound is set, because the server computes the bound from an earlier reading.
#[derive(Debug)]
pub(crate) struct MemoryBound {
    /// Bytes of data that the kernel counts before a model is loaded, and of the stacks of later threads.
    at_start: u64,
    /// Anonymous bytes before a model is loaded: those of the process that this one was forked from.
    anonymous_at_start: u64,
}

impl MemoryBound {
    /// To be called before a model is loaded. `threads` will compute.
    pub(crate) fn new(threads: u32) -> Self {
        let status = STATUS.read();
        let stacks = STACK.saturating_mul(u64::from(threads));
        Self {
            at_start: kilobytes(&status, "VmData:").saturating_add(stacks),
            anonymous_at_start: anonymous_in(&status),
        }
    }

    /// Sets the bound to `own_max` bytes. A failure is logged only: the server measures this process, too.
    pub(crate) fn set(&self, own_max: u64) {
        let own = anonymous().saturating_sub(self.anonymous_at_start);
        let own_max = own_max.max(own.saturating_add(GROWTH_MIN));
        if let Err(error) = process::limit_data(self.at_start.saturating_add(own_max)) {
            process::log(&format!("cannot bound this process's memory: {error}"));
        }
    }
}

/// Limits the number of malloc's arenas. To be called once, before a second thread exists.
pub(crate) fn limit_arenas() {
    // SAFETY: mallopt takes two integers and changes only malloc's own parameters.
    unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, ARENAS_MAX) };
}

/// Returns freed memory to the system.
pub(crate) fn trim() {
    // SAFETY: malloc_trim may be called at any time from any thread; it touches only memory that is free.
    unsafe { nix::libc::malloc_trim(0) };
}

/// Measures this process. A figure that the system does not have is 0.
pub(crate) fn measure() -> Memory {
    let rollup = ROLLUP.read();
    Memory {
        pss: kilobytes(&rollup, "Pss:"),
        anonymous: anonymous(),
    }
}

/// Bytes of pages that belong to no file. Much cheaper than [`measure`], for which the kernel walks all page tables.
pub(crate) fn anonymous() -> u64 {
    anonymous_in(&STATUS.read())
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
    fn lines_of_the_kernel_are_parsed() {
        let text = "Rss:  12 kB\nPss:                3 kB\nPss_Dirty: 9 kB\nVmHWM:\t 7 kB\n";
        assert_eq!(kilobytes(text, "Pss:"), 3 * 1024);
        assert_eq!(kilobytes(text, "VmHWM:"), 7 * 1024);
        assert_eq!(kilobytes(text, "Swap:"), 0);
    }

    #[test]
    fn this_process_is_measured() {
        let memory = measure();
        assert!(memory.pss > 1 << 20 && memory.anonymous > 0, "{memory:?}");
    }
}
