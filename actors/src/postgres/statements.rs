//! The prepared statements of one connection: those used last stay.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;
use tokio_postgres::Statement;

/// A place for a statement: whoever comes first prepares it, the others wait for that.
pub(super) type Slot = Arc<OnceCell<Statement>>;

/// Prepared statements by their text.
#[derive(Debug)]
pub(super) struct Statements<T = Slot> {
    capacity: usize,
    known: Mutex<Known<T>>,
}

#[derive(Debug)]
struct Known<T> {
    slots: HashMap<String, Used<T>>,
    clock: u64,
}

#[derive(Debug)]
struct Used<T> {
    slot: T,
    at: u64,
}

impl<T: Clone + Default> Statements<T> {
    /// Room for `capacity` statements, at least one.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            known: Mutex::new(Known {
                slots: HashMap::new(),
                clock: 0,
            }),
        }
    }

    /// The place for `sql`. When there are too many, the one that was not used for longest goes: the
    /// server forgets it when its last user is done.
    pub(super) fn slot(&self, sql: &str) -> T {
        let mut known = self.known();
        known.clock += 1;
        let at = known.clock;
        if let Some(used) = known.slots.get_mut(sql) {
            used.at = at;
            return used.slot.clone();
        }
        if known.slots.len() >= self.capacity {
            let oldest = known.slots.iter().min_by_key(|(_, used)| used.at);
            if let Some(oldest) = oldest.map(|(sql, _)| sql.clone()) {
                known.slots.remove(&oldest);
            }
        }
        let slot = T::default();
        let used = Used {
            slot: slot.clone(),
            at,
        };
        known.slots.insert(sql.to_owned(), used);
        slot
    }

    /// Forgets `sql`: the next use prepares it anew.
    pub(super) fn forget(&self, sql: &str) {
        self.known().slots.remove(sql);
    }

    fn known(&self) -> MutexGuard<'_, Known<T>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let cache: Statements<Arc<()>> = Statements::new(2);
        let (a, b) = (cache.slot("a"), cache.slot("b"));
        assert!(Arc::ptr_eq(&a, &cache.slot("a")));
        cache.slot("c");
        assert!(Arc::ptr_eq(&a, &cache.slot("a")), "a was used after b");
        assert!(!Arc::ptr_eq(&b, &cache.slot("b")));
        cache.forget("b");
        assert_eq!(cache.known().slots.len(), 1);
    }
}
