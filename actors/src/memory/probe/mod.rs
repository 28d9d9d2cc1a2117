//! Where the numbers come from: one file per source.
//!
//! A [`Probe`] is one source. It tells what it knows or why it is silent, and never fails in any
//! other way: whatever stands in the files, the worst that comes of it is [`ProbeError`]. What the
//! sources say is put together, doubted and reported elsewhere. All of them read plain files below
//! a root that tests replace by a folder of fixtures; only the allocator's numbers come from within.

mod cgroup;
mod cgroup_peers;
mod cgroup_v1;
mod cgroup_v2;
#[cfg(test)]
pub(super) mod fixture;
mod group_usage;
mod kills;
mod physical;
mod process;
mod process_tree;
mod shared_files;
mod source;
mod stall_trigger;
mod stalls;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

pub(super) use cgroup_peers::{CgroupPeers, Peers};
pub(super) use cgroup_v1::CgroupV1;
pub(super) use cgroup_v2::CgroupV2;
pub use group_usage::GroupUsage;
pub use kills::KernelKills;
pub(super) use kills::KillCounter;
pub(super) use physical::{MachineMemory, Physical};
pub use process::ProcessUsage;
pub(super) use process_tree::ProcessTree;
pub use process_tree::TreeUsage;
pub(super) use shared_files::SharedFiles;
pub use source::{Health, Source, SourceStatus};
pub(super) use stall_trigger::StallWatch;
pub use stalls::StallReading;
pub(super) use stalls::Stalls;

/// A limit, and the file that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) bytes: u64,
    pub(super) set_by: PathBuf,
}

/// What a number of the kernel is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Our control group.
    Group,
    /// The whole machine.
    Machine,
}

impl Scope {
    /// A fixed word for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Machine => "machine",
        }
    }
}

/// Why a source says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("this process is in no such group")]
    NoGroup,
    #[error("no such hierarchy is mounted")]
    NotMounted,
    #[error("its memory controller does not act on this group")]
    NoController,
    #[error("it sets no limit")]
    Unlimited,
    #[error("the process itself cannot be found")]
    NoProcess,
    #[error("the program's memory does not come from this allocator")]
    OtherAllocator,
    #[error("{} cannot be read: {kind}", .path.display())]
    Unreadable { path: PathBuf, kind: io::ErrorKind },
    #[error("{} is not understood", .0.display())]
    Garbled(PathBuf),
    #[error("the allocator refuses {0}")]
    Refused(String),
}

impl ProbeError {
    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        Self::Unreadable {
            path: path.to_owned(),
            kind: error.kind(),
        }
    }

    /// What it says of the source.
    pub(super) fn health(&self) -> Health {
        match self {
            Self::Unlimited => Health::Healthy,
            reason if reason.is_absence() => Health::Absent,
            _ => Health::Failing,
        }
    }

    /// Whether the source is simply not there on this machine, which is no failure.
    pub(super) fn is_absence(&self) -> bool {
        match self {
            Self::NoGroup | Self::NotMounted | Self::NoController | Self::OtherAllocator => true,
            Self::Unreadable { kind, .. } => *kind == io::ErrorKind::NotFound,
            Self::Unlimited | Self::NoProcess | Self::Garbled(_) | Self::Refused(_) => false,
        }
    }
}

/// One source of numbers.
pub(super) trait Probe {
    /// What it tells.
    type Value;

    /// Which source it is.
    const SOURCE: Source;

    /// What it tells now.
    fn read(&mut self) -> Result<Self::Value, ProbeError>;

    /// The limit that it sets us now; most set none.
    fn limit(&self) -> Result<Limit, ProbeError> {
        Err(ProbeError::Unlimited)
    }
}

/// The files of the running kernel, and whose view of them is taken.
#[derive(Debug, Clone)]
pub(super) struct System {
    root: PathBuf,
    process: String,
}

impl Default for System {
    fn default() -> Self {
        Self {
            root: "/".into(),
            process: "self".into(),
        }
    }
}

impl System {
    /// Files below `root` instead of the real ones.
    pub(super) fn rooted(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            ..Self::default()
        }
    }

    /// The view of another process.
    #[cfg(test)]
    pub(super) fn of(pid: u32) -> Self {
        Self {
            process: pid.to_string(),
            ..Self::default()
        }
    }

    /// An absolute path, below the root.
    pub(super) fn path(&self, absolute: &Path) -> PathBuf {
        self.root
            .join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// A file of `/proc`.
    fn proc(&self, name: &str) -> PathBuf {
        self.root.join("proc").join(name)
    }

    /// A file of the process whose view is taken.
    pub(super) fn own(&self, name: &str) -> PathBuf {
        self.proc(&self.process).join(name)
    }

    /// The process whose view is taken, by the number that this `/proc` knows it by.
    fn pid(&self) -> Option<i32> {
        if let Ok(pid) = self.process.parse() {
            return Some(pid);
        }
        let target = fs::read_link(self.proc(&self.process)).ok()?;
        target.to_str()?.parse().ok()
    }
}

/// Reads a small file of the kernel as text; what is not UTF-8 (a process may choose its name
/// freely) does not matter to any number in it.
fn read_text(path: &Path) -> Result<String, ProbeError> {
    let read = || {
        // The kernel tells no size beforehand; most of its files fit in here, and take one read.
        let mut bytes = Vec::with_capacity(4096);
        fs::File::open(path)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())),
        Err(error) => Err(ProbeError::unreadable(path, &error)),
    }
}

/// Reads a file that holds one number.
fn read_number(path: &Path) -> Result<u64, ProbeError> {
    let text = read_text(path)?;
    let number = text.trim().parse();
    number.map_err(|_| ProbeError::Garbled(path.to_owned()))
}

/// The value of a line such as `inactive_file 4096`.
fn stat_value(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let (_, value) = lines.find(|(name, _)| *name == key)?;
    value.trim().parse().ok()
}

/// The value of a line such as `MemTotal:  123 kB`, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number = value.strip_prefix(':')?.trim().strip_suffix("kB")?;
    number.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_lines_and_nothing_else() {
        let text =
            "Pss:                3 kB\nPss_Dirty: 9 kB\nHuge: 18446744073709551615 kB\nX: kB\n";
        assert_eq!(kilobytes(text, "Pss"), Some(3 * 1024));
        assert_eq!(kilobytes(text, "Swap"), None);
        assert_eq!(kilobytes(text, "Huge"), None);
        assert_eq!(kilobytes(text, "X"), None);
        let text = "file 1\ninactive_file 4096\ntotal_inactive_file x\n";
        assert_eq!(stat_value(text, "inactive_file"), Some(4096));
        assert_eq!(stat_value(text, "total_inactive_file"), None);
    }
}
