//! What a private server is told, and what it tells those who want to connect.

use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::SearchPath;

/// What the operator says of a private server.
#[derive(Debug, Clone)]
pub struct PrivateServerConfig {
    /// The folder for its data; nothing else may be in it. Made when it is missing.
    pub folder: PathBuf,
    /// The user that it runs as; only root has a choice. `None` for the owner of the folder, else
    /// the user that packages make for it, else `nobody`.
    pub user: Option<String>,
    /// Where its binaries are looked for.
    pub search: SearchPath,
    /// How long it may take from the start of its process until it is ready, recovery after a
    /// crash included.
    pub start_timeout: Duration,
}

impl PrivateServerConfig {
    /// Data in `folder`, programs from `search`, ready within a minute, the user by the rules.
    pub fn new(folder: impl Into<PathBuf>, search: SearchPath) -> Self {
        Self {
            folder: folder.into(),
            user: None,
            search,
            start_timeout: Duration::from_secs(60),
        }
    }
}

/// Where a private server listens.
#[derive(Clone, PartialEq, Eq)]
pub struct Socket {
    path: PathBuf,
    url: String,
}

impl Socket {
    pub(crate) fn new(path: PathBuf, url: String) -> Self {
        Self { path, url }
    }

    /// The file of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How to connect, with the password: never for a log or an answer.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// `path` as a part of a URL; `kept` stays as it is, like letters and digits.
pub(crate) fn percent_encoded(path: &Path, kept: &[u8]) -> String {
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            write!(text, "%{byte:02X}").ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_url_means_what_it_says_and_a_password_is_not_shown() {
        let path = Path::new("/a b/c%d-1");
        assert_eq!(percent_encoded(path, b""), "%2Fa%20b%2Fc%25d-1");
        assert_eq!(percent_encoded(path, b"/"), "/a%20b/c%25d-1");
        let socket = Socket::new(path.into(), "x://user:secret@host".into());
        assert!(!format!("{socket:?}").contains("secret"));
    }
}
