//! The handles by which other modules use the memory budget: they reserve memory for loads and for
//! buffers, and ask how old the figures are.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::shared::Shared;
use super::supervisor::{MemorySupervisor, Reserve, Sample};
use crate::kernel::{
    Budget, BudgetError, BufferLedger, BufferReservation, Buffers, Handle, Reservation,
    ReservationRequest,
};

/// A reading takes milliseconds. A supervisor that does not answer within this time is in trouble,
/// and the caller has a deadline of its own to keep.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The figures are stale only after this many intervals without a reading.
const STALE_INTERVALS: u32 = 3;

/// Reserves memory for loads.
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
            let answer = supervisor.ask(Reserve { request }, ANSWER_WITHIN).await;
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
        let share = if self.is_for_new_work {
            levels.critical
        } else {
            levels.exhausted
        };
        let mut ledger = self.budget.shared.ledger();
        let ceiling = ledger.ceiling(share);
        ledger.try_reserve_buffer(self.name, bytes, self.bytes_max, ceiling)?;
        Ok(BufferReservation::new(Arc::new(self.clone()), bytes))
    }

    fn refresh(&self) -> BoxFuture<'static, ()> {
        let supervisor = self.budget.supervisor.clone();
        Box::pin(async move {
            // Without an answer, the last reading stays in use.
            let sample = Sample { events: 0 };
            supervisor.ask(sample, ANSWER_WITHIN).await.ok();
        })
    }
}

impl BufferLedger for BufferAccount {
    fn fill(&self, bytes: u64) {
        let mut ledger = self.budget.shared.ledger();
        ledger.buffers.fill(self.name, bytes);
    }

    fn release(&self, held: u64, filled: u64) {
        let mut ledger = self.budget.shared.ledger();
        ledger.buffers.release(self.name, held, filled);
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
