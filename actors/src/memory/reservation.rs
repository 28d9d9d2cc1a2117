//! Reservations in the ledger, as the kernel's trait [`ReservationEntry`] shows them to their holders.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::ledger::EntryId;
use super::shared::Shared;
use crate::kernel::{BudgetError, Reservation, ReservationEntry, ReservationRequest};

/// Grants or refuses `request` by the last reading.
///
/// A load may fill the budget up to the high level, where idle resources begin to be evicted. If
/// evicting everything idle would not be enough (`use_headroom`), it may fill it up to the critical
/// level. So a load
/// alone never causes an emergency.
pub(super) fn reserve(
    shared: &Arc<Shared>,
    request: &ReservationRequest,
) -> Result<Reservation, BudgetError> {
    let levels = shared.config().levels;
    let share = if request.use_headroom {
        levels.critical
    } else {
        levels.high
    };
    let mut ledger = shared.ledger();
    let ceiling = ledger.ceiling(share);
    let id = ledger.try_reserve(&request.name, request.bytes, ceiling)?;
    let shared = Arc::clone(shared);
    Ok(Reservation::new(Arc::new(LedgerEntry { shared, id })))
}

struct LedgerEntry {
    shared: Arc<Shared>,
    id: EntryId,
}

impl ReservationEntry for LedgerEntry {
    fn attach(&self, pid: i32) {
        self.shared.ledger().attach(self.id, pid);
    }

    fn detach(&self, pid: i32) {
        self.shared.ledger().detach(self.id, pid);
    }

    fn set_reserved(&self, bytes: u64) {
        self.shared.ledger().set_reserved(self.id, bytes);
    }

    fn reserved(&self) -> u64 {
        self.shared.ledger().reserved(self.id)
    }

    fn measured(&self) -> u64 {
        self.shared.ledger().measured(self.id)
    }

    fn peak(&self) -> u64 {
        self.shared.ledger().peak(self.id)
    }

    fn usage_max(&self, pid: i32) -> u64 {
        let exhausted = self.shared.config().levels.exhausted;
        let ledger = self.shared.ledger();
        ledger.usage_max(self.id, pid, ledger.ceiling(exhausted))
    }

    fn count_uses(&self, uses: Arc<AtomicUsize>) {
        self.shared.ledger().count_uses(self.id, uses);
    }

    fn release(&self) {
        self.shared.ledger().release(self.id);
    }
}
