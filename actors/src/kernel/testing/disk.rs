//! Small disks for tests that fill them. They are mounted in the test's own mount namespace, so the
//! system removes them however the test ends.

use std::path::{Path, PathBuf};

use headroom_test_support::capability::skip;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::statvfs;

/// A mount namespace of this thread, of the threads that it starts, and of their processes.
pub(crate) struct MountNamespace(());

impl MountNamespace {
    /// Enters a new namespace. Must be called before the test starts its runtime: existing threads
    /// stay in the old one. Skips the test and returns `None` where this is not permitted.
    pub(crate) fn enter() -> Option<Self> {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let entered = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>));
        if let Err(error) = entered {
            skip(&format!("a mount namespace cannot be created: {error}"));
            return None;
        }
        Some(Self(()))
    }

    /// Mounts a new disk at `path`.
    pub(crate) fn disk(&self, path: &Path, mebibytes: u64) -> Disk {
        std::fs::create_dir(path).unwrap();
        set_size(path, MsFlags::empty(), mebibytes);
        Disk(path.to_owned())
    }
}

/// A mounted disk. Unmounted on drop.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// The mount point.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Sets a larger size.
    pub(crate) fn grow(&self, mebibytes: u64) {
        set_size(&self.0, MsFlags::MS_REMOUNT, mebibytes);
    }

    /// The size in bytes.
    pub(crate) fn size(&self) -> u64 {
        size(&self.0)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

/// Mounts or resizes a disk, and checks its size: otherwise a test could fill the machine's disk.
fn set_size(path: &Path, flags: MsFlags, mebibytes: u64) {
    let options = format!("mode=711,size={mebibytes}m");
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(&*options)).unwrap();
    assert_eq!(
        size(path),
        mebibytes << 20,
        "{} is on another disk",
        path.display()
    );
}

fn size(path: &Path) -> u64 {
    let disk = statvfs(path).unwrap();
    disk.blocks() * disk.fragment_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_visible_to_its_test_only() {
        let Some(namespace) = MountNamespace::enter() else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let disk = namespace.disk(&folder.path().join("disk"), 1);
        let mounts = |process: &str| std::fs::read_to_string(format!("/proc/{process}/mounts"));
        let is_in = |mounts: String| mounts.contains(&*disk.path().to_string_lossy());
        assert!(is_in(mounts("thread-self").unwrap()));
        // The main thread is in the old namespace.
        let main = std::process::id();
        assert!(!is_in(mounts(&main.to_string()).unwrap()));
        disk.grow(2);
        assert_eq!(disk.size(), 2 << 20);
    }
}
