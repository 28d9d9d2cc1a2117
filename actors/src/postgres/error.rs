//! Errors. Each says whether the server may have acted on the call.

use std::io;

use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::WrongType;

use super::data_exception::condition;
use crate::kernel::pool::CheckoutError;

/// Why a call failed. Never holds a password or a parameter's value.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The pool gave no connection. The server has not seen the call.
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    /// The deadline passed.
    #[error("no answer from the database within the deadline")]
    Deadline {
        /// Whether the server may have acted on the call.
        sent: bool,
    },
    /// The connection was lost.
    #[error("the connection to the database was lost: {reason}")]
    Lost {
        /// Whether the server may have acted on the call.
        sent: bool,
        /// Why it was lost, as far as that is known.
        reason: String,
    },
    /// The server refused the statement. It has no effect.
    #[error("the database refused the statement: {0}")]
    Server(Box<ServerError>),
    /// A statement of the transaction failed, did not end, or rolled it back. Nothing was committed.
    #[error(
        "the transaction was rolled back instead of committed, because a statement in it failed, did \
         not end, or rolled it back"
    )]
    Aborted,
    /// The number of rows is not the expected one.
    #[error("expected {expected} row, and the statement returned {found}")]
    Rows {
        /// `one` or `at most one`.
        expected: &'static str,
        /// The number of rows.
        found: usize,
    },
    /// The statement, its parameters and the requested types do not match.
    #[error("the statement does not match its parameters or the requested types: {0}")]
    Invalid(String),
    /// The server does not follow PostgreSQL's protocol, or a statement made it leave the part of the
    /// protocol that calls use, as a `COPY` does outside of
    /// [`Transaction::copy_in`](super::Transaction::copy_in) and `copy_out`. The connection is closed. The
    /// server may have acted on the call.
    #[error("the database sent an unexpected answer: {0}")]
    Protocol(String),
    /// The statement would begin something on a connection that other callers share, or change its
    /// session. It was not sent.
    #[error("`{word}` would affect other callers that share the connection; use {instead}")]
    NotShared {
        /// The statement's first word.
        word: &'static str,
        /// What to use instead.
        instead: &'static str,
    },
    /// The call needs a session at the server, and the connections lead through a pooler that gives none
    /// ([`PostgresConfig::statements_max`](super::PostgresConfig::statements_max) is 0). It was not sent.
    #[error(
        "{what} needs a session at the server, and a pooler in transaction mode (statements_max = 0) gives \
         none: use a connection to the server itself"
    )]
    NeedsSession {
        /// What was asked for.
        what: &'static str,
    },
    /// This program cannot work with the database's schema.
    #[error(transparent)]
    Schema(SchemaError),
}

/// Why this program cannot work with a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// A newer version of this program has migrated the schema.
    #[error(
        "the database's schema {set} has version {found}, and this program supports versions up to \
         {supported}: run a newer version of the program"
    )]
    Newer {
        /// The name of the set of migrations.
        set: &'static str,
        /// The schema's version.
        found: i32,
        /// The version of this program's last migration.
        supported: i32,
    },
    /// An applied migration differs from this program's.
    #[error(
        "migration {version} ({name}) of the database's schema {set} differs from this program's \
         migration {version}"
    )]
    Changed {
        /// The name of the set of migrations.
        set: &'static str,
        /// The migration's version.
        version: i32,
        /// Its name in the database.
        name: String,
    },
    /// The migrations cannot be applied one after the other.
    #[error("cannot apply the schema's migrations: {0}")]
    Migrations(String),
}

/// An error that the server reported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (SQLSTATE {sqlstate})")]
pub struct ServerError {
    /// Five characters; the first two are the class.
    pub sqlstate: String,
    /// The server's message, without values.
    pub message: String,
    /// The violated constraint.
    pub constraint: Option<String>,
    /// How far the statement had come.
    pub(super) progress: Progress,
}

/// How far a statement had come when the server refused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It had not run. If it was prepared, then by this call.
    Unbegun,
    /// It had not run. It was prepared by an earlier call, and may be out of date.
    Cached,
    /// It had started to run.
    Begun,
}

/// The classes of errors whose cause is not the statement: values, constraints, the transaction, other
/// transactions, limits, operators, the system, and functions.
const OTHER_CAUSES: [&str; 10] = ["22", "23", "25", "40", "53", "54", "55", "57", "58", "P0"];

/// The driver's text for a message that has no place at this point of the protocol.
const UNEXPECTED_MESSAGE: &str = "unexpected message from server";

/// The driver's text for a statement or a parameter that has no form in the protocol. Nothing was sent.
const NOT_ENCODED: &str = "error encoding message to server";

impl Error {
    /// The error of a failed call. `sent` says whether the server may have acted on it.
    pub(super) fn of(error: &tokio_postgres::Error, sent: bool) -> Self {
        if let Some(server) = error.as_db_error() {
            return Self::of_server(server, sent);
        }
        // The driver has no test for these kinds.
        match &*error.to_string() {
            UNEXPECTED_MESSAGE => return Self::Protocol(UNEXPECTED_MESSAGE.to_owned()),
            NOT_ENCODED => return Self::Invalid(NOT_ENCODED.to_owned()),
            _ => {}
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
            return Self::closed(sent);
        }
        // Other causes may hold values.
        match source.and_then(|source| source.downcast_ref::<WrongType>()) {
            Some(wrong) => Self::Invalid(format!("{error}: {wrong}")),
            None => Self::Invalid(error.to_string()),
        }
    }

    /// The error of a connection that was closed before.
    pub(super) fn closed(sent: bool) -> Self {
        Self::Lost {
            sent,
            reason: "it was closed".to_owned(),
        }
    }

    /// As [`Error::of`], for a statement that the server refused before it ran it. `was_cached` says
    /// whether an earlier call had prepared it.
    pub(super) fn before_it_ran(error: &tokio_postgres::Error, was_cached: bool) -> Self {
        let mut error = Self::of(error, true);
        if let Self::Server(server) = &mut error {
            server.progress = if was_cached {
                Progress::Cached
            } else {
                Progress::Unbegun
            };
        }
        error
    }

    /// The same error for a call that has no effect, whatever the server did.
    pub(super) fn without_effect(mut self) -> Self {
        if let Self::Lost { sent, .. } | Self::Deadline { sent } = &mut self {
            *sent = false;
        }
        self
    }

    fn of_server(error: &DbError, sent: bool) -> Self {
        let fatal = [Some(Severity::Fatal), Some(Severity::Panic)];
        if fatal.contains(&error.parsed_severity()) {
            let reason = farewell(error.code(), error.message());
            return Self::Lost { sent, reason };
        }
        Self::Server(Box::new(ServerError {
            sqlstate: error.code().code().to_owned(),
            message: explained(error.code(), error.message()),
            constraint: error.constraint().map(ToOwned::to_owned),
            progress: if sent && !is_refused_whole(error) {
                Progress::Begun
            } else {
                Progress::Unbegun
            },
        }))
    }

    /// The SQLSTATE of an error that the server reported for the statement.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.sqlstate),
            _ => None,
        }
    }

    /// Whether the server undid this transaction because of a concurrent one. A repeat can succeed.
    pub fn is_serialization_failure(&self) -> bool {
        let codes = [
            SqlState::T_R_SERIALIZATION_FAILURE.code(),
            SqlState::T_R_DEADLOCK_DETECTED.code(),
        ];
        self.sqlstate().is_some_and(|code| codes.contains(&code))
    }

    /// Whether the server refused a write: it is a replica, or the transaction is read-only.
    pub fn is_read_only(&self) -> bool {
        self.sqlstate() == Some(SqlState::READ_ONLY_SQL_TRANSACTION.code())
    }

    /// Whether the cached statement may be out of date: it was dropped, or what it names has changed.
    /// There are many codes for that, so any refusal before it ran counts that is about the statement
    /// itself.
    pub(super) fn is_stale_statement(&self) -> bool {
        let Self::Server(error) = self else {
            return false;
        };
        let class = error.sqlstate.get(..2).unwrap_or_default();
        error.progress == Progress::Cached && !OTHER_CAUSES.contains(&class)
    }

    /// Whether the call was certainly not sent.
    pub(super) fn is_unsent(&self) -> bool {
        matches!(
            self,
            Self::Lost { sent: false, .. } | Self::Deadline { sent: false }
        )
    }

    /// Whether the connection is unusable from now on.
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
            Self::NotShared { .. } => "not_shared",
            Self::NeedsSession { .. } => "needs_session",
            Self::Schema(_) => "schema",
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    /// The error of reading a row's columns.
    fn from(error: tokio_postgres::Error) -> Self {
        Self::of(&error, true)
    }
}

/// Whether the server refused the whole statement because it may not write. If only a nested statement
/// was refused, the server names the place.
fn is_refused_whole(error: &DbError) -> bool {
    *error.code() == SqlState::READ_ONLY_SQL_TRANSACTION && error.where_().is_none()
}

/// Why the server ended the session, as it says.
pub(super) fn farewell(code: &SqlState, message: &str) -> String {
    let message = without_values(code, message);
    format!("{message} (SQLSTATE {})", code.code())
}

/// The message, if it quotes no value. The details and hints of errors may also quote values and are
/// never used.
fn without_values<'a>(code: &SqlState, message: &'a str) -> &'a str {
    condition(code.code()).unwrap_or(message)
}

/// The message without values, and with what helps.
fn explained(code: &SqlState, message: &str) -> String {
    let message = without_values(code, message);
    match *code {
        SqlState::INVALID_SQL_STATEMENT_NAME | SqlState::DUPLICATE_PSTATEMENT => format!(
            "{message}; through a pooler in transaction mode, such as PgBouncer, statements_max must be 0"
        ),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_statement_is_out_of_date_if_it_is_refused_for_its_own_sake() {
        let refused = |sqlstate: &str, progress| {
            Error::Server(Box::new(ServerError {
                sqlstate: sqlstate.to_owned(),
                message: String::new(),
                constraint: None,
                progress,
            }))
        };
        for sqlstate in [
            "26000", "0A000", "XX000", "42704", "42883", "42P01", "3F000",
        ] {
            assert!(refused(sqlstate, Progress::Cached).is_stale_statement());
            for progress in [Progress::Unbegun, Progress::Begun] {
                assert!(!refused(sqlstate, progress).is_stale_statement());
            }
        }
        for sqlstate in [
            "22P02", "23514", "25P02", "40001", "53200", "55P03", "57014", "P0001",
        ] {
            assert!(!refused(sqlstate, Progress::Cached).is_stale_statement());
        }
    }

    #[test]
    fn values_are_left_out_of_messages() {
        // What servers say when `secret` is a value.
        for (code, message, shown) in [
            (
                "22P02",
                "invalid input syntax for type integer: \"secret\"",
                "invalid text representation",
            ),
            (
                "22003",
                "value \"secret\" is out of range for type integer",
                "numeric value out of range",
            ),
            (
                "22007",
                "invalid value \"secret\" for \"YYYY\"",
                "invalid datetime format",
            ),
            (
                "22008",
                "date/time field value out of range: \"secret\"",
                "datetime field overflow",
            ),
            (
                "22023",
                "time zone \"secret\" not recognized",
                "invalid parameter value",
            ),
            (
                "2201B",
                "invalid regular expression: secret",
                "invalid regular expression",
            ),
            ("22099", "secret is what RAISE said", "data exception"),
        ] {
            assert_eq!(without_values(&SqlState::from_code(code), message), shown);
        }
        let other = "syntax error at or near \": \"";
        assert_eq!(without_values(&SqlState::SYNTAX_ERROR, other), other);
    }
}
