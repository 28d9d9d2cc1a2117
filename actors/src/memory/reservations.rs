//! What other modules use of the memory budget: they reserve memory for loads, private servers and
//! buffers, and ask how old the figures are. Reservations are entries and accounts of the ledger.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::ledger::EntryId;
use super::metrics;
use super::shared::Shared;
use super::supervisor::{MemorySupervisor, ReadMemory};
use crate::kernel::{
    Budget, BudgetError, BufferReservation, Buffers, FreeMemory, Handle, Reservation,
    ReservationEntry, ReservationRequest,
};

/// A reading takes milliseconds. A supervisor that does not answer within this time is in trouble,
/// and the caller has a deadline of its own to keep.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The figures are stale only after this many intervals without a reading.
const STALE_INTERVALS: u32 = 3;

/// Reserves memory for loads and private servers.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    pub(super) shared: Arc<Shared>,
    pub(super) supervisor: Handle<MemorySupervisor>,
}

impl Budget for MemoryBudget {
    fn reserve(
        &self,
        request: ReservationRequest,
    ) -> BoxFuture<'static, Result<Reservation, BudgetError>> {
        let supervisor = self.supervisor.clone();
        Box::pin(async move {
            let name = request.name.clone();
            let answer = supervisor.ask(request, ANSWER_WITHIN).await;
            answer.unwrap_or_else(|error| {
                tracing::warn!(
                    resource = name,
                    %error,
                    "the memory supervisor did not answer a request for memory"
                );
                Err(BudgetError::Unavailable)
            })
        })
    }

    fn max_reservable(&self) -> Option<u64> {
        let critical = self.shared.config().levels.critical;
        let ledger = self.shared.ledger();
        ledger.max_reservable(ledger.ceiling(critical))
    }

    fn free(&self, use_headroom: bool) -> Option<FreeMemory> {
        let share = load_share(&self.shared, use_headroom);
        let ledger = self.shared.ledger();
        ledger.last_reading?;
        let ceiling = ledger.ceiling(share).min(ledger.budget);
        Some(FreeMemory {
            free: ceiling.saturating_sub(ledger.projected()),
            budget: ledger.budget,
        })
    }
}

/// Grants or refuses `request` by the last reading.
///
/// A load may fill the budget up to the high level, where idle resources begin to be evicted. With
/// `use_headroom` it may fill it up to the critical level. So a load alone never causes an emergency.
pub(super) fn reserve(
    shared: &Arc<Shared>,
    request: &ReservationRequest,
) -> Result<Reservation, BudgetError> {
    let share = load_share(shared, request.use_headroom);
    let mut ledger = shared.ledger();
    let ceiling = ledger.ceiling(share);
    let id = ledger.try_reserve(&request.name, request.bytes, ceiling)?;
    let shared = Arc::clone(shared);
    Ok(Reservation::new(Arc::new(LedgerEntry { shared, id })))
}

/// The share of the budget that loads may fill.
fn load_share(shared: &Shared, use_headroom: bool) -> f64 {
    let levels = shared.config().levels;
    match use_headroom {
        true => levels.critical,
        false => levels.high,
    }
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

    fn count_uses(&self, uses: Option<Arc<AtomicUsize>>) {
        self.shared.ledger().count_uses(self.id, uses);
    }

    fn release(&self) {
        self.shared.ledger().release(self.id);
    }
}

/// Reserves memory for one kind of buffers in this process. Clones share the account.
#[derive(Debug, Clone)]
pub struct BufferAccount {
    pub(super) budget: MemoryBudget,
    pub(super) name: &'static str,
    /// Bytes that all buffers of this kind may hold together.
    pub(super) bytes_max: u64,
    /// Whether it must stay below the critical level: see [`BufferAccount::for_new_work`].
    pub(super) is_for_new_work: bool,
}

impl BufferAccount {
    /// The account for buffers that begin work, such as bodies of requests. They stay below the critical
    /// level, so that clients that send slowly cause no emergency. Buffers that finish work, such as
    /// outputs, may use memory up to the exhausted level.
    #[must_use]
    pub fn for_new_work(mut self) -> Self {
        self.is_for_new_work = true;
        self
    }
}

impl Buffers for BufferAccount {
    fn reserve(&self, bytes: u64) -> Result<BufferReservation, BudgetError> {
        let levels = self.budget.shared.config().levels;
        let share = match self.is_for_new_work {
            true => levels.critical,
            false => levels.exhausted,
        };
        let mut ledger = self.budget.shared.ledger();
        let ceiling = ledger.ceiling(share);
        let reserved = ledger.try_reserve_buffer(self.name, bytes, self.bytes_max, ceiling);
        drop(ledger);
        reserved.inspect_err(|_| metrics::refusal(self.name))?;
        Ok(BufferReservation::new(Arc::new(self.clone()), bytes))
    }

    fn read_memory(&self) -> BoxFuture<'static, ()> {
        let supervisor = self.budget.supervisor.clone();
        Box::pin(async move {
            // Without a reply, the last reading stays in use.
            let call = ReadMemory { events: 0 };
            supervisor.ask(call, ANSWER_WITHIN).await.ok();
        })
    }

    fn fill(&self, bytes: u64) {
        let mut ledger = self.budget.shared.ledger();
        ledger.fill_buffer(self.name, bytes);
    }

    fn release(&self, held: u64, filled: u64) {
        let mut ledger = self.budget.shared.ledger();
        ledger.release_buffer(self.name, held, filled);
    }
}

/// The age of the figures. It is answered without the actor, from any thread and at any time.
#[derive(Debug, Clone)]
pub struct Freshness {
    pub(super) shared: Arc<Shared>,
}

impl Freshness {
    /// The age of the last reading; `None` before the first.
    pub fn age(&self) -> Option<Duration> {
        let last = self.shared.ledger().last_reading?;
        Some(last.began.elapsed())
    }

    /// The age of the last reading if it is too old to enforce a budget.
    pub fn stale(&self) -> Option<Duration> {
        let config = self.shared.config();
        let age_max = config
            .stale_after
            .max(config.sample_interval * STALE_INTERVALS);
        self.age().filter(|age| *age > age_max)
    }
}
