//! The two faces that the room shows to others through the kernel's traits: the budget that grants
//! claims, and the entry that a reservation holds on to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::ledger::{EntryId, Ledger};
use super::supervisor::{MemorySupervisor, Reserve};
use crate::kernel::{Budget, BudgetError, Claim, Entry, Handle, Reservation};

/// A reading takes milliseconds. A keeper that is silent for this long is in trouble, and its
/// caller has a deadline of its own to keep.
const RESERVE_WITHIN: Duration = Duration::from_secs(5);

/// The one ledger. It outlives every incarnation of its keeper, as reservations do.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves, or says what is missing.
    pub(super) fn reserve(&self, claim: &Claim) -> Result<Reservation, BudgetError> {
        match self.lock().try_reserve(&claim.name, claim.bytes) {
            Ok(id) => Ok(Reservation::new(Arc::new(LedgerEntry {
                ledger: self.clone(),
                id,
            }))),
            Err(short) => Err(BudgetError::Short {
                need: short.need,
                free: short.free,
                budget: short.budget,
            }),
        }
    }
}

struct LedgerEntry {
    ledger: SharedLedger,
    id: EntryId,
}

impl Entry for LedgerEntry {
    fn attach(&self, pid: i32) {
        self.ledger.lock().attach(self.id, pid);
    }

    fn detach(&self, pid: i32) {
        self.ledger.lock().detach(self.id, pid);
    }

    fn settle(&self, bytes: u64) {
        self.ledger.lock().settle(self.id, bytes);
    }

    fn reserved(&self) -> u64 {
        self.ledger.lock().reserved(self.id)
    }

    fn measured(&self) -> u64 {
        self.ledger.lock().measured(self.id)
    }

    fn release(&self) {
        self.ledger.lock().release(self.id);
    }
}

/// The memory budget, for those who load things.
#[derive(Debug, Clone)]
pub struct MemoryBudget(Handle<MemorySupervisor>);

impl MemoryBudget {
    /// The budget kept by the actor behind `handle`.
    pub fn new(handle: Handle<MemorySupervisor>) -> Self {
        Self(handle)
    }
}

impl Budget for MemoryBudget {
    fn reserve(&self, claim: Claim) -> BoxFuture<'static, Result<Reservation, BudgetError>> {
        let handle = self.0.clone();
        Box::pin(async move {
            let name = claim.name.clone();
            let answer = handle.ask(Reserve { claim }, RESERVE_WITHIN).await;
            answer.unwrap_or_else(|error| {
                tracing::warn!(resource = name, %error, "no answer to a claim of memory");
                Err(BudgetError::Unavailable)
            })
        })
    }
}
