//! The sources of memory figures, one file each.
//!
//! A probe reads one source. It returns what the source says or a [`ProbeError`], and never fails in
//! any other way, whatever is in the files. Other files of the memory module combine the figures and
//! check them against each other. All probes read files below a root, which tests replace by a
//! temporary folder.

mod cgroup_path;
mod cgroup_peers;
mod cgroup_usage;
mod cgroups;
#[cfg(test)]
pub(super) mod fixture;
mod oom_kills;
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
use utoipa::ToSchema;

pub(super) use cgroup_peers::{CgroupPeers, Peers};
pub use cgroup_usage::GroupUsage;
pub(super) use cgroups::{Cgroups, GroupUsages};
pub use oom_kills::KernelKills;
pub(super) use oom_kills::KillCounter;
pub use process::ProcessUsage;
pub(super) use process_tree::ProcessTree;
pub use process_tree::TreeUsage;
pub(super) use shared_files::SharedFiles;
pub use source::{Health, Source, SourceStatus};
pub(super) use stall_trigger::StallTrigger;
pub use stalls::StallReading;
pub(super) use stalls::Stalls;

/// A limit, and the file that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) bytes: u64,
    pub(super) set_by: PathBuf,
}

impl Limit {
    /// The limit in the text of the file `set_by`, which holds one number.
    fn parse(text: &str, set_by: PathBuf) -> Result<Self, ProbeError> {
        match text.trim().parse() {
            Ok(bytes) => Ok(Self { bytes, set_by }),
            Err(_) => Err(ProbeError::Malformed(set_by)),
        }
    }
}

/// The processes that a figure of the kernel covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MemoryScope)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The control group of this process.
    Group,
    /// The whole machine.
    Machine,
}

/// Why a source has no figure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("this process is in no control group of this version")]
    NoGroup,
    #[error("no control group hierarchy of this version is mounted")]
    NotMounted,
    #[error("the memory controller is not enabled for this control group")]
    NoController,
    #[error("it sets no limit")]
    Unlimited,
    #[error("this process is missing in /proc")]
    NoProcess,
    #[error("the kernel has no counter of kills")]
    NoKillCounter,
    #[error("this program does not use jemalloc")]
    OtherAllocator,
    #[error("{} cannot be read: {kind}", .path.display())]
    Unreadable { path: PathBuf, kind: io::ErrorKind },
    #[error("{} has an unexpected format", .0.display())]
    Malformed(PathBuf),
    #[error("jemalloc refuses {0}")]
    Refused(String),
}

impl ProbeError {
    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        Self::Unreadable {
            path: path.to_owned(),
            kind: error.kind(),
        }
    }

    /// The health of a source that answers with this error.
    pub(super) fn health(&self) -> Health {
        match self {
            Self::Unlimited => Health::Healthy,
            Self::NoGroup | Self::NotMounted | Self::NoController => Health::Absent,
            Self::NoKillCounter | Self::OtherAllocator => Health::Absent,
            Self::Unreadable { kind, .. } if *kind == io::ErrorKind::NotFound => Health::Absent,
            _ => Health::Failing,
        }
    }

    /// Whether this machine does not have the source, which is no failure.
    pub(super) fn is_absence(&self) -> bool {
        self.health() == Health::Absent
    }
}

/// The kernel's files, as one process sees them.
#[derive(Debug, Clone)]
pub(super) struct System {
    root: PathBuf,
    /// Its folder in `/proc`.
    pub(super) process: String,
}

impl Default for System {
    fn default() -> Self {
        Self::rooted("/")
    }
}

impl System {
    /// Files below `root` instead of the real ones.
    pub(super) fn rooted(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            process: "self".into(),
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

    /// A file of the process in `/proc`.
    pub(super) fn own(&self, name: &str) -> PathBuf {
        self.proc(&self.process).join(name)
    }

    /// The number of the process in this `/proc`.
    fn pid(&self) -> Option<i32> {
        if let Ok(pid) = self.process.parse() {
            return Some(pid);
        }
        let target = fs::read_link(self.proc(&self.process)).ok()?;
        target.to_str()?.parse().ok()
    }

    /// The machine's memory.
    pub(super) fn physical(&self) -> Result<Limit, ProbeError> {
        let path = self.proc("meminfo");
        let bytes = kilobytes(&read_text(&path)?, "MemTotal");
        let bytes = bytes.ok_or_else(|| ProbeError::Malformed(path.clone()))?;
        Ok(Limit {
            bytes,
            set_by: path,
        })
    }
}

/// Reads a small file of the kernel as text. Bytes that are not UTF-8, as in the name of a process,
/// are replaced.
fn read_text(path: &Path) -> Result<String, ProbeError> {
    let read = || {
        // These files report no size. Most of them fit into this buffer and need one read.
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
    Ok(Limit::parse(&read_text(path)?, path.to_owned())?.bytes)
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
    fn only_well_formed_lines_have_a_value() {
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
