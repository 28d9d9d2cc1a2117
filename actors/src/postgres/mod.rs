//! PostgreSQL: a pool of connections, and calls that are safe by default.
//!
//! The module owns the connections (through [`crate::kernel::pool`]), their statement caches, and the
//! schemas' migrations.
//!
//! There are two kinds of calls:
//! - **Single statements** ([`Database::query`]) share connections, several at once on each. An error of
//!   one caller, or its leaving, affects no other. A statement that would begin something on the connection
//!   or change its session is refused by its first word ([`Error::NotShared`]). Functions are not seen: one
//!   that changes the session, as `set_config` does, belongs in a transaction.
//! - **Transactions** ([`Database::begin`], [`Database::transaction`]) have a connection of their own. A
//!   transaction that is dropped is rolled back before the connection gets another user. Only there can rows
//!   be read one by one and data be copied: both take up the connection. [`Database::exclusive`] gives such
//!   a connection without a transaction.
//!
//! [`Database::read_only`] marks both as reading only. A replica serves them if one is recent enough,
//! otherwise the primary.
//!
//! The module guarantees:
//! - Every call has a deadline. It ends with an output, or with an [`Error`] that says whether the server
//!   may have acted on it.
//! - A call is repeated only where that is safe: if the server has certainly not started it; or if the
//!   server undid it and the caller allows a repeat, by a call that only reads or by a retryable
//!   transaction. A statement that can commit while it runs is never repeated after its start.
//! - No error, log line or status holds a password or the value of a parameter.
//! - Nothing connects before the first call. The first call brings the schema up to date, for all that wait.

mod address;
mod call;
mod cancel;
mod config;
mod connect_error;
mod connection;
mod connector;
mod copy;
mod data_exception;
mod database;
mod error;
mod exchange;
mod fallback;
mod farewell;
mod first_word;
mod frames;
mod freshness;
mod lexer;
mod listen;
mod metrics;
mod migrate;
mod parsed_url;
mod pipelined;
mod pooler;
mod prefix;
mod primary_wal;
mod private_server;
mod removals;
mod repeat;
mod replicas;
mod retire;
mod retries;
mod rows;
mod savepoint;
mod schema;
mod server_info;
mod server_timeout;
mod session;
mod socket;
mod statement_cache;
mod statements;
#[cfg(test)]
mod tests;
mod tls;
mod transaction;
mod transaction_options;
mod trial;
mod unnamed;
mod watch;
mod wire;

pub use address::check_url;
pub use call::{Params, QueryOutput};
pub use config::{PRIVATE_SERVER_CONNECTION_BYTES, PostgresConfig, ResetAfter};
pub use connection::Connection;
pub use connector::Connector;
pub use copy::{CopyIn, CopyOut};
pub use database::Database;
pub use error::{Error, SchemaError, ServerError};
pub use listen::{Event, Listener};
pub use metrics::{METRICS, start_at_zero};
pub use migrate::{MIGRATIONS, Migration, MigrationSet};
pub use private_server::PRIVATE_SERVER;
pub use retries::Retries;
pub use rows::Rows;
pub use savepoint::Savepoint;
pub use server_info::ServerInfo;
pub use session::Session;
pub use tokio_postgres::Row;
/// The types of parameters and columns, and what types of one's own need: [`FromSql`] and [`ToSql`]. Their
/// derived forms are not available; written by hand, they are short. An enum of the database:
///
/// ```
/// use headroom_actors::postgres::postgres_types::{
///     FromSql, IsNull, Kind, ToSql, Type, to_sql_checked,
/// };
///
/// # type Failure = Box<dyn std::error::Error + Sync + Send>;
/// #[derive(Debug)]
/// enum Mood {
///     Sad,
///     Happy,
/// }
///
/// fn is_mood(ty: &Type) -> bool {
///     ty.name() == "mood" && matches!(ty.kind(), Kind::Enum(_))
/// }
///
/// impl ToSql for Mood {
///     fn to_sql(&self, ty: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Failure> {
///         let label = match self {
///             Self::Sad => "sad",
///             Self::Happy => "happy",
///         };
///         label.to_sql(ty, out)
///     }
///
///     fn accepts(ty: &Type) -> bool {
///         is_mood(ty)
///     }
///
///     to_sql_checked!();
/// }
///
/// impl<'a> FromSql<'a> for Mood {
///     fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
///         match raw {
///             b"sad" => Ok(Self::Sad),
///             b"happy" => Ok(Self::Happy),
///             _ => Err("not a mood".into()),
///         }
///     }
///
///     fn accepts(ty: &Type) -> bool {
///         is_mood(ty)
///     }
/// }
/// ```
///
/// The form of a value in `raw` is the type's binary form. A domain has that of its base type, and a
/// composite type the number of its fields, then the type, the length and the value of each. An array of
/// such a type needs nothing more: `Vec<Mood>`.
pub use tokio_postgres::types as postgres_types;
pub use tokio_postgres::types::{FromSql, ToSql};
pub use transaction::Transaction;
pub use transaction_options::{Isolation, TransactionOptions};
pub use trial::Trial;
