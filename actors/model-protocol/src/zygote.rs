//! The conversation between the server and the zygote, on the zygote's standard input.
//!
//! The zygote sends [`ZygoteReply::Ready`] once, then answers requests in order. It reports the exit of each host as
//! it happens. It exits when the socket closes, and all hosts that it forked are killed with it.

use serde::{Deserialize, Serialize};

/// The server's one request: fork a host. Sent with two file descriptors: the host's end of the host socket, and the
/// end of a pipe that becomes the host's standard output and error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkRequest {
    /// Repeated in the reply.
    pub id: u64,
}

/// A message of the zygote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ZygoteReply {
    /// libtorch is mapped; the zygote can fork.
    Ready,
    /// A host runs and waits for its [`crate::HostRequest::Start`].
    Forked {
        /// The request's id.
        id: u64,
        /// The host's process id.
        pid: i32,
        /// Whether the frame carries a file descriptor of the process (a pidfd). It identifies the host even when the
        /// host has exited and its id belongs to another process. False where the system has no such descriptors.
        has_descriptor: bool,
    },
    /// The fork failed.
    ForkFailed {
        /// The request's id.
        id: u64,
        /// Why.
        message: String,
    },
    /// A host has exited and has been reaped.
    Exited {
        /// The host's process id. The system may reuse it.
        pid: i32,
        /// How it exited, as `waitpid` reports it.
        status: i32,
    },
}
