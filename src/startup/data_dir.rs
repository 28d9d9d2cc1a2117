//! The data folder, which belongs to one server at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use headroom_actors::kernel::private_server::create_passable;
use nix::fcntl::OFlag;
use thiserror::Error;

/// The file in the folder that is locked. It has the process id of the server that has, or had, the lock.
const LOCK: &str = "lock";

/// Bytes at most that are read from the file.
const LOCK_BYTES_MAX: u64 = 32;

/// Why a server cannot have the data folder.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// The folder or its lock cannot be made.
    #[error("data.dir: {} cannot be used: {source}; set data.dir to a folder that the server's user can write to", path.display())]
    Unusable {
        /// What cannot be made.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another server has it.
    #[error("data.dir: another headroom server{owner} uses {}; stop it, or set data.dir to another folder", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// The other server's process, if it is known.
        owner: String,
    },
}

/// The data folder of this server. It is locked until this is dropped, or until the process ends.
#[derive(Debug)]
pub struct DataDir {
    _lock: File,
}

impl DataDir {
    /// Makes the folder at `dir` if necessary, and locks it.
    ///
    /// # Errors
    /// Another server has it, or it cannot be used.
    pub fn lock(dir: &Path) -> Result<Self, DataDirError> {
        let path = dir.join(LOCK);
        let unusable = |path: &Path, source| DataDirError::Unusable {
            path: path.to_owned(),
            source,
        };
        create_passable(dir).map_err(|source| unusable(dir, source))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
            .open(&path)
            .map_err(|source| unusable(&path, source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::InUse {
                    dir: dir.to_owned(),
                    owner: owner(file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(&path, source)),
        }
        // On a full disk the server starts all the same; the next one cannot name it.
        if let Err(error) = note_owner(&mut file) {
            tracing::warn!(path = %path.display(), %error, "the process id is not in the lock of data.dir");
        }
        Ok(Self { _lock: file })
    }
}

fn note_owner(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

/// The process in a lock's file. Empty if it is not known, or not a process that runs here.
fn owner(file: File) -> String {
    let mut text = String::new();
    let read = file.take(LOCK_BYTES_MAX).read_to_string(&mut text);
    let pid: Option<u32> = read.ok().and_then(|_| text.trim().parse().ok());
    let pid = pid.filter(|pid| Path::new(&format!("/proc/{pid}")).exists());
    pid.map_or(String::new(), |pid| format!(" (process {pid})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_at_a_time_has_the_folder_and_the_next_one_learns_which() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/data");
        let first = DataDir::lock(&dir).unwrap();
        let refused = DataDir::lock(&dir).unwrap_err().to_string();
        let own = format!(
            "data.dir: another headroom server (process {}) uses {}; stop it, or set data.dir to another folder",
            std::process::id(),
            dir.display()
        );
        assert_eq!(refused, own);
        drop(first);
        DataDir::lock(&dir).unwrap();
    }

    #[test]
    fn a_process_that_is_gone_is_not_named() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join(LOCK);
        for text in ["", "x", "4294967295\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(owner(File::open(&path).unwrap()), "", "{text}");
        }
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let parent = tempfile::tempdir().unwrap();
        let victim = parent.path().join("victim");
        std::fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, parent.path().join(LOCK)).unwrap();
        let refused = DataDir::lock(parent.path()).unwrap_err().to_string();
        assert!(refused.contains("cannot be used"), "{refused}");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    }
}
