//! Which objects are being sent in parts: a file for each, under its hash, with the place of the object
//! and the name that the store gave the parts.
//!
//! A server that dies leaves them, and the parts in the bucket cost money until somebody removes them.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::super::store::{
    ContentHash, make_folder, names_in, options, remove_if_there, sync_folder,
};

/// The folder, in that of uploads.
const SENDING: &str = "sending";

#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    /// Where the objects are. Notes of other places stay until the settings lead there again.
    place: String,
}

impl Journal {
    pub(super) fn open(dir: &Path, place: String) -> io::Result<Self> {
        let folder = dir.join(SENDING);
        if make_folder(&folder)? {
            sync_folder(dir)?;
        }
        Ok(Self { folder, place })
    }

    /// What is being sent, or was when a server died.
    pub(super) fn list(&self) -> io::Result<Vec<ContentHash>> {
        names_in(&self.folder, ContentHash::of_name)
    }

    /// The name of the parts of a file, if some are in this place.
    pub(super) fn read(&self, hash: ContentHash) -> io::Result<Option<String>> {
        let note = match fs::read_to_string(self.path(hash)) {
            Ok(note) => note,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // What was written when the server died may be half a note.
        let Some((place, parts)) = note.split_once('\n') else {
            return Ok(Some(String::new()));
        };
        Ok((place == self.place).then(|| parts.to_owned()))
    }

    /// Notes the name of the parts of a file. When this returns, the note is on the disk.
    pub(super) fn write(&self, hash: ContentHash, parts: &str) -> io::Result<()> {
        let mut file = options()
            .create(true)
            .truncate(true)
            .open(self.path(hash))?;
        file.write_all(format!("{}\n{parts}", self.place).as_bytes())?;
        file.sync_all()?;
        sync_folder(&self.folder)
    }

    pub(super) fn remove(&self, hash: ContentHash) -> io::Result<()> {
        remove_if_there(&self.path(hash))?;
        Ok(())
    }

    fn path(&self, hash: ContentHash) -> PathBuf {
        self.folder.join(hash.hex())
    }
}
