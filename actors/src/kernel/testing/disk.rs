//! Small disks that get full.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A small disk of its own; gone with this value.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// A new one at `path`. `None` where nothing can be mounted.
    pub(crate) fn mount(path: &Path, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir(path).unwrap();
        mount(path, "mode=711", mebibytes).then(|| Self(path.to_owned()))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it larger.
    pub(crate) fn grow(&self, mebibytes: u32) {
        assert!(mount(&self.0, "remount", mebibytes));
    }
}

fn mount(path: &Path, option: &str, mebibytes: u32) -> bool {
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o"])
        .arg(format!("{option},size={mebibytes}m"))
        .arg("tmpfs")
        .arg(path)
        .stderr(Stdio::null())
        .status();
    mount.is_ok_and(|status| status.success())
}

impl Drop for Disk {
    fn drop(&mut self) {
        let umount = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(umount.unwrap().success());
    }
}
