//! What a caller can say about a transaction.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;

/// The most schemas of a search path.
const SCHEMAS_MAX: usize = 64;

/// The server cuts longer names off.
const NAME_BYTES_MAX: usize = 63;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionOptions {
    /// What it sees of concurrent transactions.
    pub isolation: Isolation,
    /// Whether it only reads.
    pub read_only: bool,
    /// How often its work may run. 1: it is not retryable.
    pub attempts: u32,
    /// The longest time for all of it: the checkout, every statement, every try.
    pub within: Duration,
    /// The statement that sets its search path, if it has one of its own.
    pub(super) search_path: Option<Arc<str>>,
}

impl Default for TransactionOptions {
    fn default() -> Self {
        Self {
            isolation: Isolation::default(),
            read_only: false,
            attempts: 1,
            within: Duration::from_secs(30),
            search_path: None,
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

    /// Gives it a search path of its own, for example with the schema of a tenant. It is set together with
    /// the begin, and ends with the transaction. As in PostgreSQL, `pg_catalog` is searched first, a schema
    /// that does not exist is left out, and the name `$user` stands for the schema of the user. Everything
    /// else is a name as it stands: nothing in it is a part of SQL.
    ///
    /// Prepared statements are kept for each search path.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than 64 schemas, for none, and for names that are no names for the
    /// server: those that are empty, longer than 63 bytes, or hold a zero byte.
    pub fn search_path(mut self, schemas: &[&str]) -> Result<Self, Error> {
        if schemas.is_empty() || schemas.len() > SCHEMAS_MAX {
            let reason = format!("a search path has 1 to {SCHEMAS_MAX} schemas");
            return Err(Error::Invalid(reason));
        }
        let is_name =
            |name: &&str| (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains('\0');
        if !schemas.iter().all(is_name) {
            let reason =
                format!("the name of a schema has 1 to {NAME_BYTES_MAX} bytes, none of them zero");
            return Err(Error::Invalid(reason));
        }
        let quoted = schemas
            .iter()
            .map(|name| format!("\"{}\"", name.replace('"', "\"\"")));
        let quoted: Vec<_> = quoted.collect();
        let set = format!("SET LOCAL search_path TO {}", quoted.join(", "));
        self.search_path = Some(set.into());
        Ok(self)
    }

    /// The statement that begins such a transaction.
    pub(super) fn begin(&self) -> String {
        let isolation = match self.isolation {
            Isolation::ReadCommitted => "",
            Isolation::RepeatableRead => " ISOLATION LEVEL REPEATABLE READ",
            Isolation::Serializable => " ISOLATION LEVEL SERIALIZABLE",
        };
        let access = if self.read_only { " READ ONLY" } else { "" };
        format!("BEGIN{isolation}{access}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemas_of_a_search_path_are_names() {
        let path = |schemas: &[&str]| TransactionOptions::default().search_path(schemas);
        let set = path(&["a", "B c", "d\"; drop table t; --"]).unwrap();
        assert_eq!(
            set.search_path.as_deref(),
            Some("SET LOCAL search_path TO \"a\", \"B c\", \"d\"\"; drop table t; --\"")
        );
        let (longest, too_long) = ("n".repeat(63), "n".repeat(64));
        assert!(path(&[&*longest; 64]).is_ok());
        for refused in [&[][..], &[""], &["a\0"], &[&*too_long], &["a"; 65]] {
            let refused = path(refused);
            assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
        }
    }
}
