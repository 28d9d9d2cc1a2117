//! Why a command brought no answer.

use deadpool_redis::redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::kernel::pool::CheckoutError;

/// Why a command brought no answer. Never holds a key, a value or a password.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No connection to be had. Nothing was sent.
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    /// No answer within the deadline. The command may have been, or may yet be, carried out.
    #[error("redis did not answer within the deadline")]
    Deadline,
    /// The connection ended before the answer. The command may have been carried out.
    #[error("the connection to redis was lost")]
    Lost,
    /// In a cluster: the node that has the key is away, and no other took its place. The command may
    /// have been carried out before it went.
    #[error("the node of redis that has the key is away")]
    NoNode,
    /// Redis refused the command. It was not carried out, except for a script, which may have
    /// failed half-way, and a pipeline that is not atomic.
    #[error("redis refused the command: {code}")]
    Server {
        /// The code, for example `WRONGTYPE`.
        code: String,
    },
    /// The answer is not of the type that was asked for.
    #[error("redis answered with another type than expected")]
    Type,
}

impl Error {
    /// Whether the command was certainly not sent, so that sending it again is safe.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Checkout(_))
    }

    /// A fixed word for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Checkout(error) => error.label(),
            Self::Deadline => "deadline",
            Self::Lost => "lost",
            Self::NoNode => "no_node",
            Self::Server { .. } => "server",
            Self::Type => "type",
        }
    }

    pub(super) fn of(error: &RedisError) -> Self {
        // The driver goes where it is sent, as often as makes sense.
        let is_sent_on = matches!(
            error.kind(),
            ErrorKind::Server(
                ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::ClusterDown
            )
        );
        match error.code() {
            _ if is_sent_on => Self::NoNode,
            Some(code) => Self::Server {
                code: code.to_owned(),
            },
            None => Self::Lost,
        }
    }
}
