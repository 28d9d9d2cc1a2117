//! Why a private server does not run, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::kernel::BudgetError;
use crate::kernel::pool::{ConnectError, ConnectErrorKind};

/// Why a private server does not run. Each says what to do about it, and none holds a secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PrivateServerError {
    /// There are no binaries to run.
    #[error("{what} is not installed (looked in {}): {remedy}", list(.looked_in))]
    Missing {
        /// What is missing.
        what: &'static str,
        /// The folders that were looked in.
        looked_in: Vec<PathBuf>,
        /// What to do.
        remedy: String,
    },
    /// There is no user that it can run as.
    #[error("no user to run {what} as: {why}; {remedy}")]
    User {
        /// What is to run.
        what: &'static str,
        /// What is wrong.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// A folder or a file cannot be used.
    #[error("{path} cannot be used: {why}; {remedy}", path = .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// The data is of a version that no binaries were found for.
    #[error(
        "the data in {path} is of {what} {data}, found was {found}: install {what} {data}, or move the folder away",
        path = .path.display()
    )]
    Version {
        /// Whose data.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// The data's version.
        data: String,
        /// The versions of what was found.
        found: String,
    },
    /// The data could not be laid out for the first time. What was begun is removed.
    #[error("the data of {what} could not be created: {}{}", last(.lines), advice(.lines))]
    Initialise {
        /// Whose data.
        what: &'static str,
        /// The last lines it wrote.
        lines: Vec<String>,
    },
    /// A server of an earlier run is still there, whatever was done to end it.
    #[error("{what} of an earlier run does not end: end process {pid} by hand")]
    Orphan {
        /// What it is.
        what: &'static str,
        /// Its process.
        pid: i32,
    },
    /// The server did not start, or does not stay.
    #[error("{what} does not run ({why}): {}{}", last(.lines), advice(.lines))]
    Start {
        /// What was started.
        what: &'static str,
        /// How it went.
        why: String,
        /// The last lines it wrote.
        lines: Vec<String>,
    },
    /// The budget has no room for it now.
    #[error(
        "no memory to start {what}: {source}; raise the budget, or try again when less is loaded"
    )]
    Memory {
        /// What was to start.
        what: &'static str,
        /// What is missing.
        source: BudgetError,
    },
    /// Whoever supervises it does not run: the application is starting, or on its way out.
    #[error("{what} is not started now: {why}")]
    Unavailable {
        /// What was to start.
        what: &'static str,
        /// Why not.
        why: String,
    },
}

impl PrivateServerError {
    /// That `path` cannot be used because of `error`.
    pub(crate) fn folder(path: &Path, error: &io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "free space on its disk; it is tried again by itself".to_owned()
            }
            io::ErrorKind::ReadOnlyFilesystem => {
                "put the data on a disk that can be written".to_owned()
            }
            io::ErrorKind::PermissionDenied => {
                format!(
                    "let the server write there: chown or chmod {}",
                    path.display()
                )
            }
            _ => "correct that, or choose another data folder".to_owned(),
        };
        Self::Folder {
            path: path.to_owned(),
            why: error.to_string(),
            remedy,
        }
    }
}

impl From<PrivateServerError> for ConnectError {
    /// What keeps a pool from its server. Nobody is asked to try again soon for what somebody has
    /// to mend.
    fn from(error: PrivateServerError) -> Self {
        let kind = match &error {
            PrivateServerError::Missing { .. }
            | PrivateServerError::User { .. }
            | PrivateServerError::Folder { .. }
            | PrivateServerError::Version { .. }
            | PrivateServerError::Initialise { .. } => ConnectErrorKind::Missing,
            PrivateServerError::Orphan { .. } | PrivateServerError::Start { .. } => {
                ConnectErrorKind::Unreachable
            }
            PrivateServerError::Memory { .. } | PrivateServerError::Unavailable { .. } => {
                ConnectErrorKind::Refused
            }
        };
        Self::new(kind, error.to_string())
    }
}

fn list(folders: &[PathBuf]) -> String {
    let names: Vec<_> = folders.iter().map(|path| path.to_string_lossy()).collect();
    names.join(", ")
}

/// What matters of what was written, in one line: the last lines that tell of an error, or else the
/// last ones.
fn last(lines: &[String]) -> String {
    const SHOWN: usize = 4;
    const TELLING: [&str; 6] = [
        "PANIC",
        "FATAL",
        "error",
        "No space left",
        "Short write",
        "denied",
    ];
    let is_telling = |line: &&String| TELLING.iter().any(|word| line.contains(word));
    let mut chosen: Vec<&String> = lines.iter().filter(is_telling).collect();
    if chosen.is_empty() {
        chosen = lines.iter().filter(|line| !line.is_empty()).collect();
    }
    if chosen.is_empty() {
        return "it wrote nothing".to_owned();
    }
    let shown = chosen[chosen.len().saturating_sub(SHOWN)..].iter();
    let shown: Vec<&str> = shown.map(|line| line.as_str()).collect();
    shown.join(" / ")
}

/// What to do, where what was written tells.
fn advice(lines: &[String]) -> &'static str {
    let says = |text: &str| lines.iter().any(|line| line.contains(text));
    // The last is what Redis says when a part still found room.
    let full = [
        "No space left on device",
        "Disk quota exceeded",
        "Short write",
    ];
    if full.into_iter().any(says) {
        "; free space on the disk of the data folder, it is tried again by itself"
    } else if says("Permission denied") {
        "; let its user write to the data folder"
    } else if says("Read-only file system") {
        "; put the data folder on a disk that can be written"
    } else {
        "; the log has all it wrote, and it is tried again by itself"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_shown_with_what_tells_of_it_and_what_to_do() {
        let lines = [
            "creating subdirectories ... ok",
            "FATAL:  could not write: No space left on device",
            "child process exited with exit code 1",
            "removing data directory",
            "",
        ];
        let error = PrivateServerError::Initialise {
            what: "postgres",
            lines: lines.map(str::to_owned).to_vec(),
        };
        assert_eq!(
            error.to_string(),
            "the data of postgres could not be created: FATAL:  could not write: No space left on \
             device; free space on the disk of the data folder, it is tried again by itself"
        );
        assert_eq!(last(&[]), "it wrote nothing");
        assert_eq!(last(&["one".to_owned(), String::new()]), "one");
    }
}
