//! The loader's settings.

use std::time::Duration;

use super::policy::PolicyKind;
use crate::kernel::Backoff;

/// The loader's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Which idle resource is evicted first.
    pub policy: PolicyKind,
    /// How long one load may take, without the waits for its dependencies and its reservation.
    pub load_deadline: Duration,
    /// How long a load may wait for memory that is in use. At most [`Config::load_deadline`]. The
    /// loads behind it wait as well.
    pub wait_for_room: Duration,
    /// How long failures are remembered. Only its ceilings count: there is one loader, so jitter
    /// would spread nothing.
    pub failure_backoff: Backoff,
    /// How long a stop waits for leases before it unloads resources in use.
    pub drain_deadline: Duration,
    /// Calls at once, waiting callers included. Further calls are refused as busy.
    pub in_flight_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: PolicyKind::Gdsf,
            load_deadline: Duration::from_secs(60),
            wait_for_room: Duration::from_secs(2),
            failure_backoff: Backoff::DEFAULT,
            drain_deadline: Duration::from_secs(5),
            in_flight_max: 4096,
        }
    }
}
