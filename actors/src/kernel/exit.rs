//! Why a child ended: a value that supervisors act on and operators read.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

/// How a process ended, as the kernel reported it to the one who reaped it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessExit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It has ended, and its status is lost: its parent died before reaping it.
    Unknown,
}

impl ProcessExit {
    /// Reads what `std` reports of a finished process.
    pub fn from_status(status: std::process::ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }

    /// Whether the process failed by itself, with a crash signal or a failure code, and was not
    /// killed from outside.
    pub fn is_crash(self) -> bool {
        use Signal::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS};
        match self {
            Self::Code(code) => code != 0,
            Self::Signal(number) => matches!(
                Signal::try_from(number),
                Ok(SIGSEGV | SIGABRT | SIGBUS | SIGILL | SIGFPE | SIGSYS)
            ),
            Self::Unknown => false,
        }
    }
}

impl fmt::Display for ProcessExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "{}", signal.as_str()),
                Err(_) => write!(f, "signal {number}"),
            },
            Self::Unknown => f.write_str("unknown status"),
        }
    }
}

/// The reason a child ended.
#[derive(Debug, Clone)]
pub enum Exit {
    /// It had nothing left to do.
    Normal,
    /// Its supervisor asked it to stop and it did, in time.
    Shutdown,
    /// It failed with this cause.
    Error(Arc<dyn Error + Send + Sync>),
    /// Its code panicked, with this message.
    Panic(String),
    /// It had no heartbeat for too long, so its supervisor killed it.
    Stuck {
        /// Time since the last heartbeat.
        silent: Duration,
    },
    /// The process it owned ended.
    Process {
        /// The id that the process had.
        pid: i32,
        /// How it ended.
        exit: ProcessExit,
    },
    /// It did not start or stop within its deadline, so its supervisor killed it.
    Killed,
}

impl Exit {
    /// An error exit with `cause`.
    pub fn error(cause: impl Error + Send + Sync + 'static) -> Self {
        Self::Error(Arc::new(cause))
    }

    /// Whether a transient child that ended this way is not restarted: OTP's `normal` and `shutdown`.
    pub fn is_normal(&self) -> bool {
        matches!(self, Self::Normal | Self::Shutdown)
    }

    /// A fixed word for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Shutdown => "shutdown",
            Self::Error(_) => "error",
            Self::Panic(_) => "panic",
            Self::Stuck { .. } => "stuck",
            Self::Process { .. } => "process",
            Self::Killed => "killed",
        }
    }

    /// The exit that caused this one: that of the child that made its supervisor fail, and so on
    /// down the tree.
    pub fn root(&self) -> &Exit {
        match self.find::<SupervisionError>() {
            Some(error) => error.exit.root(),
            None => self,
        }
    }

    /// The first `T` in the chain of causes. A caller several supervisors up can act on the failure
    /// that came first.
    pub fn find<T: Error + 'static>(&self) -> Option<&T> {
        let Self::Error(cause) = self else {
            return None;
        };
        causes(&**cause).find_map(|error| error.downcast_ref())
    }

    /// Whether the supervisor that failed with it has logged it.
    pub(super) fn is_logged(&self) -> bool {
        let error = self.find::<SupervisionError>();
        error.is_some_and(|error| error.is_logged)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("normal"),
            Self::Shutdown => f.write_str("shutdown"),
            Self::Error(cause) => write!(f, "error: {}", chain(&**cause)),
            Self::Panic(message) => write!(f, "panic: {message}"),
            Self::Stuck { silent } => write!(f, "stuck: no heartbeat for {silent:?}"),
            Self::Process { pid, exit } => write!(f, "process {pid} ended: {exit}"),
            Self::Killed => f.write_str("killed: deadline passed"),
        }
    }
}

/// `error` and its causes, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The whole chain of causes in one line, outermost first.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let causes: Vec<_> = causes(error).map(ToString::to_string).collect();
    causes.join(": ")
}

/// Why a supervisor failed: a child did not start, or ended too often.
#[derive(Debug, Clone)]
pub struct SupervisionError {
    /// What happened to the child, with its path.
    pub(super) what: String,
    /// Why the child ended.
    pub(super) exit: Exit,
    /// Whether the supervisor has logged it.
    pub(super) is_logged: bool,
}

impl fmt::Display for SupervisionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.exit {
            // `source` returns the cause.
            Exit::Error(_) => f.write_str(&self.what),
            other => write!(f, "{}: {other}", self.what),
        }
    }
}

impl Error for SupervisionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.exit {
            Exit::Error(cause) => Some(&**cause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("disk on fire")]
    struct Fire;

    #[test]
    fn the_root_cause_is_found_through_two_supervisors() {
        let leaf = Exit::error(Fire);
        let failed = |child: &str, exit| {
            let what = format!("{child} failed to start");
            Exit::error(SupervisionError {
                what,
                exit,
                is_logged: false,
            })
        };
        let outer = failed("a", failed("a/b", leaf));
        assert!(outer.find::<Fire>().is_some());
        assert_eq!(
            outer.to_string(),
            "error: a failed to start: a/b failed to start: disk on fire"
        );
    }

    #[test]
    fn a_crash_differs_from_a_kill() {
        assert!(ProcessExit::Signal(11).is_crash());
        assert!(ProcessExit::Code(70).is_crash());
        assert!(!ProcessExit::Signal(9).is_crash());
        assert!(!ProcessExit::Code(0).is_crash());
        assert_eq!(ProcessExit::Signal(9).to_string(), "SIGKILL");
    }

    #[test]
    fn the_exit_of_a_process_names_it() {
        let (pid, exit) = (17, ProcessExit::Signal(9));
        let exit = Exit::Process { pid, exit };
        assert_eq!(exit.to_string(), "process 17 ended: SIGKILL");
        assert_eq!(exit.label(), "process");
    }
}
