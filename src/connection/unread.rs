//! The memory and the waiting time of a response that its client does not read, or reads slowly.

use std::time::Duration;

use headroom_actors::kernel::{BufferReservation, Buffers};
use tokio::time::Instant;

/// How long the server waits for a client when the memory for its unread bytes is refused.
const UNRESERVED_MAX: Duration = Duration::from_secs(1);

/// The unread part of one response. It exists from the first blocked write until the response is
/// written; there may be many blocked writes in between.
pub(super) struct Unread {
    since: Instant,
    /// When memory for the bytes that wait now was first refused.
    refused_since: Option<Instant>,
    memory: Option<BufferReservation>,
}

impl Unread {
    /// Starts with the first blocked write, at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            refused_since: None,
            memory: None,
        }
    }

    /// The time of the first blocked write.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Reserves memory for the `bytes` that wait now. If the reservation is refused, returns the
    /// deadline after which the connection is cut.
    pub(super) fn reserve(
        &mut self,
        bytes: u64,
        memory: &dyn Buffers,
        now: Instant,
    ) -> Option<Instant> {
        let reserved = self.memory.as_ref().map_or(0, BufferReservation::bytes);
        let more = bytes.saturating_sub(reserved);
        if more > 0 {
            let Ok(mut reservation) = memory.reserve(more) else {
                return Some(*self.refused_since.get_or_insert(now) + UNRESERVED_MAX);
            };
            reservation.fill(more);
            reservation.merge_into(&mut self.memory);
        }
        self.refused_since = None;
        None
    }

    /// Records that all waiting bytes are written. More of the response may follow.
    pub(super) fn on_written(&mut self) {
        self.refused_since = None;
        self.memory = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::future::{BoxFuture, FutureExt as _, ready};
    use headroom_actors::kernel::BudgetError;

    use super::*;

    /// A budget that grants everything or nothing.
    struct Memory(AtomicBool);

    impl Buffers for Memory {
        fn reserve(&self, bytes: u64) -> Result<BufferReservation, BudgetError> {
            if self.0.load(Ordering::Relaxed) {
                return Ok(BufferReservation::new(Arc::new(Self(true.into())), bytes));
            }
            Err(BudgetError::Unavailable)
        }

        fn read_memory(&self) -> BoxFuture<'static, ()> {
            ready(()).boxed()
        }

        fn fill(&self, _bytes: u64) {}
        fn release(&self, _held: u64, _filled: u64) {}
    }

    #[test]
    fn the_time_without_memory_counts_from_the_first_refusal() {
        let memory = Memory(AtomicBool::new(true));
        let second = Duration::from_secs(1);
        let begin = Instant::now();
        let mut unread = Unread::new(begin);
        assert_eq!(unread.reserve(100, &memory, begin), None);

        memory.0.store(false, Ordering::Relaxed);
        let refused = begin + 60 * second;
        let deadline = Some(refused + UNRESERVED_MAX);
        assert_eq!(unread.reserve(200, &memory, refused), deadline);
        assert_eq!(unread.reserve(200, &memory, refused + second / 2), deadline);
        // The bytes fit into what is reserved already.
        assert_eq!(unread.reserve(100, &memory, refused + second), None);
        let again = refused + 5 * second;
        assert_eq!(
            unread.reserve(200, &memory, again),
            Some(again + UNRESERVED_MAX)
        );

        memory.0.store(true, Ordering::Relaxed);
        assert_eq!(unread.reserve(200, &memory, again + second), None);
        assert_eq!(unread.since(), begin);
    }
}
