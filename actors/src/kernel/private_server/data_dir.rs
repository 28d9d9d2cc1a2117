//! The data folder of a private server: its owner, its lock, its files and the programs in it.
//!
//! The folder has mode 0700 and belongs to the server's user. Headroom may run as root and write into
//! the folder of an unprivileged user. So it never follows a link that this user may have created:
//! each file is created under another name and renamed.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown,
};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use rand::Rng;

use super::PrivateServerError;
use super::run_as::RunAs;
use crate::kernel::ProcessExit;
use crate::kernel::process::{Process, ProcessSpec};

/// The longest path of a Unix socket, in bytes.
const SOCKET_PATH_MAX: usize = 107;

/// The name of the password's file.
const PASSWORD: &str = "password";

/// The most bytes that are read from the password's file.
const PASSWORD_FILE_MAX: u64 = 1024;

/// The data folder of a private server. It is locked, unless it is only inspected. The lock ends when
/// this is dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    /// The server's name.
    server: &'static str,
    pub(crate) folder: PathBuf,
    run_as: RunAs,
    /// The system releases the lock when this process ends.
    _lock: Option<File>,
}

impl DataDir {
    /// Creates the folder at `path` if necessary, and locks it.
    pub(crate) fn lock(
        server: &'static str,
        path: &Path,
        run_as: RunAs,
    ) -> Result<Self, PrivateServerError> {
        create_folder(path, &run_as)?;
        let folder = path
            .canonicalize()
            .map_err(|error| PrivateServerError::folder(path, &error))?;
        accept_path(&folder)?;
        let lock = lock(&folder.join("lock"))?;
        Ok(Self {
            server,
            folder,
            run_as,
            _lock: Some(lock),
        })
    }

    /// The folder at `path` for an inspection: it is neither created nor locked nor written to. Without
    /// a folder there, programs run in the root folder.
    pub(super) fn inspect(
        server: &'static str,
        path: &Path,
        run_as: RunAs,
    ) -> Result<Self, PrivateServerError> {
        // Headroom's own user may have more groups than are looked at here.
        let mut parents = path.ancestors().skip(1).filter(|folder| folder.is_dir());
        if run_as.is_other && parents.any(|folder| !run_as.may_pass(folder)) {
            return Err(run_as.access_denied(path));
        }
        let folder = match path.symlink_metadata() {
            Ok(folder) => {
                accept_owner(path, &folder, &run_as)?;
                path.canonicalize()
            }
            Err(error) => unless_absent(error).map(|()| PathBuf::from("/")),
        };
        let folder = folder.map_err(|error| PrivateServerError::folder(path, &error))?;
        accept_path(&folder)?;
        Ok(Self {
            server,
            folder,
            run_as,
            _lock: None,
        })
    }

    /// The folder for a socket named `name`: the data folder, or a private folder with a short path if
    /// the socket's path would be too long.
    pub(crate) fn socket_folder(&self, name: &str) -> Result<PathBuf, PrivateServerError> {
        if self.folder.join(name).as_os_str().len() <= SOCKET_PATH_MAX {
            return Ok(self.folder.clone());
        }
        let mut hasher = DefaultHasher::new();
        self.folder.hash(&mut hasher);
        let short = format!("headroom-{:016x}", hasher.finish());
        // `XDG_RUNTIME_DIR` is a folder that only Headroom's own user can enter, so another user's
        // server cannot use it.
        let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let session = session.filter(|path| !self.run_as.is_other && path.is_absolute());
        let session = session.filter(|path| path.to_str().is_some());
        let fallback = session
            .filter(|path| {
                path.is_dir() && path.join(&short).join(name).as_os_str().len() <= SOCKET_PATH_MAX
            })
            .unwrap_or_else(|| "/tmp".into())
            .join(short);
        create_folder(&fallback, &self.run_as)?;
        Ok(fallback)
    }

    /// Writes a file that only the server's user can read. An existing file is replaced in one step.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, PrivateServerError> {
        let path = self.folder.join(name);
        let new = self.folder.join(format!("{name}.new"));
        let write = || {
            std::fs::remove_file(&new).or_else(unless_absent)?;
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            if self.run_as.is_other {
                fchown(&file, Some(self.run_as.uid), Some(self.run_as.gid))?;
            }
            file.write_all(content)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|error| PrivateServerError::folder(&path, &error))?;
        Ok(path)
    }

    /// The password in its file, if there is a valid one.
    pub(crate) fn password(&self) -> Option<String> {
        let mut text = String::new();
        OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
            .open(self.folder.join(PASSWORD))
            .and_then(|file| file.take(PASSWORD_FILE_MAX).read_to_string(&mut text))
            .ok()?;
        let password = text.trim();
        let is_valid =
            password.len() == 32 && password.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_valid.then(|| password.to_owned())
    }

    /// Writes the file of the password.
    pub(crate) fn write_password(&self, password: &str) -> Result<(), PrivateServerError> {
        self.write(PASSWORD, password.as_bytes()).map(drop)
    }

    /// Renames a file or folder, durably.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), PrivateServerError> {
        let to = self.folder.join(to);
        let rename = || {
            std::fs::rename(self.folder.join(from), &to)?;
            File::open(&self.folder)?.sync_all()
        };
        rename().map_err(|error| PrivateServerError::folder(&to, &error))
    }

    /// Describes a process that runs the program at `path` in this folder, as the server's user. It
    /// is killed when Headroom ends.
    pub(crate) fn program(&self, path: &Path) -> ProcessSpec {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let spec = ProcessSpec::new(name, path)
            .directory(&self.folder)
            .environment("HOME", &self.folder)
            .environment("LC_ALL", "C")
            .ends_with_server(Signal::SIGKILL);
        if self.run_as.is_other {
            return spec.user(self.run_as.uid, self.run_as.gid);
        }
        spec
    }

    /// Runs a program to its end. Returns how it ended and the last lines of its output.
    pub(crate) async fn run(
        &self,
        spec: &ProcessSpec,
        stdin: Stdio,
    ) -> Result<(ProcessExit, Vec<String>), PrivateServerError> {
        let run = Process::run(spec, stdin).await;
        run.map_err(|error| self.not_started(&error))
    }

    /// The error for a program that the system cannot start.
    pub(crate) fn not_started(&self, error: &io::Error) -> PrivateServerError {
        if error.kind() == io::ErrorKind::PermissionDenied {
            return self.run_as.access_denied(&self.folder);
        }
        PrivateServerError::Start {
            server: self.server,
            reason: error.to_string(),
            lines: Vec::new(),
        }
    }

    /// Removes a file or folder, if it exists. An absolute `name` is a path of its own.
    pub(crate) fn remove(&self, name: impl AsRef<Path>) -> Result<(), PrivateServerError> {
        let path = self.folder.join(name);
        let remove = || match path.symlink_metadata() {
            Ok(entry) if entry.is_dir() => std::fs::remove_dir_all(&path),
            Ok(_) => std::fs::remove_file(&path),
            Err(error) => unless_absent(error),
        };
        remove().map_err(|error| PrivateServerError::folder(&path, &error))
    }
}

/// A new password: 128 random bits, as 32 characters that need no quotes in any file or URL.
pub(crate) fn new_password() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}

fn unless_absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        return Ok(());
    }
    Err(error)
}

/// Creates the folder at `path` and its parents, with mode 0700 and owned by `run_as`. An existing
/// folder is accepted if it belongs to that user, or if it belongs to Headroom's user and is empty.
fn create_folder(path: &Path, run_as: &RunAs) -> Result<(), PrivateServerError> {
    let failed = |error: io::Error| PrivateServerError::folder(path, &error);
    if let Some(parent) = path.parent() {
        create_passable(parent).map_err(|error| PrivateServerError::folder(parent, &error))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let folder = path.symlink_metadata().map_err(failed)?;
    accept_owner(path, &folder, run_as)?;
    if folder.uid() != run_as.uid {
        lchown(path, Some(run_as.uid), Some(run_as.gid)).map_err(failed)?;
    }
    if folder.mode() & 0o777 != 0o700 {
        std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

/// Accepts a path that can be a part of the settings of a server, which are text.
fn accept_path(folder: &Path) -> Result<(), PrivateServerError> {
    match folder.to_str() {
        Some(_) => Ok(()),
        None => Err(PrivateServerError::Folder {
            path: folder.to_owned(),
            reason: "its path is not UTF-8".into(),
            remedy: "choose another data folder".into(),
        }),
    }
}

/// Accepts an existing `folder` at `path` if it belongs to the user `run_as`, or if it belongs to
/// Headroom's user and is empty.
fn accept_owner(path: &Path, folder: &Metadata, run_as: &RunAs) -> Result<(), PrivateServerError> {
    let refused = |reason: String| PrivateServerError::Folder {
        path: path.to_owned(),
        reason,
        remedy: format!("chown it to {}, or choose another data folder", run_as.name),
    };
    if !folder.is_dir() {
        return Err(refused("it is not a folder".into()));
    }
    if folder.uid() == run_as.uid {
        return Ok(());
    }
    if folder.uid() != Uid::effective().as_raw() {
        return Err(refused(format!("it belongs to the user {}", folder.uid())));
    }
    let mut entries =
        std::fs::read_dir(path).map_err(|error| PrivateServerError::folder(path, &error))?;
    if entries.next().is_some() {
        return Err(refused(
            "it belongs to Headroom's user and is not empty".into(),
        ));
    }
    Ok(())
}

/// Creates a folder and those above it. Other users, such as those of private servers, can pass through new ones, but not
/// list them.
///
/// # Errors
/// One of them cannot be created.
pub fn create_passable(path: &Path) -> io::Result<()> {
    if path.as_os_str().as_bytes().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_passable(parent)?;
    }
    match std::fs::create_dir(path) {
        // Another server has just made it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => std::fs::set_permissions(path, Permissions::from_mode(0o711)),
    }
}

fn lock(path: &Path) -> Result<File, PrivateServerError> {
    let failed = |error: io::Error| PrivateServerError::folder(path, &error);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(PrivateServerError::Folder {
            path: path.to_owned(),
            reason: "another server uses this data folder".into(),
            remedy: "stop that server, or choose another data folder".into(),
        }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_dir(path: &Path) -> Result<DataDir, PrivateServerError> {
        let run_as = RunAs::choose("postgres", None, path).unwrap();
        DataDir::lock("postgres", path, run_as)
    }

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn only_the_servers_user_can_read_the_folder_and_the_password() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data").join("server");
        let data_dir = data_dir(&path).unwrap();
        assert_eq!(path.metadata().unwrap().uid(), data_dir.run_as.uid);
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o700, 0o711));
        let password = new_password();
        data_dir.write_password(&password).unwrap();
        assert_eq!(mode(&path.join(PASSWORD)), 0o600);
        assert_eq!(data_dir.password(), Some(password));
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let parent = tempfile::tempdir().unwrap();
        let victim = parent.path().join("victim");
        std::fs::write(&victim, "untouched").unwrap();
        let data_dir = data_dir(&parent.path().join("server")).unwrap();
        for name in ["password", "password.new"] {
            std::os::unix::fs::symlink(&victim, data_dir.folder.join(name)).unwrap();
        }
        assert_eq!(data_dir.password(), None);
        data_dir.write_password("x").unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    }

    #[test]
    fn a_path_that_is_not_utf_8_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
        let refused = data_dir(&path).unwrap_err().to_string();
        assert!(refused.contains("its path is not UTF-8"), "{refused}");
    }

    #[test]
    fn a_data_folder_is_used_by_one_server_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("server");
        let first = data_dir(&path).unwrap();
        let refused = data_dir(&path).unwrap_err().to_string();
        assert!(refused.contains("another server uses"), "{refused}");
        drop(first);
        data_dir(&path).unwrap();
    }

    #[test]
    fn an_inspection_changes_nothing_and_refuses_what_a_start_refuses() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("server");
        let inspect = || {
            let run_as = RunAs::choose("postgres", None, &path).unwrap();
            DataDir::inspect("postgres", &path, run_as).map(drop)
        };
        let allow = |mode| std::fs::set_permissions(parent.path(), Permissions::from_mode(mode));
        allow(0o700).unwrap();
        if Uid::effective().is_root() {
            // The user of the server may not enter the folder above.
            let refused = inspect().unwrap_err().to_string();
            assert!(refused.contains("may not pass"), "{refused}");
        }
        allow(0o711).unwrap();
        inspect().unwrap();
        assert!(!path.exists());
        // A running server does not matter.
        let _running = data_dir(&path).unwrap();
        inspect().unwrap();
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        let refused = inspect().unwrap_err().to_string();
        assert!(refused.contains("it is not a folder"), "{refused}");
    }

    #[test]
    fn a_file_and_a_folder_with_other_contents_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(
            data_dir(&file)
                .unwrap_err()
                .to_string()
                .contains("not a folder")
        );
        if Uid::effective().is_root() {
            let refused = data_dir(parent.path()).unwrap_err().to_string();
            assert!(refused.contains("is not empty"), "{refused}");
        }
    }

    #[test]
    fn a_long_path_gets_a_short_folder_for_its_socket() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = data_dir(&parent.path().join("x".repeat(120))).unwrap();
        let folder = data_dir.socket_folder("socket").unwrap();
        assert!(folder.join("socket").as_os_str().len() <= SOCKET_PATH_MAX);
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(folder.metadata().unwrap().uid(), data_dir.run_as.uid);
        assert_eq!(data_dir.socket_folder("socket").unwrap(), folder);
        std::fs::remove_dir(folder).unwrap();
    }
}
