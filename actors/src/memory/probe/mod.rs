//! Where the numbers come from: one file per source.
//!
//! A [`Probe`] is a place that may limit us. All of them read plain files below a root that tests
//! replace by a folder of fixtures.

mod cgroup;
mod cgroup_v1;
mod cgroup_v2;
mod physical;
mod process;
mod process_tree;
mod shared_files;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(super) use cgroup_v1::CgroupV1;
pub(super) use cgroup_v2::CgroupV2;
pub(super) use physical::Physical;
pub use process::ProcessUsage;
pub(super) use process_tree::ProcessTree;
pub use process_tree::TreeUsage;
pub(super) use shared_files::SharedFiles;

/// A limit, and the file that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) bytes: u64,
    pub(super) set_by: PathBuf,
}

/// Why a source limits nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoLimit {
    #[error("this process is in no such group")]
    NoGroup,
    #[error("no such hierarchy is mounted")]
    NotMounted,
    #[error("its memory controller does not act on this group")]
    NoController,
    #[error("it sets no limit")]
    Unlimited,
    #[error("{} cannot be read: {kind}", .path.display())]
    Unreadable { path: PathBuf, kind: io::ErrorKind },
    #[error("{} is not understood", .0.display())]
    Garbled(PathBuf),
}

/// A place that may limit the memory of a process.
pub(super) trait Probe: Send {
    /// The limit that holds now.
    fn limit(&self) -> Result<Limit, NoLimit>;

    /// What the kernel counts as not easily reclaimed, if `tree` is all that is counted there.
    fn working_set(&self, _tree: &BTreeSet<i32>) -> Option<u64> {
        None
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
    fn own(&self, name: &str) -> PathBuf {
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
fn read_text(path: &Path) -> Result<String, NoLimit> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => Err(NoLimit::Unreadable {
            path: path.to_owned(),
            kind: error.kind(),
        }),
    }
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

/// Whether `tree` is all there is in the group at `directory`.
fn is_alone(directory: &Path, tree: &BTreeSet<i32>) -> bool {
    let Ok(processes) = read_text(&directory.join("cgroup.procs")) else {
        return false;
    };
    let mut lines = processes.lines();
    // 0 stands for a process that our namespace cannot see.
    if !lines.all(|line| line.parse().is_ok_and(|pid| tree.contains(&pid))) {
        return false;
    }
    // What is in a group below is counted in this one too.
    let Ok(below) = fs::read_dir(directory) else {
        return false;
    };
    below.flatten().all(|entry| {
        let is_group = entry.file_type().is_ok_and(|kind| kind.is_dir());
        !is_group || is_alone(&entry.path(), tree)
    })
}

#[cfg(test)]
pub(super) mod fixture {
    //! Trees of files in a temporary folder.

    use super::System;
    use std::fs;
    use std::path::Path;

    /// The first fields of `/proc/<pid>/stat`.
    pub(in crate::memory) fn stat(pid: i32, name: &str, parent: i32) -> String {
        format!("{pid} ({name}) S {parent} 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 1 1\n")
    }

    pub(in crate::memory) struct Fixture {
        folder: tempfile::TempDir,
    }

    impl Fixture {
        pub(in crate::memory) fn new() -> Self {
            Self {
                folder: tempfile::tempdir().unwrap(),
            }
        }

        /// Writes one file, making the folders above it.
        pub(in crate::memory) fn file(self, path: &str, text: impl AsRef<[u8]>) -> Self {
            self.write(path, text);
            self
        }

        pub(in crate::memory) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
            let path = self.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // Replaced at once: whoever reads meanwhile sees the old or the new.
            let fresh = path.with_extension("fresh");
            fs::write(&fresh, text).unwrap();
            fs::rename(fresh, path).unwrap();
        }

        pub(in crate::memory) fn remove(&self, path: &str) {
            fs::remove_dir_all(self.path(path)).unwrap();
        }

        /// A process of `kilobytes` PSS; the first one written is the one whose view is taken.
        pub(in crate::memory) fn process(&self, pid: i32, parent: i32, name: &str, kilobytes: u64) {
            let own = self.path("proc/self");
            if !own.is_symlink() {
                fs::create_dir_all(own.parent().unwrap()).unwrap();
                std::os::unix::fs::symlink(pid.to_string(), own).unwrap();
            }
            self.write(
                &format!("proc/{pid}/smaps_rollup"),
                format!(
                    "1000-2000 ---p 00000000 00:00 0  [rollup]\n\
                     Rss:  {} kB\nPss:  {kilobytes} kB\nPss_Dirty: 9 kB\n\
                     Private_Dirty: {kilobytes} kB\nAnonymous: {kilobytes} kB\n",
                    kilobytes + 1
                ),
            );
            self.write(&format!("proc/{pid}/stat"), stat(pid, name, parent));
        }

        pub(in crate::memory) fn system(&self) -> System {
            System::rooted(self.folder.path())
        }

        pub(in crate::memory) fn path(&self, path: &str) -> std::path::PathBuf {
            self.folder
                .path()
                .join(Path::new(path).strip_prefix("/").unwrap_or(Path::new(path)))
        }
    }
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
