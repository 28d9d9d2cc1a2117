//! The faces that the room shows to others through the kernel's traits: the budget that grants
//! claims, the entry that a reservation holds on to, and memory set aside for buffers.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::ledger::{EntryId, Ledger, Short};
use super::levels::most_below;
use super::room::Shared;
use super::supervisor::{MemorySupervisor, Reserve, Sample};
use crate::kernel::{
    Budget, BudgetError, BufferLedger, BufferReservation, Buffers, Handle, Reservation,
    ReservationEntry, ReservationRequest,
};

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
}

impl Shared {
    /// Reserves, or says what is missing.
    ///
    /// A load may fill the budget up to where idle things begin to leave; when there are none, up
    /// to where an emergency begins: what was let in never causes one by its mere presence.
    pub(super) fn reserve(
        self: &Arc<Self>,
        claim: &ReservationRequest,
    ) -> Result<Reservation, BudgetError> {
        let levels = self.config().levels;
        let mut ledger = self.ledger.lock();
        let share = if claim.use_headroom {
            levels.critical
        } else {
            levels.high
        };
        let ceiling = most_below(ledger.budget(), share);
        let id = ledger.try_reserve(&claim.name, claim.bytes, ceiling)?;
        Ok(Reservation::new(Arc::new(LedgerEntry {
            shared: Arc::clone(self),
            id,
        })))
    }

    /// The most that reservations could ever hold together.
    fn max_reservable(&self) -> Option<u64> {
        let critical = self.config().levels.critical;
        let ledger = self.ledger.lock();
        ledger.most(most_below(ledger.budget(), critical))
    }
}

impl From<Short> for BudgetError {
    fn from(short: Short) -> Self {
        Self::Short {
            need: short.need,
            free: short.free,
            budget: short.budget,
        }
    }
}

struct LedgerEntry {
    shared: Arc<Shared>,
    id: EntryId,
}

impl ReservationEntry for LedgerEntry {
    fn attach(&self, pid: i32) {
        self.shared.ledger.lock().attach(self.id, pid);
    }

    fn detach(&self, pid: i32) {
        self.shared.ledger.lock().detach(self.id, pid);
    }

    fn set_reserved(&self, bytes: u64) {
        self.shared.ledger.lock().set_reserved(self.id, bytes);
    }

    fn reserved(&self) -> u64 {
        self.shared.ledger.lock().reserved(self.id)
    }

    fn measured(&self) -> u64 {
        self.shared.ledger.lock().measured(self.id)
    }

    fn peak(&self) -> u64 {
        self.shared.ledger.lock().peak(self.id)
    }

    fn usage_max(&self, pid: i32) -> u64 {
        let exhausted = self.shared.config().levels.exhausted;
        let ledger = self.shared.ledger.lock();
        let ceiling = most_below(ledger.budget(), exhausted);
        ledger.usage_max(self.id, pid, ceiling)
    }

    fn count_uses(&self, uses: Arc<AtomicUsize>) {
        self.shared.ledger.lock().count_uses(self.id, uses);
    }

    fn release(&self) {
        self.shared.ledger.lock().release(self.id);
    }
}

/// The memory budget, for those who load things.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    pub(super) shared: Arc<Shared>,
    pub(super) keeper: Handle<MemorySupervisor>,
}

impl Budget for MemoryBudget {
    fn reserve(
        &self,
        claim: ReservationRequest,
    ) -> BoxFuture<'static, Result<Reservation, BudgetError>> {
        let keeper = self.keeper.clone();
        Box::pin(async move {
            let name = claim.name.clone();
            let answer = keeper.ask(Reserve { claim }, RESERVE_WITHIN).await;
            answer.unwrap_or_else(|error| {
                tracing::warn!(resource = name, %error, "no answer to a claim of memory");
                Err(BudgetError::Unavailable)
            })
        })
    }

    fn max_reservable(&self) -> Option<u64> {
        self.shared.max_reservable()
    }
}

/// Memory for one sort of buffers in this process. Clones share the account.
#[derive(Debug, Clone)]
pub struct BufferAccount {
    pub(super) shared: Arc<Shared>,
    pub(super) keeper: Handle<MemorySupervisor>,
    pub(super) name: &'static str,
    /// Bytes that all buffers of this sort may hold together.
    pub(super) bytes_max: u64,
}

impl Buffers for BufferAccount {
    /// Grants as long as memory would not be exhausted: a request costs little beside a load, and
    /// what it waits for may be what gives memory back.
    fn reserve(&self, bytes: u64) -> Result<BufferReservation, BudgetError> {
        let exhausted = self.shared.config().levels.exhausted;
        let mut ledger = self.shared.ledger.lock();
        let ceiling = most_below(ledger.budget(), exhausted);
        ledger.try_reserve_buffer(self.name, bytes, self.bytes_max, ceiling)?;
        Ok(BufferReservation::new(Arc::new(self.clone()), bytes))
    }

    fn refresh(&self) -> BoxFuture<'static, ()> {
        let keeper = self.keeper.clone();
        Box::pin(async move {
            // Without an answer, what was read last must do.
            keeper.ask(Sample { events: 0 }, RESERVE_WITHIN).await.ok();
        })
    }
}

impl BufferLedger for BufferAccount {
    fn fill(&self, bytes: u64) {
        self.shared.ledger.lock().fill(self.name, bytes);
    }

    fn release(&self, held: u64, filled: u64) {
        self.shared
            .ledger
            .lock()
            .release_buffer(self.name, held, filled);
    }
}
