//! Why a private server does not run.

use std::io;
use std::path::{Path, PathBuf};

use crate::kernel::BudgetError;
use crate::kernel::pool::{ConnectError, ConnectErrorKind};

/// Why a private server does not run. Each message says what to do. None contains a secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PrivateServerError {
    /// Its programs are not installed.
    #[error("{product} is not installed: {programs} not found in {}; {remedy}", list(.searched))]
    Missing {
        /// The name of the product.
        product: &'static str,
        /// The programs that are needed.
        programs: String,
        /// The folders that were searched.
        searched: Vec<PathBuf>,
        /// What to do.
        remedy: String,
    },
    /// It cannot run as any user.
    #[error("no user to run {server} as: {reason}; {remedy}")]
    User {
        /// The server's name.
        server: &'static str,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A file or folder cannot be used.
    #[error("{path} cannot be used: {reason}; {remedy}", path = .path.display())]
    Folder {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The installed programs do not fit the version of the data.
    #[error(
        "the data in {path} needs {server} {data}, but only {found} is installed: install {server} {data}, or move the folder away",
        path = .path.display()
    )]
    Version {
        /// The server's name.
        server: &'static str,
        /// The folder of the data.
        path: PathBuf,
        /// The data's version.
        data: String,
        /// The installed versions.
        found: String,
    },
    /// The data could not be created. What was created so far is removed.
    #[error("the data of {server} could not be created: {}{}", summary(.lines), advice(.lines))]
    Initialise {
        /// The server's name.
        server: &'static str,
        /// The last lines of output.
        lines: Vec<String>,
    },
    /// A process of an earlier run ignores all signals.
    #[error("a process of an earlier {server} does not end: end process {pid} by hand")]
    Orphan {
        /// The server's name.
        server: &'static str,
        /// The process id.
        pid: i32,
    },
    /// The process did not become ready, or it ended.
    #[error("{server} does not run ({reason}): {}{}", summary(.lines), advice(.lines))]
    Start {
        /// The server's name.
        server: &'static str,
        /// What happened.
        reason: String,
        /// The last lines of output.
        lines: Vec<String>,
    },
    /// The memory budget has too few free bytes.
    #[error(
        "no memory to start {server}: {source}; raise the budget, or try again when less is loaded"
    )]
    Memory {
        /// The server's name.
        server: &'static str,
        /// The refusal of the budget.
        source: BudgetError,
    },
    /// Its supervisor does not run: the application is starting or stopping.
    #[error("{server} cannot be started now: {reason}")]
    Unavailable {
        /// The server's name.
        server: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl PrivateServerError {
    /// `path` cannot be used because of `error`.
    pub(crate) fn folder(path: &Path, error: &io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "free space on its disk, the start is retried"
            }
            io::ErrorKind::ReadOnlyFilesystem => "move the data folder to a writable disk",
            io::ErrorKind::PermissionDenied => {
                let path = path.display();
                &format!("give the server write access: chown or chmod {path}")
            }
            _ => "correct that, or choose another data folder",
        };
        Self::Folder {
            path: path.to_owned(),
            reason: error.to_string(),
            remedy: remedy.to_owned(),
        }
    }
}

impl From<PrivateServerError> for ConnectError {
    /// Failures that the operator must correct are not transient: callers do not wait for them.
    fn from(error: PrivateServerError) -> Self {
        use PrivateServerError as E;
        let kind = match &error {
            E::Orphan { .. } | E::Start { .. } => ConnectErrorKind::Unreachable,
            E::Memory { .. } | E::Unavailable { .. } => ConnectErrorKind::Refused,
            _ => ConnectErrorKind::Missing,
        };
        Self::new(kind, error.to_string())
    }
}

fn list(folders: &[PathBuf]) -> String {
    let names: Vec<_> = folders.iter().map(|path| path.to_string_lossy()).collect();
    names.join(", ")
}

/// The output in one line: the last lines that report an error, or else the last lines.
fn summary(lines: &[String]) -> String {
    const LINES_MAX: usize = 4;
    const ERROR_WORDS: [&str; 6] = [
        "PANIC",
        "FATAL",
        "error",
        "No space left",
        "Short write",
        "denied",
    ];
    let is_error = |line: &&String| ERROR_WORDS.iter().any(|word| line.contains(word));
    let mut chosen: Vec<&String> = lines.iter().filter(is_error).collect();
    if chosen.is_empty() {
        chosen = lines.iter().filter(|line| !line.is_empty()).collect();
    }
    if chosen.is_empty() {
        return "it wrote no output".to_owned();
    }
    let last = chosen[chosen.len().saturating_sub(LINES_MAX)..].iter();
    let last: Vec<&str> = last.map(|line| line.as_str()).collect();
    last.join(" / ")
}

/// What to do, as far as the output tells.
fn advice(lines: &[String]) -> &'static str {
    let says = |text: &str| lines.iter().any(|line| line.contains(text));
    let says_both = |one: &str, other: &str| {
        let mut lines = lines.iter();
        lines.any(|line| line.contains(one) && line.contains(other))
    };
    // Redis writes "Short write" when only a part fitted on the disk.
    let disk_full = [
        "No space left on device",
        "Disk quota exceeded",
        "Short write",
    ];
    if says_both("shared memory", "No space left on device") {
        "; free space in /dev/shm, or make it larger (`--shm-size` of a container), the start is retried"
    } else if disk_full.into_iter().any(says) {
        "; free space on the disk of the data folder, the start is retried"
    } else if says("Permission denied") {
        "; give its user write access to the data folder"
    } else if says("Read-only file system") {
        "; move the data folder to a writable disk"
    } else {
        "; the log has the whole output, the start is retried"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_lines_that_matter_and_what_to_do() {
        let lines = [
            "creating subdirectories ... ok",
            "FATAL:  could not write: No space left on device",
            "child process exited with exit code 1",
            "removing data directory",
            "",
        ];
        let error = PrivateServerError::Initialise {
            server: "postgres",
            lines: lines.map(str::to_owned).to_vec(),
        };
        assert_eq!(
            error.to_string(),
            "the data of postgres could not be created: FATAL:  could not write: No space left on \
             device; free space on the disk of the data folder, the start is retried"
        );
        let full = "FATAL:  could not resize shared memory segment \"/PostgreSQL.9\" to 1048576 bytes: No space left on device";
        assert!(advice(&[full.to_owned()]).contains("/dev/shm"));
        assert_eq!(summary(&[]), "it wrote no output");
        assert_eq!(summary(&["one".to_owned(), String::new()]), "one");
    }
}
