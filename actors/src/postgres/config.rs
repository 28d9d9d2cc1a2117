//! The settings of a database, beside those of its pool.

use std::time::Duration;

use crate::kernel::Backoff;

/// Resident bytes of one connection in this process: buffers and prepared statements.
const CLIENT_BYTES: u64 = 64 * 1024;

/// Resident bytes of one connection to a private server, whose process for the connection counts too.
/// After a few queries, such a process of PostgreSQL 15 had 1.6 to 1.9 MiB of anonymous memory in
/// `smaps_rollup`. The mapped program files and the shared buffers stay when it ends, so they do not
/// count.
pub const PRIVATE_SERVER_CONNECTION_BYTES: u64 = CLIENT_BYTES + 2 * 1024 * 1024;

/// The default of [`PostgresConfig::statements_max`].
pub(super) const STATEMENTS_MAX: usize = 256;

/// Which transactions the reset of the session follows. A transaction that fails or is dropped is always followed
/// by it, and so is a [`Session`](super::Session).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ResetAfter {
    /// Each.
    #[default]
    EveryTransaction,
    /// Those with a statement that changes the session, as its words say: `set`, `set_config`, temporary
    /// tables, advisory locks, `do`, `call` and others. What other functions change in the session, and triggers,
    /// reaches the next user of the connection.
    SessionStatements,
}

/// The settings of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    /// The name of the connections in `pg_stat_activity`.
    pub application_name: String,
    /// The longest time to open a connection. Each host gets an equal part of it.
    pub connect_timeout: Duration,
    /// The server ends a statement that takes longer. Zero: never.
    pub statement_timeout: Duration,
    /// The server ends a statement that waits longer for a lock. Zero: never.
    pub lock_timeout: Duration,
    /// The server ends a session that is idle within a transaction for longer. Zero: never.
    pub idle_in_transaction_timeout: Duration,
    /// Silence after which the kernel checks whether the other side is still there, and the longest
    /// time that sent data may stay unacknowledged.
    pub keepalive: Duration,
    /// Statements kept prepared per connection. Zero: the connections lead through a pooler in transaction
    /// mode, such as `PgBouncer`. Then nothing outlives a transaction, and no options are sent at the start.
    pub statements_max: usize,
    /// Which transactions the reset of the session follows.
    pub reset_after: ResetAfter,
    /// Resident bytes of one connection, with the process of a private server.
    pub bytes_per_connection: u64,
    /// How often a single statement is tried at most, where a repeat is safe.
    pub attempts_max: u32,
    /// How long to wait between tries.
    pub retry_backoff: Backoff,
    /// The longest time to bring the schema up to date.
    pub migrate_timeout: Duration,
}

impl PostgresConfig {
    /// Whether the connections lead through a pooler in transaction mode.
    pub(super) fn is_pooled(&self) -> bool {
        self.statements_max == 0
    }
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
            statements_max: STATEMENTS_MAX,
            reset_after: ResetAfter::default(),
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
