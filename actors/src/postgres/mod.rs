//! PostgreSQL: a pool of connections, and a way to use it that cannot be used wrongly by accident.
//!
//! What it owns: the connections (through [`crate::kernel::pool`]), their statement caches, the
//! schema's migrations.
//!
//! Two ways to use it:
//! - **Single statements** ([`Database::query`] and its kin) travel over shared connections, many at
//!   once on each. One caller's error or departure touches no other. What they set in the session
//!   stays there: such things belong in a transaction.
//! - **Transactions** ([`Database::begin`], [`Database::transaction`]) have a connection of their own.
//!   One that is dropped unfinished is rolled back before anybody else has the connection.
//!
//! Either may be marked as reading only ([`Database::read_only`]): a replica serves it then, as long as
//! one is there that is not too far behind, and else the primary.
//!
//! What it promises:
//! - Every call has a deadline, and ends with an answer or an [`Error`] that says whether the server
//!   can have acted on it.
//! - Only what is safe is tried again: what the server has certainly not begun, and what it has undone if
//!   the caller allows that (a call that only reads, a transaction marked as retryable). What can commit
//!   while it runs never is.
//! - No error, log line or status holds a password or the value of a parameter.
//! - Nothing is opened before the first use, and the first use brings the schema up to date.

mod address;
mod config;
mod connection;
mod connector;
mod database;
mod error;
mod freshness;
mod migrate;
mod pipelined;
mod private_server;
mod repeat;
mod replicas;
mod server_info;
mod statement_cache;
#[cfg(test)]
mod tests;
mod tls;
mod transaction;

pub use address::check_url;
pub use config::{PRIVATE_SERVER_CONNECTION_BYTES, PostgresConfig};
pub use connection::Connection;
pub use connector::Connector;
pub use database::{Database, Params};
pub use error::{Error, ServerError};
pub use migrate::{MIGRATIONS, Migration, SchemaError};
pub use private_server::private_server;
pub use replicas::ReadOnly;
pub use server_info::ServerInfo;
pub use tokio_postgres::Row;
pub use tokio_postgres::types::{FromSql, ToSql};
pub use transaction::{Isolation, Transaction, TransactionOptions};
