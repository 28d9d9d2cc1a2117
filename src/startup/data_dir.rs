//! The data folder, which belongs to one server at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use headroom_actors::kernel::private_server::create_passable;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, access};
use thiserror::Error;

use super::folder::unwritable;
use super::pools;
use crate::settings::Settings;

/// The file in the folder that is locked. It has the process id of the server that has, or had, the lock.
const LOCK: &str = "lock";

/// The file is opened with these, so that neither a link is followed nor a named pipe waited for.
const LOCK_FLAGS: i32 = OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits();

/// Bytes at most that are read from the file.
const LOCK_BYTES_MAX: u64 = 32;

/// How long a server tries to lock the file. [`server_of`] has the lock for a moment, which is longer on a busy machine.
const LOCK_WITHIN: Duration = Duration::from_secs(2);

/// The time between two tries.
const TRY_EVERY: Duration = Duration::from_millis(10);

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

/// Whether a server with `settings` cannot do without the folder: private servers live in it.
pub(super) fn is_needed(settings: &Settings) -> bool {
    pools::has_private_postgres(settings) || pools::has_private_redis(settings)
}

/// Why the folder at `dir` or its lock cannot be used, and what to do. Found out without a change.
pub(super) fn fault(dir: &Path) -> Option<String> {
    if let Some(fault) = unwritable("data.dir", dir) {
        return Some(format!(
            "{fault}; make it writable for the server's user, or set data.dir to another folder"
        ));
    }
    let (fault, remedy) = lock_fault(dir)?;
    Some(format!("data.dir: {fault}; {remedy}"))
}

/// Why the lock in the folder at `dir` cannot be opened, and what to do. Found out without a change.
pub(crate) fn lock_fault(dir: &Path) -> Option<(String, String)> {
    let path = dir.join(LOCK);
    let found = fs::symlink_metadata(&path).ok()?;
    let fault = match found.is_file() {
        true => access(&path, AccessFlags::R_OK | AccessFlags::W_OK)
            .err()?
            .desc(),
        false => "it is not a file",
    };
    let shown = path.display();
    Some((
        format!("{shown} cannot be opened: {fault}"),
        format!(
            "if no server uses the folder, remove {shown}, or make the server's user its owner (chown)"
        ),
    ))
}

/// The server that has the folder at `dir`, in words. None if no server has it, or that cannot be seen. Servers that start
/// meanwhile are not refused because of this look.
pub(crate) fn server_of(dir: &Path) -> Option<String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(LOCK_FLAGS)
        .open(dir.join(LOCK))
        .ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(format!("a headroom server{}", owner(file))),
        // The lock ends with the file.
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

/// The data folder of this server. It is locked until this is dropped, or until the process ends.
#[derive(Debug)]
pub struct DataDir {
    /// None if nothing needs the folder and it cannot be used.
    _lock: Option<File>,
}

impl DataDir {
    /// Makes the folder if necessary, and locks it.
    ///
    /// # Errors
    /// Another server has it, or it cannot be used and is needed.
    pub fn lock(settings: &Settings) -> Result<Self, DataDirError> {
        let dir = &settings.data.dir;
        if is_needed(settings) {
            return Self::lock_folder(dir);
        }
        // The check of the machine has found it, and its warning is in the log.
        if fault(dir).is_some() {
            return Ok(Self { _lock: None });
        }
        match Self::lock_folder(dir) {
            Err(error @ DataDirError::Unusable { .. }) => {
                tracing::warn!("{error}");
                Ok(Self { _lock: None })
            }
            result => result,
        }
    }

    fn lock_folder(dir: &Path) -> Result<Self, DataDirError> {
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
            .custom_flags(LOCK_FLAGS)
            .open(&path)
            .map_err(|source| unusable(&path, source))?;
        match try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::InUse {
                    dir: dir.to_owned(),
                    owner: owner(file),
                });
            }
            Err(TryLockError::Error(error)) if has_no_locks(&error) => tracing::warn!(
                path = %path.display(),
                %error,
                "data.dir is not locked, since its file system has no locks: make sure that no other server uses it"
            ),
            Err(TryLockError::Error(source)) => return Err(unusable(&path, source)),
        }
        // On a full disk the server starts all the same; the next one cannot name it.
        if let Err(error) = note_owner(&mut file) {
            tracing::warn!(path = %path.display(), %error, "the process id is not in the lock of data.dir");
        }
        Ok(Self { _lock: Some(file) })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "nothing else of the server runs before it has the folder"
)]
fn try_lock(file: &File) -> Result<(), TryLockError> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_WITHIN => {
                thread::sleep(TRY_EVERY);
            }
            tried => return tried,
        }
    }
}

/// Whether a lock failed because the file system has none, as NFS without its lock service and some of FUSE.
fn has_no_locks(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::ENOLCK | Errno::ENOSYS | Errno::EOPNOTSUPP)
    )
}

fn note_owner(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

/// The process in a lock's file. Empty if it is not known, or not a process that runs here. The own process id is that of
/// a server in another container.
fn owner(file: File) -> String {
    let mut text = String::new();
    let read = file.take(LOCK_BYTES_MAX).read_to_string(&mut text);
    let pid: Option<u32> = read.ok().and_then(|_| text.trim().parse().ok());
    let pid =
        pid.filter(|pid| *pid != std::process::id() && Path::new(&format!("/proc/{pid}")).exists());
    pid.map_or(String::new(), |pid| format!(" (process {pid})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_at_a_time_has_the_folder() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/data");
        let first = DataDir::lock_folder(&dir).unwrap();
        let refused = DataDir::lock_folder(&dir).unwrap_err().to_string();
        let expected = format!(
            "data.dir: another headroom server uses {}; stop it, or set data.dir to another folder",
            dir.display()
        );
        assert_eq!(refused, expected);
        drop(first);
        DataDir::lock_folder(&dir).unwrap();
    }

    #[test]
    fn a_look_at_the_lock_names_the_server_and_does_not_refuse_one_that_starts() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().canonicalize().unwrap();
        let path = dir.join(LOCK);
        assert_eq!(server_of(&dir), None);
        assert!(!path.exists());
        let server = DataDir::lock_folder(&dir).unwrap();
        assert_eq!(server_of(&dir).unwrap(), "a headroom server");
        drop(server);
        assert_eq!(server_of(&dir), None);

        for _ in 0..10 {
            let look = File::open(&path).unwrap();
            look.try_lock_shared().unwrap();
            thread::scope(|scope| {
                let server = scope.spawn(|| DataDir::lock_folder(&dir).map(drop));
                // The server opens the file, and tries to lock it at once.
                while handles_of(&path) < 2 && !server.is_finished() {
                    thread::yield_now();
                }
                drop(look);
                server.join().unwrap().unwrap();
            });
        }
    }

    /// How often this process has opened a file.
    fn handles_of(path: &Path) -> usize {
        let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let files = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        files.filter(|file| file == path).count()
    }

    #[test]
    fn the_owner_is_named_if_it_runs_and_is_another_process() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join(LOCK);
        let owner_in = |text: &str| {
            fs::write(&path, text).unwrap();
            owner(File::open(&path).unwrap())
        };
        let own = std::process::id().to_string();
        for text in ["", "x", "4294967295\n", own.as_str()] {
            assert_eq!(owner_in(text), "", "{text}");
        }
        assert_eq!(owner_in("1\n"), " (process 1)");
    }

    #[test]
    fn a_file_system_without_locks_is_told_from_other_errors() {
        let of = |errno: Errno| has_no_locks(&io::Error::from(errno));
        for errno in [Errno::ENOLCK, Errno::ENOSYS, Errno::EOPNOTSUPP] {
            assert!(of(errno), "{errno}");
        }
        assert!(!of(Errno::EIO));
    }

    #[test]
    fn a_lock_that_cannot_be_opened_is_found_without_a_change() {
        let parent = tempfile::tempdir().unwrap();
        assert_eq!(fault(parent.path()), None);
        let path = parent.path().join(LOCK);
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        assert_eq!(fault(parent.path()), None);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let found = fault(parent.path()).unwrap();
        let advice = format!("remove {}, or make", path.display());
        assert!(found.contains(&advice), "{found}");
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let parent = tempfile::tempdir().unwrap();
        let victim = parent.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, parent.path().join(LOCK)).unwrap();
        let refused = DataDir::lock_folder(parent.path()).unwrap_err().to_string();
        assert!(refused.contains("cannot be used"), "{refused}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    }
}
