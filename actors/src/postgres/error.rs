//! What can go wrong, told so that a caller knows what it may do next.

use std::io;

use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::WrongType;

use super::migrate::SchemaError;
use crate::kernel::pool::CheckoutError;

/// Why a call brought no answer. Never holds a password or a parameter's value.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There was no connection to be had. The server has not seen the call.
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    /// The deadline passed.
    #[error("no answer from the database within the deadline")]
    Deadline {
        /// Whether the server can have acted on it.
        sent: bool,
    },
    /// The connection ended.
    #[error("the connection to the database was lost: {reason}")]
    Lost {
        /// Whether the server can have acted on it.
        sent: bool,
        /// What is known of why.
        reason: String,
    },
    /// The server refused the statement. Nothing of it was done.
    #[error("the database refused it: {0}")]
    Server(Box<ServerError>),
    /// Something in the transaction failed or was given up before: all of it was rolled back.
    #[error("the transaction was rolled back, since a statement in it had failed or was given up")]
    Aborted,
    /// Another number of rows than the call is for.
    #[error("the statement returned {found} rows where {expected} was expected")]
    Rows {
        /// What the call is for.
        expected: &'static str,
        /// What came.
        found: usize,
    },
    /// The statement, its parameters or the wanted types do not fit together.
    #[error("the statement cannot be used so: {0}")]
    Invalid(String),
    /// The other side does not speak as a PostgreSQL server should.
    #[error("the database's answer is not understood: {0}")]
    Protocol(String),
    /// The schema is not one that this program can work with.
    #[error(transparent)]
    Schema(SchemaError),
}

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (SQLSTATE {sqlstate})")]
pub struct ServerError {
    /// Five characters; the first two are the class.
    pub sqlstate: String,
    /// The server's words, without values.
    pub message: String,
    /// The constraint that was violated.
    pub constraint: Option<String>,
    /// The table it is about.
    pub table: Option<String>,
    /// Whether the statement had begun to run.
    pub(super) begun: bool,
}

impl Error {
    /// What a failed statement tells; `sent` says whether the server can have acted on it.
    pub(super) fn of(error: &tokio_postgres::Error, sent: bool) -> Self {
        if let Some(server) = error.as_db_error() {
            return Self::of_server(server, sent);
        }
        let source = std::error::Error::source(error);
        if let Some(io) = source.and_then(|source| source.downcast_ref::<io::Error>()) {
            let reason = format!("{error}: {io}");
            return match io.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Self::Protocol(reason),
                _ => Self::Lost { sent, reason },
            };
        }
        if error.is_closed() {
            let reason = "it was closed".to_owned();
            return Self::Lost { sent, reason };
        }
        // Of the causes only this one is known to hold no value.
        match source.and_then(|source| source.downcast_ref::<WrongType>()) {
            Some(wrong) => Self::Invalid(format!("{error}: {wrong}")),
            None => Self::Invalid(error.to_string()),
        }
    }

    /// As [`Error::of`], of a statement that the server refused before it ran it.
    pub(super) fn before_it_ran(error: &tokio_postgres::Error) -> Self {
        match Self::of(error, true) {
            Self::Server(server) => Self::Server(Box::new(ServerError {
                begun: false,
                ..*server
            })),
            other => other,
        }
    }

    fn of_server(error: &DbError, sent: bool) -> Self {
        let fatal = [Some(Severity::Fatal), Some(Severity::Panic)];
        if fatal.contains(&error.parsed_severity()) {
            let reason = format!("{} (SQLSTATE {})", error.message(), error.code().code());
            return Self::Lost { sent, reason };
        }
        Self::Server(Box::new(ServerError {
            sqlstate: error.code().code().to_owned(),
            message: without_values(error.code(), error.message()).to_owned(),
            constraint: error.constraint().map(ToOwned::to_owned),
            table: error.table().map(ToOwned::to_owned),
            begun: sent && !is_refused_whole(error),
        }))
    }

    /// The SQLSTATE when the server gave one for the statement.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.sqlstate),
            _ => None,
        }
    }

    /// Whether two transactions got in each other's way and the server undid this one: the same again
    /// can succeed.
    pub fn is_serialization_failure(&self) -> bool {
        let codes = [
            SqlState::T_R_SERIALIZATION_FAILURE.code(),
            SqlState::T_R_DEADLOCK_DETECTED.code(),
        ];
        self.sqlstate().is_some_and(|code| codes.contains(&code))
    }

    /// Whether the server took the statement for one that may not write: it is a replica, or became
    /// one.
    pub fn is_read_only(&self) -> bool {
        self.sqlstate() == Some(SqlState::READ_ONLY_SQL_TRANSACTION.code())
    }

    /// Whether a prepared statement is not what it was: it was dropped, or its table has changed.
    pub(super) fn is_stale_statement(&self) -> bool {
        let Self::Server(error) = self else {
            return false;
        };
        error.sqlstate == SqlState::INVALID_SQL_STATEMENT_NAME.code()
            || (error.sqlstate == SqlState::FEATURE_NOT_SUPPORTED.code()
                && error.message.contains("cached plan"))
    }

    /// Whether the connection is of no use any more.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Protocol(_))
    }

    /// A fixed word for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Checkout(error) => error.label(),
            Self::Deadline { .. } => "deadline",
            Self::Lost { .. } => "lost",
            Self::Server(_) => "server",
            Self::Aborted => "aborted",
            Self::Rows { .. } => "rows",
            Self::Invalid(_) => "invalid",
            Self::Protocol(_) => "protocol",
            Self::Schema(_) => "schema",
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    /// For what reading a row's columns can fail with.
    fn from(error: tokio_postgres::Error) -> Self {
        Self::of(&error, true)
    }
}

/// Whether the server refused the statement before it did anything of it, since it may not write.
/// Of one that was refused within another, the server says where.
fn is_refused_whole(error: &DbError) -> bool {
    *error.code() == SqlState::READ_ONLY_SQL_TRANSACTION && error.where_().is_none()
}

/// The message without the value that errors of the class "data exception" end with. Details and
/// hints, which hold values too, are never taken.
fn without_values<'a>(code: &SqlState, message: &'a str) -> &'a str {
    match message.split_once(": ") {
        Some((before, _)) if code.code().starts_with("22") => before,
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_left_out_of_messages() {
        let message = "invalid input syntax for type integer: \"hunter2\"";
        let shown = without_values(&SqlState::INVALID_TEXT_REPRESENTATION, message);
        assert_eq!(shown, "invalid input syntax for type integer");
        let other = "syntax error at or near \": \"";
        assert_eq!(without_values(&SqlState::SYNTAX_ERROR, other), other);
    }
}
