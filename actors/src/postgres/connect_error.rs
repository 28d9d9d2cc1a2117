//! Why a server cannot be connected to, in words without secrets.

use std::error::Error;
use std::io;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

use crate::kernel::chain;
use crate::kernel::pool::{ConnectError, ConnectErrorKind};

/// The error of a session that could not be started.
pub(super) fn connect_error(error: &tokio_postgres::Error) -> ConnectError {
    let kind = kind(error);
    let message = error.as_db_error().map_or_else(|| chain(error), refusal);
    ConnectError::new(kind, message)
}

/// The error of a socket that could not be connected.
pub(super) fn socket_error(error: &io::Error) -> ConnectError {
    ConnectError::new(kind_of_io(error), format!("cannot connect: {error}"))
}

/// The error of a server that is silent for too long.
pub(super) fn no_answer(within: Duration) -> ConnectError {
    let message = format!("no answer within {within:?}");
    ConnectError::new(ConnectErrorKind::TimedOut, message)
}

/// Several failures as one error. Its kind is transient if that of any failure is.
pub(super) fn merge(errors: &[ConnectError]) -> ConnectError {
    let transient = errors.iter().find(|error| error.kind.is_transient());
    let kind = transient.or(errors.first()).map(|error| error.kind);
    let messages: Vec<_> = errors.iter().map(|error| &*error.message).collect();
    ConnectError::new(
        kind.unwrap_or(ConnectErrorKind::Unreachable),
        messages.join("; "),
    )
}

/// What `PgBouncer` says about options in a session's start.
const UNSUPPORTED_PARAMETER: &str = "unsupported startup parameter";

/// Why the server refused the connection. Most of its own messages name the user, the database or an
/// option, which are parts of the URL. Only those about the server itself are quoted.
fn refusal(error: &DbError) -> String {
    let sqlstate = error.code().code();
    let words = match *error.code() {
        SqlState::INVALID_PASSWORD => "the user or the password is wrong",
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "the user is unknown, or no rule in pg_hba.conf admits it from this host"
        }
        SqlState::INVALID_CATALOG_NAME => "the database does not exist",
        SqlState::INSUFFICIENT_PRIVILEGE => "the user may not connect to the database",
        _ if error.message().contains(UNSUPPORTED_PARAMETER) => {
            "the server takes no options at the start of a session. PgBouncer in transaction mode needs \
             statements_max = 0, and no options in the URL"
        }
        _ if sqlstate.starts_with("53") || sqlstate.starts_with("57") => error.message(),
        _ => "the server refused the connection",
    };
    format!("{words} (SQLSTATE {sqlstate})")
}

fn kind(error: &tokio_postgres::Error) -> ConnectErrorKind {
    if let Some(code) = error.code() {
        return match *code {
            SqlState::TOO_MANY_CONNECTIONS
            | SqlState::CANNOT_CONNECT_NOW
            | SqlState::ADMIN_SHUTDOWN
            | SqlState::CRASH_SHUTDOWN => ConnectErrorKind::Refused,
            SqlState::INVALID_CATALOG_NAME | SqlState::INSUFFICIENT_PRIVILEGE => {
                ConnectErrorKind::Denied
            }
            _ if code.code().starts_with("28") => ConnectErrorKind::Denied,
            _ => ConnectErrorKind::Protocol,
        };
    }
    // The kinds of tokio-postgres are private; only its messages tell them apart.
    match error.to_string().as_str() {
        "error performing TLS handshake" => return ConnectErrorKind::Tls,
        "authentication error" | "invalid configuration" => return ConnectErrorKind::Denied,
        _ => {}
    }
    if error.is_closed() {
        return ConnectErrorKind::Unreachable;
    }
    let io = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    match io {
        Some(io) => kind_of_io(io),
        None => ConnectErrorKind::Protocol,
    }
}

fn kind_of_io(error: &io::Error) -> ConnectErrorKind {
    if error.kind() == io::ErrorKind::TimedOut {
        ConnectErrorKind::TimedOut
    } else {
        ConnectErrorKind::Unreachable
    }
}
