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

    /// Counts the waiting time from `now` on.
    pub(super) fn restart(&mut self, now: Instant) {
        self.since = now;
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
    use headroom_actors::kernel::testing::buffers::FixedBuffers;

    use super::*;

    #[test]
    fn the_time_without_memory_counts_from_the_first_refusal() {
        let memory = FixedBuffers::new(u64::MAX);
        let second = Duration::from_secs(1);
        let begin = Instant::now();
        let mut unread = Unread::new(begin);
        assert_eq!(unread.reserve(100, &memory, begin), None);

        memory.set_max(0);
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

        memory.set_max(u64::MAX);
        assert_eq!(unread.reserve(200, &memory, again + second), None);
        assert_eq!(unread.since(), begin);
    }
}
