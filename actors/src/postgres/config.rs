//! How the room behaves, beside what the pool's own settings say.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::kernel::Backoff;

/// What a connection costs us at our end: buffers and statements.
const CLIENT_BYTES: u64 = 64 * 1024;

/// What a connection to a server of ours costs: its process too. Of one that had run a few queries on
/// PostgreSQL 15, 1.6 to 1.9 MiB were anonymous memory, in `smaps_rollup`; what it maps of the programs
/// and of the server's shared buffers does not come back with its end.
pub const PRIVATE_SERVER_CONNECTION_BYTES: u64 = CLIENT_BYTES + 2 * 1024 * 1024;

/// The settings of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    /// How connections call themselves in `pg_stat_activity`.
    pub application_name: String,
    /// How long opening a connection may take, all hosts together: each has an equal part of it.
    pub connect_timeout: Duration,
    /// The server ends a statement that takes longer. Zero: never.
    pub statement_timeout: Duration,
    /// The server ends a statement that waits longer for a lock. Zero: never.
    pub lock_timeout: Duration,
    /// The server ends a session that is idle within a transaction for longer. Zero: never.
    pub idle_in_transaction_timeout: Duration,
    /// Silence after which the kernel asks whether the other side is still there, and how long what
    /// was sent may stay unacknowledged.
    pub keepalive: Duration,
    /// Statements kept prepared per connection.
    pub statements_max: NonZeroUsize,
    /// Resident bytes that one connection costs: the server's process included when it is ours.
    pub bytes_per_connection: u64,
    /// How often a single statement is tried at most, where that is safe.
    pub attempts_max: u32,
    /// How long to wait between tries.
    pub retry_backoff: Backoff,
    /// How long bringing the schema up to date may take.
    pub migrate_timeout: Duration,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            application_name: "headroom".to_owned(),
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
            idle_in_transaction_timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(30),
            statements_max: NonZeroUsize::new(256).unwrap_or(NonZeroUsize::MIN),
            bytes_per_connection: CLIENT_BYTES,
            attempts_max: 5,
            retry_backoff: Backoff::try_new(
                Duration::from_millis(5),
                Duration::from_millis(500),
                Duration::from_secs(30),
            )
            .unwrap_or(Backoff::DEFAULT),
            migrate_timeout: Duration::from_secs(120),
        }
    }
}
