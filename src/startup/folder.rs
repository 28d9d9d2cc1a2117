//! Whether the server can write into a folder, found out without writing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

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
        Ok(_) => {
            let flags = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
            let error = access(path, flags).err()?;
            Some(error.desc().to_owned())
        }
    }
}
