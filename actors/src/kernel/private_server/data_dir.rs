//! The folder that a private server has for itself: who may enter, who holds it, its secrets.
//!
//! It has mode 0700 and belongs to the server's user. We may be root and write into a folder of a
//! user without privileges, so nothing here follows a link that this user may have put there: files
//! are made anew beside their place and renamed into it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown,
};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use rand::TryRngCore;
use rand::rngs::OsRng;

use super::PrivateServerError;
use super::run_as::RunAs;

/// Bytes that the path of a socket may have; one more ends it.
const SOCKET_PATH_MAX: usize = 107;

/// The longest secret that is read.
const SECRET_MAX: u64 = 1024;

/// A folder that is ours alone as long as this exists.
#[derive(Debug)]
pub(crate) struct DataDir {
    pub(crate) folder: PathBuf,
    pub(crate) account: RunAs,
    /// Held by this process, and let go by the kernel when it ends, however that happens.
    _lock: File,
}

impl DataDir {
    /// Makes the folder at `path` and takes it.
    pub(crate) fn take(path: &Path, account: RunAs) -> Result<Self, PrivateServerError> {
        make_folder(path, &account)?;
        let folder = path
            .canonicalize()
            .map_err(|error| PrivateServerError::folder(path, &error))?;
        let lock = lock(&folder.join("lock"))?;
        Ok(Self {
            folder,
            account,
            _lock: lock,
        })
    }

    /// The folder for a socket whose file is called `name`: this one, or, when that makes a path
    /// longer than a socket may have, one with a short path that nobody else may enter either.
    pub(crate) fn socket_folder(&self, name: &str) -> Result<PathBuf, PrivateServerError> {
        if self.folder.join(name).as_os_str().len() <= SOCKET_PATH_MAX {
            return Ok(self.folder.clone());
        }
        let mut hasher = DefaultHasher::new();
        self.folder.hash(&mut hasher);
        let short = format!("headroom-{:016x}", hasher.finish());
        // The folder of a session lets nobody but its user in.
        let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let session = session.filter(|path| !self.account.is_other && path.is_absolute());
        let fallback = session
            .filter(|path| {
                path.is_dir() && path.join(&short).join(name).as_os_str().len() <= SOCKET_PATH_MAX
            })
            .unwrap_or_else(|| "/tmp".into())
            .join(short);
        make_folder(&fallback, &self.account)?;
        Ok(fallback)
    }

    /// Puts `content` in place as a file that only the server's user may read.
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
            if self.account.is_other {
                fchown(&file, Some(self.account.uid), Some(self.account.gid))?;
            }
            file.write_all(content)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|error| PrivateServerError::folder(&path, &error))?;
        Ok(path)
    }

    /// The secret called `name`, if there is one.
    pub(crate) fn secret(&self, name: &str) -> Option<String> {
        let mut text = String::new();
        OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
            .open(self.folder.join(name))
            .and_then(|file| file.take(SECRET_MAX).read_to_string(&mut text))
            .ok()?;
        let secret = text.trim();
        let is_ours = secret.len() == 32 && secret.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_ours.then(|| secret.to_owned())
    }

    /// Puts a folder in its place, for good.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), PrivateServerError> {
        let to = self.folder.join(to);
        let rename = || {
            std::fs::rename(self.folder.join(from), &to)?;
            File::open(&self.folder)?.sync_all()
        };
        rename().map_err(|error| PrivateServerError::folder(&to, &error))
    }

    /// Why a program could not be started in this folder, as its user.
    pub(crate) fn not_started(&self, what: &'static str, error: &io::Error) -> PrivateServerError {
        if error.kind() == io::ErrorKind::PermissionDenied {
            return self.account.shut_out(&self.folder);
        }
        PrivateServerError::Start {
            what,
            why: error.to_string(),
            lines: Vec::new(),
        }
    }

    /// Removes a file or a folder, if it is there.
    pub(crate) fn remove(&self, name: impl AsRef<Path>) -> Result<(), PrivateServerError> {
        let path = self.folder.join(name);
        let remove = || match path.symlink_metadata() {
            Ok(found) if found.is_dir() => std::fs::remove_dir_all(&path),
            Ok(_) => std::fs::remove_file(&path),
            Err(error) => unless_absent(error),
        };
        remove().map_err(|error| PrivateServerError::folder(&path, &error))
    }
}

/// A new secret: 128 bits, as 32 characters that need no quotes anywhere.
pub(crate) fn new_secret() -> io::Result<String> {
    use std::fmt::Write;
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    }))
}

fn unless_absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        return Ok(());
    }
    Err(error)
}

/// Makes the folder at `path`, mode 0700 and owned by `account`, with the folders above it. One that
/// is there is taken when it is the account's, or when it is ours and empty.
fn make_folder(path: &Path, account: &RunAs) -> Result<(), PrivateServerError> {
    let failed = |error: io::Error| PrivateServerError::folder(path, &error);
    let refused = |why: String| PrivateServerError::Folder {
        path: path.to_owned(),
        why,
        remedy: format!(
            "chown it to {}, or choose another data folder",
            account.name
        ),
    };
    if let Some(parent) = path.parent() {
        make_parents(parent).map_err(|error| PrivateServerError::folder(parent, &error))?;
    }
    let made = DirBuilder::new().mode(0o700).create(path);
    match made {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let found = path.symlink_metadata().map_err(failed)?;
    if !found.is_dir() {
        return Err(refused("it is not a folder".into()));
    }
    if found.uid() != account.uid {
        let us = nix::unistd::Uid::effective();
        if found.uid() != us.as_raw() {
            return Err(refused(format!("it belongs to the user {}", found.uid())));
        }
        if std::fs::read_dir(path).map_err(failed)?.next().is_some() {
            return Err(refused("it belongs to us and is not empty".into()));
        }
        lchown(path, Some(account.uid), Some(account.gid)).map_err(failed)?;
    }
    if found.mode() & 0o777 != 0o700 {
        std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

/// Makes the folders above a data_dir. Others may pass through those that are new, not list them.
fn make_parents(path: &Path) -> io::Result<()> {
    if path.as_os_str().as_bytes().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_parents(parent)?;
    }
    std::fs::create_dir(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o711))
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
            why: "another server uses this data folder".into(),
            remedy: "end that one, or choose another data folder".into(),
        }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_dir(path: &Path) -> Result<DataDir, PrivateServerError> {
        let account = RunAs::choose("test", None, path, "postgres").unwrap();
        DataDir::take(path, account)
    }

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn the_folder_and_its_secrets_are_for_the_servers_user_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data").join("server");
        let data_dir = data_dir(&path).unwrap();
        assert_eq!(path.metadata().unwrap().uid(), data_dir.account.uid);
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o700, 0o711));
        let secret = new_secret().unwrap();
        let file = data_dir.write("password", secret.as_bytes()).unwrap();
        assert_eq!(mode(&file), 0o600);
        assert_eq!(data_dir.secret("password"), Some(secret));
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
        assert_eq!(data_dir.secret("password"), None);
        data_dir.write("password", b"x").unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    }

    #[test]
    fn one_folder_has_one_holder() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("server");
        let first = data_dir(&path).unwrap();
        let refused = data_dir(&path).unwrap_err().to_string();
        assert!(refused.contains("another server uses"), "{refused}");
        drop(first);
        data_dir(&path).unwrap();
    }

    #[test]
    fn a_folder_with_things_of_others_in_it_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(
            data_dir(&file)
                .unwrap_err()
                .to_string()
                .contains("not a folder")
        );
        if nix::unistd::Uid::effective().is_root() {
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
        assert_eq!(folder.metadata().unwrap().uid(), data_dir.account.uid);
        assert_eq!(data_dir.socket_folder("socket").unwrap(), folder);
        std::fs::remove_dir(folder).unwrap();
    }
}
