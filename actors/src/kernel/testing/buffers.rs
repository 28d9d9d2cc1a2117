//! An account for buffers without a budget behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use futures_util::future::{BoxFuture, FutureExt, ready};

use crate::kernel::{BudgetError, BufferReservation, Buffers};

/// An account of a fixed size. Clones share it.
#[derive(Debug, Clone)]
pub struct FixedBuffers(Arc<Account>);

#[derive(Debug)]
struct Account {
    bytes_max: AtomicU64,
    held: AtomicU64,
    filled: AtomicU64,
}

impl FixedBuffers {
    /// An account for `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Account {
            bytes_max: bytes_max.into(),
            held: AtomicU64::default(),
            filled: AtomicU64::default(),
        }))
    }

    /// Changes what the account may hold.
    pub fn set_max(&self, bytes_max: u64) {
        self.0.bytes_max.store(bytes_max, SeqCst);
    }

    /// The bytes that it holds.
    pub fn held(&self) -> u64 {
        self.0.held.load(SeqCst)
    }

    /// The bytes that are in use of those.
    pub fn filled(&self) -> u64 {
        self.0.filled.load(SeqCst)
    }
}

impl Buffers for FixedBuffers {
    fn reserve(&self, bytes: u64) -> Result<BufferReservation, BudgetError> {
        let budget = self.0.bytes_max.load(SeqCst);
        let free = budget.saturating_sub(self.held());
        if bytes > free {
            let need = bytes;
            return Err(BudgetError::Short { need, free, budget });
        }
        self.0.held.fetch_add(bytes, SeqCst);
        Ok(BufferReservation::new(Arc::new(self.clone()), bytes))
    }

    fn read_memory(&self) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }

    fn fill(&self, bytes: u64) {
        self.0.filled.fetch_add(bytes, SeqCst);
    }

    fn release(&self, held: u64, filled: u64) {
        self.0.held.fetch_sub(held, SeqCst);
        self.0.filled.fetch_sub(filled, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_reservation_that_shrinks_gives_back_the_rest_and_no_more_at_its_end() {
        let account = FixedBuffers::new(100);
        let mut reservation = account.reserve(80).unwrap();
        reservation.fill(50);
        for (bytes, held, filled) in [(70, 70, 50), (90, 70, 50), (40, 40, 40)] {
            reservation.shrink_to(bytes);
            assert_eq!(
                (account.held(), account.filled()),
                (held, filled),
                "{bytes}"
            );
        }
        assert_eq!(reservation.bytes(), 40);
        drop(reservation);
        assert_eq!((account.held(), account.filled()), (0, 0));
    }
}
