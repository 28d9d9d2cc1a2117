//! The file of the journal. All methods block on the file system.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::iter;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::entries::JournalEntry;
use crate::kernel::regular_file;

/// The form of the file. Another form is not understood.
const VERSION: u32 = 1;

/// Bytes of a file at most. What is written is smaller: the entries are bounded.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Damaged files that are kept. With more, the journal cannot be read until an operator removes some.
const DAMAGED_MAX: usize = 10;

// Members that this version does not know are left out: they are those of a later one.
#[derive(Serialize, Deserialize)]
struct Content<Entry> {
    version: u32,
    /// The newest first.
    entries: Vec<Entry>,
}

/// Why a file cannot be read as a journal.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("it has more than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("its version is {0}, and this server knows version {VERSION}")]
    Version(u32),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// The file of a journal. One thread at a time uses it: an incarnation that has ended may have left one that
/// still writes.
pub(super) struct JournalFile {
    pub(super) path: PathBuf,
    /// The number of changes that the file has.
    changes: Mutex<u64>,
}

impl JournalFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            changes: Mutex::default(),
        }
    }

    /// The entries in the file; none if there is no file. A damaged file is renamed, so that nothing is lost.
    ///
    /// # Errors
    /// The file cannot be read, or a damaged one cannot be renamed.
    pub(super) fn load(&self) -> io::Result<Vec<JournalEntry>> {
        let _changes = self.lock();
        let path = &self.path;
        let mut bytes = Vec::new();
        let file = match regular_file::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        match parse(&bytes) {
            Ok(entries) => Ok(entries),
            Err(damage) => {
                let aside = set_aside(path)?;
                tracing::warn!(
                    path = %path.display(),
                    set_aside = %aside.display(),
                    %damage,
                    "a journal of jobs is damaged; a new one begins"
                );
                Ok(Vec::new())
            }
        }
    }

    /// Replaces the file by `entries` in one step, durably. Creates its folder if necessary. Does nothing if the
    /// file has more than these `changes`.
    ///
    /// # Errors
    /// The folder or the file cannot be written. The old file is then unchanged.
    pub(super) fn save<Entry: Serialize>(
        &self,
        entries: Vec<Entry>,
        changes: u64,
    ) -> io::Result<()> {
        let mut saved = self.lock();
        if *saved <= changes {
            save(&self.path, entries)?;
            *saved = changes;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        // The number is right after a panic: it is set when the file is written.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renames the file at `path` to a name that is free.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let numbered = (2..=DAMAGED_MAX).map(|number| beside(path, &format!("damaged-{number}")));
    let mut names = iter::once(beside(path, "damaged")).chain(numbered);
    let is_free = |name: &PathBuf| std::fs::symlink_metadata(name).is_err();
    let free = names.find(is_free).ok_or_else(|| {
        let error = format!("it is damaged, and there are {DAMAGED_MAX} damaged ones beside it");
        io::Error::new(io::ErrorKind::AlreadyExists, error)
    })?;
    std::fs::rename(path, &free)?;
    Ok(free)
}

fn parse(bytes: &[u8]) -> Result<Vec<JournalEntry>, Damage> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Damage::TooLarge);
    }
    let content: Content<JournalEntry> = serde_json::from_slice(bytes)?;
    if content.version != VERSION {
        return Err(Damage::Version(content.version));
    }
    Ok(content.entries)
}

fn save<Entry: Serialize>(path: &Path, entries: Vec<Entry>) -> io::Result<()> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    // Other users can pass through, as through the folder of private servers, and cannot list it.
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folder)?;
    let version = VERSION;
    let mut text = serde_json::to_vec(&Content { version, entries })?;
    text.push(b'\n');
    let new = beside(path, "new");
    if let Err(error) = std::fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

/// The path with a further extension.
fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}
