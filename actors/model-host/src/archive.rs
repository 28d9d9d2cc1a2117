//! Checks a model file before libtorch reads it.
//!
//! A TorchScript file is a zip archive. libtorch does not check the archive's checksums, and trusts the lengths that
//! the pickles declare for tensor records: a damaged or truncated file loads, and then gives wrong numbers or a SIGSEGV
//! in `forward`. So this module reads and checks every entry once. A crafted file may still pass; the process boundary
//! protects the server from it.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use zip::{ZipArchive, result::ZipError};

use crate::{
    pickle::{self, PickleError, Storage},
    signature::{self, Signature},
};

/// Entries of an archive at most. A large model has some thousand.
const ENTRIES_MAX: usize = 1 << 17;

/// Bytes of a code file or pickle at most. These are kept in memory.
const TEXT_MAX: u64 = 64 << 20;

/// Unpacked bytes per byte of the file at most, beyond a first [`TEXT_MAX`]. Only code is compressed, tensors are not,
/// so a file that unpacks to more is not a model.
const RATIO_MAX: u64 = 4;

/// Bytes to read at once.
const CHUNK: usize = 256 << 10;

/// A checked model file.
#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    /// The signature of the module's class.
    pub(crate) signature: Signature,
    /// Bytes of all tensor records.
    pub(crate) parameter_bytes: u64,
}

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("the file cannot be read")]
    Io(#[from] io::Error),
    #[error("it is not a regular file")]
    NotAFile,
    #[error("it is not a TorchScript file: not a zip archive, or a damaged one")]
    Zip(#[source] ZipError),
    #[error("entry `{0}` is damaged")]
    Entry(String, #[source] io::Error),
    #[error("entry `{name}` has {found} bytes instead of {expected}")]
    EntryLength {
        name: String,
        expected: u64,
        found: u64,
    },
    #[error("the archive has too many entries, or two of the same name")]
    Entries,
    #[error("the archive unpacks to many times its size, as no model does")]
    TooLarge,
    #[error(
        "the archive is not a TorchScript module but pickled weights: save the module with torch.jit.save"
    )]
    NoCode,
    #[error("the archive is not a TorchScript module: it has no `{0}`")]
    Missing(&'static str),
    #[error("`{0}` cannot be read")]
    Pickle(&'static str, #[source] PickleError),
    #[error("tensor record `{name}` has {found} bytes instead of {expected}")]
    Record {
        name: String,
        expected: u64,
        found: u64,
    },
    #[error("the module has no method `forward` (it may hold weights only)")]
    NoForward,
}

impl ArchiveError {
    /// Whether the file cannot be read, rather than having a wrong content.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Io(_) | Self::NotAFile)
    }
}

impl Archive {
    /// Opens and checks a file.
    pub(crate) fn open(path: &Path) -> Result<Self, ArchiveError> {
        // NONBLOCK: opening a named pipe must not wait for a writer.
        let file = File::options()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ArchiveError::NotAFile);
        }
        let contents = Contents::read(&file, metadata.len())?;
        let data = contents.pickle("data.pkl")?;
        let constants = contents.pickle("constants.pkl")?;
        contents.check_records("data", &data.storages)?;
        contents.check_records("constants", &constants.storages)?;
        let class = data.root_class.ok_or(ArchiveError::NoForward)?;
        let signature = signature::locate(&class)
            .and_then(|(path, class)| signature::read(contents.texts.get(&path)?, class))
            .ok_or(ArchiveError::NoForward)?;
        Ok(Self {
            file,
            signature,
            parameter_bytes: contents.parameter_bytes(),
        })
    }

    /// A path to the file that was checked, even when another file has its name now. Valid for as long as the archive
    /// exists.
    pub(crate) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }
}

/// An archive's entries, named without the top folder.
struct Contents {
    lengths: HashMap<String, u64>,
    /// Python code and pickles by name.
    texts: HashMap<String, String>,
    pickles: HashMap<String, Vec<u8>>,
}

impl Contents {
    /// Reads every entry to its end, which checks its CRC.
    fn read(file: &File, file_len: u64) -> Result<Self, ArchiveError> {
        let mut archive = ZipArchive::new(io::BufReader::with_capacity(CHUNK, file))
            .map_err(ArchiveError::Zip)?;
        if archive.len() > ENTRIES_MAX || archive.has_duplicate_names() {
            return Err(ArchiveError::Entries);
        }
        let mut contents = Self {
            lengths: HashMap::new(),
            texts: HashMap::new(),
            pickles: HashMap::new(),
        };
        let mut budget = file_len.saturating_mul(RATIO_MAX).saturating_add(TEXT_MAX);
        let mut chunk = vec![0; CHUNK];
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).map_err(ArchiveError::Zip)?;
            let full_name = entry.name().map_err(ArchiveError::Zip)?.into_owned();
            let name = full_name
                .split_once('/')
                .map_or("", |(_, name)| name)
                .to_owned();
            budget = budget
                .checked_sub(entry.size())
                .ok_or(ArchiveError::TooLarge)?;
            let expected = entry.size();
            let keep =
                name.ends_with(".pkl") || (name.starts_with("code/") && name.ends_with(".py"));
            let (found, kept) = drain(&mut entry, expected, keep, &mut chunk)
                .map_err(|error| ArchiveError::Entry(full_name, error))?;
            if found != expected {
                return Err(ArchiveError::EntryLength {
                    name,
                    expected,
                    found,
                });
            }
            if name.ends_with(".pkl") {
                contents.pickles.insert(name.clone(), kept);
            } else if keep {
                contents
                    .texts
                    .insert(name.clone(), String::from_utf8_lossy(&kept).into_owned());
            }
            contents.lengths.insert(name, found);
        }
        Ok(contents)
    }

    fn pickle(&self, name: &'static str) -> Result<pickle::Pickle, ArchiveError> {
        let Some(bytes) = self.pickles.get(name) else {
            return Err(ArchiveError::Missing(name));
        };
        if self.texts.is_empty() {
            return Err(ArchiveError::NoCode);
        }
        pickle::read(bytes).map_err(|error| ArchiveError::Pickle(name, error))
    }

    /// Checks that each storage of a pickle has a record of at least its length.
    fn check_records(&self, folder: &str, storages: &[Storage]) -> Result<(), ArchiveError> {
        let mut checked = HashSet::new();
        for storage in storages
            .iter()
            .filter(|storage| checked.insert((&storage.key, storage.bytes)))
        {
            let name = format!("{folder}/{}", storage.key);
            let found = self.lengths.get(&name).copied().unwrap_or(0);
            if found < storage.bytes {
                return Err(ArchiveError::Record {
                    name,
                    expected: storage.bytes,
                    found,
                });
            }
        }
        Ok(())
    }

    fn parameter_bytes(&self) -> u64 {
        let is_tensor = |name: &str| name.starts_with("data/") || name.starts_with("constants/");
        self.lengths
            .iter()
            .filter(|(name, _)| is_tensor(name))
            .map(|(_, len)| len)
            .sum()
    }
}

/// Reads an entry to its end, and keeps its bytes if `keep`. Stops when the entry is longer than declared.
fn drain(
    entry: &mut impl Read,
    expected: u64,
    keep: bool,
    chunk: &mut [u8],
) -> io::Result<(u64, Vec<u8>)> {
    let mut found = 0u64;
    let mut kept = Vec::new();
    if keep && expected > TEXT_MAX {
        return Err(io::Error::other("it is too long for code or a pickle"));
    }
    loop {
        let bytes = match entry.read(chunk) {
            Ok(0) => return Ok((found, kept)),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        found += bytes as u64;
        if found > expected {
            return Err(io::Error::other("it is longer than declared"));
        }
        if keep {
            kept.extend_from_slice(&chunk[..bytes]);
        }
    }
}
