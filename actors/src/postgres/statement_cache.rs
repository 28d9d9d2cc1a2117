//! The prepared statements of one connection. The least recently used one is removed first.
//!
//! A statement is prepared for the names that the session sees: under another `search_path`, or behind a
//! temporary table, the same text means other tables. So the cache also keeps apart what the session did to
//! its names since its last reset, and what the server reports of the search path. Before PostgreSQL 18 it
//! reports nothing, and functions that change the names stay unseen; the server then refuses the statement,
//! and it is prepared again. Only a temporary table that a function makes may go unnoticed at the server too.
//!
//! A change of the schema outdates statements on every connection of a pool. The connections share an
//! epoch: when one finds such a statement, the others forget all of theirs before the next use.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use tokio::sync::OnceCell;
use tokio_postgres::Statement;

use super::call::Params;
use super::config::STATEMENTS_MAX;
use super::first_word::changes_names;
use super::metrics::PREPARED_AGAIN;
use super::wire::Wire;

/// The statements without a name whose types are kept.
const TYPES_MAX: NonZeroUsize = match NonZeroUsize::new(STATEMENTS_MAX) {
    Some(max) => max,
    None => NonZeroUsize::MIN,
};

/// Holds one statement. The first caller prepares it; the others wait for that.
pub(super) type StatementSlot = Arc<OnceCell<Statement>>;

/// What the caches of one pool share.
#[derive(Debug, Default)]
pub(super) struct SharedCaches {
    /// How often a cached statement was found to be out of date.
    epoch: AtomicU64,
    /// How often one was prepared and sent again.
    prepared_again: AtomicU64,
}

impl SharedCaches {
    /// How often a statement was prepared and sent again.
    pub(super) fn prepared_again(&self) -> u64 {
        self.prepared_again.load(Ordering::Relaxed)
    }
}

/// Prepared statements by their text and by the names that the session sees.
pub(super) struct StatementCache {
    slots: Mutex<LruCache<String, StatementSlot>>,
    /// Stands for what the session did to its names since its last reset. Zero: nothing.
    names: AtomicU64,
    /// Knows the search path, if the server reports it.
    wire: Arc<Wire>,
    /// The pool's epoch.
    shared: Arc<SharedCaches>,
    /// The epoch of the statements.
    seen: AtomicU64,
}

impl StatementCache {
    /// A cache of at most `statements_max` statements, of a pool whose caches share `shared`. Zero stands for
    /// statements without a name, whose types are kept instead, of as many as by default.
    pub(super) fn new(statements_max: usize, shared: Arc<SharedCaches>, wire: Arc<Wire>) -> Self {
        let capacity = NonZeroUsize::new(statements_max).unwrap_or(TYPES_MAX);
        Self {
            slots: Mutex::new(LruCache::sparse(capacity)),
            names: AtomicU64::new(0),
            wire,
            seen: AtomicU64::new(shared.epoch.load(Ordering::Acquire)),
            shared,
        }
    }

    /// The slot of `sql`. A new one may remove another: the server drops the removed statement when
    /// its last user is done with it.
    pub(super) fn slot(&self, sql: &str) -> StatementSlot {
        let key = self.key(sql);
        Arc::clone(self.lock().get_or_insert_ref(&*key, StatementSlot::default))
    }

    /// Removes `slot`, which is that of `sql`: its next use prepares the statement again.
    pub(super) fn forget(&self, sql: &str, slot: &StatementSlot) {
        let key = self.key(sql);
        let mut slots = self.lock();
        // Another caller may have prepared it again already.
        if slots
            .peek(&*key)
            .is_some_and(|kept| Arc::ptr_eq(kept, slot))
        {
            slots.pop(&*key);
        }
    }

    /// Forgets all statements if one of the pool was found to be out of date since the last call.
    /// Returns whether it did.
    pub(super) fn forget_outdated(&self) -> bool {
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        let is_outdated = self.seen.swap(epoch, Ordering::AcqRel) != epoch;
        if is_outdated {
            self.lock().clear();
        }
        is_outdated
    }

    /// Makes all connections of the pool forget their statements before the next use: one was out of
    /// date.
    pub(super) fn outdate_all(&self) {
        self.shared.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts a statement that is prepared and sent again.
    pub(super) fn count_prepared_again(&self) {
        self.shared.prepared_again.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(PREPARED_AGAIN.name).increment(1);
    }

    /// Records that the session ran `sql`. Only for a session of one user.
    pub(super) fn session_ran(&self, sql: &str, params: Params<'_>) {
        let names = self.names.load(Ordering::Acquire);
        if changes_names(sql, names != 0) {
            let mut hasher = DefaultHasher::new();
            (names, sql, format!("{params:?}")).hash(&mut hasher);
            self.names.store(hasher.finish().max(1), Ordering::Release);
        }
    }

    /// Records that the session, which is reset, runs `sql` first.
    pub(super) fn session_begins_with(&self, sql: &str) {
        self.session_was_reset();
        self.session_ran(sql, &[]);
    }

    /// Records that the session is reset.
    pub(super) fn session_was_reset(&self) {
        self.names.store(0, Ordering::Release);
    }

    /// The key of `sql` in this session: the text itself, unless its names have changed. No text
    /// of a statement holds a zero byte.
    fn key<'a>(&self, sql: &'a str) -> Cow<'a, str> {
        match (self.names.load(Ordering::Acquire), self.wire.search_path()) {
            (0, 0) => Cow::Borrowed(sql),
            (0, path) => Cow::Owned(format!("path {path:x}\0{sql}")),
            // What stands for the names tells the path too, already before the server has reported it.
            (names, _) => Cow::Owned(format!("{names:x}\0{sql}")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<String, StatementSlot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(shared: &Arc<SharedCaches>) -> StatementCache {
        of_capacity(2, shared)
    }

    fn of_capacity(capacity: usize, shared: &Arc<SharedCaches>) -> StatementCache {
        StatementCache::new(capacity, Arc::clone(shared), Arc::default())
    }

    #[test]
    fn the_least_recently_used_statement_is_removed_first() {
        let cache = cache(&Arc::default());
        let (a, b) = (cache.slot("a"), cache.slot("b"));
        assert!(Arc::ptr_eq(&a, &cache.slot("a")));
        cache.slot("c");
        assert!(Arc::ptr_eq(&a, &cache.slot("a")), "a was used after b");
        assert!(!Arc::ptr_eq(&b, &cache.slot("b")));
        cache.forget("b", &b);
        assert_eq!(cache.lock().len(), 2, "another slot has its place");
        cache.forget("b", &cache.slot("b"));
        assert_eq!(cache.lock().len(), 1);
    }

    #[test]
    fn one_statement_out_of_date_makes_all_connections_forget_theirs() {
        let shared = Arc::default();
        let caches = [cache(&shared), cache(&shared)];
        for cache in &caches {
            cache.slot("a");
            assert!(!cache.forget_outdated());
        }
        caches[0].outdate_all();
        for cache in &caches {
            assert!(cache.forget_outdated() && cache.lock().is_empty());
            assert!(!cache.forget_outdated());
        }
    }

    #[test]
    fn sessions_that_see_other_names_have_other_statements() {
        let cache = of_capacity(9, &Arc::default());
        let ordinary = cache.slot("a");
        let set = "select set_config('search_path', $1, true)";
        let mut of_tenants = Vec::new();
        for tenant in ["x", "y", "x"] {
            cache.session_ran("select 1", &[]);
            cache.session_ran(set, &[&tenant]);
            of_tenants.push(cache.slot("a"));
            cache.session_was_reset();
            assert!(Arc::ptr_eq(&ordinary, &cache.slot("a")));
        }
        assert!(Arc::ptr_eq(&of_tenants[0], &of_tenants[2]));
        assert!(!Arc::ptr_eq(&of_tenants[0], &of_tenants[1]));
        assert!(!Arc::ptr_eq(&of_tenants[0], &ordinary));
    }

    #[test]
    fn search_paths_that_the_server_reports_have_other_statements() {
        let cache = of_capacity(9, &Arc::default());
        let under = |path: u64| {
            cache.wire.record_search_path(path);
            cache.slot("a")
        };
        let unreported = cache.slot("a");
        let (start, tenant) = (under(1), under(2));
        assert!(Arc::ptr_eq(&unreported, &start));
        assert!(!Arc::ptr_eq(&start, &tenant));
        assert!(!Arc::ptr_eq(&tenant, &under(3)));
        assert!(Arc::ptr_eq(&tenant, &under(2)));
        assert!(Arc::ptr_eq(&start, &under(1)));
    }
}
