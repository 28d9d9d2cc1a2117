//! The settings of a private server, and the address that it gets.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::SearchPath;

/// The settings of a private server.
#[derive(Debug, Clone)]
pub struct PrivateServerConfig {
    /// The folder for its data. It is created if necessary, and must contain nothing else.
    pub folder: PathBuf,
    /// The user that it runs as. Only root can choose another user than itself. `None` means the
    /// owner of the folder, else the user that packages create for the server, else `nobody`.
    pub user: Option<String>,
    /// Where to search for its programs.
    pub search: SearchPath,
}

/// The address of a private server.
#[derive(Clone, PartialEq, Eq)]
pub struct Socket {
    path: PathBuf,
    url: String,
}

impl Socket {
    pub(crate) fn new(path: PathBuf, url: String) -> Self {
        Self { path, url }
    }

    /// The path of the Unix socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The URL to connect to. It contains the password: never log it or send it to a client.
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

/// The characters that are encoded in a part of a URL: all that have a meaning in it.
const RESERVED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// `path` as a part of a URL, with its slashes encoded.
pub(crate) fn percent_encoded(path: &Path) -> String {
    percent_encode(path.as_os_str().as_bytes(), &RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_encoded_in_a_url_and_a_password_is_not_shown() {
        let path = Path::new("/a b/c%d-1");
        assert_eq!(percent_encoded(path), "%2Fa%20b%2Fc%25d-1");
        let socket = Socket::new(path.into(), "x://user:secret@host".into());
        assert!(!format!("{socket:?}").contains("secret"));
    }
}
