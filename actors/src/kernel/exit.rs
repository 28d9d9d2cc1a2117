//! Why a child ended: a value that supervisors act on and operators read.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

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
        use nix::sys::signal::Signal;
        const CRASHES: [i32; 6] = [
            Signal::SIGSEGV as i32,
            Signal::SIGABRT as i32,
            Signal::SIGBUS as i32,
            Signal::SIGILL as i32,
            Signal::SIGFPE as i32,
            Signal::SIGSYS as i32,
        ];
        match self {
            Self::Code(code) => code != 0,
            Self::Signal(signal) => CRASHES.contains(&signal),
            Self::Unknown => false,
        }
    }
}

impl fmt::Display for ProcessExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
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
    Process(ProcessExit),
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
            Self::Process(_) => "process",
            Self::Killed => "killed",
        }
    }

    /// The exit that caused this one: that of the child that made its supervisor fail, and so on
    /// down the tree.
    pub fn root(&self) -> &Exit {
        match self.find::<SupervisionError>() {
            Some(error) => error.exit().root(),
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
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("normal"),
            Self::Shutdown => f.write_str("shutdown"),
            Self::Error(cause) => write!(f, "error: {}", chain(&**cause)),
            Self::Panic(message) => write!(f, "panic: {message}"),
            Self::Stuck { silent } => write!(f, "stuck: no heartbeat for {silent:?}"),
            Self::Process(exit) => write!(f, "process ended: {exit}"),
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
pub enum SupervisionError {
    /// The child ended before it was ready.
    StartFailed {
        /// Path of the child in the tree.
        child: String,
        /// Why it ended.
        exit: Exit,
    },
    /// More restarts within the period than the intensity allows.
    IntensityReached {
        /// The child whose exit was one too many.
        child: String,
        /// Why it ended.
        exit: Exit,
        /// Restarts allowed.
        restarts: u32,
        /// Within this time.
        period: Duration,
    },
}

impl SupervisionError {
    /// The exit of the child.
    fn exit(&self) -> &Exit {
        match self {
            Self::StartFailed { exit, .. } | Self::IntensityReached { exit, .. } => exit,
        }
    }
}

impl fmt::Display for SupervisionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartFailed { child, .. } => write!(f, "{child} failed to start")?,
            Self::IntensityReached {
                child,
                restarts,
                period,
                ..
            } => write!(
                f,
                "{child} needed more than {restarts} restarts in {period:?}"
            )?,
        }
        match self.exit() {
            // `source` returns the cause.
            Exit::Error(_) => Ok(()),
            other => write!(f, ": {other}"),
        }
    }
}

impl Error for SupervisionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.exit() {
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
        let inner = Exit::error(SupervisionError::StartFailed {
            child: "a/b".into(),
            exit: leaf,
        });
        let outer = Exit::error(SupervisionError::StartFailed {
            child: "a".into(),
            exit: inner,
        });
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
}
