//! Whether the server can write into a folder, found out without writing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{
    CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, statfs,
};
use nix::unistd::{AccessFlags, access};

/// File systems of the kernel, in which no files can be made. `access` of root says otherwise.
const OF_KERNEL: [FsType; 4] = [
    CGROUP_SUPER_MAGIC,
    CGROUP2_SUPER_MAGIC,
    PROC_SUPER_MAGIC,
    SYSFS_MAGIC,
];

/// What is wrong with the folder at `dir`, named by `key`, that the server must write to. `None` if it can.
pub(crate) fn unwritable(key: &str, dir: &Path) -> Option<String> {
    let (place, is_above) = nearest(dir);
    let fault = why_not_writable(&place)?;
    let shown = dir.display();
    Some(match is_above {
        true => format!(
            "{key}: {shown} cannot be made in {}: {fault}",
            place.display()
        ),
        false => format!("{key}: {shown} cannot be written to: {fault}"),
    })
}

/// `dir`, or the first path above it that exists; and whether it is another one than `dir`.
pub(crate) fn nearest(dir: &Path) -> (PathBuf, bool) {
    let exists = |path: &&Path| {
        let found = fs::symlink_metadata(path).map_err(|error| error.kind());
        // A path below a file is not there; its parent, the file, says what is wrong.
        !matches!(
            found,
            Err(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        )
    };
    let named = dir.ancestors().filter(|path| !path.as_os_str().is_empty());
    match named.into_iter().find(exists) {
        Some(path) => (path.to_owned(), path != dir),
        None => (PathBuf::from("."), true),
    }
}

/// Why nothing can be written into the folder at `path`, which exists. `None` if it can.
pub(crate) fn why_not_writable(path: &Path) -> Option<String> {
    match fs::metadata(path) {
        Err(error) => Some(error.to_string()),
        Ok(found) if !found.is_dir() => Some("it is not a folder".to_owned()),
        Ok(_) if statfs(path).is_ok_and(|found| OF_KERNEL.contains(&found.filesystem_type())) => {
            Some("it shows the state of the kernel, and takes no files".to_owned())
        }
        Ok(_) => {
            let flags = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
            let error = access(path, flags).err()?;
            Some(error.desc().to_owned())
        }
    }
}
