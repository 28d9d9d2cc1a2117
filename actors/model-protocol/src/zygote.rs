//! The conversation between the server and the zygote, on the zygote's standard input.
//!
//! The zygote says [`ZygoteReply::Ready`] once, then answers requests in order; exits are reported as they happen.
//! When the socket closes the zygote ends, and with it every host that it forked.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the server asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ZygoteRequest {
    /// Fork a host. Sent with two file descriptors: the host's end of the host socket, and the pipe end that becomes
    /// the host's standard output and error.
    Fork {
        /// Comes back in the reply.
        id: u64,
        /// Shown as the process's name, as `hr:<name>` cut to 15 bytes.
        name: String,
    },
}

/// What the zygote says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ZygoteReply {
    /// libtorch is mapped; forks are possible.
    Ready {
        /// The zygote's process id.
        pid: i32,
    },
    /// A host runs and waits for its [`crate::HostRequest::Start`].
    Forked {
        /// The request's id.
        id: u64,
        /// The host's process id.
        pid: i32,
        /// Whether a file descriptor of the process (a pidfd) comes along: by the time that the server reads this, the
        /// host may have ended and its id may mean another process. False where the system has none.
        has_descriptor: bool,
    },
    /// No host was made.
    ForkFailed {
        /// The request's id.
        id: u64,
        /// Why.
        message: String,
    },
    /// A host has ended and been reaped.
    Exited {
        /// The host's process id, free for reuse by now.
        pid: i32,
        /// How it ended.
        status: HostExit,
    },
}

/// How a host ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostExit {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

impl fmt::Display for HostExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled(signal) => write!(f, "signal {signal}"),
        }
    }
}
