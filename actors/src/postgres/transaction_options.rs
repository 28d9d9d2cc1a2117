//! What a caller can say about a transaction.

use std::time::Duration;

/// What a transaction sees of concurrent ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// The server's default.
    #[default]
    ReadCommitted,
    /// All statements see the same state.
    RepeatableRead,
    /// As if the transactions ran one after the other. These can fail at any time: make them
    /// retryable.
    Serializable,
}

/// The options of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionOptions {
    /// What it sees of concurrent transactions.
    pub isolation: Isolation,
    /// Whether it only reads.
    pub read_only: bool,
    /// How often its work may run. 1: it is not retryable.
    pub attempts: u32,
    /// The longest time for all of it: the checkout, every statement, every try.
    pub within: Duration,
}

impl Default for TransactionOptions {
    fn default() -> Self {
        Self {
            isolation: Isolation::default(),
            read_only: false,
            attempts: 1,
            within: Duration::from_secs(30),
        }
    }
}

impl TransactionOptions {
    /// A transaction that may take `within`.
    pub fn within(within: Duration) -> Self {
        Self {
            within,
            ..Self::default()
        }
    }

    /// Makes it a transaction that only reads.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Makes it retryable: its work may run up to `attempts` times, because it has no effect outside of
    /// the database.
    #[must_use]
    pub fn retryable(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// The statement that begins such a transaction.
    pub(super) fn begin(self) -> String {
        let isolation = match self.isolation {
            Isolation::ReadCommitted => "",
            Isolation::RepeatableRead => " ISOLATION LEVEL REPEATABLE READ",
            Isolation::Serializable => " ISOLATION LEVEL SERIALIZABLE",
        };
        let access = if self.read_only { " READ ONLY" } else { "" };
        format!("BEGIN{isolation}{access}")
    }
}
