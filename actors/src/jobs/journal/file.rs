//! The file of the journal. All functions block on the file system.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::entries::JournalEntry;
use crate::kernel::regular_file;

/// The form of the file. Another form is not understood.
const VERSION: u32 = 1;

/// Bytes of a file at most. What is written is smaller: the entries are bounded.
const FILE_BYTES_MAX: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// The entries in the file at `path`; none if there is no file. A damaged file is renamed, so that
/// nothing is lost.
///
/// # Errors
/// The file cannot be read, or a damaged one cannot be renamed.
pub(super) fn load(path: &Path) -> io::Result<Vec<JournalEntry>> {
    let mut bytes = Vec::new();
    let file = match regular_file::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match parse(&bytes) {
        Ok(entries) => Ok(entries),
        Err(damage) => {
            let aside = beside(path, "damaged");
            std::fs::rename(path, &aside)?;
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

/// Replaces the file at `path` in one step, durably. Creates its folder if necessary.
///
/// # Errors
/// The folder or the file cannot be written. The old file is then unchanged.
pub(super) fn save<Entry: Serialize>(path: &Path, entries: Vec<Entry>) -> io::Result<()> {
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
