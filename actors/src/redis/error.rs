//! Why a command failed, and what Redis may have done of it.

use deadpool_redis::redis::{ErrorKind, RedisError, ServerError, ServerErrorKind};

use super::request::Request;
use crate::kernel::pool::CheckoutError;

/// What Redis has done of a request that failed. It says whether a repeat is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Done {
    /// Nothing: a repeat is safe.
    Nothing,
    /// Some of its commands, or a part of a script.
    Part,
    /// All of it.
    All,
    /// Nothing, a part or all of it: there was no answer.
    Unknown,
}

/// Why a command failed. Never holds a key, a value or a password.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The pool gave no connection. Nothing was sent.
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    /// The request cannot be sent, for example an empty command. Nothing was sent.
    #[error("the request was not sent: {0}")]
    Unsent(&'static str),
    /// The command does not belong on a connection that other callers use. Nothing was sent.
    #[error("{command} is not sent over a connection of the pool: {instead}")]
    Unsupported {
        /// The command.
        command: &'static str,
        /// What to use instead, or why there is nothing.
        instead: &'static str,
    },
    /// No answer within the deadline. Redis may have run the command, or may still run it.
    #[error("redis did not answer within the deadline")]
    Deadline,
    /// The connection was lost before the answer. Redis may have run the command.
    #[error("the connection to redis was lost")]
    Lost,
    /// In a cluster: the node with the key is unreachable, and no other node replaced it.
    #[error("the node of the redis cluster that has the key is unreachable")]
    NoNode {
        /// A command for several nodes may have been run by the other ones.
        done: Done,
    },
    /// Redis refused the command, or a command of the pipeline.
    #[error("redis refused the command: {code}")]
    Server {
        /// The code, for example `WRONGTYPE`. If a command of an atomic pipeline was refused before
        /// the pipeline ran, its code and not `EXECABORT`.
        code: String,
        /// In a pipeline: the index of the first command that was refused.
        at: Option<usize>,
        /// A refused command did nothing, unless it is a script. The other commands of a pipeline,
        /// atomic or not, were run: Redis undoes nothing. If Redis refuses a command of an atomic
        /// pipeline before it runs the first one, it runs none.
        done: Done,
    },
    /// The answer does not have the requested type. Redis has run the command.
    #[error("redis sent an answer of another type than the requested one")]
    Type,
}

impl Error {
    /// What Redis has done.
    pub fn done(&self) -> Done {
        match self {
            Self::Checkout(_) | Self::Unsent(_) | Self::Unsupported { .. } => Done::Nothing,
            Self::Deadline | Self::Lost => Done::Unknown,
            Self::NoNode { done } | Self::Server { done, .. } => *done,
            Self::Type => Done::All,
        }
    }

    /// Whether Redis certainly did nothing, so that a repeat is safe.
    pub fn is_undone(&self) -> bool {
        self.done() == Done::Nothing
    }

    /// A fixed word for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Checkout(error) => error.label(),
            Self::Unsent(_) => "unsent",
            Self::Unsupported { .. } => "unsupported",
            Self::Deadline => "deadline",
            Self::Lost => "lost",
            Self::NoNode { .. } => "no_node",
            Self::Server { .. } => "server",
            Self::Type => "type",
        }
    }

    /// The driver's error of `request`.
    pub(super) fn of(error: &RedisError, request: Request<'_>) -> Self {
        use ServerErrorKind as Kind;
        match error.kind() {
            // One of the commands for several nodes was dropped. The others may have been sent.
            ErrorKind::Client if request.is_spread() => Self::Lost,
            // The driver refuses these before it sends anything.
            ErrorKind::Client | ErrorKind::InvalidClientConfig => Self::Unsent("it is not valid"),
            ErrorKind::ClusterConnectionNotFound => Self::NoNode {
                done: request.done_after(error),
            },
            // Redirections have been followed already, as far as that helps.
            ErrorKind::Server(Kind::Moved | Kind::Ask | Kind::ClusterDown) => Self::NoNode {
                done: request.done_after(error),
            },
            _ => {
                let Some((at, code)) = refusal(error) else {
                    return Self::Lost;
                };
                Self::Server {
                    code,
                    at: at.filter(|at| request.has(*at)),
                    done: request.done_after(error),
                }
            }
        }
    }
}

/// The index of the first command that the server refused, and the server's code. `None` if the
/// server sent no error.
fn refusal(error: &RedisError) -> Option<(Option<usize>, String)> {
    if ServerError::try_from(error.clone()).is_err()
        && let Some([(at, first), ..]) = error.clone().into_server_errors().as_deref()
    {
        return Some((Some(*at), first.code().to_owned()));
    }
    error.code().map(|code| (None, code.to_owned()))
}

#[cfg(test)]
mod tests {
    use deadpool_redis::redis::{Cmd, cmd, make_extension_error, parse_redis_value, pipe};

    use super::*;

    /// The error that the server sends as `text`.
    fn sent(text: &str) -> RedisError {
        let value = parse_redis_value(text.as_bytes()).unwrap();
        value.extract_error().unwrap_err()
    }

    fn done(text: &str, command: &Cmd) -> Done {
        Error::of(&sent(text), Request::Command(command)).done()
    }

    #[test]
    fn a_refused_command_did_nothing_but_a_script_may_have() {
        let mut set = cmd("SET");
        set.arg("key").arg("value");
        let mut eval = cmd("eval");
        eval.arg("return 1").arg(0);
        for refused in [
            "-WRONGTYPE no\r\n",
            "-OOM no\r\n",
            "-ERR no\r\n",
            "-NOPERM no\r\n",
        ] {
            assert_eq!(done(refused, &set), Done::Nothing, "{refused}");
            assert_eq!(done(refused, &eval), Done::Part, "{refused}");
        }
        for at_the_door in [
            "-NOSCRIPT no\r\n",
            "-BUSY no\r\n",
            "-LOADING no\r\n",
            "-READONLY no\r\n",
        ] {
            assert_eq!(done(at_the_door, &eval), Done::Nothing, "{at_the_door}");
        }
    }

    #[test]
    fn an_error_holds_neither_keys_nor_values() {
        let refused = make_extension_error("CUSTOM".to_owned(), Some("secret".to_owned()));
        let command = cmd("SET");
        let error = Error::of(&refused, Request::Command(&command));
        assert!(
            !format!("{error} {error:?}").contains("secret"),
            "{error:?}"
        );
        assert!(matches!(error, Error::Server { code, at: None, .. } if code == "CUSTOM"));
    }

    #[test]
    fn what_the_driver_refuses_is_not_lost() {
        let refused = RedisError::from((ErrorKind::Client, "empty command"));
        let pipeline = pipe();
        let error = Error::of(&refused, Request::Pipeline(&pipeline));
        assert!(error.is_undone(), "{error:?}");
        let error = Error::of(&refused, Request::Spread);
        assert_eq!(error.done(), Done::Unknown, "{error:?}");
    }
}
