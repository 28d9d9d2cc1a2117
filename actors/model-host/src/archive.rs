//! Checks a model file before libtorch reads it.
//!
//! A TorchScript file is a zip archive. libtorch does not check the archive's checksums, and trusts the lengths that
//! the pickles declare for tensor records: a damaged or truncated file loads, and then gives wrong numbers or a SIGSEGV
//! in `forward`. So this module reads and checks every entry once. A crafted file may still pass; the process boundary
//! protects the server from it.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::Path,
};

use headroom_model_protocol::{Failure, FailureKind};
use zip::{ZipArchive, result::ZipError};

use crate::{
    failure::failure,
    pickle,
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

/// What to read of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All entries, to check them.
    All,
    /// Only code and pickles.
    Code,
}

/// A checked model file.
#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    /// The signature of the module's class.
    pub(crate) signature: Signature,
    /// Bytes of all tensor records.
    pub(crate) parameter_bytes: u64,
}

impl Archive {
    /// Reads and checks a file.
    pub(crate) fn read(file: File, extent: Extent) -> Result<Self, Failure> {
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            let message = "it is not a regular file";
            return Err(failure(FailureKind::Unreadable, message));
        }
        if let Some(other) = other_format(&begin_of(&file).map_err(unreadable)?) {
            return Err(bad(other));
        }
        let contents = Contents::read(&file, metadata.len(), extent)?;
        let class = contents.check_pickle("data")?;
        contents.check_pickle("constants")?;
        let signature = class
            .as_deref()
            .and_then(signature::locate)
            .and_then(|(path, class)| {
                signature::read(&String::from_utf8_lossy(contents.kept.get(&path)?), class)
            })
            .ok_or_else(|| bad("the module has no method `forward` (it may hold weights only)"))?;
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

/// Opens a file of unknown kind.
pub(crate) fn open(path: &Path) -> Result<File, Failure> {
    // NONBLOCK: opening a named pipe must not wait for a writer.
    let opened = File::options()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path);
    opened.map_err(unreadable)
}

fn unreadable(error: io::Error) -> Failure {
    let message = format!("the file cannot be read: {error}");
    failure(FailureKind::Unreadable, message)
}

/// A file that is refused for its content.
fn bad(why: impl ToString) -> Failure {
    failure(FailureKind::BadFile, why)
}

/// The first bytes of a file.
fn begin_of(file: &File) -> io::Result<Vec<u8>> {
    let mut begin = vec![0; 512];
    let read = file.read_at(&mut begin, 0)?;
    begin.truncate(read);
    Ok(begin)
}

/// What a file is that begins so, if that is something else that is often found in the place of a model.
fn other_format(begin: &[u8]) -> Option<&'static str> {
    /// The pickle of a number with which `torch.save` began its files before version 1.6.
    const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let text = begin.trim_ascii_start();
    let has = |start: &str| {
        let found = text.get(..start.len());
        found.is_some_and(|found| found.eq_ignore_ascii_case(start.as_bytes()))
    };
    if begin.is_empty() {
        return Some("it is empty");
    }
    if has("version https://git-lfs.github.com/spec/") {
        return Some(
            "it is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`",
        );
    }
    if has("<!doctype html") || has("<html") {
        return Some("it is an HTML page, as a download gets in the place of a file");
    }
    if begin.starts_with(LEGACY) {
        return Some(
            "it is a file of torch.save in the format before 1.6, which holds weights or Python objects: save the module with torch.jit.save",
        );
    }
    None
}

fn not_an_archive(error: ZipError) -> Failure {
    bad(format!(
        "it is not a TorchScript file: not a zip archive, or a damaged one: {error}"
    ))
}

/// An archive's entries, named without the top folder.
#[derive(Default)]
struct Contents {
    lengths: HashMap<String, u64>,
    /// Python code and pickles.
    kept: HashMap<String, Vec<u8>>,
}

impl Contents {
    /// Reads each entry within `extent` to its end, which checks its CRC.
    fn read(file: &File, file_len: u64, extent: Extent) -> Result<Self, Failure> {
        let mut archive =
            ZipArchive::new(io::BufReader::with_capacity(CHUNK, file)).map_err(not_an_archive)?;
        let unusual = || bad("the archive has too many entries, or two of the same name");
        if archive.len() > ENTRIES_MAX || archive.has_duplicate_names() {
            return Err(unusual());
        }
        let mut contents = Self::default();
        let mut top_folder: Option<String> = None;
        let mut budget = file_len.saturating_mul(RATIO_MAX).saturating_add(TEXT_MAX);
        for index in 0..archive.len() {
            let entry = archive.by_index(index).map_err(not_an_archive)?;
            let full_name = entry.name().map_err(not_an_archive)?.into_owned();
            let (top, name) = full_name.split_once('/').unwrap_or_default();
            // libtorch reads that of the first entry.
            if top_folder.get_or_insert_with(|| top.to_owned()) != top {
                return Err(bad("the entries of the archive are not all in one folder"));
            }
            let damaged = |why: String| bad(format!("entry `{full_name}` is damaged: {why}"));
            let expected = entry.size();
            let last = contents.lengths.insert(name.to_owned(), expected);
            if last.is_some() && !name.is_empty() {
                return Err(unusual());
            }
            budget = budget.checked_sub(expected).ok_or_else(|| {
                bad("the archive unpacks to many times its size, as no model does")
            })?;
            // One byte more than declared shows that an entry is too long.
            let mut entry = entry.take(expected.saturating_add(1));
            let is_code = name.starts_with("code/") && name.ends_with(".py");
            let found = if is_code || name.ends_with(".pkl") {
                if expected > TEXT_MAX {
                    return Err(damaged("it is too long for code or a pickle".to_owned()));
                }
                let kept = contents.kept.entry(name.to_owned()).or_default();
                entry.read_to_end(kept).map(|len| len as u64)
            } else if extent == Extent::All {
                io::copy(&mut entry, &mut io::sink())
            } else {
                Ok(expected)
            };
            if found.map_err(|error| damaged(error.to_string()))? != expected {
                let why = format!("it does not have the {expected} bytes that it declares");
                return Err(damaged(why));
            }
        }
        Ok(contents)
    }

    /// Checks that each storage of `<folder>.pkl` has a record of at least its length. Returns the class of the root
    /// object.
    fn check_pickle(&self, folder: &str) -> Result<Option<String>, Failure> {
        let name = format!("{folder}.pkl");
        let Some(bytes) = self.kept.get(&name) else {
            if self.is_of_export() {
                return Err(bad(
                    "it is a file of torch.export: save the module with torch.jit.save (torch.jit.trace or torch.jit.script)",
                ));
            }
            return Err(bad(format!(
                "the archive is not a TorchScript module: it has no `{name}`"
            )));
        };
        if !self.kept.keys().any(|name| name.ends_with(".py")) {
            return Err(bad(
                "the archive is not a TorchScript module but pickled weights: save the module with torch.jit.save",
            ));
        }
        let pickle = pickle::read(bytes)
            .map_err(|error| bad(format!("`{name}` cannot be read: {error}")))?;
        for storage in &pickle.storages {
            let (name, expected) = (format!("{folder}/{}", storage.key), storage.bytes);
            let found = self.lengths.get(&name).copied().unwrap_or(0);
            if found < expected {
                return Err(bad(format!(
                    "tensor record `{name}` has {found} bytes instead of {expected}"
                )));
            }
        }
        Ok(pickle.root_class)
    }

    fn is_of_export(&self) -> bool {
        let mut names = self.lengths.keys();
        names.any(|name| {
            matches!(
                name.as_str(),
                "archive_format" | "serialized_exported_program.json" | "models/model.json"
            )
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_often_in_the_place_of_a_model_is_named() {
        for (begin, word) in [
            (&b""[..], "empty"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
                "Git LFS",
            ),
            (b"\n<!DOCTYPE HTML><html>", "HTML"),
            (b"<html lang=en>", "HTML"),
            (
                b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
                "torch.save",
            ),
        ] {
            let named = other_format(begin).unwrap();
            assert!(named.contains(word), "{named}");
        }
        for begin in [&b"PK\x03\x04"[..], b"\x80\x02.", b"version 1", b"<xml>"] {
            assert_eq!(other_format(begin), None, "{begin:?}");
        }
    }
}
