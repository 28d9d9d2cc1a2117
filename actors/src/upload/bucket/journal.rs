//! Which objects are being sent in parts: a file for each, under its hash, with the name that the store gave the parts.
//!
//! A server that dies leaves them, and the parts in the bucket cost money until somebody removes them.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::super::store::{ContentHash, make_folder, names_in, options, remove_if_there};

/// The folder, in that of uploads.
const SENDING: &str = "sending";

#[derive(Debug)]
pub(super) struct Journal(PathBuf);

impl Journal {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let folder = dir.join(SENDING);
        make_folder(&folder)?;
        Ok(Self(folder))
    }

    /// What is being sent, or was when a server died.
    pub(super) fn list(&self) -> io::Result<Vec<ContentHash>> {
        names_in(&self.0, ContentHash::of_name)
    }

    pub(super) fn read(&self, hash: ContentHash) -> io::Result<Option<String>> {
        match fs::read_to_string(self.path(hash)) {
            Ok(parts) => Ok(Some(parts)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write(&self, hash: ContentHash, parts: &str) -> io::Result<()> {
        let mut file = options()
            .create(true)
            .truncate(true)
            .open(self.path(hash))?;
        file.write_all(parts.as_bytes())?;
        file.sync_all()
    }

    pub(super) fn remove(&self, hash: ContentHash) -> io::Result<()> {
        remove_if_there(&self.path(hash))?;
        Ok(())
    }

    fn path(&self, hash: ContentHash) -> PathBuf {
        self.0.join(hash.hex())
    }
}
