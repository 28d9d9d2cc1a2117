//! The ready file: its existence means that the server is ready, and its content has the addresses.
//!
//! It is written atomically, and removed when the server begins to stop.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process;

use serde::Serialize;

#[derive(Serialize)]
struct Content {
    listen: SocketAddr,
    admin_listen: SocketAddr,
    pid: u32,
}

/// A ready file. Dropping it removes the file.
pub(super) struct ReadyFile(PathBuf);

impl ReadyFile {
    pub(super) fn write(
        path: &Path,
        listen: SocketAddr,
        admin_listen: SocketAddr,
    ) -> io::Result<Self> {
        let content = Content {
            listen,
            admin_listen,
            pid: process::id(),
        };
        let mut name = path
            .file_name()
            .ok_or(io::ErrorKind::InvalidFilename)?
            .to_owned();
        name.push(format!(".{}.tmp", content.pid));
        let temporary = path.with_file_name(name);
        let mut text = serde_json::to_vec(&content)?;
        text.push(b'\n');
        fs::write(&temporary, text)?;
        fs::rename(&temporary, path)?;
        Ok(Self(path.into()))
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), error = %error, "cannot remove the ready file");
        }
    }
}
