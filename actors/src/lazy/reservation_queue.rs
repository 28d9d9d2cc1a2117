//! The loads that wait for a reservation.

use std::collections::VecDeque;

use actix::SpawnHandle;
use tokio::time::Instant;

use super::error::Shortage;

/// Loads that need a reservation. One at a time asks the budget, in the order of their requests, so
/// that no two loads evict for the same bytes or take each other's.
#[derive(Default)]
pub(super) struct ReservationQueue {
    pub(super) waiting: VecDeque<String>,
    pub(super) current: Option<PendingReservation>,
}

/// The load that is asking for a reservation.
pub(super) struct PendingReservation {
    pub(super) name: String,
    pub(super) since: Instant,
    /// How often it has evicted.
    pub(super) evictions: u32,
    /// Since when it waits for resources in use, because evicting everything idle is not enough.
    pub(super) waiting_for_users_since: Option<Instant>,
    /// Whether it may use the headroom, because evicting everything idle would not be enough.
    pub(super) use_headroom: bool,
    /// Whether it asks only for what its last load took, because its estimate is too much. Without
    /// this a resource that grew once might never be loaded again.
    pub(super) minimum_only: bool,
    /// Whether the budget's reply is awaited.
    pub(super) asking: bool,
    /// Whether memory was freed while the budget's reply was awaited.
    pub(super) reply_is_stale: bool,
    /// Ends the wait for memory.
    pub(super) timer: Option<SpawnHandle>,
    /// What the budget last lacked.
    pub(super) shortage: Option<Shortage>,
}

impl PendingReservation {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            since: Instant::now(),
            evictions: 0,
            waiting_for_users_since: None,
            use_headroom: false,
            minimum_only: false,
            asking: false,
            reply_is_stale: false,
            timer: None,
            shortage: None,
        }
    }
}
