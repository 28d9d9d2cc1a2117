//! The ready file: its existence means that the server is ready, and its content has the addresses.
//!
//! It is written atomically, and removed when the server begins to stop.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process;

use nix::unistd::{AccessFlags, access};
use serde::Serialize;

/// Why a ready file cannot be written to `path`. `None` if it seems that it can. Found out without writing.
pub(crate) fn fault(path: &Path) -> Option<String> {
    if path.file_name().is_none() {
        return Some("it is no name of a file".to_owned());
    }
    if path.is_dir() {
        return Some("it is a folder".to_owned());
    }
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let shown = folder.display();
    match fs::metadata(folder) {
        Err(error) => return Some(format!("the folder {shown}: {error}")),
        Ok(found) if !found.is_dir() => return Some(format!("{shown} is not a folder")),
        Ok(_) => {}
    }
    let error = access(folder, AccessFlags::W_OK | AccessFlags::X_OK).err()?;
    Some(format!("the folder {shown}: {}", error.desc()))
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
        let at = |name: &str| fault(&folder.path().join(name));
        assert_eq!(at("ready.json"), None);
        assert_eq!(fault(Path::new("ready.json")), None, "in this folder");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        fs::write(folder.path().join("file"), "").unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        assert_eq!(at("file"), None, "it is replaced");
        for (name, text) in [
            ("..", "it is no name of a file"),
            ("inner", "it is a folder"),
            ("none/ready.json", "No such file or directory"),
            ("file/ready.json", "file is not a folder"),
        ] {
            let found = at(name).unwrap();
            assert!(found.contains(text), "{name}: {found}");
        }
    }
}
