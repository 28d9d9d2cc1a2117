//! Why a checkout fails.

use std::time::Duration;

use super::connect::ConnectError;
use super::status::Holder;
use crate::kernel::AskError;

/// Why a checkout fails.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckoutError {
    /// The queue is full. The caller was not queued.
    #[error("the queue for connections is full: {waiting} callers wait")]
    Full {
        /// The number of callers that wait.
        waiting: u32,
    },
    /// The deadline passed before a connection was free.
    #[error("no connection in time: {cause}")]
    TimedOut {
        /// What the caller waited for.
        cause: TimeoutCause,
    },
    /// The last connects failed, and the pool waits before the next one.
    #[error("the server is away, the next connect is due in {} ms: {last}", retry_in.as_millis())]
    CircuitOpen {
        /// The time until the next connect.
        retry_in: Duration,
        /// Why the last connect failed.
        last: ConnectError,
    },
    /// The connect failed for a reason that does not pass by itself.
    #[error(transparent)]
    Connect(ConnectError),
    /// The pool is stopping or stopped.
    #[error("the pool is stopping")]
    Draining,
    /// The pool's actor did not accept or answer the call.
    #[error(transparent)]
    Owner(AskError),
}

/// What a caller waited for when its deadline passed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TimeoutCause {
    /// A connection: all are in use.
    #[error("all connections are in use{}", list(.holders))]
    Busy {
        /// The places that hold the most leases, most first.
        holders: Vec<Holder>,
    },
    /// A connect that takes longer than the caller waits.
    #[error("the connect has taken {} ms so far", so_far.as_millis())]
    SlowConnect {
        /// How long the oldest connect has taken so far.
        so_far: Duration,
    },
    /// The server: it cannot be reached.
    #[error(transparent)]
    Unreachable(ConnectError),
    /// Unknown, since the pool's actor did not answer.
    #[error("the pool did not answer")]
    Unknown,
}

fn list(holders: &[Holder]) -> String {
    let separators = std::iter::once(" by ").chain(std::iter::repeat(", "));
    let holders = separators.zip(holders);
    holders
        .map(|(separator, holder)| format!("{separator}{} ({})", holder.place, holder.leases))
        .collect()
}

impl CheckoutError {
    /// The name of the variant in metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Full { .. } => "full",
            Self::TimedOut { .. } => "timed_out",
            Self::CircuitOpen { .. } => "circuit_open",
            Self::Connect(_) => "connect",
            Self::Draining => "draining",
            Self::Owner(_) => "owner",
        }
    }
}

impl From<AskError> for CheckoutError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Stopped => Self::Draining,
            AskError::TimedOut => Self::TimedOut {
                cause: TimeoutCause::Unknown,
            },
            AskError::Busy | AskError::Restarting { .. } | AskError::Lost => Self::Owner(error),
        }
    }
}
