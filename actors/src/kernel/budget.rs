//! What a room needs of the memory budget, without knowing the room that keeps it.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

/// A wish to use memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// For what, in the words of the catalogue.
    pub name: String,
    /// The estimated peak, in bytes.
    pub bytes: u64,
}

/// Why a claim was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// The budget has no room for it now.
    #[error("{need} bytes are needed, {free} of {budget} are free")]
    Short {
        /// Bytes claimed.
        need: u64,
        /// Bytes that nobody uses or has reserved.
        free: u64,
        /// The whole budget.
        budget: u64,
    },
    /// The keeper of the budget did not answer.
    #[error("the memory supervisor did not answer")]
    Unavailable,
}

/// Keeps the memory budget: grants claims as long as the sum of what is used and what is reserved
/// stays within it.
pub trait Budget: Send + Sync + 'static {
    /// Reserves `claim`, or says what is missing. Never evicts anything by itself.
    fn reserve(&self, claim: Claim) -> BoxFuture<'static, Result<Reservation, BudgetError>>;
}

/// One entry of the ledger, as its holder may touch it.
pub trait Entry: Send + Sync {
    /// Counts the process `pid` under this entry: its real usage replaces the estimate where it is
    /// larger.
    fn attach(&self, pid: i32);

    /// No longer counts the process `pid`.
    fn detach(&self, pid: i32);

    /// Corrects the reserved bytes by what was measured.
    fn settle(&self, bytes: u64);

    /// Bytes reserved now.
    fn reserved(&self) -> u64;

    /// Bytes that the attached processes really used when they were last measured; 0 before that.
    fn measured(&self) -> u64;

    /// Gives the bytes back. Called once, at the end.
    fn release(&self);
}

/// Bytes of the budget that are set aside for one thing. Dropping it gives them back.
pub struct Reservation {
    entry: Arc<dyn Entry>,
}

impl Reservation {
    /// Wraps an entry that was just added to a ledger.
    pub fn new(entry: Arc<dyn Entry>) -> Self {
        Self { entry }
    }

    /// The entry, for whoever must attach processes to it while the reservation stays elsewhere.
    pub fn entry(&self) -> &Arc<dyn Entry> {
        &self.entry
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.entry.release();
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reservation({} bytes)", self.entry.reserved())
    }
}
