//! A file tree in a temporary folder, in place of `/proc` and the control groups.

use super::System;
use std::fs;
use std::path::Path;

/// The first fields of `/proc/<pid>/stat`. The resident pages are missing, so that each reading
/// measures the process.
pub(in crate::memory) fn stat(pid: i32, name: &str, parent: i32) -> String {
    format!("{pid} ({name}) S {parent} 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711\n")
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

    /// Writes one file and creates its folders.
    pub(in crate::memory) fn file(self, path: &str, text: impl AsRef<[u8]>) -> Self {
        self.write(path, text);
        self
    }

    pub(in crate::memory) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // The file is replaced atomically, so that a concurrent reader gets the old or the new one.
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, path).unwrap();
    }

    pub(in crate::memory) fn remove(&self, path: &str) {
        fs::remove_dir_all(self.path(path)).unwrap();
    }

    /// A process with a PSS of `kilobytes`. The first process becomes `/proc/self`.
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
