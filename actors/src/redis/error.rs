//! Why a command failed.

use deadpool_redis::redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::kernel::pool::CheckoutError;

/// Why a command failed. Never holds a key, a value or a password.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The pool gave no connection. Nothing was sent.
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    /// No answer within the deadline. Redis may have run the command, or may still run it.
    #[error("redis did not answer within the deadline")]
    Deadline,
    /// The connection was lost before the answer. Redis may have run the command.
    #[error("the connection to redis was lost")]
    Lost,
    /// In a cluster: the node with the key is unreachable, and no other node replaced it. It may have
    /// run the command before.
    #[error("the node of the redis cluster that has the key is unreachable")]
    NoNode,
    /// Redis refused the command and did not run it. A script may have run in part, and so may a
    /// pipeline that is not atomic.
    #[error("redis refused the command: {code}")]
    Server {
        /// The code, for example `WRONGTYPE`.
        code: String,
    },
    /// The answer does not have the requested type.
    #[error("redis sent an answer of another type than the requested one")]
    Type,
}

impl Error {
    /// Whether the command was certainly not sent, so that a repeat is safe.
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
        // The driver has followed redirections already, as far as that helps.
        let is_redirection = matches!(
            error.kind(),
            ErrorKind::Server(
                ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::ClusterDown
            )
        );
        match error.code() {
            _ if is_redirection => Self::NoNode,
            Some(code) => Self::Server {
                code: code.to_owned(),
            },
            None => Self::Lost,
        }
    }
}
