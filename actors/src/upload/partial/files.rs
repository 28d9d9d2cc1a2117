//! The files of uploads in parts: `partial/<id>`, whose size is how far the upload has come.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use super::super::id::UploadId;
use super::super::store::{PARTIAL, Store, TempFile, options, remove_if_there, sync_folder};

impl Store {
    fn partial_path(&self, id: &UploadId) -> PathBuf {
        self.dir.join(PARTIAL).join(id.as_str())
    }

    /// Makes an empty file. When this returns, its name is on the disk.
    pub(super) fn create_partial(&self, id: &UploadId) -> io::Result<File> {
        // Not to append: the kernel does not copy to such a file.
        let file = options().create_new(true).open(self.partial_path(id))?;
        sync_folder(&self.dir.join(PARTIAL))?;
        Ok(file)
    }

    /// Opens a file, to read and to append. `None` if it is not there.
    pub(super) fn open_partial(&self, id: &UploadId) -> io::Result<Option<File>> {
        match options().append(true).open(self.partial_path(id)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The file, to be stored. It keeps its name.
    pub(super) fn whole_partial(&self, id: &UploadId) -> io::Result<TempFile> {
        let file = File::open(self.partial_path(id))?;
        Ok(TempFile { file, path: None })
    }

    /// The bytes of a file. `None` if it is not there.
    pub(super) fn partial_bytes(&self, id: &UploadId) -> io::Result<Option<u64>> {
        match fs::metadata(self.partial_path(id)) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a file, if it is there. Returns whether it was.
    pub(super) fn remove_partial(&self, id: &UploadId) -> io::Result<bool> {
        remove_if_there(&self.partial_path(id))
    }
}
