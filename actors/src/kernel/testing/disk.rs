//! Small disks that get full, in a mount namespace of the test's own: they are gone with the test, however it ends.

use std::path::{Path, PathBuf};

use headroom_test_support::capability::skip;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::statvfs;

/// The mounts that this thread, the threads that it starts and their processes see from now on.
pub(crate) struct MountNamespace(());

impl MountNamespace {
    /// Leaves the namespace that everybody shares. To be called before the test starts its runtime: threads that are
    /// there already stay behind. `None`, with the reason printed, where that is not allowed.
    pub(crate) fn enter() -> Option<Self> {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let entered = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>));
        if let Err(error) = entered {
            skip(&format!("there is no mount namespace of its own: {error}"));
            return None;
        }
        Some(Self(()))
    }

    /// A new disk at `path`.
    pub(crate) fn disk(&self, path: &Path, mebibytes: u64) -> Disk {
        std::fs::create_dir(path).unwrap();
        set_size(path, MsFlags::empty(), mebibytes);
        Disk(path.to_owned())
    }
}

/// A disk of its own; gone with this value.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it larger.
    pub(crate) fn grow(&self, mebibytes: u64) {
        set_size(&self.0, MsFlags::MS_REMOUNT, mebibytes);
    }

    /// Its size, in bytes.
    pub(crate) fn size(&self) -> u64 {
        size(&self.0)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

/// Mounts or changes a disk, and makes sure that it is there: what fills it would else fill the machine's.
fn set_size(path: &Path, how: MsFlags, mebibytes: u64) {
    let options = format!("mode=711,size={mebibytes}m");
    mount(Some("tmpfs"), path, Some("tmpfs"), how, Some(&*options)).unwrap();
    assert_eq!(
        size(path),
        mebibytes << 20,
        "{} is another disk",
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
    fn a_disk_is_seen_by_its_test_alone() {
        let Some(namespace) = MountNamespace::enter() else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let disk = namespace.disk(&folder.path().join("disk"), 1);
        let mounts = |process: &str| std::fs::read_to_string(format!("/proc/{process}/mounts"));
        let is_in = |mounts: String| mounts.contains(&*disk.path().to_string_lossy());
        assert!(is_in(mounts("thread-self").unwrap()));
        // The main thread is in the namespace that everybody shares.
        let main = std::process::id();
        assert!(!is_in(mounts(&main.to_string()).unwrap()));
        disk.grow(2);
        assert_eq!(disk.size(), 2 << 20);
    }
}
