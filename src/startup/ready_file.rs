//! The ready file: its existence means that the server is ready, and its content has the addresses.
//!
//! It is written atomically, and removed when the server begins to stop.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process;

use serde::Serialize;

use super::folder::{nearest, why_not_writable};

/// Why a ready file cannot be written to `path`. `None` if it seems that it can. Found out without writing. `data_dir` need
/// not be there: the start makes it.
pub(crate) fn fault(path: &Path, data_dir: &Path) -> Option<String> {
    if path.file_name().is_none() {
        return Some("it is no name of a file".to_owned());
    }
    let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    if is_folder {
        return Some("it is a folder".to_owned());
    }
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let (found, is_above) = nearest(folder);
    if is_above && folder != data_dir {
        return Some(format!("the folder {} is not there", folder.display()));
    }
    let fault = why_not_writable(&found)?;
    Some(format!("the folder {}: {fault}", found.display()))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_ready_file_is_found_without_writing() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        let at = |name: &str| fault(&folder.path().join(name), &data_dir);
        assert_eq!(at("ready.json"), None);
        assert_eq!(at("data/ready.json"), None, "the start makes it");
        let here = fault(Path::new("ready.json"), &data_dir);
        assert_eq!(here, None, "in this folder");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        fs::write(folder.path().join("file"), "").unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        assert_eq!(at("file"), None, "it is replaced");
        for (name, text) in [
            ("..", "it is no name of a file"),
            ("inner", "it is a folder"),
            ("none/ready.json", "none is not there"),
            ("data/in/ready.json", "data/in is not there"),
            ("file/ready.json", "file: it is not a folder"),
        ] {
            let found = at(name).unwrap();
            assert!(found.contains(text), "{name}: {found}");
        }
    }
}
