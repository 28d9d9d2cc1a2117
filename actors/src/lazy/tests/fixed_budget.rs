//! A memory budget of a fixed size for tests, with faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::sleep;

use super::SECOND;
use crate::kernel::{
    Budget, BudgetError, FreeMemory, Reservation, ReservationEntry, ReservationRequest,
};

/// How the budget replies.
#[derive(Clone, Copy, Default)]
pub(crate) enum Fault {
    #[default]
    None,
    /// It is unavailable.
    Unavailable,
    /// It replies a second later, with what was free at the request.
    Stale,
    /// It panics inside the loader's own future, as a bug of the loader would.
    Panic,
}

/// A budget of a fixed size.
pub(crate) struct FixedBudget {
    total: u64,
    reserved: Mutex<BTreeMap<u64, u64>>,
    /// Entries whose load is under way.
    loading: Mutex<BTreeSet<u64>>,
    next_key: AtomicU64,
    /// The peak of every entry.
    peak: AtomicU64,
    /// Whether memory was not read since the loads.
    unread: AtomicBool,
    max_reservable: Mutex<Option<u64>>,
    fault: Mutex<Fault>,
}

impl FixedBudget {
    pub(crate) fn new(total: u64) -> Arc<Self> {
        Arc::new(Self {
            total,
            reserved: Mutex::default(),
            loading: Mutex::default(),
            next_key: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            unread: AtomicBool::new(false),
            max_reservable: Mutex::default(),
            fault: Mutex::default(),
        })
    }

    pub(crate) fn set_peak_of_all(&self, bytes: u64) {
        self.peak.store(bytes, SeqCst);
    }

    pub(crate) fn set_unread(&self, unread: bool) {
        self.unread.store(unread, SeqCst);
    }

    pub(crate) fn set_max_reservable(&self, bytes: u64) {
        *self.max_reservable.lock().unwrap() = Some(bytes);
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    pub(crate) fn used(&self) -> u64 {
        self.reserved.lock().unwrap().values().sum()
    }

    /// The number of loads under way.
    pub(crate) fn loading(&self) -> usize {
        self.loading.lock().unwrap().len()
    }
}

struct FixedEntry {
    budget: Arc<FixedBudget>,
    key: u64,
    measured: AtomicU64,
}

impl ReservationEntry for FixedEntry {
    fn attach(&self, _pid: i32) {}
    fn detach(&self, _pid: i32) {}
    fn set_reserved(&self, bytes: u64) {
        self.measured.store(bytes, SeqCst);
        self.budget.loading.lock().unwrap().remove(&self.key);
        self.budget.reserved.lock().unwrap().insert(self.key, bytes);
    }
    fn reserved(&self) -> u64 {
        let reserved = self.budget.reserved.lock().unwrap();
        reserved.get(&self.key).copied().unwrap_or(0)
    }
    fn measured(&self) -> u64 {
        match self.budget.unread.load(SeqCst) {
            true => 0,
            false => self.measured.load(SeqCst),
        }
    }
    fn peak(&self) -> u64 {
        self.budget.peak.load(SeqCst)
    }
    fn release(&self) {
        self.budget.reserved.lock().unwrap().remove(&self.key);
        self.budget.loading.lock().unwrap().remove(&self.key);
    }
}

/// The budget, as the loader gets it.
pub(crate) struct SharedBudget(pub(crate) Arc<FixedBudget>);

impl Budget for SharedBudget {
    fn reserve(
        &self,
        request: ReservationRequest,
    ) -> BoxFuture<'static, Result<Reservation, BudgetError>> {
        let budget = Arc::clone(&self.0);
        async move {
            // Other tasks run before the reply.
            tokio::task::yield_now().await;
            let fault = *budget.fault.lock().unwrap();
            match fault {
                Fault::None | Fault::Stale => {}
                Fault::Unavailable => return Err(BudgetError::Unavailable),
                Fault::Panic => std::panic::resume_unwind(Box::new("a bug")),
            }
            let free = budget.total.saturating_sub(budget.used());
            if let Fault::Stale = fault {
                sleep(SECOND).await;
            }
            if request.bytes > free {
                return Err(BudgetError::Short {
                    need: request.bytes,
                    free,
                    budget: budget.total,
                });
            }
            let key = budget.next_key.fetch_add(1, SeqCst);
            budget.reserved.lock().unwrap().insert(key, request.bytes);
            budget.loading.lock().unwrap().insert(key);
            Ok(Reservation::new(Arc::new(FixedEntry {
                budget,
                key,
                measured: AtomicU64::new(0),
            })))
        }
        .boxed()
    }

    fn free(&self, _use_headroom: bool) -> Option<FreeMemory> {
        let budget = self.0.total;
        let free = budget.saturating_sub(self.0.used());
        Some(FreeMemory { free, budget })
    }

    fn max_reservable(&self) -> Option<u64> {
        *self.0.max_reservable.lock().unwrap()
    }
}
