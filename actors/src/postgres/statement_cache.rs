//! The prepared statements of one connection. The least recently used one is removed first.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use tokio::sync::OnceCell;
use tokio_postgres::Statement;

/// Holds one statement. The first caller prepares it; the others wait for that.
pub(super) type StatementSlot = Arc<OnceCell<Statement>>;

/// Prepared statements by their text.
pub(super) struct StatementCache(Mutex<LruCache<String, StatementSlot>>);

impl StatementCache {
    /// A cache of at most `capacity` statements.
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::sparse(capacity)))
    }

    /// The slot of `sql`. A new one may remove another: the server drops the removed statement when
    /// its last user is done with it.
    pub(super) fn slot(&self, sql: &str) -> StatementSlot {
        let mut slots = self.lock();
        Arc::clone(slots.get_or_insert_ref(sql, StatementSlot::default))
    }

    /// Removes `sql`: its next use prepares it again.
    pub(super) fn remove(&self, sql: &str) {
        self.lock().pop(sql);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<String, StatementSlot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_statement_is_removed_first() {
        let cache = StatementCache::new(NonZeroUsize::new(2).unwrap());
        let (a, b) = (cache.slot("a"), cache.slot("b"));
        assert!(Arc::ptr_eq(&a, &cache.slot("a")));
        cache.slot("c");
        assert!(Arc::ptr_eq(&a, &cache.slot("a")), "a was used after b");
        assert!(!Arc::ptr_eq(&b, &cache.slot("b")));
        cache.remove("b");
        assert_eq!(cache.lock().len(), 1);
    }
}
