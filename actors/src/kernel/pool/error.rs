//! Why a checkout brought no connection.

use std::fmt;
use std::time::Duration;

use super::connect::ConnectError;
use super::status::Holder;
use crate::kernel::AskError;

/// Why there is no connection for this caller.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckoutError {
    /// As many wait as may. Nothing was queued.
    #[error("{waiting} callers wait for a connection already")]
    Full {
        /// How many wait.
        waiting: u32,
    },
    /// The deadline passed in the queue.
    #[error("no connection in time: {cause}")]
    TimedOut {
        /// What kept it waiting.
        cause: TimeoutCause,
    },
    /// The server was away at the last tries, and is not asked before `retry_in` has passed.
    #[error("no connection, and none is tried for {} ms: {last}", retry_in.as_millis())]
    CircuitOpen {
        /// When the next try may be.
        retry_in: Duration,
        /// Why the last one failed.
        last: ConnectError,
    },
    /// It cannot be opened, and another try soon would have the same end.
    #[error(transparent)]
    Connect(ConnectError),
    /// The pool is stopping or stopped.
    #[error("the pool is stopping")]
    Draining,
    /// The pool's owner did not take or answer the call.
    #[error(transparent)]
    Owner(AskError),
}

/// What a caller waited for until its deadline.
#[derive(Debug, Clone)]
pub enum TimeoutCause {
    /// All connections are in use.
    Busy {
        /// Those that hold most, first.
        holders: Vec<Holder>,
    },
    /// Opening takes longer than the caller waits.
    SlowConnect {
        /// How long the oldest of those being opened has taken so far.
        so_far: Duration,
    },
    /// The server cannot be reached.
    Unreachable(ConnectError),
    /// The pool's owner did not say.
    Unknown,
}

impl fmt::Display for TimeoutCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { holders } => {
                f.write_str("all connections are in use")?;
                for (index, holder) in holders.iter().enumerate() {
                    let by = if index == 0 { " by" } else { "," };
                    write!(f, "{by} {} ({})", holder.place, holder.leases)?;
                }
                Ok(())
            }
            Self::SlowConnect { so_far } => {
                write!(f, "connecting takes {} ms already", so_far.as_millis())
            }
            Self::Unreachable(error) => write!(f, "{error}"),
            Self::Unknown => f.write_str("the pool did not answer"),
        }
    }
}

impl CheckoutError {
    /// A fixed word for metrics and logs.
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
