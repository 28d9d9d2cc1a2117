//! The folder of uploaded files.
//!
//! A file arrives without a name: the kernel frees its bytes when it is closed, however the process ends
//! (`O_TMPFILE`). File systems that lack this get a named file in `incoming`, which the next start removes. A
//! complete file is stored under the BLAKE3 hash of its bytes, `content/ab/ab…`, so the same bytes are stored once.
//!
//! What is stored is never changed. Rows in the database say which files are used (`records`): who adds or
//! removes a file holds the lock of its row.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc::O_TMPFILE;
use nix::sys::statvfs::statvfs;
use nix::unistd::linkat;

use super::id::UploadId;

/// Only the server may read uploaded files.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Files that arrive, on file systems without nameless files.
const INCOMING: &str = "incoming";
/// Complete files, under the hash of their bytes.
const CONTENT: &str = "content";

/// The folder of uploaded files.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

/// A file that arrives. Its bytes are freed when it is dropped, unless it was stored.
#[derive(Debug)]
pub(super) struct TempFile {
    pub(super) file: File,
    /// `None` for a file without a name.
    path: Option<PathBuf>,
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
        let digits = name.as_bytes();
        let mut hash = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
            let pair = str::from_utf8(pair).ok()?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        (hex(&hash) == name).then_some(Self(hash))
    }
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
        for folder in [INCOMING, CONTENT] {
            make_folder(&dir.join(folder))?;
        }
        for entry in fs::read_dir(dir.join(INCOMING))? {
            fs::remove_file(entry?.path())?;
        }
        let dir = dir.to_owned();
        Ok(Self { dir })
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

    /// Stores a complete file of `bytes` bytes under its hash, unless it is there. When this returns, it is on the disk.
    /// The caller holds the lock of the file's row.
    pub(super) fn add(&self, temp: &TempFile, hash: ContentHash, bytes: u64) -> io::Result<()> {
        let path = self.path(hash);
        let folder = path.parent().unwrap_or(&self.dir);
        if make_folder(folder)? {
            sync_folder(&self.dir.join(CONTENT))?;
        }
        match fs::metadata(&path) {
            Ok(found) if found.len() == bytes => return sync_folder(folder),
            // A damaged file is replaced.
            Ok(_) => fs::remove_file(&path)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        temp.link(&path)?;
        sync_folder(folder)
    }

    /// Opens a stored file.
    pub(super) fn read(&self, hash: ContentHash) -> io::Result<File> {
        File::open(self.path(hash))
    }

    /// Removes a stored file, if it is there. The caller holds the lock of the file's row.
    pub(super) fn remove(&self, hash: ContentHash) -> io::Result<()> {
        match fs::remove_file(self.path(hash)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The hashes of all stored files whose hash begins with `prefix`.
    pub(super) fn stored(&self, prefix: u8) -> io::Result<Vec<ContentHash>> {
        let folder = self.dir.join(CONTENT).join(hex(&[prefix]));
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut hashes = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            hashes.extend(name.to_str().and_then(ContentHash::of_name));
        }
        Ok(hashes)
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
    fn link(&self, path: &Path) -> io::Result<()> {
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

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    options
}

/// Makes a folder. Returns whether it was not there.
fn make_folder(path: &Path) -> io::Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        // Another upload was quicker.
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        made => Ok(made.is_ok()),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
