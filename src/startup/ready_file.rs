//! The ready file: its existence means that the server is ready, and its content has the addresses.
//!
//! It is written atomically, and removed when the server begins to stop.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process;

use serde::Serialize;

use super::StartupError;

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
        path: PathBuf,
        listen: SocketAddr,
        admin_listen: SocketAddr,
    ) -> Result<Self, StartupError> {
        let content = Content {
            listen,
            admin_listen,
            pid: process::id(),
        };
        match write_whole(&path, &content) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(StartupError::ReadyFile { path, source }),
        }
    }
}

fn write_whole(path: &Path, content: &Content) -> io::Result<()> {
    let mut name = path
        .file_name()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?
        .to_owned();
    name.push(format!(".{}.tmp", content.pid));
    let temporary = path.with_file_name(name);
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(content)?)?;
    file.write_all(b"\n")?;
    drop(file);
    fs::rename(&temporary, path)
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), error = %error, "cannot remove the ready file");
        }
    }
}
