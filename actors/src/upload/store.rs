//! The folder of uploaded files.
//!
//! A file arrives without a name: the kernel frees its bytes when it is closed, however the process ends
//! (`O_TMPFILE`). File systems that lack this get a named file in `incoming`, which the next start removes. A
//! complete file is stored under the BLAKE3 hash of its bytes, `content/ab/ab…`, so the same bytes are stored once.
//!
//! What is stored is never changed, only replaced by the same bytes. Rows in the database say which files are used
//! (`records`). Who adds a file holds the lock of its content in this process ([`Store::lock`]) until the row is committed;
//! who removes one holds this lock, and then that of the row. The lock moves into the file operation: an operation that
//! outlives its caller still holds it.
//!
//! The folder belongs to one server at a time (`lock`), and has an identity (`id`), which the database knows too: a server
//! with another database must not take its files for superfluous. Servers with one bucket each have a folder.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc::O_TMPFILE;
use nix::sys::statvfs::statvfs;
use nix::unistd::linkat;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::bucket::Bucket;
use super::error::UploadError;
use super::id::UploadId;

/// Only the server may read uploaded files.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Files that arrive, on file systems without nameless files.
const INCOMING: &str = "incoming";
/// Files that arrive in parts (`partial`). They outlive the server.
pub(super) const PARTIAL: &str = "partial";
/// Infected files (`quarantine`).
pub(super) const QUARANTINE: &str = "quarantine";
/// Complete files, under the hash of their bytes.
const CONTENT: &str = "content";
/// Locked while a server uses the folder.
const LOCK: &str = "lock";
/// Holds the identity of the folder.
const IDENTITY: &str = "id";

/// Contents share this many locks. One is held for as long as a file is on its way to the bucket.
const LOCKS: usize = 4096;

/// The folder of uploaded files.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) dir: PathBuf,
    /// Names the folder to the database.
    pub(super) identity: UploadId,
    /// Whether nothing was stored in it when it was opened.
    pub(super) was_empty: bool,
    /// Holds the complete files, if there is one.
    pub(super) bucket: Option<Arc<Bucket>>,
    locks: Vec<Arc<Mutex<()>>>,
    /// The folders in `content` that are on the disk for certain, by the first byte of the hashes in them.
    synced_folders: [AtomicBool; 256],
    /// Its drop unlocks the folder.
    _lock: File,
}

/// The right to add or remove the files of some contents.
pub(super) type ContentLocks = Arc<Vec<OwnedMutexGuard<()>>>;

/// A file that arrives. Its bytes are freed when it is dropped, unless it was stored.
#[derive(Debug)]
pub(super) struct TempFile {
    pub(super) file: File,
    /// `None` for a file without a name.
    pub(super) path: Option<PathBuf>,
}

/// The BLAKE3 hash of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ContentHash(pub(super) [u8; 32]);

impl ContentHash {
    /// The hash as hexadecimal digits.
    pub(super) fn hex(&self) -> String {
        hex(&self.0)
    }

    /// The hash of the file with this name.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let hash = hash_of_digits(name)?;
        (hex(&hash) == name).then_some(Self(hash))
    }
}

/// The hash with these 64 hexadecimal digits.
pub fn hash_of_digits(digits: &str) -> Option<[u8; 32]> {
    let is_hash = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    is_hash.then_some(hash)
}

/// The lock of a content.
fn share(hash: ContentHash) -> usize {
    usize::from(u16::from_be_bytes([hash.0[0], hash.0[1]])) % LOCKS
}

/// The bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Store {
    /// Opens the folder, and makes it if it is not there. Removes the files of uploads that were in progress when the
    /// last server ended.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        // Folders that it is in may be those of others too, who must pass through them.
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent)?;
        }
        make_folder(dir)?;
        let lock = options()
            .create(true)
            .truncate(false)
            .open(dir.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("another server uses the folder"),
            TryLockError::Error(error) => error,
        })?;
        for folder in [INCOMING, PARTIAL, QUARANTINE, CONTENT] {
            make_folder(&dir.join(folder))?;
        }
        for entry in fs::read_dir(dir.join(INCOMING))? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
            }
        }
        let mut was_empty = true;
        for folder in [PARTIAL, QUARANTINE, CONTENT] {
            was_empty &= fs::read_dir(dir.join(folder))?.next().is_none();
        }
        let identity = identity(dir)?;
        // What is stored later is not lost with one of the folders that it is in.
        for folder in dir.ancestors() {
            sync_folder(folder).ok();
        }
        sync_folder(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            identity,
            was_empty,
            bucket: None,
            locks: (0..LOCKS).map(|_| Arc::default()).collect(),
            synced_folders: [const { AtomicBool::new(false) }; 256],
            _lock: lock,
        })
    }

    /// Waits for the right to add or remove the files with these hashes.
    pub(super) async fn lock(&self, hashes: impl Iterator<Item = ContentHash>) -> ContentLocks {
        // Everybody locks in the same order, and each lock once.
        let shares: BTreeSet<usize> = hashes.map(share).collect();
        let mut guards = Vec::with_capacity(shares.len());
        for share in shares {
            if let Some(lock) = self.locks.get(share) {
                guards.push(Arc::clone(lock).lock_owned().await);
            }
        }
        Arc::new(guards)
    }

    /// As [`Self::lock`], without waiting.
    pub(super) fn try_lock(&self, hash: ContentHash) -> Option<ContentLocks> {
        let lock = self.locks.get(share(hash))?;
        let guard = Arc::clone(lock).try_lock_owned().ok()?;
        Some(Arc::new(vec![guard]))
    }

    /// Makes a file for bytes that arrive.
    pub(super) fn create(&self) -> io::Result<TempFile> {
        let folder = self.dir.join(INCOMING);
        let nameless = options().custom_flags(O_TMPFILE).open(&folder);
        match nameless {
            Ok(file) => return Ok(TempFile { file, path: None }),
            // What file systems without nameless files say.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Unsupported | ErrorKind::IsADirectory | ErrorKind::NotFound
                ) => {}
            Err(error) => return Err(error),
        }
        let path = folder.join(UploadId::random().as_str());
        let file = options().create_new(true).open(&path)?;
        Ok(TempFile {
            file,
            path: Some(path),
        })
    }

    /// Stores a complete file under its hash. When this returns, it is on the disk. One that is there is replaced: nobody has
    /// looked whether its bytes are still the right ones. The caller holds the lock of the content. Returns whether none was there.
    pub(super) fn add(&self, temp: &TempFile, hash: ContentHash) -> Result<bool, UploadError> {
        let path = self.path(hash);
        let folder = path.parent().unwrap_or(&self.dir);
        self.make_content_folder(folder, hash)?;
        // With its name before the sync, the disk gets both at once. Not if a file has this name: uploads may use it, and what
        // replaces it must be on the disk.
        let is_new = match temp.link(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            linked => linked.map(|()| true)?,
        };
        let synced = self.sync_named(temp, &path, folder, is_new);
        if synced.is_err() && is_new {
            // The error of the sync counts. If this fails too, the sweep finds the file.
            remove_if_there(&path).ok();
        }
        synced.map(|()| is_new)
    }

    /// Syncs a file and its name. If another file has the name, this one takes its place.
    fn sync_named(
        &self,
        temp: &TempFile,
        path: &Path,
        folder: &Path,
        is_new: bool,
    ) -> Result<(), UploadError> {
        temp.file.sync_all().map_err(UploadError::Unsynced)?;
        if !is_new {
            let new = self.dir.join(INCOMING).join(UploadId::random().as_str());
            temp.link(&new)?;
            fs::rename(&new, path)?;
            // An upload in parts that is stored again after a crash has this name already, and then `rename` does nothing.
            remove_if_there(&new)?;
        }
        let synced = File::open(folder)?.sync_all();
        synced.map_err(UploadError::Unsynced)
    }

    /// Makes the folder of a file. When this returns, the folder is on the disk.
    fn make_content_folder(&self, folder: &Path, hash: ContentHash) -> io::Result<()> {
        let is_synced = &self.synced_folders[usize::from(hash.0[0])];
        if make_folder(folder)? {
            is_synced.store(false, Ordering::Relaxed);
        }
        // Also a folder that was there: a crash of the one that made it may have come before this. Each sync waits for the disk,
        // so it happens once for each folder.
        if !is_synced.load(Ordering::Relaxed) {
            sync_folder(&self.dir.join(CONTENT))?;
            is_synced.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Opens a stored file.
    pub(super) fn read(&self, hash: ContentHash) -> io::Result<File> {
        File::open(self.path(hash))
    }

    /// Removes a stored file, if it is there. The caller holds both locks.
    pub(super) fn remove(&self, hash: ContentHash) -> io::Result<()> {
        remove_if_there(&self.path(hash))?;
        Ok(())
    }

    /// The ids that are the names of files in `folder`.
    pub(super) fn ids_in(&self, folder: &str) -> io::Result<Vec<UploadId>> {
        names_in(&self.dir.join(folder), |name| name.parse().ok())
    }

    /// The hashes of all stored files whose hash begins with `prefix`.
    pub(super) fn stored(&self, prefix: u8) -> io::Result<Vec<ContentHash>> {
        let folder = self.dir.join(CONTENT).join(hex(&[prefix]));
        match names_in(&folder, ContentHash::of_name) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            hashes => hashes,
        }
    }

    /// The bytes that the disk has free for this process.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let disk = statvfs(&self.dir)?;
        Ok(disk.blocks_available() as u64 * disk.fragment_size() as u64)
    }

    fn path(&self, hash: ContentHash) -> PathBuf {
        let name = hash.hex();
        self.dir.join(CONTENT).join(&name[..2]).join(name)
    }
}

impl TempFile {
    /// Gives the file a name of its own, beside the one that it may have.
    pub(super) fn link(&self, path: &Path) -> io::Result<()> {
        match &self.path {
            Some(temp) => fs::hard_link(temp, path),
            None => {
                let open = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                let flags = AtFlags::AT_SYMLINK_FOLLOW;
                linkat(AT_FDCWD, open.as_str(), AT_FDCWD, path, flags)?;
                Ok(())
            }
        }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "the file of an upload is not removed");
        }
    }
}

pub(super) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    options
}

/// The identity of a folder, which it gets when it is opened for the first time.
fn identity(dir: &Path) -> io::Result<UploadId> {
    let path = dir.join(IDENTITY);
    match fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let identity = UploadId::random();
            let new = dir.join(INCOMING).join(identity.as_str());
            let mut file = options().create_new(true).open(&new)?;
            file.write_all(identity.as_str().as_bytes())?;
            file.sync_all()?;
            fs::rename(new, path)?;
            Ok(identity)
        }
        Err(error) => Err(error),
    }
}

/// Makes a folder, unless it is there. Whether it has made it.
pub(super) fn make_folder(path: &Path) -> io::Result<bool> {
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
        made => made.map(|()| true),
    }
}

/// Removes a file, if it is there. Returns whether it was.
pub(super) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What `read` makes of the names of files in a folder. It leaves other names out.
pub(super) fn names_in<T>(folder: &Path, read: impl Fn(&str) -> Option<T>) -> io::Result<Vec<T>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().to_str().and_then(&read));
    }
    Ok(names)
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_file_that_is_stored_again_leaves_no_other_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let incoming = folder.path().join(INCOMING);
        let named = || {
            let path = incoming.join("named");
            TempFile {
                file: options().create_new(true).open(&path).unwrap(),
                path: Some(path),
            }
        };
        for number in [1, 2] {
            let temp = match number {
                1 => store.create().unwrap(),
                _ => named(),
            };
            let hash = ContentHash([number; 32]);
            for _ in 0..3 {
                store.add(&temp, hash).unwrap();
            }
            drop(temp);
            assert_eq!(fs::read_dir(&incoming).unwrap().count(), 0, "{number}");
            assert_eq!(store.stored(number).unwrap(), [hash]);
        }
    }
}
